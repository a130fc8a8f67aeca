package arc

import (
	"bytes"
	"crypto/sha256"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
)

// The names of the fields.
const (
	resultsName = "ARC-Authentication-Results"
	messageName = "ARC-Message-Signature"
	sealName    = "ARC-Seal"
)

// A set is the three fields of one instance.
type set struct {
	results dkim.Field // ARC-Authentication-Results
	payload []byte     // of it
	message message
	seal    signature
}

// A signature is what ARC-Seal and ARC-Message-Signature have in common.
type signature struct {
	field  dkim.Field
	at     int // offset of field
	tags   dkim.TagList
	b      dkim.Tag
	domain string // d=, in lower case

	keyName   string
	algorithm dkim.Algorithm
	value     []byte // b= decoded
	digest    [sha256.Size]byte
}

// A message is an ARC-Message-Signature.
type message struct {
	signature
	readable               bool // digest and the fields below are set
	names                  []string
	headerCanon, bodyCanon dkim.Canonicalization
	bodyHash               [sha256.Size]byte
}

// maxB bounds the octets of b= and bh=, folding included, as in package dkim.
const maxB = 2048

// fault returns a permanent failure.
func fault(reason string, cause error) *dkim.Failure {
	return &dkim.Failure{Result: dkim.PermError, Reason: reason, Cause: cause}
}

// at returns a failure with the instance and the field that it is in; nil for no failure.
func at(instance int, field string, err error) *dkim.Failure {
	if err == nil {
		return nil
	}
	f, ok := err.(*dkim.Failure)
	if !ok {
		f = fault("syntax error", err)
	}
	return &dkim.Failure{
		Result: f.Result, Reason: "i=" + strconv.Itoa(instance) + " " + field + ": " + f.Reason, Cause: f.Cause,
	}
}

// A collection is the ARC fields of a header section.
type collection struct {
	sets    []set // by instance - 1
	highest int   // the highest instance of any field
	fields  int
	tooMany bool
	err     error // why they are not a chain
}

// collect finds the ARC fields of a header section and orders them by instance. A chain of 50 sets has 150 fields;
// further ones are not read.
func collect(header []byte) collection {
	var c collection
	offset := 0
	for field := range dkim.Fields(header) {
		kind := kindOf(field)
		if kind != other {
			if c.fields++; c.fields > 3*MaxInstance {
				c.tooMany = true
				c.err = fault("too many ARC fields", nil)
				break
			}
			if err := c.add(kind, field, offset); err != nil && c.err == nil {
				c.err = err
			}
		}
		offset += len(field)
	}
	for i := 0; i < c.highest && c.err == nil; i++ {
		if s := &c.sets[i]; s.results == nil || s.message.field == nil || s.seal.field == nil {
			c.err = fault("i="+strconv.Itoa(i+1)+": set is not complete", nil)
		}
	}
	return c
}

// The kinds of fields.
type kind uint8

const (
	other kind = iota
	isResults
	isMessage
	isSeal
)

func kindOf(f dkim.Field) kind {
	// This is enough for nearly every call.
	if len(f) < len("ARC-") || f[0]|0x20 != 'a' || f[3] != '-' {
		return other
	}
	switch {
	case f.Is(sealName):
		return isSeal
	case f.Is(messageName):
		return isMessage
	case f.Is(resultsName):
		return isResults
	}
	return other
}

// add puts a field into its set.
func (c *collection) add(kind kind, field dkim.Field, offset int) error {
	g := signature{field: field, at: offset}
	var instance int
	var payload []byte
	ok := false
	if kind == isResults {
		instance, payload, ok = parseResults(field.Body())
	} else {
		var err error
		if g.tags, err = dkim.ParseTagList(field.Body()); err != nil {
			return fault("syntax error", err)
		}
		instance, ok = parseInstance(g.tags.Get("i"))
	}
	if !ok {
		return fault("invalid instance", nil)
	}
	for len(c.sets) < instance {
		c.sets = append(c.sets, set{})
	}
	c.highest = max(c.highest, instance)
	s := &c.sets[instance-1]
	duplicate := false
	switch kind {
	case isResults:
		if duplicate = s.results != nil; !duplicate {
			s.results, s.payload = field, payload
		}
	case isMessage:
		if duplicate = s.message.field != nil; !duplicate {
			s.message.signature = g
		}
	case isSeal:
		if duplicate = s.seal.field != nil; !duplicate {
			s.seal = g
		}
	}
	if duplicate {
		return fault("i="+strconv.Itoa(instance)+": duplicate field", nil)
	}
	return nil
}

