package message

import (
	"encoding/hex"
	"strings"

	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// appendReceived appends our Received field (RFC 5321 section 4.4). A "for" clause stands only where there is one
// recipient, so that no recipient reads of another's blind copy, and only in ASCII, because the next hop may know
// nothing else. Each recipient has a loop tag.
func (m *Message) appendReceived(b []byte) []byte {
	c, rcpts := m.Client, m.Recipients
	b = append(b, "Received: from "...)
	b = appendAtom(b, c.Helo)
	b = append(b, " ("...)
	if c.Name != "" {
		b = appendAtom(b, c.Name)
		b = append(b, ' ')
	}
	a := c.Addr.Addr().Unmap()
	switch {
	case !a.IsValid():
		b = append(b, "unknown"...)
	case a.Is4():
		b = append(a.AppendTo(append(b, '[')), ']')
	default:
		b = append(a.AppendTo(append(b, "[IPv6:"...)), ']')
	}
	b = append(b, ")\r\n\tby "...)
	b = append(b, m.cfg.Hostname...)
	b = append(b, " with "...)
	b = append(b, protocol(c, m.Params.SMTPUTF8)...)
	b = append(b, " id "...)
	b = hex.AppendEncode(b, m.report.Event.Trace[:])
	one := true
	for i := 1; i < len(rcpts); i++ {
		one = one && rcpts[i].Further
	}
	if one && rcpts[0].Forward.IsASCII() {
		b = append(b, "\r\n\tfor <"...)
		b = rcpts[0].Forward.AppendTo(b)
		b = append(b, '>')
	}
	b = append(b, ";\r\n\t"...)
	b = m.report.Now().UTC().AppendFormat(b, "Mon, 2 Jan 2006 15:04:05 +0000")
	tags := 0
	for i := range rcpts {
		if rcpts[i].Further || tags == maxTags {
			continue
		}
		if tags%3 == 2 {
			b = append(b, "\r\n\t"...)
		} else {
			b = append(b, ' ')
		}
		tags++
		tag := m.loops.tag(0, rcpts[i].Forward)
		b = append(b, "(hop="...)
		b = hex.AppendEncode(b, tag[:])
		b = append(b, ')')
	}
	return append(b, "\r\n"...)
}

// appendTop appends our Received field and, below it, the fields that content filters add. None of our signatures
// covers them.
func (m *Message) appendTop(b []byte) []byte {
	return append(m.appendReceived(b), m.Filtering.fields()...)
}

// protocol returns the "with" keyword of the session (RFC 3848, RFC 6531 section 4.3).
func protocol(c *wire.Client, smtputf8 bool) string {
	tls := c.TLS != nil
	switch {
	case smtputf8 && c.LoggedIn() != "":
		return "UTF8SMTPSA"
	case c.LoggedIn() != "":
		return "ESMTPSA"
	case smtputf8 && tls:
		return "UTF8SMTPS"
	case smtputf8:
		return "UTF8SMTP"
	case tls:
		return "ESMTPS"
	case c.ESMTP:
		return "ESMTP"
	}
	return "SMTP"
}

// appendAtom appends what a client called itself, without anything that could end the clause it stands in.
func appendAtom(b []byte, s string) []byte {
	if s == "" {
		return append(b, "unknown"...)
	}
	if len(s) > mail.MaxDomain {
		s = s[:mail.MaxDomain]
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c > '~' || strings.IndexByte(`()<>\";,`, c) >= 0 {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}
