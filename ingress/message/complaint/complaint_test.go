package complaint

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// read returns what is read of a message that comes in pieces of some octets, as text.
func read(message string, piece int) string {
	var r Reader
	for from := 0; from < len(message); from += piece {
		part := []byte(message[from:min(len(message), from+piece)])
		r.Write(mail.Octets{Segments: net.Buffers{part}, Form: mail.Plain})
	}
	return text(r.Report())
}

func text(c *mail.Complaint) string {
	if c == nil {
		return "none"
	}
	s := c.Feedback
	for _, p := range c.Recipients {
		s += " " + p.String()
	}
	if !c.Arrived.IsZero() {
		s += " " + c.Arrived.Format(time.RFC3339)
	}
	return s
}

// arf returns a message with a report of these fields.
func arf(fields string) string {
	return "Subject: x\r\nContent-Type: multipart/report; report-type=feedback-report;\r\n\tboundary=\"b\"\r\n\r\n" +
		"--b\r\nContent-Type: text/plain\r\n\r\nwords\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\n" +
		fields + "\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n" +
		"Feedback-Type: fraud\r\nOriginal-Rcpt-To: <no@example.com>\r\n--b--\r\n"
}

// TestReader_Others: reports in the test data of others, whole and octet by octet.
func TestReader_Others(t *testing.T) {
	const mimekit = "MimeKit__UnitTests_TestData_messages_feedback-report.txt"
	for file, want := range map[string]string{
		"mail-auth__resources_arf_001.eml": "abuse",
		"mail-auth__resources_arf_002.eml": "abuse user@example.com 2005-03-08T14:00:00Z",
		"mail-auth__resources_arf_003.eml": "auth-failure user@example.com 2010-04-14T19:15:31Z",
		"mail-auth__resources_arf_004.eml": "auth-failure",
		"mail-auth__resources_arf_005.eml": "auth-failure 2011-10-08T20:15:58Z",
		mimekit:                            "abuse user@example.com 2005-03-08T14:00:00Z",
	} {
		t.Run(file, func(t *testing.T) {
			message := string(ingresstest.Read(t, ingresstest.Shared(t, "corpus", "eml", file)))
			for _, piece := range []int{1, 7, len(message)} {
				if got := read(message, piece); got != want {
					t.Errorf("in pieces of %d: got %s, want %s", piece, got, want)
				}
			}
		})
	}
}

func TestReader(t *testing.T) {
	const fields = "Feedback-Type: abuse\r\nUser-Agent: x\r\nVersion: 1\r\n"
	long := strings.Repeat("b", maxBoundary+1)
	for _, tt := range []struct{ name, message, want string }{
		{"a report", arf(fields), "abuse"},
		{"its fields", arf(fields + "Original-Rcpt-To: <a@example.com>\r\nOriginal-Rcpt-To: b@example.com\r\n" +
			"Arrival-Date: Mon, 30 Nov 2026 12:00:00 +0100\r\n"),
			"abuse a@example.com b@example.com 2026-11-30T11:00:00Z"},
		{"a folded field", arf(fields + "Original-Rcpt-To:\r\n <a@example.com>\r\n"), "abuse a@example.com"},
		{"names and types in any case", arf("FEEDBACK-TYPE : ABUSE\r\n"), "abuse"},
		{
			"an address with its type", arf(fields + "Original-Rcpt-To: rfc822; a@example.com\r\n"),
			"abuse a@example.com",
		},
		{"the first of several types and dates", arf(fields + "Feedback-Type: fraud\r\n"), "abuse"},
		{"what is no address or date is left out", arf(fields + "Original-Rcpt-To: <a@b@c>\r\n" +
			"Original-Rcpt-To: postmaster\r\nArrival-Date: yesterday\r\n"), "abuse"},
		{"of several dates the first, even if it is none", arf(fields + "Received-Date: x\r\n" +
			"Arrival-Date: Mon, 30 Nov 2026 12:00:00 +0100\r\n"), "abuse"},
		{"a type that is no word", arf("Feedback-Type: <script>\r\n"), "none"},
		{"a type that is too long", arf("Feedback-Type: " + strings.Repeat("x", 65) + "\r\n"), "none"},
		{"a report without a type", arf("Version: 1\r\n"), "none"},
		{"line feeds alone", strings.ReplaceAll(arf(fields), "\r\n", "\n"), "abuse"},
		{"no end", strings.TrimSuffix(arf(fields)[:strings.Index(arf(fields), "Version")], "\r\n"), "abuse"},
		{"blanks behind a delimiter", strings.ReplaceAll(arf(fields), "--b\r\n", "--b \t\r\n"), "abuse"},
		{"what only begins like a delimiter", strings.ReplaceAll(arf(fields), "--b\r\n", "--bc\r\n"), "none"},
		{"a report behind the last delimiter", strings.Replace(arf(fields), "--b\r\n", "--b--\r\n", 1), "none"},
		{"a report of another kind", strings.Replace(arf(fields), "feedback-report", "delivery-status", 1), "none"},
		{
			"fields in a message that is no report",
			strings.Replace(arf(fields), "multipart/report", "multipart/mixed", 1), "none",
		},
		{"no delimiter", strings.Replace(arf(fields), "boundary=", "x=", 1), "none"},
		{"a delimiter that is too long", strings.ReplaceAll(strings.Replace(arf(fields), `"b"`, long, 1),
			"--b\r\n", "--"+long+"\r\n"), "none"},
		{"fields of the report in another part", strings.Replace(arf(fields), "words", fields, 1), "abuse"},
		{
			"too many parts before it", strings.Replace(arf(fields), "--b\r\n", strings.Repeat("--b\r\n", maxParts), 1),
			"none",
		},
		{
			"too much before it", strings.Replace(arf(fields), "words", strings.Repeat("words\r\n", maxRead/7+1), 1),
			"none",
		},
		{
			"nearly too much before it",
			strings.Replace(arf(fields), "words", strings.Repeat("words\r\n", maxRead/8), 1), "abuse",
		},
		{"a line without an end", strings.Replace(arf(fields), "words", strings.Repeat("x", maxRead), 1), "none"},
		{"a long line", strings.Replace(arf(fields), "words", strings.Repeat("x", maxRead/2), 1), "abuse"},
		{"a plain message", "Subject: x\r\n\r\n--b\r\n" + fields, "none"},
		{"nothing", "", "none"},
		{"a first line that is folded", " x\r\n" + arf(fields), "abuse"},
	} {
		for _, piece := range []int{1, 3, 1 << 20} {
			if piece < 100 && len(tt.message) > 1<<16 {
				continue
			}
			if got := read(tt.message, piece); got != tt.want {
				t.Errorf("%s in pieces of %d: got %s, want %s", tt.name, piece, got, tt.want)
			}
		}
	}
}

