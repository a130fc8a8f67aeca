package pages

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// Who may change rules does so by forms, over package account as the API does: it says what is wrong, writes the audit
// and puts what was changed in force on all nodes.

// mayChange reports whether a visitor may change rules of some domain.
func mayChange(v account.Principal) bool { return v.May(account.Owner) == nil }

// canChange reports whether a visitor may change rules, and what is changed can be kept.
func (p *Pages) canChange(v account.Principal) bool {
	return mayChange(v) && p.cfg.Account.Keeps() == nil
}

// An editor answers the forms by which rules and destinations are changed. Each leads to a page that says what was
// done, or shows what was wrong and has changed nothing.
type editor struct {
	account *account.Account
	letter  func(ctx context.Context, p account.Principal, d account.Destination) error // Config.Ask
	show    func(w http.ResponseWriter, r *http.Request, name string, status int, pg page)
}

// What a rule does, as the form has it.
const (
	doForward  = "forward"
	doDrop     = "drop"
	doReject   = "reject"
	doTempfail = "tempfail"
	doAsRule   = "rule" // as a rules file has it
)

// A ruleForm is a rule as the form has it.
type ruleForm struct {
	ID      string // "": it is new
	Pattern string
	Do      string
	To      string // addresses, or next hops
	Text    string // that the sender reads
	Target  string // as a rules file has it
	Name    string
	Enabled bool
}

const (
	rejects   = "reject 550 5.1.1 "
	tempfails = "tempfail 451 4.2.1 "
)

// formOf returns a rule as the form has it.
func formOf(r *account.Rule) ruleForm {
	f := ruleForm{ID: r.ID, Pattern: r.Pattern, Target: r.Target, Enabled: r.Enabled, Do: doAsRule}
	if r.Name != nil {
		f.Name = *r.Name
	}
	first, _, _ := strings.Cut(r.Target, " ")
	switch {
	case r.Target == "drop":
		f.Do = doDrop
	case strings.HasPrefix(r.Target, rejects):
		f.Do, f.Text = doReject, r.Target[len(rejects):]
	case strings.HasPrefix(r.Target, tempfails):
		f.Do, f.Text = doTempfail, r.Target[len(tempfails):]
	case !strings.Contains(r.Target, "=") && strings.ContainsAny(first, "@:"):
		f.Do, f.To = doForward, r.Target
	}
	return f
}

