package message

import (
	"bytes"

	"github.com/millrace/millrace/router/mail"
)

// typeName is the name of the field that says what a message is (RFC 2045 section 5), in lower case.
const typeName = "content-type"

// A mediaScan reads in the lines of a header section whether the message is multipart/report (RFC 6522).
type mediaScan struct {
	wanted bool // else no line is looked at
	report bool // a field says so
	other  bool // a field says something else, or only some readers see it
	empty  bool // a field has begun whose value stands in a line to come
}

// isReport reports whether every reader takes the message for multipart/report.
func (s *mediaScan) isReport() bool { return s.report && !s.other && !s.empty }

// line takes one line of the header section. It is not empty.
func (s *mediaScan) line(l []byte) {
	value := l
	if l[0] == ' ' || l[0] == '\t' {
		if !s.empty {
			return
		}
	} else {
		s.other = s.other || s.empty
		s.empty = false
		if !mayBeField(l, typeName) {
			return
		}
		name, rest, _ := bytes.Cut(l, []byte(":"))
		if !bytes.EqualFold(bytes.TrimRight(name, " \t"), []byte(typeName)) {
			s.other = true
			return
		}
		value = rest
	}
	value = bytes.TrimSpace(value)
	if s.empty = len(value) == 0; s.empty {
		return
	}
	if i := bytes.IndexAny(value, "; \t\r\n("); i >= 0 {
		value = value[:i]
	}
	if bytes.EqualFold(value, []byte("multipart/report")) {
		s.report = true
	} else {
		s.other = true
	}
}

// ReasonNotReport is the reason of the refusal of a message that is no report, to an address that opens to these alone,
// as it is counted.
const ReasonNotReport = "no report to srs address"

// check returns the refusal of a message that has to be a report and is none. It reads like that of an address which
// opens to nothing. ended says that the header section is complete.
func (s *mediaScan) check(ended bool) error {
	if !ended || !s.wanted || s.isReport() {
		return nil
	}
	return mail.Refuse(550, 7, 1, mail.NoSuchMail, ReasonNotReport, nil)
}
