package pages

import (
	"context"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// Rules are the rules in force.
type Rules struct {
	Label   string // which set it is
	Rules   int
	Domains int
	Files   iter.Seq2[string, string] // names and texts
}

// A ruleLine is one line of rules.
type ruleLine struct {
	File    string
	Line    int
	Pattern string
	Target  string
}

// maxLines is how many lines of rules a page shows.
const maxLines = 300

// A rulesBody is the body of the page of the rules.
type rulesBody struct {
	Rules
	Query string
	Lines []ruleLine
	More  bool // there are more than are shown

	Made   []account.Rule // by the API and here
	May    bool           // the visitor changes them
	Unkept string         // why nothing can be kept; "": it can
}

func (p *Pages) rules(w http.ResponseWriter, r *http.Request, v account.Principal) {
	body := rulesBody{Rules: p.cfg.Rules(), Query: strings.TrimSpace(r.URL.Query().Get("q"))}
	want := strings.ToLower(body.Query)
	for file, text := range body.Files {
		n := 0
		for line := range strings.Lines(text) {
			n++
			rule, ok := parseRule(line)
			if !ok || want != "" && !strings.Contains(strings.ToLower(line), want) ||
				!v.Unlimited() && !v.Covers(domainOf(rule.Pattern)) {
				continue
			}
			if len(body.Lines) == maxLines {
				body.More = true
				break
			}
			rule.File, rule.Line = file, n
			body.Lines = append(body.Lines, rule)
		}
	}
	body.May = p.canChange(v)
	if err := p.cfg.Account.Keeps(); err != nil {
		body.Unkept = err.Error()
	}
	pg := page{Title: "nav.rules", Done: doneOf(r)}
	var err error
	if body.Made, err = p.cfg.Account.Rules(v); err != nil {
		pg.Error, pg.Detail = "error.question", err.Error()
	}
	pg.Body = body
	p.show(w, r, "rules", http.StatusOK, pg)
}

// parseRule parts a line of rules into its pattern and the rest, and reports false for one that has none.
func parseRule(line string) (rule ruleLine, ok bool) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return rule, false
	}
	end := strings.IndexAny(line, " \t")
	if line[0] == '/' {
		if at := strings.LastIndex(line, "/@"); at > 0 {
			end = strings.IndexAny(line[at:], " \t")
			if end >= 0 {
				end += at
			}
		}
	}
	if end < 0 {
		return ruleLine{Pattern: line}, true
	}
	if word := line[:end]; word == "domain" || word == "relay" || word == "block" {
		next, rest := cutWord(line[end:])
		pattern := word + " " + next
		if scope, behind := cutWord(rest); word == "block" && strings.HasPrefix(scope, "for=") {
			pattern, rest = pattern+" "+scope, behind
		}
		return ruleLine{Pattern: pattern, Target: strings.TrimSpace(rest)}, true
	}
	return ruleLine{Pattern: line[:end], Target: strings.TrimSpace(line[end:])}, true
}

// cutWord returns the first word of a text, and what stands behind it.
func cutWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	end := strings.IndexAny(s, " \t")
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

// domainOf returns the domain of an address or of a pattern, in lower case. That of a block is its recipients', not its
// sender's: "" if these are all.
func domainOf(s string) string {
	if rest, ok := strings.CutPrefix(s, "block "); ok {
		if _, s, ok = strings.Cut(rest, " for="); !ok {
			return ""
		}
	}
	if rest, ok := strings.CutPrefix(s, "domain "); ok {
		return strings.ToLower(strings.TrimSpace(rest))
	}
	return strings.ToLower(strings.Trim(s[strings.LastIndexByte(s, '@')+1:], "<> "))
}

// A Finding is what was looked at in the DNS, and what is to be done about it.
type Finding struct {
	Check, Name, State           string
	Expected, Found, Reason, Fix string
}

// A dnsBody is the body of the page of the DNS.
type dnsBody struct {
	Domains  []string // that are hosted
	Domain   string   // that was examined
	State    string   // of it, the worst of its findings
	Findings []Finding
}

// states are the states of findings, the worst last.
var states = []string{"ready", "unconfigured", "unknown", "misconfigured"}

// examineTime is how long an examination may take.
const examineTime = 90 * time.Second

func (p *Pages) dns(w http.ResponseWriter, r *http.Request, v account.Principal) {
	body := dnsBody{Domain: strings.TrimSpace(r.URL.Query().Get("domain"))}
	for _, d := range p.cfg.Domains() {
		if v.Covers(d) {
			body.Domains = append(body.Domains, d)
		}
	}
	pg, status := page{Title: "nav.dns"}, http.StatusOK
	switch {
	case body.Domain == "":
	case !v.Covers(strings.ToLower(body.Domain)):
		status, pg.Error = http.StatusForbidden, "error.domain"
	default:
		status, pg.Error, pg.Detail = p.examine(w, r, &body)
	}
	pg.Body = body
	p.show(w, r, "dns", status, pg)
}

// examine has a domain examined, two at a time.
func (p *Pages) examine(w http.ResponseWriter, r *http.Request, body *dnsBody) (status int, wrong, detail string) {
	select {
	case p.examines <- struct{}{}:
		defer func() { <-p.examines }()
	default:
		return http.StatusServiceUnavailable, "error.busy", ""
	}
	ctx, cancel := context.WithTimeout(r.Context(), examineTime)
	defer cancel()
	at := http.NewResponseController(w)
	_ = at.SetWriteDeadline(time.Now().Add(examineTime + 30*time.Second)) // name servers take their time
	findings, err := p.cfg.Examine(ctx, body.Domain)
	if err != nil {
		return http.StatusUnprocessableEntity, "error.question", err.Error()
	}
	body.Findings, body.State = findings, states[0]
	for i := range states {
		for j := range findings {
			if findings[j].State == states[i] {
				body.State = states[i]
			}
		}
	}
	return http.StatusOK, "", ""
}
