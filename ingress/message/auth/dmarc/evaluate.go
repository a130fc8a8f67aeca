package dmarc

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Config has what an Evaluator needs.
type Config struct {
	// Resolver finds policy records, and whether an author domain exists, which decides between np= and sp=; it is
	// required.
	Resolver world.Resolver

	timeout time.Duration // of tests; 0 means walkTimeout
}

// walkTimeout bounds the tree walk of the author domain, and once more those of Evaluate.
const walkTimeout = 5 * time.Second

// Validate returns a *mail.FieldError that names the first field that is wrong, or nil.
func (c Config) Validate() error {
	if c.Resolver == nil {
		return &mail.FieldError{Field: "Resolver", Reason: "is required"}
	}
	return nil
}

// A Word is the result of an evaluation as RFC 9989 section 9.2 and RFC 8601 have it in an Authentication-Results
// field.
type Word uint8

// The words.
const (
	None      Word = iota // no policy record applies
	Pass                  // an authenticated identifier is aligned with the author domain
	Fail                  // no authenticated identifier is aligned
	TempError             // the result depends on a question that DNS did not answer
	PermError             // there is no author domain to evaluate
)

// String returns the keyword.
func (w Word) String() string {
	switch w {
	case Pass:
		return "pass"
	case Fail:
		return "fail"
	case TempError:
		return "temperror"
	case PermError:
		return "permerror"
	}
	return "none"
}

// A Disposition is what the author domain asks to be done with a message.
type Disposition uint8

// The dispositions, the strictest last.
const (
	NoAction Disposition = iota
	Quarantine
	Reject
)

// String returns the policy's keyword: none, quarantine or reject.
func (d Disposition) String() string {
	switch d {
	case Quarantine:
		return "quarantine"
	case Reject:
		return "reject"
	}
	return "none"
}

// milder is one step below d (RFC 9989 section 4.7, tag t).
func (d Disposition) milder() Disposition {
	if d == NoAction {
		return NoAction
	}
	return d - 1
}

// A Result is the result for a message. Domains are in lower case and as A-labels.
type Result struct {
	Result Word
	// Disposition is what the author domain asks for: NoAction unless Result is Fail.
	Disposition Disposition
	// Defer says about a TempError that an answer could have made the message one to be rejected or quarantined: a
	// receiver that enforces policies asks the client to come back. Without Defer every answer would let the message
	// through.
	Defer        bool
	Author       string // the author domain
	PolicyDomain string // the domain of the policy record, "" without one
	Organization string // the author domain's organizational domain, "" if it is not known
	// Policy is p= as published, or as it counts: "none", "quarantine" or "reject"; "" without a record.
	Policy    string
	Tag       string      // the tag that the policy was taken from: "p", "sp" or "np"
	Requested Disposition // what that tag asks for, before t=
	Testing   bool        // t=y
	// Percent is pct= of RFC 7489, 100 without it. It is obsolete (RFC 9989 appendix A.6) and changes nothing.
	Percent   int
	Published *mail.DMARCPolicy // the policy record; nil without one
	Aligned   string            // the mechanisms that are aligned: "spf", "dkim" or "spf dkim"
	Reason    string            // why, as printable ASCII without any word of the message or of a record
	Cause     error             // for the administrator; may be nil
}

// Stricter reports whether r asks for more than other.
func (r Result) Stricter(other Result) bool { return r.severity() > other.severity() }

// severity orders Results of several authors.
func (r Result) severity() int {
	switch {
	case r.Result == Fail && r.Disposition == Reject:
		return 6
	case r.Result == TempError && r.Defer:
		return 5
	case r.Result == Fail && r.Disposition == Quarantine:
		return 4
	case r.Result == TempError:
		return 3
	case r.Result == Fail:
		return 2
	case r.Result == None:
		return 1
	}
	return 0
}

// An Evaluator begins evaluations. It is safe for concurrent use.
type Evaluator struct {
	cfg Config
}

// New makes an Evaluator, or returns the error of Config.Validate.
func New(c Config) (*Evaluator, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.timeout == 0 {
		c.timeout = walkTimeout
	}
	return &Evaluator{cfg: c}, nil
}

// A Lookup is the evaluation of one message: the tree walk of its author domain, under way, and its answers. Evaluate
// may be called more than once, but by one goroutine at a time; Close must be called.
type Lookup struct {
	evaluator *Evaluator
	authors   []*author
	cache     cache
	done      chan struct{} // closed when the tree walks of the authors are over; Evaluate uses cache and authors then
	cancel    context.CancelFunc
	asking    mail.Asking // the context of the tree walks of the authors, then of Evaluate
}

