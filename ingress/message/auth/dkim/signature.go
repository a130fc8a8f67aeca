package dkim

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
)

// A Result is the result of a verification as RFC 8601 section 2.7.1 has it in an Authentication-Results field.
type Result uint8

// The results. Pending is that of a signature whose key or body is still to come.
const (
	Pending   Result = iota
	Pass             // the signature is good for header fields and body
	Fail             // the signature or the body hash is wrong
	Policy           // it may be good but is not accepted, because of l=
	Neutral          // it is wrong, and its domain is testing (t=y)
	TempError        // DNS did not answer; a later attempt may succeed
	PermError        // what RFC 6376 calls PERMFAIL other than a wrong signature: it can never be verified
)

// String returns the keyword; "none" for Pending.
func (r Result) String() string {
	switch r {
	case Pending:
		return "none"
	case Pass:
		return "pass"
	case Fail:
		return "fail"
	case Policy:
		return "policy"
	case Neutral:
		return "neutral"
	case TempError:
		return "temperror"
	case PermError:
		return "permerror"
	}
	return "result " + strconv.Itoa(int(r))
}

// A Failure is a result other than Pass, as an error. Reason is printable ASCII without any word of the message, fit
// for a comment in a field. Cause is for the administrator and may be nil.
type Failure struct {
	Result Result
	Reason string
	Cause  error
}

// Error returns result, reason and cause.
func (f *Failure) Error() string {
	if f.Cause != nil {
		return f.Result.String() + ": " + f.Reason + ": " + f.Cause.Error()
	}
	return f.Result.String() + ": " + f.Reason
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Cause }

func permError(reason string) *Failure { return &Failure{Result: PermError, Reason: reason} }

// An Algorithm is a signature algorithm.
type Algorithm uint8

// The algorithms that verify. rsa-sha1 must not be used any more (RFC 8301 section 3.1).
const (
	UnknownAlgorithm Algorithm = iota
	RSASHA256
	Ed25519SHA256 // RFC 8463
)

// String returns the name in a=, "" for UnknownAlgorithm.
func (a Algorithm) String() string {
	switch a {
	case RSASHA256:
		return "rsa-sha256"
	case Ed25519SHA256:
		return "ed25519-sha256"
	}
	return ""
}

// ParseAlgorithm parses the value of a=. An error is a *Failure with PermError.
func ParseAlgorithm(s []byte) (Algorithm, error) {
	switch {
	case strings.EqualFold(string(s), "rsa-sha256"):
		return RSASHA256, nil
	case strings.EqualFold(string(s), "ed25519-sha256"):
		return Ed25519SHA256, nil
	case strings.EqualFold(string(s), "rsa-sha1"):
		return UnknownAlgorithm, permError("rsa-sha1 is not accepted")
	}
	return UnknownAlgorithm, permError("unknown algorithm")
}

// Limits on one signature field. They are far above what is in use, and bound what one field can cost.
const (
	maxNames    = 5000    // names in h=
	maxNameList = 1 << 16 // octets of h=
	maxB        = 2048    // octets of b=, folding included; RSA of 4096 bits has 684
	maxSelector = 190
	maxIdentity = 998
)

// A Signature is one DKIM-Signature field and its result. Tags that could not be read are zero. Until HeaderVerified
// any sender may have written them.
type Signature struct {
	Domain      string // d=, in lower case
	Selector    string // s=
	Identity    string // i=, decoded, or "@" and Domain; an address, with any characters but controls
	Algorithm   Algorithm
	Names       []string // h=, in lower case
	HeaderCanon Canonicalization
	BodyCanon   Canonicalization
	BodyHash    [sha256.Size]byte // bh=
	B           string            // b= without white space
	Signed      time.Time         // t=, zero without it
	Expires     time.Time         // x=, zero without it

	KeyBits int  // of the key; 0 until it was found
	Testing bool // the key says t=y
	Strict  bool // the key says t=s

	// HeaderVerified says that b= is good: the signing domain vouches for the named header fields and for any body that
	// has this BodyHash in BodyCanon, without l= and not expired. It says nothing about the body that came. One with l=
	// is Pending without it: it passes only if l= is the length of the whole body, which its end tells.
	HeaderVerified bool
	Result         Result
	Reason         string // why Result is not Pass; may be ""
	Cause          error  // for the administrator; may be nil

	raw raw
}

