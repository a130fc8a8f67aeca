package dkim

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Config has what a Verifier needs.
type Config struct {
	// Resolver finds key records; it is required. The context of Begin bounds its look-ups.
	Resolver world.Resolver
	// Now is the clock that x= is compared with; nil means time.Now.
	Now func() time.Time

	tune tuning
}

const (
	// MaxHeader is how many octets a header section may have that is verified; a longer one is not read.
	MaxHeader = 1 << 20
	// maxSignatures is how many signatures of a message are verified, from the top. Further ones are counted.
	maxSignatures = 5
)

// A tuning is what tests of the package set in place of the constants above; 0 means the constant.
type tuning struct{ header, signatures int }

// Validate returns a *mail.FieldError that names the first field that is wrong, or nil.
func (c Config) Validate() error {
	if c.Resolver == nil {
		return &mail.FieldError{Field: "Resolver", Reason: "is required"}
	}
	return nil
}

// ErrHeaderTooLong says that a header section has more than MaxHeader octets.
var ErrHeaderTooLong = errors.New("dkim: header section too long")

// A Verifier begins verifications. It is safe for concurrent use.
type Verifier struct {
	cfg  Config
	keys *KeyFinder
}

// NewVerifier makes a Verifier, or returns the error of Config.Validate.
func NewVerifier(cfg Config) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.tune.signatures == 0 {
		cfg.tune.signatures = maxSignatures
	}
	if cfg.tune.header == 0 {
		cfg.tune.header = MaxHeader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Verifier{cfg: cfg, keys: NewKeyFinder(cfg.Resolver)}, nil
}

// A Verification is the verification of one message. Header and the writing of the body may come in any order, then
// Finish once; or Close at any time. It is not safe for concurrent use.
type Verification struct {
	signatures []Signature
	unverified int
	lookups    []*lookup
	cancel     context.CancelFunc
	bodies     [2]*BodyHash // by Canonicalization; nil where it is not needed
	hashes     [2][sha256.Size]byte
	begun      bool // octets of the body have come
	finished   bool
}

// A lookup is the search for one key. Its goroutine sets key and err. It ends when the resolver answers, at the latest
// when the context of Begin ends or Close cancels it; Header, Finish and Close wait for it.
type lookup struct {
	name string
	key  *PublicKey
	err  error
	done sync.WaitGroup
}

// Begin reads a header section: lines that end in CRLF, without dot-stuffing; the empty line and what follows it are
// not read. It hashes what each signature covers, starts the search for all keys at once, each key once, and returns
// without waiting for them. header is not kept. The only error is ErrHeaderTooLong.
//
// Ctx bounds the search for the keys. Finish or Close must follow.
func (v *Verifier) Begin(ctx context.Context, header []byte) (*Verification, error) {
	header = Section(header)
	if len(header) > v.cfg.tune.header {
		return nil, ErrHeaderTooLong
	}
	m := &Verification{}
	m.find(header, v.cfg.tune.signatures)
	if len(m.signatures) == 0 {
		return m, nil
	}
	now := v.cfg.Now()
	var picker Picker
	sum := NewHeaderHash()
	for i := range m.signatures {
		s := &m.signatures[i]
		if err := s.parse(now); err != nil {
			s.reject(err)
		} else {
			s.raw.digest = Digest(sum, &picker, header, s.Names, s.HeaderCanon, s.raw.field, s.raw.at, s.raw.b)
			m.want(s)
		}
		s.raw.field, s.raw.b = nil, Tag{} // they lie in header
	}
	if len(m.lookups) > 0 {
		ctx, m.cancel = context.WithCancel(ctx)
		for _, l := range m.lookups {
			l.done.Go(func() { l.key, l.err = v.keys.Find(ctx, l.name) })
		}
	}
	return m, nil
}

// find collects the topmost signature fields, at most limit, and counts the others.
func (m *Verification) find(header []byte, limit int) {
	at := 0
	for field := range Fields(header) {
		switch {
		case !field.Is("DKIM-Signature"):
		case len(m.signatures) == limit:
			m.unverified++
		default:
			m.signatures = append(m.signatures, Signature{raw: raw{field: field, at: at}})
		}
		at += len(field)
	}
}

// Digest hashes what a signature covers (RFC 6376 section 3.7): the fields that names stand for, each in canonical
// form, then the signature's own field without the value of its tag b. At is the offset of own in header, negative if
// it is not there. It resets sum before use. ARC-Message-Signature is hashed the same way (RFC 8617 section 4.1.2).
func Digest(sum *HeaderHash, picker *Picker, header []byte, names []string, c Canonicalization, own Field, at int,
	b Tag) [sha256.Size]byte {
	sum.Reset()
	for _, field := range picker.Pick(header, names, at) {
		sum.Field(c, field)
	}
	sum.Own(c, own, b.Start, b.End)
	return sum.Sum()
}

