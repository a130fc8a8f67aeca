// Package v4 answers requests as the API of Cloudflare's Email Routing does, so that its own clients work with this
// relay: wrangler, the SDKs and the provider of Terraform, with a base URL and a token.
//
// It owns the paths, the envelope, the pages, the ids of zones and accounts, and the form of what it sends: what a
// client wrote is returned as it was written. It refuses to know where rules and destinations are kept, how mail is
// routed by them and how letters are sent.
//
// Invariants: a request without a valid token learns nothing but that; what belongs to other owners does not exist; no
// answer is 409, which clients repeat by themselves; each list ends in an empty page.
package v4

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
)

// Prefix is what all paths begin with.
const Prefix = "/client/v4"

// maxBody bounds the body of a request in octets.
const maxBody = 1 << 20

// A Record is what the DNS is to say of a domain.
type Record struct {
	Type     string `json:"type"`
	Name     string `json:"name"`
	Content  string `json:"content"`
	Priority *int   `json:"priority,omitempty"` // of an MX record
	TTL      int    `json:"ttl"`
}

// A Config has what the API stands on. All of it is required.
type Config struct {
	Account *account.Account
	// Hosted returns the domains that mail is taken for.
	Hosted func() []string
	// Records returns what is to be published for a domain.
	Records func(domain string) ([]Record, error)
	// Ask has the owner of a destination asked whether it is his. It does not wait for the answer, nor for the letter.
	Ask func(ctx context.Context, p account.Principal, d account.Destination) error
	// Hook reports whether a rule that a principal writes for a zone may have the hook of a name asked.
	Hook func(p account.Principal, name, zone string) bool
	Sender
}

// An API answers requests. It is safe for concurrent use.
type API struct {
	cfg   Config
	mux   *http.ServeMux
	paths []answered
}

// An answered is a path, as package http has patterns, and its methods.
type answered struct {
	path    string
	methods map[string]handler
}

// New returns the surface that answers.
func New(cfg Config) admin.Surface {
	a := &API{cfg: cfg, mux: http.NewServeMux()}
	a.handleAround()
	a.handleZones()
	a.handleRules()
	a.handleAddresses()
	a.handleSends()
	for _, p := range a.paths {
		a.mux.HandleFunc(p.path, a.answering(p.methods))
	}
	return admin.Surface{Path: Prefix + "/", Handler: a, Refuse: refuse}
}

// refuse answers a request whose token is not right.
func refuse(w http.ResponseWriter, _ *http.Request, _ int, why *account.Error) {
	write(w, answer{}, why)
}

// A call is one request that was let in.
type call struct {
	*http.Request
	who   account.Principal
	query url.Values
	rules []account.Rule // that are there for the one who asks

	control *http.ResponseController // of the connection
}

// An answer is what a handler returns: a result, the numbers of its page if it is a list, and what its reader is to
// know besides.
type answer struct {
	result   any
	info     *resultInfo
	messages []message
}

// A handler answers a call. An error that is no *Error is trouble of ours.
type handler func(*call) (answer, error)

// callKey is the key of the call in the context of its request.
type callKey struct{}

// ServeHTTP answers a request whose token is right.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := a.mux.Handler(r); pattern == "" || path.Clean(r.URL.Path) != r.URL.Path {
		write(w, answer{}, errNoPath())
		return
	}
	c := &call{who: account.Of(r.Context()), query: r.URL.Query()}
	var err error
	if c.rules, err = a.cfg.Account.Rules(c.who); err != nil {
		write(w, answer{}, err)
		return
	}
	a.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
}

// handle has the methods of a path answered.
func (a *API) handle(path string, methods map[string]handler) {
	a.paths = append(a.paths, answered{Prefix + path, methods})
}

// answering returns what answers the methods of a path.
func (a *API) answering(methods map[string]handler) http.HandlerFunc {
	allow := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		answers := methods[r.Method]
		if answers == nil {
			w.Header().Set("Allow", allow)
			write(w, answer{}, errMethod(r.Method))
			return
		}
		c := r.Context().Value(callKey{}).(*call)
		c.Request, c.control = r, http.NewResponseController(w)
		out, err := answers(c)
		write(w, out, err)
	}
}
