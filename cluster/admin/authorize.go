package admin

import (
	"errors"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// A Surface answers all paths below one, to requests with a token.
type Surface struct {
	Path    string       // with a slash at its end
	Handler http.Handler // finds who asks by account.Of
	// Refuse writes the answer to a request without a token that is right. nil writes it as below /api/.
	Refuse func(w http.ResponseWriter, r *http.Request, status int, why *account.Error)
}

// authorized requires "Authorization: Bearer TOKEN" (RFC 6750 section 2.1). next finds who asks by account.Of. refuse
// writes the answer to other requests.
func (s *Server) authorized(
	next http.Handler, refuse func(http.ResponseWriter, *http.Request, int, *account.Error),
) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := s.account.Authenticate(bearer(r), clientOf(r))
		var why *account.Error
		if errors.As(err, &why) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			if why.Kind == account.Limited {
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(why.Wait.Seconds()))))
				w.Header().Set("X-Should-Retry", "false") // clients of others repeat at once otherwise
			}
			refuse(w, r, StatusOf(why.Kind), why)
			return
		}
		next.ServeHTTP(w, r.WithContext(account.With(r.Context(), p)))
	})
}

// operate requires a token of a role, or a stronger one, that is for all domains.
func (s *Server) operate(least account.Role, next http.HandlerFunc) http.Handler {
	return s.authorized(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := account.Of(r.Context()).MayAll(least); err != nil {
			writeError(w, err)
			return
		}
		next(w, r)
	}), refuseAPI)
}

// bearer returns the token of a request, "" for none. The word before it has no case (RFC 9110 section 11.1).
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ascii.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// clientOf returns the address of the client of a request.
func clientOf(r *http.Request) netip.Addr {
	addr, _ := netip.ParseAddrPort(r.RemoteAddr) // of the connection, which has one
	return addr.Addr()
}

// StatusOf returns the status of an answer to what failed in a way.
func StatusOf(k account.Kind) int {
	switch k {
	case account.Unauthorized:
		return http.StatusUnauthorized
	case account.Limited:
		return http.StatusTooManyRequests
	case account.Forbidden, account.Unkept:
		return http.StatusForbidden
	case account.Missing:
		return http.StatusNotFound
	case account.Busy:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// refuseAPI writes an error as all answers below /api/ have it.
func refuseAPI(w http.ResponseWriter, _ *http.Request, status int, why *account.Error) {
	answer := map[string]any{"error": why.Message, "code": why.Code}
	if why.Field != "" {
		answer["field"] = why.Field
	}
	writeJSON(w, status, answer)
}

// writeError writes an error of package account.
func writeError(w http.ResponseWriter, err error) {
	var why *account.Error
	if !errors.As(err, &why) {
		why = &account.Error{Kind: account.Busy, Code: account.CodeBusy, Message: err.Error()}
	}
	refuseAPI(w, nil, StatusOf(why.Kind), why)
}
