// Package pages is the dashboard: what a node and its cluster do, for people with a browser.
//
// It owns the pages, their words in English and Japanese, and the sessions of those who have logged in with a token. It
// refuses to know how a node is built: it gets what it shows as functions.
//
// Invariants: no page runs or loads what is not embedded here, and none can stand in a frame; text from outside is
// escaped by html/template; a request that changes something has the token of its session; while no page is open,
// nothing is asked of any node.
package pages

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/cluster/admin"
)

//go:embed html assets
var embedded embed.FS

//go:embed words.tsv
var wordsFile string

// A Config has what the pages show. All functions are required.
type Config struct {
	Version string // of the program

	// Enter returns who has a token. It is asked again at each request, so that a token that was withdrawn ends its
	// sessions. The error is for the one who sent it.
	Enter func(token string, from netip.Addr) (account.Principal, error)
	// Account has the rules and destinations that were made here.
	Account *account.Account
	// Ask has the owner of a destination asked, by a letter, whether it is his. It does not wait for what becomes of
	// that.
	Ask func(ctx context.Context, p account.Principal, d account.Destination) error
	// HasToken says that the configuration names a token, so that there is one to log in with.
	HasToken bool

	Live     func(ctx context.Context) []admin.Live // of all nodes, this one first
	Cluster  func() admin.ClusterStatus
	Activity *activity.Nodes // a Log of nil: this node keeps none
	Clear    bool            // addresses stand in clear in it
	Logs     func() bool     // an activity log is kept, here or at another node
	Rules    func() Rules
	Domains  func() []string // that are hosted, the first hundred
	Explain  func(context.Context, Question) (*Explained, error)
	Examine  func(ctx context.Context, domain string) ([]Finding, error)
}

// Pages answers browsers. Make it with New and end it with Close.
type Pages struct {
	cfg      Config
	sessions sessions
	flow     *flow
	examines chan struct{} // holds a token for each examination under way
	html     map[lang]map[string]*template.Template
	mux      *http.ServeMux
	origin   *http.CrossOriginProtection
	stop     context.CancelFunc
	ctx      context.Context // ends with Close
}

// New returns Pages.
func New(cfg Config) *Pages {
	p := &Pages{
		cfg: cfg, examines: make(chan struct{}, 2), html: parseAll(), mux: http.NewServeMux(),
		origin: http.NewCrossOriginProtection(),
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.flow = newFlow(cfg.Live)
	edit := &editor{account: cfg.Account, letter: cfg.Ask, show: p.show}
	assets, _ := fs.Sub(embedded, "assets") // it is embedded
	files := http.StripPrefix("/assets/", http.FileServerFS(assets))
	p.mux.HandleFunc("GET /assets/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") { // a list of them is no page
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		files.ServeHTTP(w, r)
	})
	p.mux.HandleFunc("GET /login", p.login)
	p.mux.HandleFunc("POST /login", p.enter)
	p.mux.HandleFunc("POST /logout", p.visited(p.logout))
	p.mux.HandleFunc("POST /language", setLanguage)
	p.mux.HandleFunc("GET /{$}", p.visited(p.home))
	p.mux.HandleFunc("GET /live", p.operated(p.live))
	p.mux.HandleFunc("GET /sites", p.operated(p.sites))
	p.mux.HandleFunc("GET /rules", p.visited(p.rules))
	p.mux.HandleFunc("GET /rules/new", p.changed(edit.editRule))
	p.mux.HandleFunc("POST /rules/new", p.changed(edit.saveRule))
	p.mux.HandleFunc("GET /rules/{id}", p.changed(edit.editRule))
	p.mux.HandleFunc("POST /rules/{id}", p.changed(edit.saveRule))
	p.mux.HandleFunc("POST /rules/{id}/remove", p.changed(edit.removeRule))
	p.mux.HandleFunc("POST /retire", p.changed(edit.retire))
	p.mux.HandleFunc("POST /block", p.changed(edit.block))
	p.mux.HandleFunc("GET /destinations", p.visited(edit.destinations))
	p.mux.HandleFunc("POST /destinations", p.changed(edit.addDestination))
	p.mux.HandleFunc("POST /destinations/{id}/ask", p.changed(edit.askDestination))
	p.mux.HandleFunc("POST /destinations/{id}/verify", p.changed(edit.verifyDestination))
	p.mux.HandleFunc("POST /destinations/{id}/remove", p.changed(edit.removeDestination))
	mint := &minter{account: cfg.Account, show: p.show}
	p.mux.HandleFunc("GET /tokens", p.minted(mint.tokens))
	p.mux.HandleFunc("POST /tokens", p.minted(mint.add))
	p.mux.HandleFunc("POST /tokens/{id}/revoke", p.minted(mint.revoke))
	p.mux.HandleFunc("GET /audit", p.changed(p.audit))
	p.mux.HandleFunc("GET /log", p.visited(p.log))
	p.mux.HandleFunc("GET /log/{id}", p.visited(p.trace))
	p.mux.HandleFunc("GET /senders", p.visited(p.senders))
	p.mux.HandleFunc("GET /explain", p.visited(p.explain))
	p.mux.HandleFunc("POST /explain", p.visited(p.explain))
	p.mux.HandleFunc("GET /dns", p.visited(p.dns))
	p.mux.HandleFunc("/", p.visited(p.missing))
	return p
}