// target returns the target of the rule of a form.
func (f *ruleForm) target() string {
	switch f.Do {
	case doForward:
		return f.To
	case doDrop:
		return "drop"
	case doReject:
		return strings.TrimSpace(rejects + orText(f.Text, "No such user here"))
	case doTempfail:
		return strings.TrimSpace(tempfails + orText(f.Text, "Try again later"))
	}
	return f.Target
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// readRule reads the form of a request.
func readRule(r *http.Request) ruleForm {
	get := func(key string) string { return strings.TrimSpace(r.PostFormValue(key)) }
	return ruleForm{
		ID: r.PathValue("id"), Pattern: get("pattern"), Do: get("do"), To: get("to"), Text: get("text"),
		Target: get("target"), Name: get("name"), Enabled: get("enabled") != "",
	}
}

// editRule shows the form of a rule, new or old.
func (e *editor) editRule(w http.ResponseWriter, r *http.Request, v account.Principal) {
	form := ruleForm{Do: doForward, Enabled: true, Pattern: r.URL.Query().Get("pattern")}
	if id := r.PathValue("id"); id != "" {
		rule, err := e.account.Rule(v, id)
		if err != nil {
			e.show(w, r, "failed", http.StatusNotFound, page{Title: "error.missing"})
			return
		}
		form = formOf(&rule)
	}
	e.show(w, r, "rule", http.StatusOK, page{Title: titleOf(&form), Body: form})
}

func titleOf(f *ruleForm) string {
	if f.ID == "" {
		return "edit.new"
	}
	return "edit.change"
}

// saveRule makes a rule, or changes one.
func (e *editor) saveRule(w http.ResponseWriter, r *http.Request, v account.Principal) {
	form := readRule(r)
	rule := account.Rule{Source: "dashboard"}
	err := error(nil)
	if form.ID != "" {
		rule, err = e.account.Rule(v, form.ID)
	}
	if err == nil {
		err = e.putRule(r.Context(), v, form.ID, rule, &form)
	}
	if err != nil {
		e.show(w, r, "rule", statusOf(err), page{Title: titleOf(&form), Error: "error.refused", Detail: err.Error(),
			Body: form})
		return
	}
	done(w, r, "/rules", "done.saved")
}

// putRule writes the rule of a form. What the form does not have stays.
func (e *editor) putRule(ctx context.Context, v account.Principal, id string, rule account.Rule, f *ruleForm) error {
	rule.Pattern, rule.Target, rule.Enabled, rule.Name = f.Pattern, f.target(), f.Enabled, nil
	if f.Name != "" {
		rule.Name = &f.Name
	}
	var err error
	if id == "" {
		_, err = e.account.AddRule(ctx, v, rule)
	} else {
		rule.Echo = nil // what another client wants back is of the rule as it was
		_, err = e.account.SetRule(ctx, v, id, rule)
	}
	return err
}

// removeRule removes a rule.
func (e *editor) removeRule(w http.ResponseWriter, r *http.Request, v account.Principal) {
	_, err := e.account.RemoveRule(r.Context(), v, r.PathValue("id"))
	e.end(w, r, v, err, "/rules", "done.removed")
}

// retire has an address refused from now on, by the rule that it has here or by a new one.
func (e *editor) retire(w http.ResponseWriter, r *http.Request, v account.Principal) {
	address := strings.TrimSpace(r.PostFormValue("address"))
	rules, err := e.account.Rules(v)
	rule := account.Rule{Source: "dashboard"}
	for i := range rules {
		if ascii.EqualFold(rules[i].Pattern, address) {
			rule = rules[i]
		}
	}
	if err == nil {
		form := ruleForm{
			Pattern: orText(rule.Pattern,
				address), Do: doReject, Text: "This address is not in use any more", Enabled: true,
		}
		if rule.Name != nil {
			form.Name = *rule.Name
		}
		err = e.putRule(r.Context(), v, rule.ID, rule, &form)
	}
	e.end(w, r, v, err, "/rules", "done.retired")
}

// block has the mail of a sender refused for a domain from now on.
func (e *editor) block(w http.ResponseWriter, r *http.Request, v account.Principal) {
	sender, to := strings.TrimSpace(r.PostFormValue("sender")), domainOf(r.PostFormValue("to"))
	if r.PostFormValue("whole") != "" {
		sender = "@" + domainOf(sender)
	}
	_, err := e.account.AddRule(r.Context(), v, account.Rule{
		Source: "dashboard", Pattern: "block " + sender + " for=@" + to, Enabled: true,
	})
	e.end(w, r, v, err, "/rules", "done.blocked")
}

// A destinationsBody is the body of the page of the destinations.
type destinationsBody struct {
	Destinations []account.Destination
	May          bool // the visitor changes them
	MayVerify    bool
	Unkept       string // why nothing can be kept; "": it can
	Address      string
}

func (e *editor) destinations(w http.ResponseWriter, r *http.Request, v account.Principal) {
	e.showDestinations(w, r, v, nil, "")
}

// showDestinations shows the destinations, with what is wrong with one that was typed.
func (e *editor) showDestinations(w http.ResponseWriter, r *http.Request, v account.Principal, wrong error,
	typed string) {
	body := destinationsBody{May: mayChange(v), MayVerify: v.MayAll(account.Operator) == nil, Address: typed}
	if err := e.account.Keeps(); err != nil {
		body.Unkept, body.May, body.MayVerify = err.Error(), false, false
	}
	var err error
	pg, status := page{Title: "nav.destinations", Done: doneOf(r)}, http.StatusOK
	if body.Destinations, err = e.account.Destinations(v); err != nil {
		wrong = err
	}
	if wrong != nil {
		status, pg.Error, pg.Detail = statusOf(wrong), "error.refused", wrong.Error()
	}
	pg.Body = body
	e.show(w, r, "destinations", status, pg)
}

func (e *editor) addDestination(w http.ResponseWriter, r *http.Request, v account.Principal) {
	address := strings.TrimSpace(r.PostFormValue("address"))
	d, err := e.account.AddDestination(r.Context(), v, address)
	if err != nil {
		e.showDestinations(w, r, v, err, address)
		return
	}
	e.ask(w, r, v, &d)
}

// ask has the owner of a destination asked, unless it is verified already.
func (e *editor) ask(w http.ResponseWriter, r *http.Request, v account.Principal, d *account.Destination) {
	if d.Verified != nil {
		done(w, r, "/destinations", "done.saved")
		return
	}
	if err := e.letter(r.Context(), v, *d); err != nil {
		e.show(w, r, "unasked", statusOf(err), page{Title: "destinations.unasked", Detail: err.Error(),
			Body: d.Address})
		return
	}
	done(w, r, "/destinations", "done.asked")
}

// askDestination has the owner of a destination asked once more.
func (e *editor) askDestination(w http.ResponseWriter, r *http.Request, v account.Principal) {
	d, err := e.account.Destination(v, r.PathValue("id"))
	if err != nil {
		e.end(w, r, v, err, "/destinations", "")
		return
	}
	e.ask(w, r, v, &d)
}

// verifyDestination says that a destination is verified, on the word of an operator.
func (e *editor) verifyDestination(w http.ResponseWriter, r *http.Request, v account.Principal) {
	_, err := e.account.ChangeDestination(r.Context(), v, r.PathValue("id"), func(d *account.Destination) error {
		now := time.Now().UTC()
		d.Verified, d.How = &now, "admin"
		return nil
	})
	e.end(w, r, v, err, "/destinations", "done.saved")
}

// removeDestination removes a destination, which disables the rules that name it.
func (e *editor) removeDestination(w http.ResponseWriter, r *http.Request, v account.Principal) {
	_, disabled, err := e.account.RemoveDestination(r.Context(), v, r.PathValue("id"))
	what := "done.removed"
	if len(disabled) > 0 {
		what = "done.disabled"
	}
	e.end(w, r, v, err, "/destinations", what)
}

// end leads to a page that says what was done, or says what was wrong.
func (e *editor) end(w http.ResponseWriter, r *http.Request, _ account.Principal, err error, to, what string) {
	if err != nil {
		e.show(w, r, "failed", statusOf(err), page{Title: "error.refused", Error: "error.unchanged",
			Detail: err.Error()})
		return
	}
	done(w, r, to, what)
}

// statusOf returns the status of an answer to what failed.
func statusOf(err error) int {
	var why *account.Error
	if !errors.As(err, &why) {
		return http.StatusServiceUnavailable
	}
	switch why.Kind {
	case account.Forbidden, account.Unkept:
		return http.StatusForbidden
	case account.Missing:
		return http.StatusNotFound
	case account.Busy:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// deeds are what a page may say that was done.
var deeds = []string{"done.saved", "done.removed", "done.retired", "done.blocked", "done.disabled", "done.asked",
	"done.revoked"}

// done leads to a page that says what was done.
func done(w http.ResponseWriter, r *http.Request, to, what string) {
	http.Redirect(w, r, to+"?"+url.Values{"done": {what}}.Encode(), http.StatusSeeOther)
}

// doneOf returns what was done before a page was asked for, "" for nothing.
func doneOf(r *http.Request) string {
	for _, d := range deeds {
		if r.URL.Query().Get("done") == d {
			return d
		}
	}
	return ""
}
