package router

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
	"github.com/millrace/millrace/router/srs"
)

// The reasons of a Refusal of a recipient that is a rewritten reverse-path, as they are counted.
const (
	ReasonSRSSyntax  = "malformed srs address"
	ReasonSRSForged  = "srs address not made here"
	ReasonSRSExpired = "srs address expired"
	ReasonSRSNotNull = "no bounce to srs address"
	ReasonSRSOurs    = "srs address of our own domain"
	ReasonSRSClosed  = "srs address that opens to no message"
)

// The remarks on a reverse-path that should have been rewritten and could not be.
const (
	RemarkSRSTooLong  = "reverse-path too long for srs"
	RemarkSRSNoDomain = "reverse-path without a domain for srs"
)

// How many messages a rewritten reverse-path takes. An address of a day takes bounceCount at once, and as many again
// over bouncePer; one that opens to reports takes reportCount in its life, which is shorter than reportPer. All
// addresses of a domain together take homeCount from one network of clients. The same figures count what is refused,
// apart. Transactions without a message, such as those of hosts that verify an address, are counted apart as well: they
// may be barrenTimes as many.
const (
	bounceCount = 20
	bouncePer   = 24 * time.Hour
	reportCount = 3
	reportPer   = 31 * 24 * time.Hour
	homeCount   = 100
	barrenTimes = 20
)

// rewriter makes a Rewriter of the present keys. It is nil if Config.SRSKeys is.
func (r *Router) rewriter() (*srs.Rewriter, error) {
	if r.cfg.SRSKeys == nil {
		return nil, nil
	}
	keys, err := r.cfg.SRSKeys()
	if err != nil {
		return nil, err
	}
	w, err := srs.New(srs.Config{Domain: r.cfg.SRSDomain, Keys: keys, Now: r.cfg.Now})
	var field *mail.FieldError
	if errors.As(err, &field) {
		return nil, &mail.FieldError{Field: "srs." + field.Field, Reason: field.Reason}
	}
	return w, err
}

// route answers mail to a rewritten reverse-path itself, and other mail by the rules. steps may be nil.
func (v *version) route(q mail.Query, steps *rules.Steps) ([]mail.Route, error) {
	if v.digest == "" {
		addStep(steps, ReasonNoRules)
		return nil, mail.Refuse(451, 3, 0, "No rules are known here yet, try again later", ReasonNoRules, nil)
	}
	if v.srs == nil {
		return v.Route(q, steps)
	}
	original, opens, err := v.srs.Reverse(q.Forward)
	if !errors.Is(err, srs.ErrNotSRS) {
		return v.bounce(q, original, opens, err, steps)
	}
	routes, err := v.Route(q, steps)
	for i := range routes {
		for r := &routes[i]; r != nil; r = r.Else {
			if r.Rewrite = v.rewrites(r); r.Rewrite {
				addStep(steps, "the reverse-path is to be rewritten by what SPF says of it")
			}
		}
	}
	return routes, err
}

// rewrites reports whether the route's policy asks for another reverse-path. Two are not rewritten with any policy: the
// null reverse-path, to which no bounce goes, and one in a domain of ours, whose bounces come here anyway.
func (v *version) rewrites(route *mail.Route) bool {
	switch policy := route.Policy.SRS; {
	case route.Action != mail.Forward, route.Reverse.IsNull(), policy == mail.SRSNever:
		return false
	case policy == mail.SRSAuto && route.NextHop.Transport != mail.MX:
		return false
	}
	return !v.Ours(route.Reverse.Domain)
}

// Rewrite returns the reverse-path with which a message whose Route has Rewrite set is forwarded: the address that
// opens to what opens says. One that cannot be rewritten is returned as it is, with a remark, which is a short fixed
// word: the next hop may take it, and a refusal would lose mail for the length of an address. It is safe for
// concurrent use.
func (r *Router) Rewrite(q mail.Query, opens mail.Opens) (reverse mail.Path, remark string) {
	w := r.current.Load().srs
	if w == nil { // the keys went with a reload
		return q.Reverse, ""
	}
	rewritten, err := w.Forward(q.Reverse, opens, q.Client)
	switch {
	case errors.Is(err, srs.ErrTooLong):
		return q.Reverse, RemarkSRSTooLong
	case err != nil:
		return q.Reverse, RemarkSRSNoDomain
	}
	return rewritten, ""
}