// TestReader_Bounds: what is kept of a message has a bound, whatever it holds.
func TestReader_Bounds(t *testing.T) {
	var r Reader
	r.write([]byte(arf("Feedback-Type: abuse\r\n" + strings.Repeat("Original-Rcpt-To: <a@example.com>\r\n", 1000) +
		"X: " + strings.Repeat("x\r\n ", 10000) + strings.Repeat("y", 1<<16))))
	c := r.Report()
	if c == nil || len(c.Recipients) != maxRecipients || cap(r.line) > 2*maxField || cap(r.field) > 2*maxField {
		t.Errorf("kept %d recipients, %d and %d octets", len(c.Recipients), cap(r.line), cap(r.field))
	}
}

// BenchmarkReader_Dates reads a report that is nothing but dates.
func BenchmarkReader_Dates(b *testing.B) {
	message := []byte(arf(strings.Repeat("Arrival-Date: x\r\n", maxRead/18)))
	b.SetBytes(int64(len(message)))
	for b.Loop() {
		var r Reader
		r.write(message)
	}
}

// TestReader_Dots: dots that were added on the wire are none of the message's.
func TestReader_Dots(t *testing.T) {
	var r Reader
	message := strings.ReplaceAll(arf("Feedback-Type: abuse\r\n"), "words\r\n", "..Feedback-Type: x\r\n")
	dot := uint32(strings.Index(message, ".."))
	r.Write(mail.Octets{Segments: net.Buffers{[]byte(message)}, Dots: []uint32{dot}})
	if got := text(r.Report()); got != "abuse" {
		t.Errorf("got %s", got)
	}
}

// FuzzReader checks that a message is read alike in one piece and in many, and that what is kept has a bound.
func FuzzReader(f *testing.F) {
	f.Add([]byte(arf("Feedback-Type: abuse\r\nOriginal-Rcpt-To: <a@example.com>\r\n")), 3)
	f.Add([]byte("Content-Type: multipart/report\r\n\r\n"), 1)
	f.Fuzz(func(t *testing.T, message []byte, piece int) {
		whole, parts := read(string(message), len(message)+1), read(string(message), 1+(piece&0xff))
		if whole != parts {
			t.Fatalf("whole: %s, in pieces: %s", whole, parts)
		}
		var r Reader
		r.write(message)
		if cap(r.line) > 2*maxField || cap(r.field) > 2*maxField {
			t.Fatalf("keeps %d and %d octets", cap(r.line), cap(r.field))
		}
		if c := r.Report(); c != nil {
			for _, p := range c.Recipients {
				if _, err := mail.ParsePath(p.String(), true); err != nil {
					t.Fatal(fmt.Errorf("%s: %w", p, err))
				}
			}
		}
	})
}
