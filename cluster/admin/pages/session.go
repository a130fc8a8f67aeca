package pages

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

const (
	// cookieName names the cookie of a session. It is dropped by the browser when that ends.
	cookieName = "millrace_session"
	// sessionLife is how long a session lasts, and sessionIdle how long without a request.
	sessionLife = 12 * time.Hour
	sessionIdle = time.Hour
	// maxSessions bounds the sessions of all visitors, and tokenSessions those of one token; the one that was used
	// longest ago goes.
	maxSessions   = 256
	tokenSessions = 16
)

// A session is one who has logged in. What it holds is not changed but for used.
type session struct {
	token   string
	csrf    string
	visitor account.Principal // as of this request
	began   time.Time
	used    time.Time
}

// sessions are those who have logged in. The zero value has none.
type sessions struct {
	mu  sync.Mutex
	all map[string]*session // by the value of the cookie
}

// begin begins a session and returns the value of its cookie.
func (s *sessions) begin(token string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string]*session)
	}
	now := time.Now()
	for id, old := range s.all {
		if old.isOver(now) {
			delete(s.all, id)
		}
	}
	if s.count(token) >= tokenSessions {
		s.dropOldest(func(x *session) bool { return x.token == token })
	}
	if len(s.all) >= maxSessions {
		s.dropOldest(func(*session) bool { return true })
	}
	id := rand.Text()
	s.all[id] = &session{token: token, csrf: rand.Text(), began: now, used: now}
	return id
}

// count returns how many sessions a token has.
func (s *sessions) count(token string) (n int) {
	for _, x := range s.all {
		if x.token == token {
			n++
		}
	}
	return n
}

// dropOldest ends the session that was used longest ago of those that go.
func (s *sessions) dropOldest(goes func(*session) bool) {
	oldest := ""
	for id, x := range s.all {
		if goes(x) && (oldest == "" || x.used.Before(s.all[oldest].used)) {
			oldest = id
		}
	}
	delete(s.all, oldest)
}

func (s *session) isOver(now time.Time) bool {
	return now.Sub(s.began) > sessionLife || now.Sub(s.used) > sessionIdle
}

// of returns a copy of a session, nil if there is none.
func (s *sessions) of(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.all[id]
	if x == nil {
		return nil
	}
	now := time.Now()
	if x.isOver(now) {
		delete(s.all, id)
		return nil
	}
	x.used = now
	out := *x
	return &out
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

type sessionKey struct{}

// sessionOf returns the session of a request, nil if there is none.
func sessionOf(r *http.Request) *session {
	s, _ := r.Context().Value(sessionKey{}).(*session)
	return s
}

// A view answers the request of a visitor.
type view func(w http.ResponseWriter, r *http.Request, v account.Principal)

// visited has a view answer those who have logged in, and sends others to the login. A request that changes something
// needs the token of its session.
func (p *Pages) visited(answer view) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := p.sessionFor(r)
		if s == nil {
			to := "/login"
			if r.Method == http.MethodGet && r.URL.Path != "/" && r.URL.Path != "/live" {
				to += "?" + nextQuery(r.URL.RequestURI())
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, s))
		if r.Method != http.MethodGet && r.Method != http.MethodHead &&
			subtle.ConstantTimeCompare([]byte(r.PostFormValue("csrf")), []byte(s.csrf)) != 1 {
			p.fail(w, r, s.visitor, http.StatusForbidden, "error.csrf")
			return
		}
		answer(w, r, s.visitor)
	}
}

// operated is visited for those who may see all.
func (p *Pages) operated(answer view) http.HandlerFunc {
	return p.visited(func(w http.ResponseWriter, r *http.Request, v account.Principal) {
		if !v.Unlimited() {
			p.fail(w, r, v, http.StatusForbidden, "error.role")
			return
		}
		answer(w, r, v)
	})
}

// changed is visited for those who may change rules.
func (p *Pages) changed(answer view) http.HandlerFunc {
	return p.visited(func(w http.ResponseWriter, r *http.Request, v account.Principal) {
		if !mayChange(v) {
			p.fail(w, r, v, http.StatusForbidden, "error.weak")
			return
		}
		answer(w, r, v)
	})
}

// sessionFor returns the session that a request belongs to, if its token is good still.
func (p *Pages) sessionFor(r *http.Request) *session {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return nil
	}
	s := p.sessions.of(c.Value)
	if s == nil {
		return nil
	}
	if s.visitor, err = p.cfg.Enter(s.token, clientOf(r)); err != nil {
		p.sessions.end(c.Value)
		return nil
	}
	return s
}

// cookie returns the cookie of a session; value "" takes it away.
func cookie(r *http.Request, value string) *http.Cookie {
	c := &http.Cookie{
		Name: cookieName, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil,
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// A loginForm is the body of the page of the login.
type loginForm struct {
	Next   string
	Tokens bool // there is a token to log in with
}

func (p *Pages) login(w http.ResponseWriter, r *http.Request) {
	if p.sessionFor(r) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	p.show(w, r, "login", http.StatusOK, page{
		Title: "login.title", Body: loginForm{Next: localPath(r.URL.Query().Get("next")), Tokens: p.cfg.HasToken},
	})
}

// enter begins a session for one who has a token.
func (p *Pages) enter(w http.ResponseWriter, r *http.Request) {
	next := localPath(r.PostFormValue("next"))
	token := strings.TrimSpace(r.PostFormValue("token"))
	if _, err := p.cfg.Enter(token, clientOf(r)); err != nil {
		p.show(w, r, "login", refusalOf(w, err), page{
			Title: "login.title", Error: "error.token", Detail: err.Error(),
			Body: loginForm{Next: next, Tokens: p.cfg.HasToken},
		})
		return
	}
	if c, err := r.Cookie(cookieName); err == nil {
		p.sessions.end(c.Value) // one browser has one session
	}
	http.SetCookie(w, cookie(r, p.sessions.begin(token)))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// refusalOf returns the status of the answer to a token that was refused, and says in its head how long to wait.
func refusalOf(w http.ResponseWriter, err error) int {
	var why *account.Error
	if !errors.As(err, &why) || why.Kind != account.Limited {
		return http.StatusUnauthorized
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(why.Wait.Seconds()))))
	return http.StatusTooManyRequests
}

func (p *Pages) logout(w http.ResponseWriter, r *http.Request, _ account.Principal) {
	if c, err := r.Cookie(cookieName); err == nil {
		p.sessions.end(c.Value)
	}
	http.SetCookie(w, cookie(r, ""))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// clientOf returns the address of the client of a request.
func clientOf(r *http.Request) netip.Addr {
	addr, _ := netip.ParseAddrPort(r.RemoteAddr) // of the connection, which has one
	return addr.Addr()
}
