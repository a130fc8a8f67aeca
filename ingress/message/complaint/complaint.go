// Package complaint reads reports of abuse (RFC 5965) in messages that pass by.
//
// It owns the form of such a report and the bounds of reading one. It refuses to know whether a report is true: it says
// what its sender claims.
//
// Invariants: it keeps at most maxField octets of a message at a time and reads at most maxRead of it; no octet of the
// message that is complained of is ever looked at behind the fields of the report.
package complaint

import (
	"bytes"
	"mime"
	netmail "net/mail"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxRead bounds how much of a message is read, in octets: the part for people stands before the report.
	maxRead = 1 << 20
	// maxField bounds a field, its name and its folded lines included, in octets. Of a longer one the rest is not read.
	maxField = 4 << 10
	// maxBoundary bounds what parts two parts, in octets (RFC 2046 section 5.1.1).
	maxBoundary = 70
	// maxParts bounds the parts of a message that are looked at.
	maxParts = 8
	// maxRecipients bounds the recipients that a report names.
	maxRecipients = 16
	// maxFeedback bounds the length of a type of feedback in octets.
	maxFeedback = 64
)

// A state says what the next line is.
type state uint8

const (
	inHeader   state = iota // of the message
	inPart                  // a part that is no report, or what stands before the first part
	inPartHead              // the header section of a part
	inReport                // the fields of the report
	over                    // what follows is not looked at
)

// Size is how many octets of a message a Reader keeps at most.
const Size = 2 * maxField

// A Reader reads one message. The zero Reader is ready; a nil one reads nothing.
type Reader struct {
	state     state
	delimiter string // of the parts of the message, "" before it is known
	isReport  bool   // the part whose header section is read holds the report
	line      []byte // the octets of a line that has not ended
	field     []byte // a field whose last line may still come
	read      int
	parts     int
	dated     bool // a date was read: each costs far more than its octets
	report    mail.Complaint
}

// Write reads a piece of the message.
func (r *Reader) Write(o mail.Octets) {
	if r == nil || r.state == over {
		return
	}
	for piece := range o.Plain() {
		r.write(piece)
	}
}

// write reads octets of the message.
func (r *Reader) write(p []byte) {
	for len(p) > 0 && r.state != over {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			r.keep(p)
			return
		}
		r.keep(p[:end])
		p = p[end+1:]
		if r.state != over {
			r.takeLine(bytes.TrimSuffix(r.line, []byte("\r")))
			r.line = r.line[:0]
		}
	}
}

// keep adds octets to the line, as many as one has room for.
func (r *Reader) keep(p []byte) {
	if r.read += len(p) + 1; r.read > maxRead { // with the end of a line, if it is one
		r.state = over
		return
	}
	r.line = append(r.line, p[:min(len(p), maxField-len(r.line))]...)
}

// takeLine reads a line without its end.
func (r *Reader) takeLine(line []byte) {
	if r.delimiter != "" && r.takeDelimiter(line) {
		return
	}
	switch {
	case r.state == inPart:
	case len(line) == 0:
		r.endSection()
	case ascii.IsWSP(line[0]):
		if len(r.field) > 0 {
			r.field = append(r.field, line[:min(len(line), maxField-len(r.field))]...)
		}
	default:
		r.endField()
		r.field = append(r.field[:0], line...)
	}
}

// takeDelimiter reads a line that may part two parts of the message, and reports whether it does.
func (r *Reader) takeDelimiter(line []byte) bool {
	rest, found := bytes.CutPrefix(line, []byte(r.delimiter))
	rest = bytes.TrimRight(rest, " \t")
	switch {
	case !found || len(rest) > 0 && string(rest) != "--":
		return false
	case r.state == inReport, len(rest) > 0, r.parts == maxParts:
		r.endField()
		r.state = over
	default:
		r.parts++
		r.field, r.isReport, r.state = r.field[:0], false, inPartHead
	}
	return true
}

// endSection ends a header section.
func (r *Reader) endSection() {
	r.endField()
	switch {
	case r.state == inHeader && r.delimiter == "":
		r.state = over
	case r.state == inPartHead && r.isReport:
		r.state = inReport
	case r.state != inReport: // in which an empty line stands for nothing
		r.state = inPart
	}
}

// endField reads a field whose lines have all come.
func (r *Reader) endField() {
	name, value, found := strings.Cut(string(r.field), ":")
	r.field = r.field[:0]
	if !found {
		return
	}
	name, value = ascii.Fold(strings.TrimRight(name, " \t")), strings.TrimSpace(value)
	switch {
	case r.state == inReport:
		r.reportField(name, value)
	case name == "content-type":
		kind, params, err := mime.ParseMediaType(value)
		switch {
		case err != nil:
		case r.state == inPartHead:
			r.isReport = kind == "message/feedback-report"
		case kind == "multipart/report" && ascii.EqualFold(params["report-type"], "feedback-report") &&
			params["boundary"] != "" && len(params["boundary"]) <= maxBoundary:
			r.delimiter = "--" + params["boundary"]
		}
	}
}

// reportField reads a field of the report.
func (r *Reader) reportField(name, value string) {
	switch c := &r.report; name {
	case "feedback-type":
		if c.Feedback == "" {
			c.Feedback = feedback(value)
		}
	case "original-rcpt-to":
		if len(c.Recipients) == maxRecipients {
			return
		}
		if p, ok := recipient(value); ok {
			c.Recipients = append(c.Recipients, p)
		}
	case "arrival-date", "received-date": // the second is that of older reports
		if r.dated {
			return
		}
		r.dated = true
		if at, err := netmail.ParseDate(value); err == nil {
			c.Arrived = at.UTC().Truncate(time.Second)
		}
	}
}

// feedback returns a type of feedback in lower case, "" for what cannot be one.
func feedback(value string) string {
	if value == "" || len(value) > maxFeedback {
		return ""
	}
	for i := range len(value) {
		if !ascii.IsLetDig(value[i]) && value[i] != '-' {
			return ""
		}
	}
	return ascii.Fold(value)
}

// recipient reads a forward-path, with or without brackets and the type of address that some reporters put before it.
func recipient(value string) (mail.Path, bool) {
	if kind, rest, found := strings.Cut(value, ";"); found && ascii.EqualFold(strings.TrimSpace(kind), "rfc822") {
		value = strings.TrimSpace(rest)
	}
	if inner, found := strings.CutPrefix(value, "<"); found {
		value = strings.TrimSuffix(inner, ">")
	}
	p, err := mail.ParsePath(value, true)
	return p, err == nil && p.Domain != ""
}

// Report returns what the report says, nil if the message is none. It ends the Reader.
func (r *Reader) Report() *mail.Complaint {
	if r == nil {
		return nil
	}
	if r.state == inReport { // the message ended without a last delimiter
		r.takeLine(r.line)
		r.endField()
	}
	r.state = over
	if r.report.Feedback == "" {
		return nil
	}
	c := r.report
	return &c
}
