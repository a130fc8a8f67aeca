package dkim

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"iter"
	"strconv"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// A Canonicalization is a canonicalization algorithm of RFC 6376 section 3.4, for the header section or the body.
type Canonicalization uint8

// The canonicalizations.
const (
	Simple Canonicalization = iota
	Relaxed
)

// String returns the name in c=.
func (c Canonicalization) String() string {
	switch c {
	case Simple:
		return "simple"
	case Relaxed:
		return "relaxed"
	}
	return "canonicalization " + strconv.Itoa(int(c))
}

// A Field is one header field as it stands: its name, the colon, its body with all folding, and CRLF.
type Field []byte

// Name returns the field's name without the white space that obsolete syntax allows before the colon. It is nil for a
// line that is no header field.
func (f Field) Name() []byte {
	colon := bytes.IndexByte(f, ':')
	if colon <= 0 || ascii.IsWSP(f[0]) {
		return nil
	}
	name := f[:colon]
	for len(name) > 0 && ascii.IsWSP(name[len(name)-1]) {
		name = name[:len(name)-1]
	}
	return name
}

// Is reports whether the field has this name, in any case.
func (f Field) Is(name string) bool {
	// Comparing lengths is enough for nearly every call: most fields are not the one that is looked for.
	if len(f) <= len(name) || f[len(name)] != ':' && !ascii.IsWSP(f[len(name)]) {
		return false
	}
	return bytes.EqualFold(f.Name(), []byte(name))
}

// Body returns the octets behind the colon, without the CRLF that ends the field.
func (f Field) Body() []byte {
	colon := bytes.IndexByte(f, ':')
	if colon < 0 {
		return nil
	}
	return withoutCRLF(f[colon+1:])
}

func withoutCRLF(s []byte) []byte { return bytes.TrimSuffix(s, []byte("\r\n")) }

// Fields returns the header fields of a header section from the top. It ends at the empty line, if there is one. Lines
// that are no header fields are among them, and have no Name.
func Fields(header []byte) iter.Seq[Field] {
	return func(yield func(Field) bool) {
		header := Section(header)
		for len(header) > 0 {
			n := fieldLen(header)
			if !yield(Field(header[:n])) {
				return
			}
			header = header[n:]
		}
	}
}

// Section returns header up to the empty line that ends a header section, or all of it if there is no empty line.
func Section(header []byte) []byte {
	if bytes.HasPrefix(header, []byte("\r\n")) {
		return nil
	}
	if end := bytes.Index(header, []byte("\r\n\r\n")); end >= 0 {
		return header[:end+2]
	}
	return header
}

// fieldLen returns the length of the field that header begins with.
func fieldLen(header []byte) int {
	for n := 0; ; {
		nl := bytes.IndexByte(header[n:], '\n')
		if nl < 0 {
			return len(header)
		}
		n += nl + 1
		if n == len(header) || !ascii.IsWSP(header[n]) {
			return n
		}
	}
}

// lastField returns the offset of the field that header ends with.
func lastField(header []byte) int {
	for end := len(header); ; {
		// The last octet of a line is its own end.
		start := bytes.LastIndexByte(header[:end-1], '\n') + 1
		if start == 0 || !ascii.IsWSP(header[start]) {
			return start
		}
		end = start
	}
}

// A Picker chooses the fields that a list of names stands for: each name takes the lowest field of that name that is
// not taken yet, and no field if all are taken (RFC 6376 section 5.4.2). It can be used again and keeps its memory.
type Picker struct {
	slots  map[string]int32 // the index in heads of a name
	heads  []int32          // the first index in names that waits for a field of that name, or -1
	next   []int32          // for each index in names the next one with the same name, or -1
	picked []Field
	fold   []byte
}

// Pick returns for each name the field it stands for, or nil. Names are in lower case. The field that begins at except
// is skipped: a signature must not sign itself. A negative except skips no field. The result is valid until the next
// call.
func (p *Picker) Pick(header []byte, names []string, except int) []Field {
	p.index(names)
	header = Section(header)
	for open := len(names); len(header) > 0 && open > 0; {
		start := lastField(header)
		field := Field(header[start:])
		header = header[:start]
		if start == except {
			continue
		}
		slot, ok := p.slot(field.Name())
		if !ok || p.heads[slot] < 0 {
			continue
		}
		i := p.heads[slot]
		p.picked[i] = field
		p.heads[slot] = p.next[i]
		open--
	}
	return p.picked
}

// slot returns the index in heads of a field's name, which may be in any case.
func (p *Picker) slot(name []byte) (int32, bool) {
	if len(name) == 0 || len(name) > maxFieldName {
		return 0, false
	}
	p.fold = appendLower(p.fold[:0], name)
	slot, ok := p.slots[string(p.fold)]
	return slot, ok
}

// maxFieldName is the longest field name that can be signed; a line has at most 998 octets (RFC 5322 section 2.1.1).
const maxFieldName = 998

