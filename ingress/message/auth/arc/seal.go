package arc

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// A SealConfig has what a Sealer needs.
type SealConfig struct {
	// Key makes both signatures of a set. Every receiver can verify an RSA key of 2048 bits. An Ed25519 key is allowed,
	// as RFC 8463 adds it to the algorithms of DKIM, which are those of ARC. But a chain has one algorithm per set and
	// no second signature to fall back to: for a receiver that does not know Ed25519 the whole chain has failed for
	// good.
	Key dkim.SigningKey
	// Now is the clock that t= is taken from; nil means time.Now.
	Now func() time.Time

	headers  []string // of tests; nil means dkim.DefaultHeaders
	oversign []string // of tests; nil means dkim.DefaultOversign
}

// Validate reports what is wrong, as *mail.FieldError joined.
func (c SealConfig) Validate() error {
	err := dkim.SignConfig{Keys: []dkim.SigningKey{c.Key}}.Validate()
	if err == nil {
		return nil
	}
	// What is wrong with a key is the same there, under another name.
	var errs []error
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		var field *mail.FieldError
		if errors.As(err, &field) {
			err = &mail.FieldError{Field: strings.Replace(field.Field, "Keys[0]", "Key", 1), Reason: field.Reason}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// A Sealer adds sets to chains. It is safe for concurrent use.
type Sealer struct {
	cfg               SealConfig
	algorithm         string
	headers, oversign []string // the names that the message signature covers, and those named once more
}

// NewSealer makes a Sealer, or returns the error of SealConfig.Validate.
func NewSealer(cfg SealConfig) (*Sealer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.headers == nil {
		cfg.headers = dkim.DefaultHeaders()
	}
	if cfg.oversign == nil {
		cfg.oversign = dkim.DefaultOversign()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Sealer{cfg: cfg, algorithm: dkim.RSASHA256.String(), oversign: cfg.oversign}
	if _, ok := cfg.Key.Key.Public().(ed25519.PublicKey); ok {
		s.algorithm = dkim.Ed25519SHA256.String()
	}
	// RFC 8617 section 4.1.2: DKIM signatures should be covered. ARC and Authentication-Results fields must not be, and
	// are not in the default lists.
	for _, name := range slices.Concat(cfg.headers, []string{"dkim-signature"}) {
		if name = strings.ToLower(name); !slices.Contains(s.headers, name) {
			s.headers = append(s.headers, name)
		}
	}
	return s, nil
}

var (
	errResults = errors.New("arc: results are no field body")
	errPrior   = errors.New("arc: the header section does not have the chain that was validated")
)

// Seal appends to dst the next set of the chain that prior is the result of: ARC-Seal, ARC-Message-Signature and
// ARC-Authentication-Results, from the top, each with CRLF. Header is the header section that they will stand above,
// with the chain and with DKIM-Signature fields of our own. Aar is the text of the last of them behind "i=...;": our
// name, a semicolon and all results, as in an Authentication-Results field; it may be folded. BodyHash is the hash of
// the body in the form c, known or predicted. Header fields are signed in relaxed form.
//
// A chain that passed is sealed with cv=pass, a message without a chain with cv=none, and a failed chain with cv=fail
// over our own set alone (RFC 8617 section 5.1.2). Nothing is appended, and no error returned, when Result.Sealable has
// a reason for it: the chain is full, or ended by a seal with cv=fail (section 5.1), or its state is not known. In the
// last case section 5.2.1 leaves cv=fail as the only status to seal with. But a relay need not seal (section 5.1.4),
// and without a seal the message passes unchanged: the next receiver finds the chain as it came and may be able to
// judge it, where cv=fail would have condemned it for good because DNS did not answer us once. Nor is anything appended
// above a header section that begins with white space, which would become a part of our last field.
//
// An error is dkim.ErrTooManyFields or that of the key, or says that an argument is wrong.
func (s *Sealer) Seal(dst, header []byte, aar string, c dkim.Canonicalization, bodyHash [sha256.Size]byte,
	prior Result) ([]byte, error) {
	if prior.Sealable() != nil || len(header) > 0 && (header[0] == ' ' || header[0] == '\t') {
		return dst, nil
	}
	if !isFieldBody(aar) {
		return dst, errResults
	}
	var own set
	instance := strconv.Itoa(prior.Instances + 1)
	own.results = dkim.Field(resultsName + ": i=" + instance + "; " + aar + "\r\n")
	h, cv, err := s.begin(header, prior)
	if err != nil {
		return dst, err
	}
	if own.message.field, err = s.message(header, instance, c, bodyHash); err != nil {
		return dst, err
	}
	h.add(own.results)
	h.add(own.message.field)
	field := s.field(nil, sealName, instance)
	field.Tag("cv", cv)
	s.source(field)
	unsigned := field.Unsigned()
	signature, err := s.sign(h.seal(unsigned, len(unsigned.Body()), len(unsigned.Body())))
	if err != nil {
		return dst, err
	}
	dst = append(dst, field.Signed(signature)...)
	return append(append(dst, own.message.field...), own.results...), nil
}

// begin returns the hash of what the seal covers before our own set, and the value of cv=.
func (s *Sealer) begin(header []byte, prior Result) (*sealHash, string, error) {
	h := newSealHash()
	switch prior.CV {
	case None:
		return h, "none", nil
	case Fail:
		return h, "fail", nil
	}
	found := collect(header)
	if found.err != nil || found.highest != prior.Instances {
		return nil, "", errPrior
	}
	for i := range found.sets {
		h.add(found.sets[i].results)
		h.add(found.sets[i].message.field)
		h.add(found.sets[i].seal.field)
	}
	return h, "pass", nil
}

// message makes the message signature.
func (s *Sealer) message(header []byte, instance string, c dkim.Canonicalization,
	bodyHash [sha256.Size]byte) (dkim.Field, error) {
	names, err := dkim.SignedNames(header, s.headers, s.oversign)
	if err != nil {
		return nil, err
	}
	f := s.field(nil, messageName, instance)
	f.Tag("c", "relaxed/"+c.String())
	s.source(f)
	f.Names("h", names)
	f.Base64("bh", bodyHash[:])
	var picker dkim.Picker
	digest := dkim.Digest(dkim.NewHeaderHash(), &picker, header, names, dkim.Relaxed, f.Unsigned(), -1, dkim.Tag{})
	signature, err := s.sign(digest)
	if err != nil {
		return nil, err
	}
	return f.Signed(signature), nil
}

// field begins a field of ours.
func (s *Sealer) field(dst []byte, name, instance string) *dkim.FieldWriter {
	f := dkim.NewFieldWriter(dst, name)
	f.Tag("i", instance)
	f.Tag("a", s.algorithm)
	return f
}

// source adds the tags that say which key signs, and when.
func (s *Sealer) source(f *dkim.FieldWriter) {
	f.Tag("d", s.cfg.Key.Domain)
	f.Tag("s", s.cfg.Key.Selector)
	f.Tag("t", strconv.FormatInt(s.cfg.Now().Unix(), 10))
}

func (s *Sealer) sign(digest [sha256.Size]byte) ([]byte, error) {
	signature, err := dkim.SignDigest(s.cfg.Key.Key, digest)
	if err != nil {
		return nil, fmt.Errorf("arc: %s: %w", dkim.KeyName(s.cfg.Key.Selector, s.cfg.Key.Domain), err)
	}
	return signature, nil
}

// isFieldBody reports whether s can stand in a field: every line end in it is CRLF with white space behind it, no line
// is of white space alone, and there are no other controls.
func isFieldBody(s string) bool {
	for i, line := range strings.Split(s, "\r\n") {
		blank := strings.Trim(line, " \t") == ""
		if blank || i > 0 && line[0] != ' ' && line[0] != '\t' {
			return false
		}
		for _, c := range []byte(line) {
			if c < ' ' && c != '\t' || c == 0x7f {
				return false
			}
		}
	}
	return true
}
