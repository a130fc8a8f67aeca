package report

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"time"
)

// An Origin is who makes reports.
type Origin struct {
	Organization string
	Contact      string // an address; its domain is the name that reports come from
	Generator    string // the program and its version
}

// submitter returns the domain that reports come from.
func (o *Origin) submitter() string { return o.Contact[strings.LastIndexByte(o.Contact, '@')+1:] }

// A Subject is what a report is about.
type Subject struct {
	Kind   Kind
	Domain string
	Begins int64 // the day, in seconds since 1970
}

// ends returns the last second of the day.
func (s *Subject) ends() int64 { return s.Begins + int64(dayLong/time.Second) - 1 }

// id returns the id of the report, which is the same each time it is made.
func (s *Subject) id(o *Origin) string {
	return fmt.Sprintf("%s-%s-%s@%s", time.Unix(s.Begins, 0).UTC().Format(time.DateOnly), s.Kind, s.Domain,
		o.submitter())
}

// file returns the name of the report as a file, without its extension (RFC 8460 section 5.1, RFC 9990).
func (s *Subject) file(o *Origin) string {
	return fmt.Sprintf("%s!%s!%d!%d", o.submitter(), s.Domain, s.Begins, s.ends())
}

// A Made is a report that was made.
type Made struct {
	Subject
	Origin *Origin
	Text   []byte   // JSON or XML
	Notes  []string // what is missing in it
}

// Make makes a report of what was counted. notes say what is missing in it. It returns nil if nothing was counted.
func Make(o *Origin, s Subject, p *Part, notes []string) *Made {
	if p == nil || len(p.Rows) == 0 {
		return nil
	}
	if p.Left > 0 {
		notes = append(notes, fmt.Sprintf("%d more are counted without details, for want of room", p.Left))
	}
	m := &Made{Subject: s, Origin: o, Notes: notes}
	if s.Kind == TLS {
		m.Text = tlsText(m, p)
	} else {
		m.Text = aggregateText(m, p)
	}
	return m
}

// packed returns the text compressed by gzip.
func (m *Made) packed() []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(m.Text) // to memory
	_ = w.Close()
	return b.Bytes()
}