func (p *Picker) index(names []string) {
	if p.slots == nil {
		p.slots = make(map[string]int32, len(names))
	}
	clear(p.slots)
	clear(p.picked)
	if cap(p.next) < len(names) {
		p.next = make([]int32, len(names))
		p.heads = make([]int32, 0, len(names))
		p.picked = make([]Field, len(names))
	}
	p.next, p.picked, p.heads = p.next[:len(names)], p.picked[:len(names)], p.heads[:0]
	// From the end, so that the indices of each name are in ascending order.
	for i := len(names) - 1; i >= 0; i-- {
		slot, ok := p.slots[names[i]]
		if !ok {
			slot = int32(len(p.heads))
			p.slots[names[i]] = slot
			p.heads = append(p.heads, -1)
		}
		p.next[i] = p.heads[slot]
		p.heads[slot] = int32(i)
	}
}

func appendLower(dst, s []byte) []byte {
	for _, c := range s {
		dst = append(dst, ascii.Lower(c))
	}
	return dst
}

// A HeaderHash hashes header fields in canonical form. Its memory does not grow with them.
type HeaderHash struct {
	sha hash.Hash
	sum [sha256.Size]byte
	out canonicalWriter
}

// NewHeaderHash makes a HeaderHash over SHA-256, the only hash that is in use (RFC 8301 section 3.1).
func NewHeaderHash() *HeaderHash {
	h := &HeaderHash{sha: sha256.New()}
	h.out.w = h.sha
	return h
}

// Reset makes h as new.
func (h *HeaderHash) Reset() {
	h.sha.Reset()
	h.out.n, h.out.space = 0, false
}

// Field adds a field with the CRLF at its end; nil adds nothing.
func (h *HeaderHash) Field(c Canonicalization, f Field) {
	if f == nil {
		return
	}
	h.Own(c, f, 0, 0)
	h.out.put('\r', '\n')
}

// Own adds a signature's own field (RFC 6376 section 3.7): without the CRLF at its end, and without the value of its
// b=, which are the octets of its body (see Field.Body) from start up to end. Equal offsets leave nothing out.
func (h *HeaderHash) Own(c Canonicalization, f Field, start, end int) {
	f = withoutCRLF(f)
	colon := max(bytes.IndexByte(f, ':'), 0)
	if start == end {
		start, end = len(f)-colon-1, len(f)-colon-1
	}
	before, after := f[:min(colon+1+start, len(f))], f[min(colon+1+end, len(f)):]
	if c == Simple {
		h.out.write(before)
		h.out.write(after)
		return
	}
	h.out.name(f[:colon])
	h.out.relaxed(before[min(colon+1, len(before)):])
	h.out.relaxed(after)
	h.out.space = false
}

// Sum returns the hash of the fields that were added.
func (h *HeaderHash) Sum() [sha256.Size]byte {
	h.out.flush()
	h.sha.Sum(h.sum[:0])
	return h.sum
}

// A canonicalWriter gathers canonical octets in front of w.
type canonicalWriter struct {
	w     io.Writer
	n     int
	space bool // white space was read that becomes a space if anything follows it
	fresh bool // nothing of the field's value was written: white space here is dropped
	buf   [512]byte
}

func (o *canonicalWriter) flush() {
	o.w.Write(o.buf[:o.n]) // a hash returns no error
	o.n = 0
}

func (o *canonicalWriter) put(s ...byte) { o.write(s) }

func (o *canonicalWriter) write(s []byte) {
	for len(s) > 0 {
		n := copy(o.buf[o.n:], s)
		o.n += n
		s = s[n:]
		if o.n == len(o.buf) {
			o.flush()
		}
	}
}

// name writes a field's name in relaxed form, with the colon.
func (o *canonicalWriter) name(s []byte) {
	s = trimFWS(s)
	for _, c := range s {
		if o.n == len(o.buf) {
			o.flush()
		}
		o.buf[o.n] = ascii.Lower(c)
		o.n++
	}
	o.put(':')
	o.space, o.fresh = false, true
}

// relaxed writes a field's value, or the next part of it, in relaxed form (RFC 6376 section 3.4.2): unfolded, each run
// of white space one space, none at either end.
func (o *canonicalWriter) relaxed(s []byte) {
	for i := 0; i < len(s); {
		if ascii.IsWSP(s[i]) || s[i] == '\r' && i+1 < len(s) && s[i+1] == '\n' {
			o.space = true
			if s[i] == '\r' {
				i++
			}
			i++
			continue
		}
		start := i
		for i < len(s) && !ascii.IsWSP(s[i]) && (s[i] != '\r' || i+1 == len(s) || s[i+1] != '\n') {
			i++
		}
		if o.space && !o.fresh {
			o.put(' ')
		}
		o.space, o.fresh = false, false
		o.write(s[start:i])
	}
}
