package message

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// A message is a report if every reader takes it for one.
func TestMediaScan(t *testing.T) {
	tests := []struct {
		name, header string
		want         bool
	}{
		{"a report", "Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n", true},
		{"in any case", "CONTENT-TYPE:Multipart/Report;boundary=x\r\n", true},
		{"without parameters", "Content-Type: multipart/report\r\n", true},
		{"on the next line", "Content-Type:\r\n\tmultipart/report;\r\n boundary=x\r\n", true},
		{"on the line after the next", "Content-Type:\r\n \r\n multipart/report\r\n", true},
		{"with a blank in front of the colon (RFC 5322 section 4.5)", "Content-Type : multipart/report\r\n", true},
		{"with a comment behind it", "Content-Type: multipart/report(x); boundary=x\r\n", true},
		{"among other fields", "Subject: a\r\n b\r\nContent-Type: multipart/report\r\nTo: x\r\n y\r\n", true},
		{"said twice", "Content-Type: multipart/report\r\nContent-Type: multipart/report\r\n", true},

		{"no field", "Subject: a\r\n", false},
		{"text", "Content-Type: text/plain\r\n", false},
		{"another multipart", "Content-Type: multipart/mixed; x=multipart/report\r\n", false},
		{"a longer word", "Content-Type: multipart/reports\r\n", false},
		{"nothing", "Content-Type:\r\nSubject: multipart/report\r\n", false},
		{"nothing at the end", "Content-Type: multipart/report\r\nContent-Type:\r\n", false},
		{"two that differ", "Content-Type: multipart/report\r\nContent-Type: text/html\r\n", false},
		{"two that differ, otherwise", "Content-Type: text/html\r\nContent-Type: multipart/report\r\n", false},
		{"a field that others take for it", "Content-Type: multipart/report\r\nContent-Type\x00: text/html\r\n", false},
		{"and another one", "Content\xa0-Type: text/html\r\nContent-Type: multipart/report\r\n", false},
		{"in a comment of another field", "Subject: x\r\n Content-Type: multipart/report\r\n", false},
		{"below the empty line", "Subject: x\r\n\r\nContent-Type: multipart/report\r\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
				h := headerScan{form: form}
				h.media.wanted = true
				h.feed(octets(tt.header + "\r\nbody\r\n"))
				if got := h.media.isReport(); got != tt.want {
					t.Errorf("isReport = %v", got)
				}
			}
		})
	}
	h := headerScan{form: mail.Stuffed}
	h.media.wanted = true
	h.feed(octets(".Content-Type: text/html\r\nContent-Type: multipart/report\r\n\r\n"))
	if h.media.isReport() {
		t.Error("a dot hides a field")
	}
	h = headerScan{}
	if h.feed(octets(strings.Repeat("Content-Type: multipart/report\r\n", 2) + "\r\n")); h.media != (mediaScan{}) {
		t.Error("fields are looked at that are not wanted")
	}
}
