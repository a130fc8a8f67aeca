package wire

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// inPieces says each piece in a write of its own, so that the engine reads no two of them at once, and returns the last
// line of the reply that the message got.
func (r *rig) inPieces(t *testing.T, pieces ...string) string {
	t.Helper()
	client, server := net.Pipe()
	r.srv.startConn(server)
	heard := make(chan string)
	go func() { // ends when the engine closes
		all, _ := io.ReadAll(client)
		heard <- string(all)
	}()
	for _, p := range append(pieces, "QUIT\r\n") {
		if p == "" {
			continue
		}
		if _, err := io.WriteString(client, p); err != nil {
			t.Fatalf("saying %.60q: %v", p, err)
		}
	}
	lines := strings.Split(strings.TrimSuffix(<-heard, "\r\n"), "\r\n")
	return lines[len(lines)-2] // the last is the 221
}

// TestBody_SizeLimit shows that a message of exactly the size limit is accepted, and no larger one, in whatever reads
// it arrives.
func TestBody_SizeLimit(t *testing.T) {
	const limit = 12
	r := start(t, func(c *Config) { c.MessageSize = limit })
	const envelope = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
	for _, tc := range []struct {
		name, command, octets, want string
	}{
		{"DATA at the limit", "DATA\r\n", "abcd\r\nefgh\r\n.\r\n", "250"},
		{"DATA one over", "DATA\r\n", "abcd\r\nefghi\r\n.\r\n", "552 5.3.4"},
		{"DATA at the limit with dots of transparency", "DATA\r\n", "..bcd\r\n..fgh\r\n.\r\n", "250"},
		{"DATA one over with dots of transparency", "DATA\r\n", "..bcd\r\n..fghi\r\n.\r\n", "552 5.3.4"},
		{
			"DATA at the limit and a CR behind its last dot that ends nothing", "DATA\r\n",
			"abcd\r\nefgh\r\n.\rx\r\n.\r\n", "550 5.6.11",
		},
		{"DATA whose last line is one dot too many", "DATA\r\n", "abcd\r\nefgh\r\n..\r\n.\r\n", "552 5.3.4"},
		{"BDAT at the limit", "", "BDAT 12 LAST\r\nabcd\r\nefgh\r\n", "250"},
		{"BDAT at the limit in two chunks", "", "BDAT 7\r\nabcd\r\neBDAT 5 LAST\r\nfgh\r\n", "250"},
		{"BDAT at the limit that ends like DATA", "", "BDAT 12 LAST\r\nabcde\r\n\r\n.\r\n", "250"},
		{"BDAT one over", "", "BDAT 13 LAST\r\nabcd\r\nefghi\r\n", "552 5.3.4"},
		{"BDAT one over in two chunks", "", "BDAT 7\r\nabcd\r\neBDAT 6 LAST\r\nfghi\r\n", "552 5.3.4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i := range len(tc.octets) + 1 {
				for j := i; j <= len(tc.octets); j++ {
					got := r.inPieces(t, envelope, tc.command, tc.octets[:i], tc.octets[i:j], tc.octets[j:])
					if !strings.HasPrefix(got, tc.want) {
						t.Errorf("%q: got %q, want %q",
							fmt.Sprint(tc.octets[:i], "|", tc.octets[i:j], "|", tc.octets[j:]), got, tc.want)
					}
				}
			}
		})
	}
}
