package spf

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Result is the result of a check (RFC 7208 section 2.6).
type Result uint8

// The results, in the order of RFC 7208.
const (
	None      Result = iota // there is no domain to check, or it has no record
	Neutral                 // the domain says nothing about the client
	Pass                    // the client may use the domain
	Fail                    // the client may not use the domain
	SoftFail                // the client probably may not use the domain
	TempError               // DNS did not answer; a later check may succeed
	PermError               // the domain's records cannot be interpreted
)

// String returns the result in the words of RFC 8601 section 2.7.2, for an Authentication-Results field.
func (r Result) String() string {
	switch r {
	case Neutral:
		return "neutral"
	case Pass:
		return "pass"
	case Fail:
		return "fail"
	case SoftFail:
		return "softfail"
	case TempError:
		return "temperror"
	case PermError:
		return "permerror"
	}
	return "none"
}

// An Identity is the result for one identity.
type Identity struct {
	Result Result
	Domain string // the domain that was checked, in lower case and as A-labels; "" if there was no domain to check
	Reason string // why, as printable ASCII without any word of the client or of a record
	Cause  error  // for the administrator; may be nil
}

// IsUnevaluated reports whether the TempError is that the transaction may not ask as much.
func (i *Identity) IsUnevaluated() bool { return errors.Is(i.Cause, mail.ErrEnough) }

// Results are the results for both identities.
type Results struct {
	// the reverse-path; that of the null reverse-path is postmaster at the HELO name (RFC 7208 section 2.4)
	Mail Identity
	Helo Identity // the HELO name (RFC 7208 section 2.3)
}

// A Config has what a Checker needs.
type Config struct {
	// Resolver answers the questions; it is required.
	Resolver world.Resolver
	// Now is the clock that a check is timed by, for traces; nil: time.Now.
	Now func() time.Time

	timeout time.Duration // of tests; 0 means checkTimeout
}

// checkTimeout bounds one check of both identities; what is not known then is a TempError. RFC 7208 section 4.6.4 asks
// for 20 s at least, which is longer than a client that waits for a reply is worth.
const checkTimeout = 5 * time.Second

// Validate returns a *mail.FieldError that names the first field that is wrong, or nil.
func (c Config) Validate() error {
	if c.Resolver == nil {
		return &mail.FieldError{Field: "Resolver", Reason: "is required"}
	}
	return nil
}

// A Checker begins checks. It is safe for concurrent use.
type Checker struct {
	resolver world.Resolver
	now      func() time.Time
	timeout  time.Duration
}

// New makes a Checker, or returns the error of Config.Validate.
func New(c Config) (*Checker, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.timeout == 0 {
		c.timeout = checkTimeout
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Checker{resolver: c.Resolver, now: c.Now, timeout: c.timeout}, nil
}

// A Check is the check of one client's two identities under way. All methods are safe for concurrent use; Close must be
// called.
type Check struct {
	mail, helo Identity      // each is set before its channel is closed
	asked      inquiry       // what is checked
	mailKnown  chan struct{} // closed when mail is set
	done       chan struct{} // closed when both are set
	ended      <-chan struct{}
	cancel     context.CancelFunc
	began      time.Time
	took       time.Duration // set before done is closed
	asking     mail.Asking   // the context of the identity that is being checked
}

// Begin starts the check of client, the address that connected, with the names that it sent in HELO or EHLO and the
// reverse-path that it sent in MAIL, and does not wait. An IPv4-mapped address counts as IPv4. Ctx and 5 s bound the
// look-ups.
func (c *Checker) Begin(ctx context.Context, client netip.Addr, helo string, reverse mail.Path) *Check {
	q := questions(client, helo, reverse)
	k := &Check{asked: q, mailKnown: make(chan struct{}), done: make(chan struct{}), began: c.now()}
	if q.mail.domain == "" && q.helo.domain == "" || !q.client.IsValid() {
		k.mail, k.helo = q.unasked()
		k.ended, k.cancel = k.done, func() {}
		close(k.mailKnown)
		close(k.done)
		return k
	}
	ctx, k.cancel = context.WithTimeout(ctx, c.timeout)
	k.ended = ctx.Done()
	// It ends with its look-ups, at the latest when ctx ends or Close cancels it; Close waits for it.
	go func() {
		defer k.cancel()
		defer func() {
			k.took = c.now().Sub(k.began)
			close(k.done)
		}()
		k.asking = mail.AskAs(ctx, mail.RankSPF)
		k.mail = c.ask(&k.asking, q.client, q.name, q.mail)
		close(k.mailKnown)
		if q.helo == q.mail {
			k.helo = k.mail
		} else {
			k.asking.Rank = mail.RankHelo
			k.helo = c.ask(&k.asking, q.client, q.name, q.helo)
		}
	}()
	return k
}

// Results waits for both results. A result that is not known when ctx or the time of the check is over is TempError.
func (k *Check) Results(ctx context.Context) Results {
	out := Results{Mail: late(k.asked.mail), Helo: late(k.asked.helo)}
	if await(ctx, k.done, k.ended) {
		out.Helo = k.helo
	}
	if await(ctx, k.mailKnown, k.ended) {
		out.Mail = k.mail
	}
	return out
}

// Wait waits like Results, but only for the result of the reverse-path, and returns it in the words of RFC 8601 with
// the domain that is checked.
func (k *Check) Wait(ctx context.Context) (result, domain string) {
	if !await(ctx, k.mailKnown, k.ended) {
		return TempError.String(), k.asked.mail.domain
	}
	return k.mail.Result.String(), k.mail.Domain
}

// IsMailKnown reports whether Wait returns at once.
func (k *Check) IsMailKnown() bool {
	select {
	case <-k.mailKnown:
		return true
	default:
		return false
	}
}

// late returns the result of a question without an answer.
func late(q question) Identity {
	return Identity{Result: TempError, Domain: q.domain, Reason: reasonLate}
}

// Close cancels the check and waits until its look-ups have ended. It may be called more than once.
func (k *Check) Close() {
	k.cancel()
	<-k.done
}

// Took returns when a check that was closed began, and how long it took.
func (k *Check) Took() (began time.Time, took time.Duration) { return k.began, k.took }

// await waits until known is closed, ctx ends or ended is closed, and reports whether known is closed.
func await(ctx context.Context, known, ended <-chan struct{}) bool {
	select {
	case <-known:
		return true
	default:
	}
	select {
	case <-known:
		return true
	case <-ctx.Done():
	case <-ended:
	}
	// A result of the same moment counts.
	select {
	case <-known:
		return true
	default:
		return false
	}
}