// want records that the signature needs its key.
func (m *Verification) want(s *Signature) {
	name := KeyName(s.Selector, s.Domain)
	for _, l := range m.lookups {
		if l.name == name {
			s.raw.lookup = l
			return
		}
	}
	s.raw.lookup = &lookup{name: name}
	m.lookups = append(m.lookups, s.raw.lookup)
}

// Unverified returns the number of signatures beyond the first five, which are not verified.
func (m *Verification) Unverified() int { return m.unverified }

// Header waits for the keys, judges b= of each signature and returns the signatures from the top. Those whose Result is
// still Pending have HeaderVerified and wait for the body; the result of the others is final. The slice is the
// Verification's own: Finish completes it.
func (m *Verification) Header() []Signature {
	for i := range m.signatures {
		s := &m.signatures[i]
		if s.raw.lookup == nil {
			continue
		}
		s.raw.lookup.done.Wait()
		if err := s.verify(s.raw.lookup); err != nil {
			s.reject(err)
		}
		s.raw.lookup, s.raw.value = nil, nil
	}
	m.lookups = nil
	m.stop()
	return m.signatures
}

func (s *Signature) verify(l *lookup) error {
	if l.err != nil {
		return l.err
	}
	s.KeyBits, s.Testing, s.Strict = l.key.Bits, l.key.Testing, l.key.Strict
	// RFC 6376 section 3.6.1, t=s.
	if domain := s.Identity[strings.LastIndexByte(s.Identity, '@')+1:]; s.Strict &&
		!strings.EqualFold(domain, s.Domain) {
		return permError("domain mismatch")
	}
	if err := l.key.Verify(s.Algorithm, s.raw.digest, s.raw.value); err != nil {
		return err
	}
	s.HeaderVerified = true
	return nil
}

// Want asks for the hash of the body in a canonicalization that no signature may need. It must be called before the
// first octet of the body.
func (m *Verification) Want(c Canonicalization) {
	if m.begun || m.finished {
		panic("dkim: Want after the body began")
	}
	if m.bodies[c] == nil {
		m.bodies[c] = NewBodyHash(c)
	}
}

// begin makes the hashes that signatures need. A signature with a final result needs no hash.
func (m *Verification) begin() {
	m.begun = true
	for i := range m.signatures {
		if s := &m.signatures[i]; s.Result == Pending && m.bodies[s.BodyCanon] == nil {
			m.bodies[s.BodyCanon] = NewBodyHash(s.BodyCanon)
		}
	}
}

// Write adds octets of the body without dot-stuffing, in pieces that may end anywhere. It returns len(p) and no error.
func (m *Verification) Write(p []byte) (int, error) {
	if !m.begun {
		m.begin()
	}
	for _, b := range m.bodies {
		if b != nil {
			b.Write(p)
		}
	}
	return len(p), nil
}

// WriteOctets adds octets of the body from offset from of a piece on: where the header section and its empty line end,
// in the piece in which they do, else 0.
func (m *Verification) WriteOctets(o mail.Octets, from int) {
	if !m.begun {
		m.begin()
	}
	if m.bodies[Simple] == nil && m.bodies[Relaxed] == nil {
		return
	}
	for p := range o.PlainFrom(from) {
		m.Write(p)
	}
}

// Finish ends the body and returns the signatures, each with a Result other than Pending.
func (m *Verification) Finish() []Signature {
	if m.finished {
		return m.signatures
	}
	if !m.begun {
		m.begin()
	}
	m.Header()
	m.finished = true
	for c, b := range m.bodies {
		if b != nil {
			m.hashes[c] = b.Sum()
		}
	}
	for i := range m.signatures {
		s := &m.signatures[i]
		switch {
		case s.Result != Pending:
		case m.hashes[s.BodyCanon] == s.BodyHash:
			s.Result = Pass
		default:
			s.reject(&Failure{Result: Fail, Reason: "body hash did not verify"})
		}
	}
	return m.signatures
}

// BodyHash returns, after Finish, the hash of the body in a canonicalization that Want asked for or a signature needed.
func (m *Verification) BodyHash(c Canonicalization) (digest [sha256.Size]byte, ok bool) {
	if !m.finished || m.bodies[c] == nil {
		return digest, false
	}
	return m.hashes[c], true
}

// Close cancels the search for keys and waits until it has ended. It may be called at any time and more than once.
func (m *Verification) Close() {
	m.stop()
	for _, l := range m.lookups {
		l.done.Wait()
	}
}

func (m *Verification) stop() {
	if m.cancel != nil {
		m.cancel()
		m.cancel = nil
	}
}