// A raw is what a signature needs until b= is judged.
type raw struct {
	field  Field // nil after Begin, as is b: they are parts of header
	at     int   // offset of field
	b      Tag
	limit  int64  // l=; negative without it
	value  []byte // b= decoded
	digest [sha256.Size]byte
	lookup *lookup // the search for the key; nil if it is not needed
}

// HeaderB returns the first octets of b=, which distinguish signatures in an Authentication-Results field (RFC 6008).
func (s *Signature) HeaderB() string { return s.B[:min(8, len(s.B))] }

func (s *Signature) reject(err error) {
	f, ok := err.(*Failure)
	if !ok {
		f = &Failure{PermError, "signature syntax error", err}
	}
	s.Result, s.Reason, s.Cause = f.Result, f.Reason, f.Cause
	// RFC 6376 section 3.6.1: a bad signature of a domain that is testing DKIM counts no worse than no signature.
	if s.Testing && f.Result == Fail {
		s.Result, s.Reason = Neutral, f.Reason+" (key in testing)"
	}
}

// parse reads the field as RFC 6376 section 6.1.1 says. It copies all octets that it keeps. The tags are read into the
// memory of buffer.
func (s *Signature) parse(buffer TagList, now time.Time) error {
	tags, err := parseTags(buffer[:0], s.raw.field.Body(), true)
	if err != nil {
		return err
	}
	s.raw.limit = -1
	// The tags that name the signature are read first, so that a refused one can be named.
	if s.raw.b, _ = tags.Lookup("b"); len(s.raw.b.Value) <= maxB {
		s.B = string(withoutFWS(make([]byte, 0, len(s.raw.b.Value)), s.raw.b.Value))
	}
	domainErr := s.parseNames(tags)
	switch v, ok := tags.Lookup("v"); {
	case !ok:
		return permError("signature missing required tag")
	case string(v.Value) != "1":
		return permError("incompatible version")
	}
	for _, name := range [...]string{"a", "b", "bh", "d", "h", "s"} {
		if _, ok := tags.Lookup(name); !ok {
			return permError("signature missing required tag")
		}
	}
	if domainErr != nil {
		return domainErr
	}
	for _, step := range [...]func(TagList) error{s.parseAlgorithms, s.parseHashes, s.parseHeaderNames} {
		if err := step(tags); err != nil {
			return err
		}
	}
	return s.parseLimits(tags, now)
}

func (s *Signature) parseNames(tags TagList) error {
	if d := ParseDomain(tags.Get("d")); d != "" {
		s.Domain = d
		s.Identity = "@" + s.Domain
	}
	s.Selector = ParseSelector(tags.Get("s"))
	if s.Domain == "" || s.Selector == "" || len(KeyName(s.Selector, s.Domain)) > domain.MaxName {
		return permError("signature syntax error")
	}
	i, ok := tags.Lookup("i")
	if !ok {
		return nil
	}
	identity, ok := decodeQuoted(i.Value)
	at := bytes.LastIndexByte(identity, '@')
	if !ok || at < 0 || len(identity) > maxIdentity {
		return permError("signature syntax error")
	}
	s.Identity = string(identity)
	d := strings.ToLower(s.Identity[at+1:])
	if plain := ParseDomain(identity[at+1:]); plain != "" && plain != d {
		s.Identity, d = s.Identity[:at+1]+plain, plain
	}
	if d != s.Domain && !strings.HasSuffix(d, "."+s.Domain) {
		return permError("domain mismatch")
	}
	return nil
}