// Close ends the streams to open pages, and what feeds them.
func (p *Pages) Close() {
	p.stop()
	p.flow.close()
}

// maxForm bounds the octets of a form.
const maxForm = 64 << 10

// ServeHTTP answers a request.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "+
		"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if err := p.origin.Check(r); err != nil {
		p.fail(w, r, account.Principal{}, http.StatusForbidden, "error.origin")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	p.mux.ServeHTTP(w, r)
}

// A page is what each template gets.
type page struct {
	Title   string // a key of the words
	Path    string // of the request, where the language leads back to
	Lang    lang
	Version string
	Node    string
	Visitor *account.Principal // nil: not logged in
	CSRF    string
	Nav     []link
	Done    string // what was done before, a key of the words; "": nothing
	Error   string // a key of the words; "": none
	Detail  string // of the error, in the words of the node
	Body    any
}

// A link leads to a page.
type link struct {
	Path, Title string
	Here        bool
}

// links are the pages that stand in the menu.
func (p *Pages) links(v account.Principal, path string) []link {
	var all []link
	everyone := true
	for _, l := range []struct {
		path, title string
		shown       bool
	}{
		{"/", "nav.flow", v.Unlimited()}, {"/sites", "nav.sites", v.Unlimited()}, {"/rules", "nav.rules", everyone},
		{"/destinations", "nav.destinations", everyone}, {"/log", "nav.log", everyone},
		{"/senders", "nav.senders", everyone}, {"/explain", "nav.explain", everyone}, {"/dns", "nav.dns", everyone},
		{"/audit", "nav.audit", mayChange(v)}, {"/tokens", "nav.tokens", mayMint(v)},
	} {
		if !l.shown {
			continue
		}
		here := path == l.path || l.path != "/" && strings.HasPrefix(path, l.path+"/")
		all = append(all, link{l.path, l.title, here})
	}
	return all
}

// show writes a page to a visitor.
func (p *Pages) show(w http.ResponseWriter, r *http.Request, name string, status int, pg page) {
	pg.Path, pg.Lang, pg.Version = r.URL.RequestURI(), langOf(r), p.cfg.Version
	if r.Method != http.MethodGet {
		pg.Path = r.URL.Path
	}
	pg.Node = p.cfg.Activity.Name
	if s := sessionOf(r); s != nil {
		pg.Visitor, pg.CSRF, pg.Nav = &s.visitor, s.csrf, p.links(s.visitor, r.URL.Path)
	}
	var out bytes.Buffer
	if err := p.html[pg.Lang][name].ExecuteTemplate(&out, "layout", pg); err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // fails only when the client has gone
}

// fail writes a page that says what is wrong.
func (p *Pages) fail(w http.ResponseWriter, r *http.Request, _ account.Principal, status int, what string) {
	p.show(w, r, "failed", status, page{Title: what})
}

func (p *Pages) missing(w http.ResponseWriter, r *http.Request, v account.Principal) {
	p.fail(w, r, v, http.StatusNotFound, "error.missing")
}

// home is the live flow for operators, and the log for others.
func (p *Pages) home(w http.ResponseWriter, r *http.Request, v account.Principal) {
	if !v.Unlimited() {
		http.Redirect(w, r, "/log", http.StatusSeeOther)
		return
	}
	p.show(w, r, "flow", http.StatusOK, page{Title: "nav.flow", Body: p.flow.look(r.Context())})
}

// parseAll parses the pages, once for each language.
func parseAll() map[lang]map[string]*template.Template {
	out := make(map[lang]map[string]*template.Template)
	names, _ := fs.Glob(embedded, "html/*.html") // it is embedded
	for l := range langs {
		layout := template.Must(template.New("").Funcs(functions(wordsOf(wordsFile, l))).ParseFS(embedded,
			"html/layout.html", "html/flowing.html"))
		out[l] = make(map[string]*template.Template)
		for _, file := range names {
			name := strings.TrimSuffix(strings.TrimPrefix(file, "html/"), ".html")
			out[l][name] = template.Must(template.Must(layout.Clone()).ParseFS(embedded, file))
		}
	}
	return out
}

// functions are what templates call, in one language.
func functions(w words) template.FuncMap {
	return template.FuncMap{
		"t":     w.of,
		"time":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"utc":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
		"ms":    millis,
		"count": count,
		"size":  size,
		"longest": func(steps []activity.Step) (most time.Duration) {
			for _, s := range steps {
				most = max(most, s.Took)
			}
			return most
		},
		"share":  func(took, all time.Duration) int { return int(100 * took / max(all, 1)) },
		"sent":   func(from, to string) string { return "/log?" + url.Values{"from": {from}, "to": {to}}.Encode() },
		"join":   strings.Join,
		"status": func(s activity.Status) string { return w.of("status." + string(s)) },
		"action": func(a activity.Action) string { return w.of("action." + string(a)) },
		"step":   func(name string) string { return w.of("step." + name) },
	}
}
