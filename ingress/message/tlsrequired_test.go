package message

import (
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// scanWaiver returns what a header section says, read in pieces of so many octets.
func scanWaiver(text string, size int) bool {
	h := headerScan{form: mail.Plain}
	for len(text) > 0 && !h.done {
		n := min(size, len(text))
		h.feed(mail.Octets{Segments: net.Buffers{[]byte(text[:n])}})
		text = text[n:]
	}
	return h.waiver.waives()
}

// TestWaiverScan: TLS-Required: No waives, once, whatever stands around it; any other value does not.
func TestWaiverScan(t *testing.T) {
	for field, want := range map[string]bool{
		"TLS-Required: No": true, "tls-required:no": true, "TLS-Required: NO ": true, "TLS-Required:\r\n No": true,
		"TLS-Required: (why \\) (not)) No (x)": true, "TLS-Required: No\r\n\t(folded)": true,
		"TLS-Required: Yes": false, "TLS-Required: No, Yes": false, "TLS-Required: None": false, "TLS-Required:": false,
		"TLS-Required: (No)": false, "TLS-Required: No (": false, "TLS-Required: N o": false,
		"X-TLS-Required: No":                   false,
		"TLS-Required: No\r\nTLS-Required: No": false, "TLS-Required : No": false,
		"TLS-Required: No" + strings.Repeat(" ", maxWaiver): false, "Subject: x\r\n TLS-Required: No": false,
	} {
		text := "Subject: a\r\n" + field + "\r\nFrom: b\r\n\r\nTLS-Required: No\r\n"
		for _, size := range []int{1, 7, len(text)} {
			if got := scanWaiver(text, size); got != want {
				t.Errorf("%q in pieces of %d: got %t", field, size, got)
			}
		}
	}
}

// FuzzWaiverScan: no header section breaks the reader, and the size of its pieces changes nothing.
func FuzzWaiverScan(f *testing.F) {
	f.Add("TLS-Required: (a) No\r\n\r\n", 3)
	f.Add("TLS-Required: No\r\n (b\r\nx: y\r\n\r\n", 1)
	f.Fuzz(func(t *testing.T, text string, size int) {
		size = 1 + min(max(size, 0), 99)
		if a, b := scanWaiver(text, size), scanWaiver(text, len(text)+1); a != b {
			t.Errorf("%t in pieces of %d, and %t whole", a, size, b)
		}
	})
}
