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

// The statuses. TempError is not in RFC 8617, whose section 5.2.1 has a chain fail for good when DNS does not answer.
// It is a status of its own so that no sealer is blamed for our resolver. How a field of results writes it is the
// caller's choice.
const (
	None      CV = iota // there is no chain
	Pass                // all of it is good
	Fail                // it is broken for good
	TempError           // a key cannot be had now, and nothing else that was checked is wrong
)

// String returns the name of the status: none, pass, fail or temperror.
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

// A Result is the result of a validation. Any sender can have written the sets unless CV is Pass; then Domains vouch
// for them.
type Result struct {
	CV CV
	// Instances is the highest instance found, 0 to 50; with CV Pass it is the number of sets.
	Instances int
	// Sealer is the signing domain of the newest seal, in lower case, "" when it cannot be read.
	Sealer string
	// Domains are the signing domains of the seals, in lower case and from the newest on; nil unless the structure is
	// good.
	Domains []string
	// Results are the texts of the ARC-Authentication-Results fields behind "i=...;", from the newest on, with their
	// folding. One of more than 8 KiB is "". nil unless the structure is good.
	Results []string
	// OldestPass is, with CV Pass, the lowest instance whose message signature, like those of all newer ones, is known
	// to be good: since then nothing that it covers has changed. 0 says that all are good (RFC 8617 section 5.2).
	// Signatures whose key differs from that of their seal, or that need another canonicalization of the body, may not
	// be known.
	OldestPass int
	// Reason says why CV is Fail or TempError: printable ASCII without any word of the message, fit for a comment in a
	// field.
	Reason string
	// Cause is for the administrator and may be nil.
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

// A Config has what a Verifier needs.
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

// New makes a Verifier, or returns the error of Config.Validate.
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
	sets    []set // by instance - 1; empty without a chain and with a bad structure
	result  Result
	cancel  context.CancelFunc
	asking  mail.Asking    // the context of the look-ups
	judging sync.WaitGroup // the goroutine of Begin
	failure *dkim.Failure  // set by that goroutine; read after judging.Wait
	oldest  int            // set by it: the lowest instance whose message signature is good but for the body
	waited  bool
}

// Begin reads a header section: lines that end in CRLF, without dot-stuffing; the empty line and what follows it are
// not read. It checks the structure of the chain, hashes what its signatures cover, starts the search for their keys,
// and returns without waiting for them. Header is not kept. The only error is ErrHeaderTooLong.
//
// Keys are looked for in an order that makes a forged chain cheap: those of the newest set first, which are two names
// at most; when its message signature and its seal are good those of the older seals, each name once and eight at a
// time, from the newest on until one is bad. The newest seal covers all other sets, so that a chain that costs fifty
// look-ups was signed by a known domain. The message signatures of older sets, which only OldestPass depends on, have
// no look-up of their own.
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
	// Ends when the resolver has answered, at the latest when ctx ends; Header, Finish and Close wait for it.
	c.judging.Go(func() { c.judge(ctx, v) })
	return c, nil
}

// read checks the structure (RFC 8617 section 5.2) and hashes what signatures cover.
func (c *Chain) read(header []byte, found collection, now time.Time) error {
	if found.highest > 0 {
		newest := &found.sets[found.highest-1]
		c.result.Sealer = dkim.ParseDomain(newest.seal.tags.Get("d"))
		// Step 2 comes before the structure: a sealer that sealed a broken chain as failed added a good set to bad
		// ones.
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
		// They are parts of header, which is not kept.
		s.payload, s.results, s.seal.field, s.message.field = nil, nil, nil, nil
		s.seal.tags, s.message.tags = nil, nil
		s.seal.b, s.message.b = dkim.Tag{}, dkim.Tag{}
	}
	c.sets = sets
	return nil
}

// maxPayload bounds the text of an ARC-Authentication-Results field that is kept, in octets.
const maxPayload = 8 << 10

// olderOctets bounds the octets that are hashed to find OldestPass: those of the header section, once for each older
// message signature. With a header section of usual size that is enough for a whole chain.
const olderOctets = 1 << 20

// hashMessages hashes what the message signatures cover. An older one that cannot be read, or that passes the bound,
// counts as not good, and so do all that are older.
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

// fail sets the result of the chain to a failure. The body is not needed then.
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

// Body returns the canonicalization that the body has to be hashed in, and false if nothing depends on the body, which
// Header may find out.
func (c *Chain) Body() (dkim.Canonicalization, bool) {
	if len(c.sets) == 0 || c.result.CV == Fail {
		return dkim.Simple, false
	}
	return c.sets[len(c.sets)-1].message.bodyCanon, true
}

// Header waits for the keys and the judgement of all that needs no body.
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

// Finish waits like Header and judges the body by its hash. bodyHash returns the hash for a canonicalization, or false
// if it is not known; that of Body must be known. Finish may be called again: with a predicted hash before the body has
// come, and with the hash of the body after that. Without a hash a chain that would pass is a TempError.
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
		// This is certain even if a key is missing.
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

// Close cancels the search for keys and waits until it has ended. It may be called at any time and more than once.
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
