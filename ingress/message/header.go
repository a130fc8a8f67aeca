package message

import (
	"bytes"

	"github.com/millrace/millrace/router/mail"
)

// maxCarry bounds what is kept of a line that two pieces share: enough for a field name and a loop tag.
const maxCarry = 1024

// resultsName is the name of a field of results, one of which could pretend to be ours, in lower case.
const resultsName = "authentication-results"

// mayBeField reports whether a line begins a field of a name, which is in lower case, for some readers: with octets
// that no field name has (RFC 5322 section 2.2) anywhere in its name, or parted from the rest of it by a line end.
func mayBeField(l []byte, name string) bool {
	n := 0
	for _, c := range l {
		switch {
		case c == ':':
			return n == len(name)
		case c < 33 || c > 126:
		case n < len(name) && (c == name[n] || c|0x20 == name[n]):
			n++
		default:
			return false
		}
	}
	return n > 0
}

// A fieldKind says what the field is that was begun last.
type fieldKind uint8

const (
	otherField     fieldKind = iota
	receivedField            // a Received field
	receivedTagged           // a Received field in which a loop tag was found
)

// A headerScan reads the header section (RFC 5322 section 2.1) as it goes by, in pieces, in constant memory. It counts
// Received fields, collects loop tags and notices octets above 127.
type headerScan struct {
	form     mail.Form // in the form Stuffed, a dot that opens a line was added (RFC 5321 section 4.5.2)
	done     bool      // the empty line was seen, or a line that does not belong to a header section
	eightBit bool
	results  bool // there is an Authentication-Results field, or what some readers take for one
	field    fieldKind
	media    mediaScan
	id       idScan
	waiver   waiverScan
	received int
	tagged   int // Received fields with a loop tag
	tags     []loopTag
	carry    []byte
	octets   int // read so far, up to the end of the empty line
}

// feed reads one piece and reports whether the header section has ended.
func (h *headerScan) feed(o mail.Octets) bool {
	for _, seg := range o.Segments {
		if h.done {
			return true
		}
		h.segment(seg)
	}
	return h.done
}

func (h *headerScan) segment(seg []byte) {
	if len(h.carry) > 0 {
		nl := bytes.IndexByte(seg, '\n')
		part := seg[:nl+1]
		if nl < 0 {
			part = seg
		}
		if len(h.carry) < maxCarry {
			h.carry = append(h.carry, part[:min(len(part), maxCarry-len(h.carry))]...)
		}
		h.octets += len(part)
		h.noteEightBit(part)
		if nl < 0 {
			return
		}
		h.line(h.carry)
		h.carry = h.carry[:0]
		seg = seg[nl+1:]
	}
	for !h.done && len(seg) > 0 {
		nl := bytes.IndexByte(seg, '\n')
		if nl < 0 {
			h.carry = append(h.carry[:0], seg[:min(len(seg), maxCarry)]...)
			h.octets += len(seg)
			h.noteEightBit(seg)
			return
		}
		h.octets += nl + 1
		h.noteEightBit(seg[:nl])
		h.line(seg[:nl+1])
		seg = seg[nl+1:]
	}
}

// line takes one line with its end, or as much of it as carry holds.
func (h *headerScan) line(l []byte) {
	if h.form == mail.Stuffed && l[0] == '.' && len(l) > 1 {
		l = l[1:]
	}
	if l[0] == '\r' || l[0] == '\n' {
		h.done = true
		return
	}
	if h.media.wanted {
		h.media.line(l)
	}
	h.id.line(l)
	h.waiver.line(l)
	if l[0] != ' ' && l[0] != '\t' {
		h.field = otherField
		if len(l) > 9 && bytes.EqualFold(l[:9], []byte("received:")) {
			h.field = receivedField
			h.received++
		}
		h.results = h.results || mayBeField(l, resultsName)
	}
	if h.field != otherField {
		h.readTags(l)
	}
}

// readTags collects the loop tags in a line of a Received field.
func (h *headerScan) readTags(l []byte) {
	for {
		i := bytes.Index(l, []byte("(hop="))
		if i < 0 {
			return
		}
		l = l[i+len("(hop="):]
		tag, ok := parseLoopTag(l)
		if !ok {
			continue
		}
		if h.field == receivedField {
			h.tagged++
			h.field = receivedTagged
		}
		if len(h.tags) <= maxTagsRead {
			h.tags = append(h.tags, tag)
		}
	}
}

func (h *headerScan) noteEightBit(l []byte) {
	if h.eightBit {
		return
	}
	for _, c := range l {
		if c >= 0x80 {
			h.eightBit = true
			return
		}
	}
}
