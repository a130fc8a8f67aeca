package arc

import (
	"context"
	"crypto/sha256"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// MaxInstance is the highest instance that a set may have (RFC 8617 section 5.2).
const MaxInstance = 50

// A CV is a chain validation status (RFC 8617 section 4.4).
type CV uint8

// The statuses. TempError is none of RFC 8617, whose section 5.2.1 has a chain fail for good when DNS gives no answer;
// it is kept apart so that nobody is blamed for our resolver. What a field of results says of it is for its writer to
// decide.
const (
	None      CV = iota // there is no chain
	Pass                // all of it is good
	Fail                // it is broken for good
	TempError           // a key cannot be had now, and nothing else is wrong that was looked at
)

// String gives the word for the status: none, pass, fail or temperror.
func (v CV) String() string {
	switch v {
	case None:
		return "none"
	case Pass:
		return "pass"
	case Fail:
		return "fail"
	case TempError:
		return "temperror"
	}
	return "status " + strconv.Itoa(int(v))
}

// A Result is what became of a chain. What sets say is a stranger's word unless CV is Pass; then it is that of Domains.
type Result struct {
	CV CV
	// Instances is the highest instance found, 0 to 50; with CV Pass it is the number of sets.
	Instances int
	// Sealer is the signing domain of the newest seal, in lower case, "" when it cannot be read.
	Sealer string
	// Domains are the signing domains of the seals, in lower case and from the newest on; nil unless the structure is
	// good.
	Domains []string
	// Results are what the ARC-Authentication-Results fields say behind "i=...;", from the newest on, with their
	// folding, bounded at 8 KiB each: a longer one is "". nil unless the structure is good.
	Results []string
	// OldestPass is, with CV Pass, the lowest instance whose message signature, like those of all newer ones, is known
	// to be good: since then nothing that it covers has changed. 0 says that all are good (RFC 8617 section 5.2).
	// Signatures whose key differs from that of their seal, or that need another canonicalization of the body, may not
	// be known.
	OldestPass int
	// Reason says why CV is Fail or TempError: printable ASCII without a stranger's words, fit for a comment in a
	// field.
	Reason string
	// Cause is for the operator and may be nil.
	Cause error

	unsealable error // ErrFull or ErrEnded, where Instances does not say it
}

// Why a chain gets no further set: RFC 8617 sections 4.2.1 and 5.1, and Sealer.Seal for ErrUnknown.
var (
	ErrFull    = errors.New("arc: the chain has all the sets it may have")
	ErrEnded   = errors.New("arc: the chain was sealed as failed before")
	ErrUnknown = errors.New("arc: the state of the chain is not known")
)

// Sealable reports whether a set can be added to the chain; else it returns ErrFull, ErrEnded or ErrUnknown.
func (r Result) Sealable() error {
	switch {
	case r.CV == TempError:
		return ErrUnknown
	case r.Instances >= MaxInstance:
		return ErrFull
	}
	return r.unsealable
}

// A Config says how chains are validated.
type Config struct {
	// Resolver finds key records; it is required. The context of Begin bounds its look-ups.
	Resolver world.Resolver
	// Now is the clock that x= is compared with; nil means time.Now.
	Now func() time.Time

	header int // of tests: octets of a header section; 0 means dkim.MaxHeader
}

// Validate returns a *mail.FieldError that names the first field that is wrong, or nil.
func (c Config) Validate() error {
	if c.Resolver == nil {
		return &mail.FieldError{Field: "Resolver", Reason: "is required"}
	}
	return nil
}

// ErrHeaderTooLong says that a header section has more than dkim.MaxHeader octets.
var ErrHeaderTooLong = errors.New("arc: header section too long")

// A Verifier begins validations. It is safe for concurrent use.
type Verifier struct {
	cfg  Config
	keys *dkim.KeyFinder
}

// New makes a Verifier, or returns what Config.Validate says.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.header == 0 {
		cfg.header = dkim.MaxHeader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Verifier{cfg: cfg, keys: dkim.NewKeyFinder(cfg.Resolver)}, nil
}

// A Chain is the validation of one message's chain. Finish ends it, or Close at any time. It is not safe for concurrent
// use.
type Chain struct {
	sets    []set // by instance - 1; empty when there is none or the structure is bad
	result  Result
	cancel  context.CancelFunc
	judging sync.WaitGroup // the goroutine of Begin
	failure *dkim.Failure  // set by that goroutine; to be read behind judging
	oldest  int            // set by it: the lowest instance whose message signature is good but for the body
	waited  bool
}

// Begin reads a header section: lines that end in CRLF, without dot-stuffing; the empty line and what follows it is not
// looked at. It checks the structure of the chain and hashes what its signatures cover, starts to look for their keys,
// and returns without waiting for them. Header is not kept. The only error is ErrHeaderTooLong.
//
// Keys are looked for in an order that makes a forged chain cheap: those of the newest set first, which are two names
// at most; when its message signature and its seal are good those of the older seals, each name once and eight at a
// time, from the newest on until one is bad. The newest seal covers all other sets, so that what costs fifty look-ups
// was signed by a domain that can be named. The message signatures of older sets, which only tell OldestPass, have no
// look-up of their own.
//
// Ctx bounds the search for keys. Finish or Close must follow.
func (v *Verifier) Begin(ctx context.Context, header []byte) (*Chain, error) {
	header = dkim.Section(header)
	if len(header) > v.cfg.header {
		return nil, ErrHeaderTooLong
	}
	c := &Chain{}
	found := collect(header)
	if found.fields == 0 {
		return c, nil
	}
	c.result.Instances = found.highest
	if err := c.read(header, found, v.cfg.Now()); err != nil {
		c.fail(err)
		return c, nil
	}
	ctx, c.cancel = context.WithCancel(ctx)
	// Ends when Resolver has answered, which it does at the latest when ctx ends; Header, Finish and Close wait for it.
	c.judging.Go(func() { c.judge(ctx, v) })
	return c, nil
}

