package report

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// letter returns the message that carries a report to a reader (RFC 8460 section 5.3, RFC 9990).
func (m *Made) letter(to mail.Path, now time.Time) []byte {
	var b bytes.Buffer
	field := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	id, submitter := m.id(m.Origin), m.Origin.submitter()
	field("From", "\""+quoted(m.Origin.Organization)+"\"\r\n <"+m.Origin.Contact+">")
	field("To", "<"+to.String()+">")
	field("Subject", "Report Domain: "+m.Domain+"\r\n Submitter: "+submitter+"\r\n Report-ID: <"+id+">")
	field("Date", now.UTC().Format("Mon, 2 Jan 2006 15:04:05 +0000"))
	field("Message-ID", "<"+id+">")
	field("Auto-Submitted", "auto-generated") // RFC 3834: no machine is to answer it
	field("MIME-Version", "1.0")
	kind, media, extension := "multipart/mixed", "application/gzip", "xml.gz"
	if m.Kind == TLS {
		kind, media, extension = `multipart/report; report-type="tlsrpt"`, "application/tlsrpt+gzip", "json.gz"
		field("TLS-Report-Domain", m.Domain)
		field("TLS-Report-Submitter", submitter)
		field("TLS-Required", "No") // what it is about is not to keep it away (RFC 8460 section 3, RFC 8689 section 5)
	}
	const boundary = "=_report" // no line of base64 begins with it, nor does one of ours
	field("Content-Type", kind+";\r\n boundary=\""+boundary+"\"")
	b.WriteString("\r\n--" + boundary + "\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n")
	b.WriteString(m.words())
	b.WriteString("\r\n--" + boundary + "\r\n")
	field("Content-Type", media)
	field("Content-Transfer-Encoding", "base64")
	field("Content-Disposition", "attachment;\r\n filename=\""+m.file(m.Origin)+"."+extension+"\"")
	b.WriteString("\r\n")
	encoded := base64.StdEncoding.EncodeToString(m.packed())
	const line = 76
	for len(encoded) > line {
		b.WriteString(encoded[:line] + "\r\n")
		encoded = encoded[line:]
	}
	b.WriteString(encoded + "\r\n--" + boundary + "--\r\n")
	return b.Bytes()
}

// words returns what a letter says to people.
func (m *Made) words() string {
	what := "TLS of sessions with the mail hosts of"
	if m.Kind == DMARC {
		what = "DMARC of messages from"
	}
	text := fmt.Sprintf("This is a report on\r\n%s\r\n%s\r\non %s (UTC).\r\n", what, m.Domain,
		time.Unix(m.Begins, 0).UTC().Format(time.DateOnly))
	for _, note := range m.Notes {
		text += note + "\r\n"
	}
	return text
}

// quoted returns a text as it stands in a quoted string.
func quoted(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) }