// decodeQuoted decodes dkim-quoted-printable (RFC 6376 section 2.11), with digits of either case. It reports false for
// malformed text and for control characters.
func decodeQuoted(s []byte) ([]byte, bool) {
	out := withoutFWS(make([]byte, 0, len(s)), s)
	n := 0
	for i := 0; i < len(out); i, n = i+1, n+1 {
		c := out[i]
		if c == '=' {
			if i+2 >= len(out) {
				return nil, false
			}
			if _, err := hex.Decode(out[i:i+1], out[i+1:i+3]); err != nil {
				return nil, false
			}
			c = out[i]
			i += 2
		}
		if c < 0x20 || c == 0x7f {
			return nil, false
		}
		out[n] = c
	}
	return out[:n], true
}

// ParseDomain returns a domain name in lower case, as A-labels (RFC 8616 section 4) and without its last dot, or "" if
// s is no domain name of at most 253 octets. All spellings of a name are one name in DNS, so that no other domain can
// be meant by them.
func ParseDomain(s []byte) string {
	s = aLabels(bytes.TrimSuffix(s, []byte{'.'}))
	if !isDomain(s, domain.MaxName) {
		return ""
	}
	return strings.ToLower(string(s))
}

// ParseSelector returns a selector as A-labels, or "" if s is none.
func ParseSelector(s []byte) string {
	if s = aLabels(s); !isDomain(s, maxSelector) {
		return ""
	}
	return string(s)
}

// maxULabels bounds the octets of a name with U-labels: four for each octet of the longest one.
const maxULabels = 4 * domain.MaxName

// aLabels returns a name with A-labels in place of its U-labels; nil if it has none that it could mean.
func aLabels(s []byte) []byte {
	if ascii.Is(s) {
		return s
	}
	if len(s) > maxULabels || !utf8.Valid(s) {
		return nil
	}
	labels := strings.Split(string(s), ".")
	for i, label := range labels {
		if ascii.Is(label) {
			continue // also one with an underscore, which the library refuses
		}
		plain, err := idna.Lookup.ToASCII(label)
		if err != nil {
			return nil
		}
		labels[i] = plain
	}
	return []byte(strings.Join(labels, "."))
}

// isDomain reports whether s is a domain name or, for a selector, a part of one: labels of letters, digits, hyphens and
// underscores, which are in use, in limit octets at most. No label begins or ends with a hyphen.
func isDomain(s []byte, limit int) bool {
	label := 0
	for i, c := range s {
		switch {
		case c == '.':
			if label == 0 || s[i-1] == '-' {
				return false
			}
			label = 0
			continue
		case c == '-' && label > 0, ascii.IsLetDig(c), c == '_':
		default:
			return false
		}
		if label++; label > domain.MaxLabel {
			return false
		}
	}
	return label > 0 && s[len(s)-1] != '-' && len(s) <= limit
}

func (s *Signature) parseAlgorithms(tags TagList) (err error) {
	if s.Algorithm, err = ParseAlgorithm(tags.Get("a")); err != nil {
		return err
	}
	if q, ok := tags.Lookup("q"); ok && !lists(q.Value, "dns/txt") {
		return permError("unknown query method")
	}
	s.HeaderCanon, s.BodyCanon, err = ParseCanonicalizations(tags.Get("c"))
	return err
}

// ParseCanonicalizations parses the value of c=. nil stands for no c= and means simple for both. An error is a *Failure
// with PermError.
func ParseCanonicalizations(s []byte) (header, body Canonicalization, err error) {
	if s == nil {
		return Simple, Simple, nil
	}
	h, b, both := strings.Cut(string(s), "/")
	header, okHeader := canonicalization(h)
	okBody := true
	if both {
		body, okBody = canonicalization(b)
	}
	if !okHeader || !okBody {
		return Simple, Simple, permError("unknown canonicalization")
	}
	return header, body, nil
}

func canonicalization(s string) (Canonicalization, bool) {
	switch {
	case strings.EqualFold(s, "simple"):
		return Simple, true
	case strings.EqualFold(s, "relaxed"):
		return Relaxed, true
	}
	return Simple, false
}

