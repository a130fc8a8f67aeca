package auth

import (
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
)

// A Want says which signatures of ours a next hop is to get. Each value is all that stands before it, and more.
type Want uint8

// The values of a Want.
const (
	WantNone     Want = iota
	WantAligned       // DKIM signatures that are aligned with an author whom no other proves
	WantUnproved      // an ARC set, where no DKIM signature proves the author
	WantARC           // an ARC set
	WantAll           // DKIM signatures that are aligned with none
)

// proves reports whether a signature passes whose domain is aligned with the author's: it authenticates the author at
// the next hop as well. Where DMARC was not asked, one that could be aligned is enough.
func (j *judgement) proves(e *evidence) bool {
	if strings.Contains(j.dmarc.Aligned, "dkim") {
		return true
	}
	return j.dmarc.Result != dmarc.Pass && j.dmarc.Result != dmarc.Fail &&
		slices.ContainsFunc(j.domains, func(d string) bool { return related(d, e.author, j.dmarc.Organization) })
}

// signs reports whether the message gets any signature of ours.
func (s *signing) signs(e *evidence, j *judgement, chain arc.Result, want Want) bool {
	return s.seals(e, j, chain, want) || len(s.chosen(e, j, want)) > 0
}

// seals reports whether the message gets an ARC set. The way of a trusted client's message begins here, so that there
// are no results of others to pass on.
func (s *signing) seals(e *evidence, j *judgement, chain arc.Result, want Want) bool {
	switch {
	case !s.maySign || s.keys.arc == nil || e.env.Client.Trusted || chain.Sealable() != nil:
		return false
	case want == WantUnproved:
		return !j.proves(e)
	}
	return want > WantUnproved
}

// noneHelps is why a message gets no signature where no use of ARC is known.
const noneHelps = "no use of ARC is known there, and no key of ours proves its author"

// whyNot returns why a message gets no signature of ours.
func (s *signing) whyNot(e *evidence, j *judgement, want Want) string {
	switch {
	case len(j.overrides) > 0:
		return "its refusal was overridden"
	case j.proves(e):
		return "its author's own signature passes"
	case e.scan.from == nil || e.author == "" && !e.env.Client.Trusted:
		return "no author domain"
	case want == WantAligned:
		return noneHelps
	}
	return "its author is not authenticated, or there is no key for the domain"
}