// parseInstance parses a position: one or two digits with a value of 1 to 50 (RFC 8617 section 4.2.1).
func parseInstance(s []byte) (int, bool) {
	if len(s) == 0 || len(s) > 2 {
		return 0, false
	}
	n := 0
	for _, c := range s {
		if !ascii.IsDigit(c) {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, n >= 1 && n <= MaxInstance
}

// parseResults parses the beginning of the body of an ARC-Authentication-Results field: "i", "=", position and a
// semicolon, with comments and white space between them (RFC 8617 section 4.1.1). payload is the rest.
func parseResults(s []byte) (instance int, payload []byte, ok bool) {
	s = skipCFWS(s)
	if len(s) == 0 || s[0] != 'i' {
		return 0, nil, false
	}
	if s = skipCFWS(s[1:]); len(s) == 0 || s[0] != '=' {
		return 0, nil, false
	}
	s = skipCFWS(s[1:])
	n := 0
	for n < len(s) && ascii.IsDigit(s[n]) {
		n++
	}
	if instance, ok = parseInstance(s[:n]); !ok {
		return 0, nil, false
	}
	if s = skipCFWS(s[n:]); len(s) == 0 || s[0] != ';' {
		return 0, nil, false
	}
	return instance, bytes.Trim(s[1:], " \t\r\n"), true
}

// skipCFWS returns s without the white space and the comments that it begins with.
func skipCFWS(s []byte) []byte {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '(':
			depth++
		case depth == 0 && !ascii.IsFWS(c):
			return s[i:]
		case depth > 0 && c == ')':
			depth--
		case depth > 0 && c == '\\':
			i++
		}
	}
	return nil
}

// parseCommon reads what both kinds of signatures have.
func (g *signature) parseCommon() (err error) {
	for _, name := range [...]string{"a", "b", "d", "s"} {
		if _, ok := g.tags.Lookup(name); !ok {
			return fault("missing required tag", nil)
		}
	}
	if g.algorithm, err = dkim.ParseAlgorithm(g.tags.Get("a")); err != nil {
		return err
	}
	selector := dkim.ParseSelector(g.tags.Get("s"))
	g.domain = dkim.ParseDomain(g.tags.Get("d"))
	if g.domain == "" || selector == "" {
		return fault("syntax error", nil)
	}
	if g.keyName = dkim.KeyName(selector, g.domain); len(g.keyName) > domain.MaxName {
		return fault("syntax error", nil)
	}
	g.b, _ = g.tags.Lookup("b")
	if g.value, err = decodeBase64(g.b.Value); err != nil || len(g.value) == 0 {
		return fault("syntax error", err)
	}
	_, err = timestamp(g.tags, "t")
	return err
}

// parseSeal reads the seal of an instance (RFC 8617 section 4.1.3).
func (s *set) parseSeal(instance int) error {
	g := &s.seal
	if err := g.parseCommon(); err != nil {
		return err
	}
	// What a seal covers is fixed, and it never covers the body.
	if _, ok := g.tags.Lookup("h"); ok {
		return fault("h= is not allowed", nil)
	}
	want := "pass"
	if instance == 1 {
		want = "none"
	}
	if string(g.tags.Get("cv")) != want {
		return fault("cv= is not "+want, nil)
	}
	return nil
}

// parseMessage reads the message signature (RFC 8617 section 4.1.2): a DKIM-Signature without v= whose i= is the
// instance.
func (s *set) parseMessage(now time.Time) (err error) {
	m := &s.message
	if err := m.parseCommon(); err != nil {
		return err
	}
	if m.headerCanon, m.bodyCanon, err = dkim.ParseCanonicalizations(m.tags.Get("c")); err != nil {
		return err
	}
	if q, ok := m.tags.Lookup("q"); ok && !strings.EqualFold(string(q.Value), "dns/txt") {
		return fault("unknown query method", nil)
	}
	hash, err := decodeBase64(m.tags.Get("bh"))
	if err != nil || len(hash) != sha256.Size {
		return fault("syntax error", err)
	}
	copy(m.bodyHash[:], hash)
	if m.names, err = dkim.ParseHeaderNames(m.tags.Get("h")); err != nil {
		return err
	}
	from := false
	for _, name := range m.names {
		switch name {
		case "from":
			from = true
		case "arc-seal":
			return fault("covers ARC-Seal", nil)
		}
	}
	if !from {
		// RFC 6376 section 3.5, which section 4.1.2 of RFC 8617 refers to. A signature that does not cover the author
		// vouches for nothing.
		return fault("From field not signed", nil)
	}
	return m.parseLimits(now)
}

// parseLimits reads x= and l=.
func (m *message) parseLimits(now time.Time) error {
	expires, err := timestamp(m.tags, "x")
	if err != nil {
		return err
	}
	if !expires.IsZero() && dkim.Expired(expires, now) {
		return fault("signature expired", nil)
	}
	if _, ok := m.tags.Lookup("l"); ok {
		// RFC 6376 section 8.2: any sender can have added the octets behind the signed length.
		return fault("body length limit l= is not accepted", nil)
	}
	return nil
}

func timestamp(tags dkim.TagList, name string) (time.Time, error) {
	when, ok := tags.Timestamp(name)
	if !ok {
		return time.Time{}, fault("syntax error", nil)
	}
	return when, nil
}

// decodeBase64 decodes base64 of bounded length that may be folded.
func decodeBase64(s []byte) ([]byte, error) {
	if len(s) > maxB {
		return nil, fault("signature too large", nil)
	}
	return dkim.DecodeBase64(s)
}
