package once

import (
	"bytes"

	"github.com/zeebo/blake3"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// counted are the fields that make a message what it is (RFC 5322 section 3.6), in lower case. Fields that relays,
// signers and mailing software add or change between two attempts are not among them. A name that begins with
// contentPrefix counts as well (RFC 2045 section 9).
var counted = [...]string{
	"from", "sender", "to", "cc", "reply-to", "subject", "date", "message-id", "mime-version",
}

const contentPrefix = "content-"

// maxName is the most octets of a field's name that are looked at; a longer name is none that counts.
const maxName = 64

// A lineState says what is read of a header section.
type lineState uint8

const (
	lineStart lineState = iota
	emptyLine           // the CR of one was read
	inName              // of a field
	inValue             // of a field that counts
	skipped             // the rest of a line that does not count
)

// A Digest reads a message as it goes by and finds what stays the same when its sender tries again: the fields that
// count, in relaxed form (RFC 6376 section 3.4.2), and the body, both without added dots. It is made by Keys.Begin and
// ended by Close. It keeps nothing of the message but a part of a field that waits to be hashed.
type Digest struct {
	keys    *Keys
	reverse mail.Path
	sums    []sum // under each key

	body    bool // the header section has ended
	state   lineState
	counts  bool // the present field does
	blank   bool // white space of a value waits for what follows it
	value   bool // the value of the present field has begun
	must    must // what the present field is, if a message has to have it
	has     must // what the message has of that, and noField
	name    []byte
	text    []byte  // of fields that count, not yet hashed
	lastTwo [2]byte // octets of the message
}

// must are the fields without which two messages may be the same.
type must uint8

const (
	messageID must = 1 << iota
	date
	noField // no message has to have it: a line of the header section that is no field
)

// A sum hashes under one key.
type sum struct {
	same    *blake3.Hasher // the fields that count, and the body
	section *blake3.Hasher // the header section as it stands
}

// maxText is about how many octets of fields wait to be hashed.
const maxText = 512

// newDigest returns a Digest that hashes under keys of 32 octets each.
func newDigest(octets [][]byte) *Digest {
	d := &Digest{}
	for _, key := range octets {
		d.sums = append(d.sums, sum{newHash(key), newHash(key)})
	}
	return d
}

// newHash returns a hash of keyed BLAKE3-256. The key has 32 octets.
func newHash(key []byte) *blake3.Hasher {
	h, _ := blake3.NewKeyed(key) // the error is that of another length
	return h
}

// sumSize is about how many octets of memory a sum takes.
const sumSize = 2 * (10 << 10)

// Size returns about how many octets of memory the digest takes.
func (d *Digest) Size() int { return len(d.sums) * sumSize }

// NoHeader says that the message has no header section. It is called before Write.
func (d *Digest) NoHeader() { d.body = true }

// Write reads a piece of the message. Pieces come in order.
func (d *Digest) Write(o mail.Octets) {
	for p := range o.Plain() {
		if n := len(p); n > 1 {
			d.lastTwo = [2]byte(p[n-2:])
		} else {
			d.lastTwo = [2]byte{d.lastTwo[1], p[0]}
		}
		if !d.body {
			n := d.header(p)
			for _, s := range d.sums {
				s.section.Write(p[:n])
			}
			p = p[n:]
		}
		for _, s := range d.sums {
			s.same.Write(p)
		}
	}
}

// header reads octets of the header section and returns how many belong to it.
func (d *Digest) header(p []byte) int {
	for i := 0; i < len(p); i++ {
		switch c := p[i]; d.state {
		case lineStart:
			if d.begin(c) {
				return i + 1
			}
		case emptyLine: // what is not LF comes in no message
			d.endSection()
			return i + 1
		case inName:
			d.readName(c)
		case inValue:
			d.readValue(c)
		case skipped:
			n := bytes.IndexByte(p[i:], '\n')
			if n < 0 {
				return len(p)
			}
			i += n
			d.state = lineStart
		}
	}
	return len(p)
}

// begin reads the first octet of a line and reports whether the header section ends with it.
func (d *Digest) begin(c byte) bool {
	switch c {
	case '\n':
		d.endSection()
		return true
	case '\r':
		d.state = emptyLine
	case ' ', '\t': // the field goes on
		d.blank, d.state = true, skipped
		if d.counts {
			d.state = inValue
		}
	default:
		d.endField()
		d.name, d.state = d.name[:0], inName
		d.readName(c)
	}
	return false
}

// readName reads an octet of a field's name, with the colon behind it.
func (d *Digest) readName(c byte) {
	switch {
	case c == '\n':
		d.has |= noField
		d.state = lineStart
	case c != ':':
		if len(d.name) < maxName {
			d.name = append(d.name, ascii.Lower(c))
		}
	default:
		d.name = bytes.TrimRight(d.name, " \t") // RFC 5322 section 4.5.8
		if len(d.name) == 0 || bytes.ContainsAny(d.name, " \t") {
			d.has |= noField
		}
		d.counts = isCounted(d.name)
		d.state = skipped
		if d.counts {
			d.state, d.blank, d.value, d.must = inValue, false, false, mustOf(d.name)
			d.text = append(append(d.text, d.name...), ':')
		}
	}
}

// readValue reads an octet of the value of a field that counts.
func (d *Digest) readValue(c byte) {
	switch c {
	case '\n':
		d.state = lineStart
		fallthrough
	case ' ', '\t', '\r':
		d.blank = true
		return
	}
	if d.blank && d.value {
		d.text = append(d.text, ' ')
	}
	d.blank, d.value = false, true
	d.text = append(d.text, c)
	d.has |= d.must
	if len(d.text) >= maxText {
		d.flush()
	}
}

// endField ends the present field, if it counts.
func (d *Digest) endField() {
	if d.counts {
		d.counts = false
		d.text = append(d.text, "\r\n"...)
	}
}

// endSection ends the header section.
func (d *Digest) endSection() {
	d.endField()
	d.text = append(d.text, "\r\n"...)
	d.flush()
	d.body = true
}

// flush hashes the text that waits.
func (d *Digest) flush() {
	for _, s := range d.sums {
		s.same.Write(d.text)
	}
	d.text = d.text[:0]
}

// isCounted reports whether a field's name, in lower case, is one that counts.
func isCounted(name []byte) bool {
	for _, c := range counted {
		if string(name) == c {
			return true
		}
	}
	return bytes.HasPrefix(name, []byte(contentPrefix))
}

// mustOf returns what a field's name, in lower case, stands for.
func mustOf(name []byte) must {
	switch string(name) {
	case "message-id":
		return messageID
	case "date":
		return date
	}
	return 0
}

// end ends the message. A message that came by BDAT may lack the CRLF at its end that it has when it comes by DATA.
func (d *Digest) end() {
	if !d.body {
		if d.state == inName { // the last line, which ends with the message
			d.has |= noField
		}
		d.endSection()
	}
	if d.lastTwo != [2]byte{'\r', '\n'} {
		d.Write(mail.Octets{Segments: [][]byte{[]byte("\r\n")}, Form: mail.Plain})
	}
}

// isBrief reports whether the message lacks a field without which another one may look the same.
func (d *Digest) isBrief() bool { return d.has&(messageID|date) != messageID|date }

// countsAll reports whether the header section counts as it stands: its fields alone do not tell the message from
// others, or it may hold what a reader takes for the text.
func (d *Digest) countsAll() bool { return d.isBrief() || d.has&noField != 0 }

// Close ends the digest, which must not be used any more.
func (d *Digest) Close() {
	for _, s := range d.sums {
		s.same.Reset()
		s.section.Reset()
	}
	*d = Digest{keys: d.keys, sums: d.sums, name: d.name[:0], text: d.text[:0]}
	d.keys.digests.Put(d)
}
