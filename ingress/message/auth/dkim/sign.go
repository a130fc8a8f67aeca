package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// A SigningKey is a private key and the location of its public half in DNS.
type SigningKey struct {
	Domain   string        // d=
	Selector string        // s=
	Key      crypto.Signer // an *rsa.PrivateKey of 1024 to 4096 bits or an ed25519.PrivateKey
}

// A SignConfig has what a Signer needs.
type SignConfig struct {
	// Keys are the keys that each sign each message, in the order of the fields they make; at least one.
	Keys []SigningKey
	// Now is the clock that t= is taken from; nil means time.Now.
	Now func() time.Time

	lifetime time.Duration // of tests: a signature expires after it; 0 means never
}

// DefaultHeaders returns the names of the header fields that are signed as often as a message has them, in lower case:
// those that RFC 6376 section 5.4.1 advises to sign, and those of MIME. Trace fields are not among them, nor any field
// that a relay adds or removes.
func DefaultHeaders() []string {
	return []string{
		"from", "sender", "reply-to", "subject", "date", "message-id", "to", "cc", "in-reply-to", "references",
		"mime-version", "content-type", "content-transfer-encoding", "content-id", "content-description",
		"resent-date", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-message-id",
		"list-id", "list-help", "list-unsubscribe", "list-unsubscribe-post", "list-subscribe", "list-post",
		"list-owner", "list-archive",
	}
}

// DefaultOversign returns the names of the header fields that are named once more than a message has them, so that none
// can be added (RFC 6376 section 5.4): fields that a message has once and that a reader sees or that threading uses.
// They are in lower case and all among DefaultHeaders.
func DefaultOversign() []string { return []string{"from", "to", "subject", "date", "message-id"} }

// Validate reports what is wrong, as *mail.FieldError joined.
func (c SignConfig) Validate() error {
	var errs []error
	wrong := func(field, reason string) { errs = append(errs, &mail.FieldError{Field: field, Reason: reason}) }
	if len(c.Keys) == 0 {
		wrong("Keys", "is required")
	}
	for i, k := range c.Keys {
		field := fmt.Sprintf("Keys[%d].", i)
		if !isDomain([]byte(k.Domain), domain.MaxName) {
			wrong(field+"Domain", "is no domain in ASCII")
		}
		if !isDomain([]byte(k.Selector), maxSelector) || len(KeyName(k.Selector, k.Domain)) > domain.MaxName {
			wrong(field+"Selector", "is no selector")
		}
		if _, err := algorithmOf(k.Key); err != nil {
			wrong(field+"Key", err.Error())
		}
	}
	return errors.Join(errs...)
}

func algorithmOf(key crypto.Signer) (Algorithm, error) {
	if key == nil {
		return UnknownAlgorithm, errors.New("is required")
	}
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		// RFC 8301 section 3.2 for the lower bound.
		if bits := public.N.BitLen(); bits < MinRSABits || bits > MaxRSABits {
			return UnknownAlgorithm, fmt.Errorf("has %d bits, not %d to %d", bits, MinRSABits, MaxRSABits)
		}
		return RSASHA256, nil
	case ed25519.PublicKey:
		return Ed25519SHA256, nil
	}
	return UnknownAlgorithm, errors.New("is neither RSA nor Ed25519")
}

// ErrTooManyFields means that a signature would have to name more than 500 header fields.
var ErrTooManyFields = errors.New("dkim: too many header fields to sign")

// maxSigned bounds the names in an h= of ours.
const maxSigned = 500

// A Signer makes DKIM-Signature fields. It is safe for concurrent use.
type Signer struct {
	cfg               SignConfig
	headers, oversign []string // the default lists
}

// NewSigner makes a Signer, or returns the error of SignConfig.Validate.
func NewSigner(cfg SignConfig) (*Signer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Signer{cfg: cfg, headers: DefaultHeaders(), oversign: DefaultOversign()}, nil
}

// Sign appends to dst one DKIM-Signature field for each key, folded and with CRLF. Header is the header section that
// the fields will stand above; bodyHash is the hash of the body in the form c, known or predicted. Header fields are
// signed in the relaxed form. An error is ErrTooManyFields or that of a key.
func (s *Signer) Sign(dst, header []byte, c Canonicalization, bodyHash [sha256.Size]byte) ([]byte, error) {
	names, err := SignedNames(header, s.headers, s.oversign)
	if err != nil {
		return dst, err
	}
	now := s.cfg.Now()
	var picker Picker
	sum := NewHeaderHash()
	for _, k := range s.cfg.Keys {
		if dst, err = s.signWith(dst, k, header, names, c, bodyHash, now, sum, &picker); err != nil {
			return dst, fmt.Errorf("dkim: %s: %w", KeyName(k.Selector, k.Domain), err)
		}
	}
	return dst, nil
}

