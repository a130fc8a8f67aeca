package dkim

import (
	"context"
	"crypto/sha256"
	"errors"
	"math"
	"slices"
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
	// maxSignatures is how many signatures of a message are verified. Further ones are counted.
	maxSignatures = 5
	// maxFields is how many DKIM-Signature fields are looked at, from the top. More than a message that was signed,
	// forwarded and signed again can have, they bound what reading them costs.
	maxFields = 1000
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
	asking     mail.Asking  // the context of the look-ups
	bodies     [2]*BodyHash // by Canonicalization; nil where it is not needed
	hashes     [2][sha256.Size]byte
	lengths    [2]int64
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
// Only five signatures are verified: first those that could be aligned with an author, then the others, each from the
// top. authors are the author domains, as A-labels in lower case. A field that cannot be read, or that says by itself
// that it does not hold, takes no place.
//
// Ctx bounds the search for the keys. Finish or Close must follow.
func (v *Verifier) Begin(ctx context.Context, header []byte, authors ...string) (*Verification, error) {
	header = Section(header)
	if len(header) > v.cfg.tune.header {
		return nil, ErrHeaderTooLong
	}
	m := &Verification{}
	m.find(header, authors, v.cfg.tune.signatures, v.cfg.Now())
	if len(m.signatures) == 0 {
		return m, nil
	}
	var picker Picker
	sum := NewHeaderHash()
	for i := range m.signatures {
		s := &m.signatures[i]
		if s.Result == Pending {
			s.raw.digest = Digest(sum, &picker, header, s.Names, s.HeaderCanon, s.raw.field, s.raw.at, s.raw.b)
			m.want(s)
		}
		s.raw.field, s.raw.b = nil, Tag{} // they lie in header
	}
	if len(m.lookups) > 0 {
		ctx, m.cancel = context.WithCancel(ctx)
		m.asking = mail.AskAs(ctx, mail.RankMessage)
		for _, l := range m.lookups {
			l.done.Go(func() { l.key, l.err = v.keys.Find(&m.asking, l.name) })
		}
	}
	return m, nil
}

// A candidate is a DKIM-Signature field.
type candidate struct {
	field   Field
	at      int // its offset
	aligned int // how close its domain is to an author
}

// find collects the signatures that are verified, at most limit, and as many of those that cannot be; it counts the
// others. They come in the order in which they stand.
func (m *Verification) find(header []byte, authors []string, limit int, now time.Time) {
	var few [8]candidate // enough for most messages
	found, at := few[:0], 0
	for field := range Fields(header) {
		if field.Is("DKIM-Signature") {
			if len(found) == maxFields {
				m.unverified++
			} else {
				found = append(found, candidate{field: field, at: at})
			}
		}
		at += len(field)
	}
	tags := make(TagList, 0, 12)
	if len(found) > limit && len(authors) > 0 {
		for i := range found {
			found[i].aligned = alignment(found[i].field, tags, authors)
		}
		slices.SortStableFunc(found, func(a, b candidate) int { return b.aligned - a.aligned })
	}
	verified, unreadable := 0, 0
	for _, c := range found {
		if verified == limit {
			m.unverified++
			continue
		}
		m.signatures = append(m.signatures, Signature{raw: raw{field: c.field, at: c.at}})
		s := &m.signatures[len(m.signatures)-1]
		err := s.parse(tags, now)
		switch {
		case err == nil:
			verified++
		case unreadable == limit:
			m.signatures = m.signatures[:len(m.signatures)-1]
			m.unverified++
		default:
			s.reject(err)
			unreadable++
		}
	}
	slices.SortFunc(m.signatures, func(a, b Signature) int { return a.raw.at - b.raw.at })
}

// alignment returns how close the domain of a signature is to one of the authors: the number of labels that they have
// in common, from the last one on, and more for the author domain itself; 0 where they cannot be aligned. Which domain
// is the organizational one is not known here, so that signatures of a public suffix come before others: that costs
// nothing, because those of the author come before them.
func alignment(field Field, buffer TagList, authors []string) int {
	tags, err := parseTags(buffer[:0], field.Body(), true)
	if err != nil {
		return 0
	}
	d := ParseDomain(tags.Get("d"))
	if d == "" {
		return 0
	}
	best := 0
	for _, author := range authors {
		if d == author {
			return math.MaxInt
		}
		if n := commonLabels(d, author); n > 1 {
			best = max(best, n)
		}
	}
	return best
}

// commonLabels returns how many labels two names have in common, from the last one on.
func commonLabels(a, b string) int {
	n := 0
	for a != "" && b != "" {
		i, k := strings.LastIndexByte(a, '.'), strings.LastIndexByte(b, '.')
		if a[i+1:] != b[k+1:] {
			break
		}
		n++
		a, b = a[:max(i, 0)], b[:max(k, 0)]
	}
	return n
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

// Unverified returns the number of further signatures, which are not verified.
func (m *Verification) Unverified() int { return m.unverified }

// Header waits for the keys, judges b= of each signature and returns the signatures from the top. Those whose Result is
// still Pending have a good b= and wait for the body; the result of the others is final. The slice is the
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
	s.HeaderVerified = s.raw.limit < 0
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
			m.hashes[c], m.lengths[c] = b.Sum(), b.Length()
		}
	}
	for i := range m.signatures {
		s := &m.signatures[i]
		switch {
		case s.Result != Pending:
		case s.raw.limit >= 0 && s.raw.limit != m.lengths[s.BodyCanon]:
			s.reject(shortened())
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
