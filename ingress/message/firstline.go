package message

import (
	"bytes"
	"net"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxMailboxLines bounds the lines of a mailbox file that are dropped: systems that forward from file to file leave
	// one each.
	maxMailboxLines = 8
	// maxMailboxLine bounds one of them, in octets.
	maxMailboxLine = 1000
)

// A beginning is what stands where a header section has to begin.
type beginning struct {
	skip int  // octets of lines of a mailbox file before it
	gap  bool // a text begins there and no header section
}

// readBeginning reads the first piece of a message.
//
// Mailers that read from a mailbox file leave the line that parts its messages in front, and other programs write a
// text without a header section. Every reader would take the fields behind such a line for text, and ours above it for
// the header section, so that the line is dropped. A text whose first line is no field would continue our lowest
// field, or stand among our fields: an empty line parts it from them.
//
// It is safe because what is judged, signed and delivered is the same: the octets behind the dropped lines, or a text
// that no reader takes for fields, for an empty line stands above it.
func readBeginning(o mail.Octets) (b beginning) {
	if len(o.Segments) == 0 {
		return b
	}
	s := o.Segments[0]
	for range maxMailboxLines {
		n := mailboxLine(s[b.skip:])
		if n == 0 {
			break
		}
		b.skip += n
	}
	line := s[b.skip:]
	if o.Form == mail.Stuffed && bytes.HasPrefix(line, []byte{'.'}) {
		line = line[1:] // it is none of the message
	}
	b.gap = len(line) > 0 && !bytes.HasPrefix(line, []byte("\r\n")) && !beginsField(line)
	return b
}

// mailboxLine returns the length of the line of a mailbox file that s begins with, 0 if it begins with none. A From
// field may have blanks before its colon (RFC 5322 section 4.5.1), and is none.
func mailboxLine(s []byte) int {
	rest, ok := bytes.CutPrefix(bytes.TrimPrefix(s[:min(len(s), maxMailboxLine)], []byte{'>'}), []byte("From "))
	if !ok || bytes.HasPrefix(bytes.TrimLeft(rest, " \t"), []byte{':'}) {
		return 0
	}
	end := bytes.Index(rest, []byte("\r\n"))
	if end < 0 {
		return 0
	}
	return min(len(s), maxMailboxLine) - len(rest) + end + len("\r\n")
}

// beginsField reports whether a line begins a field: with a name and a colon, perhaps with blanks between them (RFC
// 5322 sections 2.2 and 4.5). Octets that no name has are left to those who judge fields: some readers skip them.
func beginsField(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if end := bytes.IndexByte(line, '\n'); colon <= 0 || end >= 0 && end < colon {
		return false
	}
	name := bytes.TrimRight(line[:colon], " \t")
	return len(name) > 0 && !bytes.ContainsFunc(name, func(r rune) bool { return r < 0x80 && ascii.IsWSP(byte(r)) })
}

// begin reads the beginning of the message in its first piece, reports what is unusual about it and returns the piece
// without the lines that are dropped.
func (m *Message) begin(o mail.Octets) mail.Octets {
	b := readBeginning(o)
	if m.window.gap = b.gap; b.gap {
		m.report.Anomaly("first line is no field", nil)
		if m.digest != nil {
			m.digest.NoHeader()
		}
	}
	if b.skip == 0 {
		return o
	}
	m.report.Anomaly("mailbox line dropped", nil)
	// No dot was added to the dropped lines. The slice keeps its capacity: the end of data may stand behind it.
	kept := mail.Octets{Segments: net.Buffers{o.Segments[0][b.skip:]}, Form: o.Form}
	for _, d := range o.Dots {
		kept.Dots = append(kept.Dots, d-uint32(b.skip))
	}
	return kept
}