func (s *Signer) signWith(dst []byte, k SigningKey, header []byte, names []string, c Canonicalization,
	bodyHash [sha256.Size]byte,
	now time.Time, sum *HeaderHash, picker *Picker) ([]byte, error) {
	algorithm, err := algorithmOf(k.Key)
	if err != nil {
		return dst, err
	}
	f := NewFieldWriter(dst, "DKIM-Signature")
	f.Tag("v", "1")
	f.Tag("a", algorithm.String())
	f.Tag("c", "relaxed/"+c.String())
	f.Tag("d", k.Domain)
	f.Tag("s", k.Selector)
	f.Tag("t", strconv.FormatInt(now.Unix(), 10))
	if s.cfg.lifetime > 0 {
		f.Tag("x", strconv.FormatInt(now.Add(s.cfg.lifetime).Unix(), 10))
	}
	f.Names("h", names)
	f.Base64("bh", bodyHash[:])
	signature, err := SignDigest(k.Key, Digest(sum, picker, header, names, Relaxed, f.Unsigned(), -1, Tag{}))
	if err != nil {
		return dst, err
	}
	return f.Signed(signature), nil
}

// SignedNames returns the names of h= for a header section: each name of headers as often as there are fields of it,
// and once more if it is in oversign as well. Names are in lower case and unique within each list. The only error is
// ErrTooManyFields, for more than 500 names.
func SignedNames(header []byte, headers, oversign []string) ([]string, error) {
	count := make(map[string]int, len(headers))
	for _, name := range headers {
		count[name] = 0
	}
	var fold []byte
	for field := range Fields(header) {
		if name := field.Name(); len(name) <= maxFieldName {
			fold = appendLower(fold[:0], name)
			if n, ok := count[string(fold)]; ok {
				count[string(fold)] = n + 1
			}
		}
	}
	for _, name := range oversign {
		if n, ok := count[name]; ok {
			count[name] = n + 1
		}
	}
	names := make([]string, 0, 32)
	for _, name := range headers {
		if len(names)+count[name] > maxSigned {
			return nil, ErrTooManyFields
		}
		for range count[name] {
			names = append(names, name)
		}
	}
	return names, nil
}

// SignDigest signs a digest of canonical header fields with an RSA (PKCS #1 v1.5) or an Ed25519 key.
func SignDigest(key crypto.Signer, digest [sha256.Size]byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		// RFC 8463 section 3: the digest is the message that Ed25519 signs.
		return key.Sign(rand.Reader, digest[:], crypto.Hash(0))
	}
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// A FieldWriter writes a header field that is a tag list and ends in b=, folded at 76 columns where its tags allow it.
type FieldWriter struct {
	dst   []byte
	start int // where the field begins
	line  int // where its last line begins
}

const foldAt = 76

// NewFieldWriter begins a field behind what dst holds.
func NewFieldWriter(dst []byte, name string) *FieldWriter {
	f := &FieldWriter{dst: dst, start: len(dst), line: len(dst)}
	f.dst = append(append(f.dst, name...), ':')
	return f
}

// Tag adds a tag whose value must not be folded, and a semicolon.
func (f *FieldWriter) Tag(name, value string) {
	f.open(name, len(value)+1)
	f.dst = append(append(f.dst, value...), ';')
}

// Names adds a tag whose value is a colon-separated list, and a semicolon.
func (f *FieldWriter) Names(name string, values []string) {
	first := 1
	if len(values) > 0 {
		first += len(values[0])
	}
	f.open(name, first)
	for i, v := range values {
		if len(f.dst)-f.line+len(v)+1 > foldAt && i > 0 {
			f.fold()
		}
		f.dst = append(append(f.dst, v...), ':')
	}
	if len(values) > 0 {
		f.dst = f.dst[:len(f.dst)-1]
	}
	f.dst = append(f.dst, ';')
}

// Base64 adds a tag whose value is octets, and a semicolon.
func (f *FieldWriter) Base64(name string, value []byte) {
	f.open(name, 8)
	f.base64(value)
	f.dst = append(f.dst, ';')
}

// Unsigned adds an empty b= and returns the field so far, which has to be signed. Only Signed may follow.
func (f *FieldWriter) Unsigned() Field {
	f.open("b", 8)
	return Field(f.dst[f.start:])
}

// Signed adds the value of b= and CRLF, and returns all octets, those that NewFieldWriter got included.
func (f *FieldWriter) Signed(signature []byte) []byte {
	f.base64(signature)
	return append(f.dst, "\r\n"...)
}

// open begins a tag, on a new line if this one has no room for the first octets of its value.
func (f *FieldWriter) open(name string, first int) {
	if len(f.dst)-f.line+len(name)+2+first > foldAt {
		f.fold()
	} else {
		f.dst = append(f.dst, ' ')
	}
	f.dst = append(append(f.dst, name...), '=')
}

func (f *FieldWriter) fold() {
	f.dst = append(f.dst, "\r\n "...)
	f.line = len(f.dst) - 1
}

func (f *FieldWriter) base64(value []byte) {
	text := base64.StdEncoding.EncodeToString(value)
	for len(text) > 0 {
		room := foldAt - (len(f.dst) - f.line)
		if room <= 0 {
			f.fold()
			continue
		}
		n := min(room, len(text))
		f.dst = append(f.dst, text[:n]...)
		text = text[n:]
	}
}
