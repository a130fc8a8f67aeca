package public

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/hex"
	"errors"
	"html/template"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxForm bounds the body of a request, in octets.
	maxForm = 4 << 10
	// maxToken bounds the token of a link, in octets.
	maxToken = 1 << 10
	// answerTime bounds what a page waits for.
	answerTime = 5 * time.Second
)

//go:embed page.html
var pageHTML string

//go:embed style.css
var style string

// security are the fields of each answer: a page loads the style sheet of this server and nothing else, runs no script,
// stands in no frame and tells no other server where its reader comes from.
var security = map[string]string{
	"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; " +
		"frame-ancestors 'none'",
	"X-Frame-Options":            "DENY",
	"X-Content-Type-Options":     "nosniff",
	"Referrer-Policy":            "no-referrer",
	"Cross-Origin-Opener-Policy": "same-origin",
	"Permissions-Policy":         "interest-cohort=()",
	"Cache-Control":              "no-store",
}

// handler returns what answers all requests.
func (s *Server) handler() http.Handler {
	page := template.Must(template.New("page").Parse(pageHTML))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { s.why(w, r, page) })
	mux.HandleFunc("GET /why", func(w http.ResponseWriter, r *http.Request) { s.why(w, r, page) })
	mux.HandleFunc("GET /verify", func(w http.ResponseWriter, r *http.Request) { s.offer(w, r, page) })
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) { s.verify(w, r, page) })
	mux.HandleFunc("GET /.well-known/mta-sts.txt", s.policy)
	mux.HandleFunc("GET /egress-list", s.egress)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=86400")
		writeText(w, "text/css; charset=utf-8", style)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range security {
			w.Header().Set(name, value)
		}
		if s.cfg.TLS != nil {
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		wait, ok := s.clients.ask(s.asker(r))
		if !ok {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			http.Error(w, "Too many requests, try again later.", http.StatusTooManyRequests)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

// writeText answers with a text.
func writeText(w http.ResponseWriter, kind, text string) {
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write([]byte(text)) // fails only when the client has gone
}

// A view is what the template shows.
type view struct {
	Lang, Other string // "ja" or "en"
	OtherURL    string
	Words       map[string]string
	Title       string
	Lead        []string // paragraphs
	ID          string
	Refusals    []explained
	Form        bool   // asks for an id
	Token       string // offers the button that confirms it
}

// show answers with a page.
func show(w http.ResponseWriter, page *template.Template, status int, v view) {
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		http.Error(w, "The page cannot be shown now.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Language", v.Lang)
	w.Header().Set("Vary", "Accept-Language")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // fails only when the client has gone
}

// begin returns a view in the language of the reader. query is that of the same page in the other language, without the
// language.
func (s *Server) begin(r *http.Request, query string) view {
	lang := languageOf(r)
	other := map[string]string{"en": "ja", "ja": "en"}[lang]
	return view{
		Lang: lang, Other: other, OtherURL: r.URL.Path + "?" + query + "lang=" + other, Words: s.texts.words[lang],
	}
}

// languageOf returns the language that a reader chose by the link, or that his browser prefers: "ja" or "en".
func languageOf(r *http.Request) string {
	if l := r.URL.Query().Get("lang"); l == "ja" || l == "en" {
		return l
	}
	return preferred(r.Header.Get("Accept-Language"))
}

// preferred returns which of "ja" and "en" an Accept-Language field prefers (RFC 9110 section 12.5.4), "en" if neither.
func preferred(accept string) string {
	best, most := "en", 0.0
	for part := range strings.SplitSeq(accept, ",") {
		tag, weight, _ := strings.Cut(part, ";")
		tag, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
		if tag != "ja" && tag != "en" {
			continue
		}
		q := 1.0
		if text, ok := strings.CutPrefix(strings.TrimSpace(weight), "q="); ok {
			q, _ = strconv.ParseFloat(text, 64)
		}
		if q > most {
			best, most = tag, q
		}
	}
	return best
}

// ParseID reads an id of 32 hexadecimal digits as replies have it, with "id=" in front of it or without.
func ParseID(text string) (id mail.TraceID, ok bool) {
	text = strings.TrimSpace(text)
	text = text[strings.LastIndexByte(text, '=')+1:]
	n, err := hex.Decode(id[:], []byte(text[:min(len(text), 2*len(id)+1)]))
	return id, err == nil && n == len(id) && !id.IsZero()
}

// why explains the refusals with an id, or asks for one.
func (s *Server) why(w http.ResponseWriter, r *http.Request, page *template.Template) {
	if s.cfg.Pages.Why == nil {
		http.NotFound(w, r)
		return
	}
	text := r.URL.Query().Get("id")
	id, ok := ParseID(text)
	if !ok {
		v := s.begin(r, "")
		v.Title, v.Lead, v.Form = v.Words["title"], []string{v.Words["ask"]}, true
		status := http.StatusOK
		if text != "" {
			v.Lead, status = []string{v.Words["malformed"], v.Words["ask"]}, http.StatusBadRequest
		}
		show(w, page, status, v)
		return
	}
	v := s.begin(r, "id="+id.String()+"&")
	v.Title, v.ID = v.Words["title"], id.String()
	found, err := s.cfg.Pages.Why(r.Context(), id)
	switch {
	case err != nil:
		v.Lead = []string{v.Words["unavailable"]}
		w.Header().Set("Retry-After", "60")
		show(w, page, http.StatusServiceUnavailable, v)
		return
	case len(found) == 0:
		v.Lead, v.Form = []string{v.Words["unknown"]}, true
		show(w, page, http.StatusNotFound, v)
		return
	}
	for i := range found {
		v.Refusals = append(v.Refusals, s.texts.explain(&found[i], v.Lang))
	}
	show(w, page, http.StatusOK, v)
}

// offer shows the page of a link, whose button confirms what its token stands for.
func (s *Server) offer(w http.ResponseWriter, r *http.Request, page *template.Template) {
	token := r.URL.Query().Get("token")
	if s.cfg.Pages.Verify == nil || token == "" || len(token) > maxToken {
		http.NotFound(w, r)
		return
	}
	v := s.begin(r, "token="+url.QueryEscape(token)+"&")
	v.Title, v.Lead, v.Token = v.Words["verify title"], []string{v.Words["verify"]}, token
	show(w, page, http.StatusOK, v)
}

// verify confirms what a token stands for. A page of another site cannot have a browser ask for it.
func (s *Server) verify(w http.ResponseWriter, r *http.Request, page *template.Template) {
	if s.cfg.Pages.Verify == nil {
		http.NotFound(w, r)
		return
	}
	if http.NewCrossOriginProtection().Check(r) != nil {
		http.Error(w, "This button stands on another site.", http.StatusForbidden)
		return
	}
	token := r.PostFormValue("token")
	if token == "" || len(token) > maxToken {
		http.Error(w, "A token is missing.", http.StatusBadRequest)
		return
	}
	v := s.begin(r, "token="+url.QueryEscape(token)+"&")
	v.Title = v.Words["verify title"]
	err := s.cfg.Pages.Verify(r.Context(), token)
	switch {
	case err == nil:
		v.Lead = []string{v.Words["verified"]}
		show(w, page, http.StatusOK, v)
	case errors.Is(err, ErrNoToken):
		v.Lead = []string{v.Words["no token"]}
		show(w, page, http.StatusNotFound, v)
	default:
		v.Lead = []string{v.Words["unavailable"]}
		w.Header().Set("Retry-After", "60")
		show(w, page, http.StatusServiceUnavailable, v)
	}
}

// stsHost is what the host of a policy has in front of the domain (RFC 8461 section 3.3).
const stsHost = "mta-sts."

// policy answers with the policy of MTA-STS of the domain that the Host field names.
func (s *Server) policy(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	name, ok := strings.CutPrefix(domain.Canonical(host), stsHost)
	if !ok || s.cfg.Pages.Policy == nil || !mail.IsDomain(name) {
		http.NotFound(w, r)
		return
	}
	text, ok := s.cfg.Pages.Policy(name)
	if !ok {
		http.NotFound(w, r)
		return
	}
	writeText(w, "text/plain; charset=utf-8", text)
}

// egress answers with the addresses that mail comes from.
func (s *Server) egress(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Pages.Egress == nil {
		http.NotFound(w, r)
		return
	}
	format := r.URL.Query().Get("format")
	text, ok := s.cfg.Pages.Egress(format)
	if !ok {
		http.Error(w, "There is no such format: text, json, postfix, nftables, spf.", http.StatusBadRequest)
		return
	}
	kind := "text/plain; charset=utf-8"
	if format == "json" {
		kind = "application/json"
	}
	w.Header().Set("Cache-Control", "max-age=300")
	writeText(w, kind, text)
}