// read checks the structure (RFC 8617 section 5.2) and hashes what signatures cover.
func (c *Chain) read(header []byte, found collection, now time.Time) error {
	if found.highest > 0 {
		newest := &found.sets[found.highest-1]
		c.result.Sealer = dkim.ParseDomain(newest.seal.tags.Get("d"))
		// Step 2 comes before the structure: who sealed a broken chain as failed added a good set to bad ones.
		if string(newest.seal.tags.Get("cv")) == "fail" {
			c.result.unsealable = ErrEnded
			return fault("sealed as failed", nil)
		}
	}
	if found.err != nil {
		if found.tooMany {
			c.result.unsealable = ErrFull
		}
		return found.err
	}
	sets := found.sets[:found.highest]
	for i := range sets {
		if err := sets[i].parseSeal(i + 1); err != nil {
			return at(i+1, sealName, err)
		}
	}
	newest := &sets[len(sets)-1]
	if err := newest.parseMessage(now); err != nil {
		return at(len(sets), messageName, err)
	}
	hashMessages(header, sets, now)
	hashSeals(sets)
	for i := range sets {
		s := &sets[len(sets)-1-i]
		c.result.Domains = append(c.result.Domains, s.seal.domain)
		payload := ""
		if len(s.payload) <= maxPayload {
			payload = string(s.payload)
		}
		c.result.Results = append(c.result.Results, payload)
		// These lie in header.
		s.payload, s.results, s.seal.field, s.message.field = nil, nil, nil, nil
		s.seal.tags, s.message.tags = nil, nil
		s.seal.b, s.message.b = dkim.Tag{}, dkim.Tag{}
	}
	c.sets = sets
	return nil
}

// maxPayload is how long what one ARC-Authentication-Results field says may be to be kept.
const maxPayload = 8 << 10

// olderOctets bounds what is hashed to find out OldestPass: header sections of all older message signatures together.
// All of a chain are looked at in a header section of usual size.
const olderOctets = 1 << 20

// hashMessages hashes what the message signatures cover. An older one that cannot be read, or is too much, counts as
// one that is not good, and so do those that are older still.
func hashMessages(header []byte, sets []set, now time.Time) {
	var picker dkim.Picker
	sum := dkim.NewHeaderHash()
	octets := 0
	for i := len(sets) - 1; i >= 0; i-- {
		s := &sets[i]
		if i < len(sets)-1 {
			if octets += len(header); octets > olderOctets || s.parseMessage(now) != nil {
				return
			}
		}
		m := &s.message
		m.digest = dkim.Digest(sum, &picker, header, m.names, m.headerCanon, m.field, m.at, m.b)
		m.readable = true
		m.names = nil
	}
}

// fail notes the failure as the chain's result, which needs no body then.
func (c *Chain) fail(err error) {
	f, ok := err.(*dkim.Failure)
	if !ok {
		f = fault("syntax error", err)
	}
	c.result.CV = Fail
	if f.Result == dkim.TempError {
		c.result.CV = TempError
	}
	c.result.Reason, c.result.Cause = f.Reason, f.Cause
}

// Body gives the canonicalization that the body has to be hashed in; false when nothing hinges on the body, which may
// become known in Header.
func (c *Chain) Body() (dkim.Canonicalization, bool) {
	if len(c.sets) == 0 || c.result.CV == Fail {
		return dkim.Simple, false
	}
	return c.sets[len(c.sets)-1].message.bodyCanon, true
}

// Header waits for the keys and judges all that needs no body.
func (c *Chain) Header() {
	if c.waited {
		return
	}
	c.waited = true
	c.judging.Wait()
	c.stop()
	if c.failure != nil {
		c.fail(c.failure)
	}
}

// Finish waits like Header and judges the body by its hash, which bodyHash gives for a canonicalization, and false when
// it has none for it; it has to have one for that of Body. Nothing is spent by it: who knows a hash before the body
// came may ask with that, and once more when the body has come. Without a hash a chain that would pass is a TempError.
func (c *Chain) Finish(bodyHash func(dkim.Canonicalization) ([sha256.Size]byte, bool)) Result {
	c.Header()
	r := c.result
	n := len(c.sets)
	if n == 0 || r.CV == Fail {
		return r
	}
	newest := &c.sets[n-1].message
	switch hash, ok := bodyHash(newest.bodyCanon); {
	case ok && hash != newest.bodyHash:
		// That much is sure even if a key is missing.
		f := at(n, messageName, &dkim.Failure{Result: dkim.Fail, Reason: "body hash did not verify"})
		r.CV, r.Reason, r.Cause = Fail, f.Reason, nil
		return r
	case r.CV == TempError:
		return r
	case !ok:
		r.CV, r.Reason = TempError, "body not checked"
		return r
	}
	good := func(m *message) bool {
		hash, ok := bodyHash(m.bodyCanon)
		return ok && hash == m.bodyHash
	}
	r.CV = Pass
	oldest := n
	for oldest > c.oldest && good(&c.sets[oldest-2].message) {
		oldest--
	}
	if r.OldestPass = oldest; oldest == 1 {
		r.OldestPass = 0
	}
	return r
}

// Close gives up the search for keys and waits until it has ended. It may be called at any time and more than once.
func (c *Chain) Close() {
	c.stop()
	c.judging.Wait()
}

func (c *Chain) stop() {
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
	}
}