// An author is one author domain.
type author struct {
	domain  string
	policy  policy
	organic organization
}

// Begin starts the tree walks of the domains that ReadAuthors returned, and does not wait. Each is evaluated by itself,
// and Evaluate returns the strictest result (RFC 9989 section 11.5). Ctx and walkTimeout bound the look-ups.
func (e *Evaluator) Begin(ctx context.Context, authors ...string) *Lookup {
	l := &Lookup{evaluator: e, done: make(chan struct{}), cancel: func() {}}
	for _, domain := range authors {
		domain = spf.Canonical(domain)
		if domain == "" {
			l.authors = nil // a message with an author that cannot be judged is not judged by the others
			break
		}
		l.authors = append(l.authors, &author{domain: domain})
	}
	if len(l.authors) == 0 {
		close(l.done)
		return l
	}
	ctx, l.cancel = context.WithTimeout(ctx, e.cfg.timeout)
	// It ends when its look-ups do, which they do at the latest when ctx ends or Close cancels it; Close waits for it.
	go func() {
		defer l.cancel()
		defer close(l.done)
		l.asking = mail.AskAs(ctx, mail.RankMessage)
		for _, a := range l.authors {
			a.policy, a.organic = l.discover(&l.asking, a.domain)
		}
	}()
	return l
}

// Close cancels the tree walks and waits until their look-ups have ended. It may be called more than once.
func (l *Lookup) Close() {
	l.cancel()
	<-l.done
}

// Evaluate waits for the tree walk and returns the result for a message with these authenticated identifiers: the
// results of SPF, of which only that of the reverse-path counts (RFC 9989 section 4.4.2), and the signing domains of
// the DKIM signatures that pass. Unknown are the signing domains of signatures whose key cannot be had now: if one of
// them is aligned, the message does not fail but is a TempError. Relaxed alignment may ask for more records; what is
// not known when ctx or its time is over is a TempError.
func (l *Lookup) Evaluate(ctx context.Context, identity spf.Results, dkim []string, unknown ...string) Result {
	if len(l.authors) == 0 {
		return Result{Result: PermError, Reason: reasonNoDomain}
	}
	if !l.await(ctx) {
		return l.late(ctx.Err())
	}
	ids := l.collect(identity.Mail, dkim, unknown)
	if len(ids) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.evaluator.cfg.timeout)
		defer cancel()
	}
	l.asking = mail.AskAs(ctx, mail.RankMessage)
	ctx = &l.asking
	worst := l.evaluate(ctx, l.authors[0], ids)
	for _, a := range l.authors[1:] {
		if r := l.evaluate(ctx, a, ids); r.Stricter(worst) {
			worst = r
		}
	}
	return worst
}

// await waits for the tree walks of the authors until ctx ends, and reports whether they are over.
func (l *Lookup) await(ctx context.Context) bool {
	select {
	case <-l.done:
		return true
	case <-ctx.Done():
	}
	// An answer of the same moment counts.
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *Lookup) late(cause error) Result {
	return Result{Result: TempError, Defer: true, Author: l.authors[0].domain, Reason: reasonLate, Cause: cause}
}

// The reasons of a Result.
const (
	reasonLate       = "no answer in time"
	reasonNoDomain   = "no author domain"
	reasonNoRecord   = "no policy record"
	reasonNoPolicy   = "policy record without a valid policy"
	reasonFault      = "policy record could not be had"
	reasonUnaligned  = "no aligned identifier passed"
	reasonUnknown    = "an aligned identifier could not be authenticated now"
	reasonAlignFault = "organizational domain could not be had"
	reasonExistence  = "existence of the author domain could not be had"
)

// The mechanisms of Result.Aligned.
const (
	mechanismSPF     = "spf"
	mechanismDKIM    = "dkim"
	mechanismSPFDKIM = "spf dkim"
)

// The tags of Result.Tag.
const (
	tagPolicy      = "p"
	tagSubdomain   = "sp"
	tagNonExistent = "np"
)

// maxIdentifiers bounds the authenticated identifiers of a message that count: those first that could be aligned with
// an author, then that of SPF.
const maxIdentifiers = 16

// percentOfMessages is the default and the most of pct=.
const percentOfMessages = 100

// An identifier is a domain that SPF or DKIM authenticated, or that cannot be authenticated now.
type identifier struct {
	domain string
	dkim   bool
	passed bool
}