// closed returns the refusal of a recipient that begins like a rewritten reverse-path of ours.
func closed(reason string, cause error) error {
	return mail.Refuse(550, 7, 1, mail.NoSuchMail, reason, cause)
}

// bounce returns the route of mail to a recipient that begins like a rewritten reverse-path of ours. original, opens
// and err are the result of opening it.
func (v *version) bounce(q mail.Query, original mail.Path, opens mail.Opens, err error,
	steps *rules.Steps) ([]mail.Route, error) {
	addStep(steps, "<"+q.Forward.String()+"> is written like a reverse-path that was rewritten here")
	switch {
	case errors.Is(err, srs.ErrSyntax):
		return nil, closed(ReasonSRSSyntax, err)
	case errors.Is(err, srs.ErrExpired):
		return nil, closed(ReasonSRSExpired, err)
	case errors.Is(err, srs.ErrClosed):
		addStep(steps, "it was made so that it opens to no message, because SPF did not pass")
		return nil, closed(ReasonSRSClosed, err)
	case err != nil:
		return nil, closed(ReasonSRSForged, err)
	}
	addStep(steps, "it stands for <"+original.String()+"> and opens to "+opens.String())
	switch {
	case !q.Reverse.IsNull():
		return nil, closed(ReasonSRSNotNull, nil)
	case v.Ours(original.Domain):
		return nil, closed(ReasonSRSOurs, nil)
	}
	// It goes to its MX hosts, because the rules only have domains of ours; that of a trusted client as its mail does.
	routes, err := v.Direct(mail.Query{Forward: original})
	if q.Trusted {
		routes, err = v.Route(mail.Query{Forward: original, Trusted: true, Via: q.Via, At: q.At}, nil)
	}
	if err != nil {
		return nil, err
	}
	for r := &routes[0]; r != nil; r = r.Else { // there is one, and those that are tried in its place
		r.Rule = mail.Rule{Pattern: "srs"}
		r.Rewrote, r.Alone, r.Reports = true, true, opens == mail.OpensToReports
		r.Policy.UpstreamText = mail.UpstreamTextFull // the client sent the address that there is to hide
		// DMARC is as for other mail to domains of ours. A bounce is not signed: it is no mail of ours.
		d := v.Defaults()
		r.Policy.DMARC, r.Policy.Quarantine = d.DMARC, d.Quarantine
		r.Policy.RequireAuth, r.Policy.Seal = mail.RequireAuthNo, mail.SealNever
		r.Rates = bounceRates(q, original, opens, "srs", 1)
		r.RefusedRates = bounceRates(q, original, opens, "srs refused", 1)
		r.BarrenRates = bounceRates(q, original, opens, "srs barren", barrenTimes)
		addStep(steps, "to <"+original.String()+"> by "+r.NextHop.String())
	}
	return routes, nil
}

// bounceRates returns the rates of a rewritten address and of the domain that it stands for, under a name: times those
// of messages.
func bounceRates(q mail.Query, original mail.Path, opens mail.Opens, name string, times int) []mail.Rate {
	address := mail.Rate{
		Group: counterOf(q.Forward), Name: name, Count: times * bounceCount, Per: bouncePer, Happened: true,
	}
	if opens == mail.OpensToReports {
		address.Count, address.Per, address.Burst = times, reportPer, times*reportCount
	}
	return []mail.Rate{address, {
		Group: ascii.Fold(original.Domain), Client: q.Client, Name: name, Count: times * homeCount, Per: bouncePer,
		Unit: 1, Happened: true,
	}}
}

// addStep appends a line to steps, which may be nil.
func addStep(steps *rules.Steps, line string) {
	if steps != nil {
		steps.List = append(steps.List, line)
	}
}

// counterOf returns the name of the counter of a rewritten address, which does not show the address: a reader of the
// counters that nodes share does not learn from it which addresses correspond. The MAC within the address prevents
// guesses.
func counterOf(p mail.Path) string {
	sum := sha256.Sum256([]byte(ascii.Fold(p.LocalPart())))
	return hex.EncodeToString(sum[:16])
}