func (s *Signature) parseHashes(tags TagList) (err error) {
	if len(s.raw.b.Value) > maxB || len(tags.Get("bh")) > maxB {
		return permError("signature too large")
	}
	if s.raw.value, err = DecodeBase64(s.raw.b.Value); err != nil || len(s.raw.value) == 0 {
		return permError("signature syntax error")
	}
	bh, err := DecodeBase64(tags.Get("bh"))
	if err != nil || len(bh) != sha256.Size {
		return permError("signature syntax error")
	}
	copy(s.BodyHash[:], bh)
	return nil
}

func (s *Signature) parseHeaderNames(tags TagList) (err error) {
	if s.Names, err = ParseHeaderNames(tags.Get("h")); err != nil {
		return err
	}
	for _, name := range s.Names {
		if name == "from" {
			return nil
		}
	}
	return permError("From field not signed")
}

// ParseHeaderNames parses the value of h= and returns the names of header fields in lower case, with one allocation for
// their octets. What is empty between or behind colons names no field and is left out. More than 5000 names or 64 KiB
// are an error. An error is a *Failure with PermError.
func ParseHeaderNames(s []byte) ([]string, error) {
	if len(s) > maxNameList || bytes.Count(s, []byte{':'}) >= maxNames {
		return nil, permError("too many header fields named")
	}
	names := make([]string, 0, 1+bytes.Count(s, []byte{':'}))
	folded := lowerWithoutFWS(s)
	for raw := range colonList(s) {
		if len(raw) > len(folded) {
			return nil, permError("signature syntax error")
		}
		name := folded[:len(raw)]
		folded = folded[len(raw):]
		for _, c := range raw {
			// ftext of RFC 5322 section 3.6.8. A semicolon ends the tag; white space within a name is an error.
			if c <= ' ' || c >= 0x7f {
				return nil, permError("signature syntax error")
			}
		}
		if name != "" {
			names = append(names, name)
		}
		folded = strings.TrimPrefix(folded, ":")
	}
	return names, nil
}

// lowerWithoutFWS returns s in lower case and without folding white space.
func lowerWithoutFWS(s []byte) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, c := range s {
		if !ascii.IsFWS(c) {
			b.WriteByte(ascii.Lower(c))
		}
	}
	return b.String()
}

// parseLimits reads t=, x= and l=.
func (s *Signature) parseLimits(tags TagList, now time.Time) (err error) {
	if s.Signed, err = timestamp(tags, "t"); err != nil {
		return err
	}
	if s.Expires, err = timestamp(tags, "x"); err != nil {
		return err
	}
	if !s.Expires.IsZero() {
		// RFC 6376 section 3.5: x= must be greater than t=. Signers that write the same time twice are in use.
		if !s.Signed.IsZero() && s.Expires.Before(s.Signed) {
			return permError("signature syntax error")
		}
		if Expired(s.Expires, now) {
			return permError("signature expired") // RFC 6376 section 6.1.1 leaves it to the verifier
		}
	}
	if l, ok := tags.Lookup("l"); ok {
		if len(l.Value) == 0 || len(l.Value) > 76 || bytes.ContainsFunc(l.Value, func(r rune) bool {
			return r < '0' || r > '9'
		}) {
			return permError("signature syntax error")
		}
		// One that does not fit is longer than any body.
		if s.raw.limit, err = strconv.ParseInt(string(l.Value), 10, 64); err != nil {
			s.raw.limit = math.MaxInt64
		}
	}
	return nil
}

// shortened is the failure of a signature whose l= is not the length of the whole body. RFC 6376 section 8.2: any
// sender can have added the octets behind the signed length.
func shortened() *Failure {
	return &Failure{Result: Policy, Reason: "body length limit l= is not accepted"}
}

// clockDifference is how far the clocks of signers are taken to be wrong.
const clockDifference = 5 * time.Minute

// Expired reports whether a signature with this x= has expired.
func Expired(x, now time.Time) bool { return !now.Before(x.Add(clockDifference)) }

func timestamp(tags TagList, name string) (time.Time, error) {
	at, ok := tags.Timestamp(name)
	if !ok {
		return time.Time{}, permError("signature syntax error")
	}
	return at, nil
}
