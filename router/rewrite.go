package router

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
	"github.com/millrace/millrace/router/srs"
)

// A Refusal's reasons, as they are counted, where the recipient is a reverse-path that was rewritten.
const (
	ReasonSRSSyntax  = "malformed srs address"
	ReasonSRSForged  = "srs address not made here"
	ReasonSRSExpired = "srs address expired"
	ReasonSRSNotNull = "no bounce to srs address"
	ReasonSRSOurs    = "srs address of our own domain"
)

// The remarks of a Route whose reverse-path should have been rewritten and was not.
const (
	RemarkSRSTooLong  = "reverse-path too long for srs"
	RemarkSRSNoDomain = "reverse-path without a domain for srs"
)

// A rewritten reverse-path may be used for bounceCount messages at once, and for as many again over bouncePer.
const (
	bounceCount = 20
	bouncePer   = 24 * time.Hour
)

// rewriter makes a Rewriter of the keys as they are now, nil where none is wanted.
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

// route asks for a rewritten reverse-path first and for the rules then. steps may be nil.
func (v *version) route(q mail.Query, steps *rules.Steps) ([]mail.Route, error) {
	if v.digest == "" {
		tell(steps, ReasonNoRules)
		return nil, mail.Refuse(451, 3, 0, "No rules are known here yet, try again later", ReasonNoRules, nil)
	}
	if v.srs == nil {
		return v.Route(q, steps)
	}
	home, err := v.srs.Reverse(q.Forward)
	if !errors.Is(err, srs.ErrNotSRS) {
		return v.bounce(q, home, err, steps)
	}
	routes, err := v.Route(q, steps)
	for i := range routes {
		v.rewrite(&routes[i], steps)
	}
	return routes, err
}

// rewrite gives the route the reverse-path that its policy asks for. Nothing bounces to the null reverse-path, and what
// bounces to a domain of ours comes here anyway: neither is rewritten, whatever the policy says. One that cannot be
// rewritten passes as it is: the next hop may take it, and a refusal would lose mail for the length of an address.
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
		tell(steps, "the reverse-path is not rewritten: "+route.Remark)
	default:
		tell(steps, "the reverse-path becomes <"+rewritten.String()+">")
	}
}

// bounce gives the way home of what comes to a reverse-path that begins like ours. home and err are what srs made of
// it.
func (v *version) bounce(q mail.Query, home mail.Path, err error, steps *rules.Steps) ([]mail.Route, error) {
	tell(steps, "<"+q.Forward.String()+"> is written like a reverse-path that was rewritten here")
	switch {
	case errors.Is(err, srs.ErrSyntax):
		return nil, mail.Refuse(550, 7, 1, "Malformed SRS address", ReasonSRSSyntax, err)
	case errors.Is(err, srs.ErrExpired):
		return nil, mail.Refuse(550, 7, 1, "This SRS address has expired", ReasonSRSExpired, err)
	case err != nil:
		return nil, mail.Refuse(550, 7, 1, "This SRS address was not made here", ReasonSRSForged, err)
	}
	tell(steps, "it stands for <"+home.String()+">")
	switch {
	case !q.Reverse.IsNull():
		return nil,
			mail.Refuse(550, 7, 1, "Only bounces are taken for an SRS address, with the null reverse-path",
				ReasonSRSNotNull, nil)
	case v.Ours(home.Domain):
		return nil, mail.Refuse(554, 4, 6, "This SRS address leads back here", ReasonSRSOurs, nil)
	}
	// by its MX hosts, the rules know no other domain than ours
	routes, err := v.Route(mail.Query{Forward: home, Trusted: true}, nil)
	for i := range routes {
		r := &routes[i]
		r.Rule = mail.Rule{Pattern: "srs"}
		r.Rewrote, r.Alone = true, true
		r.Policy.UpstreamText = mail.UpstreamTextFull // the address that the client wrote tells all there is to hide
		// The address itself is the proof, and a destination's bounce has no author's to give: its mail server's is
		// none.
		r.Policy.DMARC, r.Policy.RequireAuth, r.Policy.Seal = mail.DMARCOff, mail.RequireAuthNo, mail.SealNever
		r.Rates = []mail.Rate{{Group: counterOf(q.Forward), Name: "srs", Count: bounceCount, Per: bouncePer}}
		tell(steps, "to <"+home.String()+"> by "+r.NextHop.String())
	}
	return routes, err
}

func tell(steps *rules.Steps, line string) {
	if steps != nil {
		steps.List = append(steps.List, line)
	}
}

// asciiLower folds as srs does when it compares.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// counterOf names the counter of a rewritten address without it: counters may be shared by nodes, and whoever reads
// them is not to learn who writes to whom. The MAC within the address keeps it from being guessed.
func counterOf(p mail.Path) string {
	sum := sha256.Sum256([]byte(asciiLower(p.LocalPart())))
	return hex.EncodeToString(sum[:16])
}