// collect returns the identifiers that can change the result, each once.
func (l *Lookup) collect(reverse spf.Identity, dkim, unknown []string) []identifier {
	ids := make([]identifier, 0, 1+len(dkim)+len(unknown))
	add := func(id identifier) {
		id.domain = spf.Canonical(id.domain)
		if id.domain != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if reverse.Result == spf.Pass || reverse.Result == spf.TempError {
		add(identifier{domain: reverse.Domain, passed: reverse.Result == spf.Pass})
	}
	for _, d := range dkim {
		add(identifier{domain: d, dkim: true, passed: true})
	}
	for _, d := range unknown {
		add(identifier{domain: d, dkim: true})
	}
	if len(ids) > maxIdentifiers {
		slices.SortStableFunc(ids, func(a, b identifier) int { return l.distance(a) - l.distance(b) })
		ids = ids[:maxIdentifiers]
	}
	return ids
}

// distance orders identifiers: those of an author domain come first, then those above or below one, then the others.
func (l *Lookup) distance(id identifier) int {
	least := 2
	for _, a := range l.authors {
		switch {
		case id.domain == a.domain:
			return 0
		case strings.HasSuffix(id.domain, "."+a.domain), strings.HasSuffix(a.domain, "."+id.domain):
			least = 1
		}
	}
	return least
}

// evaluate judges one author domain.
func (l *Lookup) evaluate(ctx context.Context, a *author, ids []identifier) Result {
	p := &a.policy
	r := Result{Author: a.domain, Organization: a.organic.domain}
	if p.err != nil {
		return l.undiscovered(r, a, ids)
	}
	if p.record == nil {
		r.Reason = reasonNoRecord
		return r
	}
	r.PolicyDomain, r.Policy, r.Tag = p.domain, p.record.policy.String(), p.tag
	r.Requested, r.Testing, r.Percent = p.requested, p.record.testing, p.record.percent
	r.Published = &p.record.published
	if !p.record.applies {
		r.Policy, r.Reason = "", reasonNoPolicy
		return r
	}
	var spfAligned, dkimAligned, open bool
	var fault error
	for _, id := range ids {
		if id.passed && (id.dkim && dkimAligned || !id.dkim && spfAligned) {
			continue
		}
		aligned, err := l.aligned(ctx, a, id)
		switch {
		case err != nil:
			fault = errors.Join(fault, err)
		case !aligned:
		case !id.passed:
			open = true
		case id.dkim:
			dkimAligned = true
		default:
			spfAligned = true
		}
	}
	r.Aligned = mechanisms(spfAligned, dkimAligned)
	if r.Aligned != "" {
		r.Result = Pass
		return r
	}
	asked := p.requested
	if r.Testing {
		asked = asked.milder()
	}
	matters := asked != NoAction || p.existence != nil
	switch {
	case fault != nil:
		r.Result, r.Defer, r.Reason, r.Cause = TempError, matters, reasonAlignFault, fault
	case open:
		r.Result, r.Defer, r.Reason = TempError, matters, reasonUnknown
	case p.existence != nil:
		r.Result, r.Defer, r.Reason, r.Cause = TempError, true, reasonExistence, p.existence
	default:
		r.Result, r.Disposition, r.Reason = Fail, asked, reasonUnaligned
	}
	return r
}

// Organization returns the organizational domain of a domain (RFC 9989 section 4.10.2), by a tree walk of its own.
func (e *Evaluator) Organization(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.timeout)
	defer cancel()
	org, _ := (&Lookup{evaluator: e}).climb(ctx, spf.Canonical(name))
	return org.domain, org.err
}

// undiscovered returns the result if the policy record cannot be had now. RFC 9989 section 5.3.6 forbids both pass and
// fail; but a message with an identifier that is the author domain itself passes under any record, so that Defer is
// false.
func (l *Lookup) undiscovered(r Result, a *author, ids []identifier) Result {
	var spfAligned, dkimAligned bool
	for _, id := range ids {
		if id.passed && id.domain == a.domain {
			spfAligned, dkimAligned = spfAligned || !id.dkim, dkimAligned || id.dkim
		}
	}
	r.Result, r.Reason, r.Cause = TempError, reasonFault, a.policy.err
	if errors.Is(r.Cause, context.DeadlineExceeded) || errors.Is(r.Cause, context.Canceled) {
		r.Reason = reasonLate
	}
	r.Aligned = mechanisms(spfAligned, dkimAligned)
	r.Defer = r.Aligned == ""
	return r
}

func mechanisms(spfAligned, dkimAligned bool) string {
	switch {
	case spfAligned && dkimAligned:
		return mechanismSPFDKIM
	case spfAligned:
		return mechanismSPF
	case dkimAligned:
		return mechanismDKIM
	}
	return ""
}
