package pages

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
)

// A logBody is the body of the page of the activity log.
type logBody struct {
	Filters  url.Values
	Statuses []activity.Status
	Page     activity.Page
	Next     string // where the next page is; "": there is none
	First    string // where the first page is; "": this is the first
	Kept     bool   // a log is kept at some node
	Filtered bool
	Operator bool
}

// Value returns a filter as it was typed.
func (b *logBody) Value(key string) string { return b.Filters.Get(key) }

// queryOf reads the filters of a request, for what the visitor may see.
func queryOf(r *http.Request, v account.Principal) (activity.Query, error) {
	q, err := activity.ParseQuery(r.URL.Query(), time.Now())
	q.Domains = domainsOf(v)
	return q, err
}

// domainsOf returns the domains that a visitor is bound to, nil for all.
func domainsOf(v account.Principal) []string {
	if v.Unlimited() {
		return nil
	}
	return append([]string{}, v.Domains...)
}

func (p *Pages) log(w http.ResponseWriter, r *http.Request, v account.Principal) {
	filters := r.URL.Query()
	body := &logBody{
		Filters: filters, Statuses: activity.Statuses(), Kept: p.cfg.Logs(), Operator: v.Unlimited(),
	}
	for key, values := range filters {
		body.Filtered = body.Filtered || key != "before" && key != "limit" && values[0] != ""
	}
	q, err := queryOf(r, v)
	if err != nil {
		p.show(w, r, "log", http.StatusBadRequest,
			page{Title: "nav.log", Error: "error.filter", Detail: err.Error(), Body: body})
		return
	}
	if body.Kept {
		body.Page = p.cfg.Activity.Find(r.Context(), q)
	}
	if body.Page.Next != "" {
		body.Next = "/log?" + with(filters, "before", body.Page.Next)
	}
	if filters.Get("before") != "" {
		body.First = "/log?" + with(filters, "before", "")
	}
	p.show(w, r, "log", http.StatusOK, page{Title: "nav.log", Body: body})
}

// with returns a query with another value of a key, none for "".
func with(filters url.Values, key, value string) string {
	out := url.Values{}
	for k, v := range filters {
		if k != key && len(v) > 0 && v[0] != "" {
			out[k] = v
		}
	}
	if value != "" {
		out.Set(key, value)
	}
	return out.Encode()
}

// A traceBody is the body of the page of one transaction.
type traceBody struct {
	ID   string
	Rows []activity.Row // the oldest first
	Kept bool
	// Missing are the nodes that were not heard, where the transaction may have been.
	Missing []activity.Kept
	May     bool // the visitor may have a sender blocked
}

func (p *Pages) trace(w http.ResponseWriter, r *http.Request, v account.Principal) {
	body := traceBody{ID: r.PathValue("id"), Kept: p.cfg.Logs(), May: p.canChange(v) && p.cfg.Clear}
	if body.Kept {
		found := p.cfg.Activity.Find(r.Context(), activity.Query{
			ID: body.ID, Limit: activity.MaxLimit, Domains: domainsOf(v),
		})
		slices.Reverse(found.Rows)
		body.Rows = found.Rows
		for _, k := range found.Nodes {
			if k.Failed != "" {
				body.Missing = append(body.Missing, k)
			}
		}
	}
	status := http.StatusOK
	if len(body.Rows) == 0 {
		status = http.StatusNotFound
	}
	p.show(w, r, "trace", status, page{Title: "trace.title", Body: body})
}

// A sendersBody is the body of the page of those who send to an address.
type sendersBody struct {
	To    string
	Found *activity.Senders // nil: nothing was asked
	Since time.Time         // from when on nothing is missing, of the node that has the least
	Kept  bool
	May   bool // the visitor may retire the address
}

func (p *Pages) senders(w http.ResponseWriter, r *http.Request, v account.Principal) {
	body := sendersBody{To: r.URL.Query().Get("to"), Kept: p.cfg.Logs(), May: p.canChange(v)}
	pg := page{Title: "nav.senders"}
	if body.To == "" || !body.Kept {
		pg.Body = body
		p.show(w, r, "senders", http.StatusOK, pg)
		return
	}
	q, err := activity.ParseSenders(r.URL.Query(), time.Now())
	if err != nil {
		pg.Error, pg.Detail, pg.Body = "error.filter", err.Error(), body
		p.show(w, r, "senders", http.StatusBadRequest, pg)
		return
	}
	q.Domains = domainsOf(v)
	found := p.cfg.Activity.Senders(r.Context(), q)
	body.Found = &found
	for _, k := range found.Nodes {
		if k.Since.After(body.Since) {
			body.Since = k.Since
		}
	}
	pg.Body = body
	p.show(w, r, "senders", http.StatusOK, pg)
}

// A Question asks what would become of a message. It has what was typed.
type Question struct{ IP, Helo, From, To string }

// An Explained is what would become of a message, and why.
type Explained struct {
	Fate    string // accept, drop, defer or reject
	Reply   string
	Reason  string
	Cause   string
	Rule    string
	Score   *Scored // nil: there is none
	Steps   []string
	Ways    []Way
	Skipped []string
	Notes   []string
}

// A Scored is the score of a client.
type Scored struct {
	Total, Defer, Reject float64
	Signals              []Signal
}

// A Signal is one thing that was looked at.
type Signal struct {
	Name, State, Text string
	Weight            float64
}

// A Way is one next hop.
type Way struct {
	NextHop, Reverse string
	Forward, Hosts   []string
}

// An explainBody is the body of the page of the simulator.
type explainBody struct {
	Asked  Question
	Answer *Explained // nil: nothing was asked
}

// explain asks what would become of a message. A question is posted, so that no link makes a node look things up.
func (p *Pages) explain(w http.ResponseWriter, r *http.Request, v account.Principal) {
	get := r.URL.Query().Get
	if r.Method == http.MethodPost {
		get = r.PostFormValue
	}
	body := explainBody{Asked: Question{IP: get("ip"), Helo: get("helo"), From: get("from"), To: get("to")}}
	pg := page{Title: "nav.explain"}
	if r.Method != http.MethodPost {
		pg.Body = body
		p.show(w, r, "explain", http.StatusOK, pg)
		return
	}
	status := http.StatusOK
	if !v.Unlimited() && !v.Covers(domainOf(body.Asked.To)) {
		status, pg.Error = http.StatusForbidden, "error.domain"
	} else {
		ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
		defer cancel()
		at := http.NewResponseController(w)
		_ = at.SetWriteDeadline(time.Now().Add(2 * time.Minute)) // look-ups take their time
		var err error
		if body.Answer, err = p.cfg.Explain(ctx, body.Asked); err != nil {
			status, pg.Error, pg.Detail = http.StatusUnprocessableEntity, "error.question", err.Error()
		}
	}
	pg.Body = body
	p.show(w, r, "explain", status, pg)
}
