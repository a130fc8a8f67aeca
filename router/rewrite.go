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
)

// The remarks of a Route whose reverse-path should have been rewritten and could not be.
const (
	RemarkSRSTooLong  = "reverse-path too long for srs"
	RemarkSRSNoDomain = "reverse-path without a domain for srs"
)

// A rewritten reverse-path may be used for bounceCount messages at once, and for as many again over bouncePer.
const (
	bounceCount = 20
	bouncePer   = 24 * time.Hour
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
	original, err := v.srs.Reverse(q.Forward)
	if !errors.Is(err, srs.ErrNotSRS) {
		return v.bounce(q, original, err, steps)
	}
	routes, err := v.Route(q, steps)
	for i := range routes {
		v.rewrite(&routes[i], steps)
	}
	return routes, err
}

// rewrite sets the reverse-path that the route's policy asks for. Two are not rewritten with any policy: the null
// reverse-path, to which no bounce goes, and one in a domain of ours, whose bounces come here anyway. One that cannot
// be rewritten stays: the next hop may take it, and a refusal would lose mail for the length of an address.
func (v *version) rewrite(route *mail.Route, steps *rules.Steps) {
	switch policy := route.Policy.SRS; {
	case route.Action != mail.Forward, route.Reverse.IsNull(), policy == mail.SRSNever:
		return
	case policy == mail.SRSAuto && route.NextHop.Transport != mail.MX:
		return
	case v.Ours(route.Reverse.Domain):
		return
	}
	rewritten, err := v.srs.Forward(route.Reverse)
	switch {
	case errors.Is(err, srs.ErrTooLong):
		route.Remark = RemarkSRSTooLong
	case err != nil:
		route.Remark = RemarkSRSNoDomain
	default:
		route.Reverse = rewritten
	}
	switch {
	case steps == nil:
	case route.Remark != "":
		addStep(steps, "the reverse-path is not rewritten: "+route.Remark)
	default:
		addStep(steps, "the reverse-path becomes <"+rewritten.String()+">")
	}
}

// bounce returns the route of mail to a recipient that begins like a rewritten reverse-path of ours. original and err
// are the result of opening it.
func (v *version) bounce(q mail.Query, original mail.Path, err error, steps *rules.Steps) ([]mail.Route, error) {
	addStep(steps, "<"+q.Forward.String()+"> is written like a reverse-path that was rewritten here")
	switch {
	case errors.Is(err, srs.ErrSyntax):
		return nil, mail.Refuse(550, 7, 1, "Malformed SRS address", ReasonSRSSyntax, err)
	case errors.Is(err, srs.ErrExpired):
		return nil, mail.Refuse(550, 7, 1, "This SRS address has expired", ReasonSRSExpired, err)
	case err != nil:
		return nil, mail.Refuse(550, 7, 1, "This SRS address was not made here", ReasonSRSForged, err)
	}
	addStep(steps, "it stands for <"+original.String()+">")
	switch {
	case !q.Reverse.IsNull():
		return nil,
			mail.Refuse(550, 7, 1, "Only bounces are taken for an SRS address, with the null reverse-path",
				ReasonSRSNotNull, nil)
	case v.Ours(original.Domain):
		return nil, mail.Refuse(554, 4, 6, "This SRS address leads back here", ReasonSRSOurs, nil)
	}
	// It goes to its MX hosts, because the rules only have domains of ours.
	routes, err := v.Route(mail.Query{Forward: original, Trusted: true}, nil)
	for i := range routes {
		r := &routes[i]
		r.Rule = mail.Rule{Pattern: "srs"}
		r.Rewrote, r.Alone = true, true
		r.Policy.UpstreamText = mail.UpstreamTextFull // the client sent the address that there is to hide
		// The address itself is the proof. A bounce has no authentication of an author: that of the mail server which
		// sends it is not one.
		r.Policy.DMARC, r.Policy.RequireAuth, r.Policy.Seal = mail.DMARCOff, mail.RequireAuthNo, mail.SealNever
		r.Rates = []mail.Rate{{Group: counterOf(q.Forward), Name: "srs", Count: bounceCount, Per: bouncePer}}
		addStep(steps, "to <"+original.String()+"> by "+r.NextHop.String())
	}
	return routes, err
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
