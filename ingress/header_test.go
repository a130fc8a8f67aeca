package ingress

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

func octets(parts ...string) mail.Octets {
	var o mail.Octets
	for _, p := range parts {
		o.Segments = append(o.Segments, []byte(p))
	}
	return o
}

func TestHeaderScanIsTheSameInAnySplit(t *testing.T) {
	msg := "Received: from a by b (hop=0011223344556677)\r\n\t(hop=8899aabbccddeeff)\r\nSubject: x\r\n Received: " +
		"folded\r\n" +
		"RECEIVED: y\r\nX-Received: z\r\nReceived-SPF: no\r\n\r\nReceived: body\r\n(hop=0000000000000000)\r\n"
	for i := range len(msg) {
		for j := i; j < len(msg); j += 7 {
			var h headerScan
			h.feed(octets(msg[:i]))
			h.feed(octets(msg[i:j], msg[j:]))
			if !h.done || h.received != 2 || h.marked != 1 || len(h.marks) != 2 || h.eightBit {
				t.Fatalf("split %d,%d: done %v received %d marked %d marks %d eightBit %v", i, j, h.done, h.received,
					h.marked, len(h.marks), h.eightBit)
			}
			if got := hex.EncodeToString(h.marks[1][:]); got != "8899aabbccddeeff" {
				t.Fatalf("split %d,%d: second mark %s", i, j, got)
			}
		}
	}
}

func TestHeaderScanLooksAtTheHeaderSectionOnly(t *testing.T) {
	tests := []struct {
		name, msg          string
		done, eightBit     bool
		received, withMark int
	}{
		{"an octet above 127 in the body does not count", "Subject: a\r\n\r\n\xc3\xa9\r\n", true, false, 0, 0},
		{"an octet above 127 in the header section counts", "Subject: \xc3\xa9\r\n\r\n", true, true, 0, 0},
		{"a message that is a header section only has no end", "Subject: a\r\n", false, false, 0, 0},
		{"an empty first line ends it", "\r\nReceived: x\r\n", true, false, 0, 0},
		{"a mark outside of Received is nobody's", "Subject: (hop=0011223344556677)\r\n\r\n", true, false, 0, 0},
		{
			"a mark of another shape is none", "Received: (hop=001122334455667)\r\n (hop=00112233445566zz)\r\n\r\n",
			true, false, 1, 0,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h headerScan
			h.feed(octets(tt.msg))
			if h.done != tt.done || h.eightBit != tt.eightBit || h.received != tt.received || h.marked != tt.withMark {
				t.Errorf("got done %v eightBit %v received %d marked %d", h.done, h.eightBit, h.received, h.marked)
			}
		})
	}
}

func TestHeaderScanKeepsItsMemory(t *testing.T) {
	var h headerScan
	line := strings.Repeat("x", 64<<10)
	for range 16 {
		h.feed(octets(line))
	}
	if cap(h.carry) > 2*maxCarry {
		t.Errorf("a line without end grew the carry to %d octets", cap(h.carry))
	}
	if h.feed(octets("\r\n\r\n")); !h.done {
		t.Error("the end behind a long line was not seen")
	}
}

func TestHopMarks(t *testing.T) {
	old, key := []byte("an old key of 16 octets"), []byte("a new key of 16 octets.")
	rcpt := mail.Path{Local: "Info", Domain: "Example.COM"}
	before := newHopMarks([][]byte{old})
	now := newHopMarks([][]byte{key, old})
	tests := []struct {
		name string
		mark hopMark
		rcpt mail.Path
		want bool
	}{
		{"the same recipient", now.mark(0, rcpt), rcpt, true},
		{
			"the same recipient in another case", now.mark(0, rcpt), mail.Path{Local: "iNFO", Domain: "example.com"},
			true,
		},
		{"the same recipient, quoted", now.mark(0, rcpt), mail.Path{Local: `"info"`, Domain: "example.com"}, true},
		{"a mark made with the previous key", before.mark(0, rcpt), rcpt, true},
		{"another recipient", now.mark(0, rcpt), mail.Path{Local: "sales", Domain: "example.com"}, false},
		{"the same local part elsewhere", now.mark(0, rcpt), mail.Path{Local: "info", Domain: "example.org"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := now.looped([]hopMark{{}, tt.mark}, tt.rcpt); got != tt.want {
				t.Errorf("looped = %v", got)
			}
		})
	}
}

func TestARewrittenRecipientsDestinationIsNotTold(t *testing.T) {
	path := func(s string) mail.Path {
		local, domain, _ := strings.Cut(s, "@")
		return mail.Path{Local: local, Domain: domain}
	}
	rcpt := func(forward, target string, how mail.UpstreamText) recipient {
		return recipient{path(forward), mail.Route{
			NextHop: mail.NextHop{Host: "mailbox.example"}, Forwards: []mail.Path{path(target)},
			Rewrote: forward != target,
			Policy:  mail.DomainPolicy{UpstreamText: how},
		}}
	}
	const byDefault = mail.UpstreamTextDefault
	said := "<alice@MAILBOX.example> unknown at mx1.mailbox.example\nask mailbox.example"
	tests := []struct {
		name  string
		said  string
		rcpts []recipient
		want  string
	}{
		{
			"redacted by default", said, []recipient{rcpt("info@example.com", "Alice@mailbox.example", byDefault)},
			"<info@example.com> unknown at \nask example.com",
		},
		{
			"full where the rule says so", said,
			[]recipient{rcpt("info@example.com", "Alice@mailbox.example", mail.UpstreamTextFull)}, said,
		},
		{
			"full by default for the same recipient", said,
			[]recipient{rcpt("alice@mailbox.example", "alice@mailbox.example", byDefault)}, said,
		},
		{
			"code alone", said,
			[]recipient{rcpt("alice@mailbox.example", "alice@mailbox.example", mail.UpstreamTextCode)},
			"The destination said so",
		},
		{
			"a local part that stands alone", "User alice (Alice) of malice unknown",
			[]recipient{rcpt("info@example.com", "alice@mailbox.example", byDefault)},
			"User info (info) of malice unknown",
		},
		{
			"what is put in is left alone", "<alice@t.example> is no alice",
			[]recipient{rcpt("alice-x@mail.t.example", "alice@t.example", byDefault)},
			"<alice-x@mail.t.example> is no alice-x",
		},
		{
			"an address in a URL", "see https://x.example/?rcpt=secret.alice%40mailbox.example",
			[]recipient{rcpt("info@example.com", "secret.alice@mailbox.example", byDefault)},
			"see https://x.example/?rcpt=info%40example.com",
		},
		{
			"an address before an octet above 127", "<alice@mailbox.example\xc2\xa0>",
			[]recipient{rcpt("info@example.com", "alice@mailbox.example", byDefault)}, "<info@example.com\xc2\xa0>",
		},
		{
			"an address in another quoting", `"Alice"@mailbox.example`,
			[]recipient{rcpt("info@example.com", "alice@mailbox.example", byDefault)}, `"info"@example.com`,
		},
		{"the address of another recipient", "<bob@mailbox.example> is full", []recipient{
			rcpt("info@example.com", "alice@mailbox.example", byDefault),
			rcpt("sales@example.com", "bob@mailbox.example", byDefault),
		}, "<sales@example.com> is full"},
		{"what tells least counts for all", said, []recipient{
			rcpt("info@example.com", "alice@mailbox.example", mail.UpstreamTextFull),
			rcpt("sales@example.com", "bob@mailbox.example", byDefault),
		}, "<info@example.com> unknown at \nask example.com"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for n := range tt.rcpts {
				tx := transaction{rcpts: append(tt.rcpts[:n:n], tt.rcpts[n+1:]...)}
				got := tx.publicReply(mail.NewReply(550, 1, 1, tt.said), "mx1.mailbox.example", &tt.rcpts[n])
				if got.Text != tt.want || got.Code != 550 {
					t.Errorf("about recipient %d: got %d %q, want %q", n, got.Code, got.Text, tt.want)
				}
			}
		})
	}
}

func FuzzHeaderScan(f *testing.F) {
	f.Add([]byte("Received: a (hop=0011223344556677)\r\nSubject: x\r\n\r\nbody"), 5, 20)
	f.Add([]byte("a\r\n\tb\r\n"), 1, 2)
	f.Add([]byte("\n"), 0, 0)
	f.Fuzz(func(t *testing.T, msg []byte, i, j int) {
		i, j = min(max(i, 0), len(msg)), min(max(j, 0), len(msg))
		if i > j {
			i, j = j, i
		}
		var whole, parts headerScan
		whole.feed(mail.Octets{Segments: [][]byte{msg}})
		parts.feed(mail.Octets{Segments: [][]byte{msg[:i], msg[i:j]}})
		parts.feed(mail.Octets{Segments: [][]byte{msg[j:]}})
		got, want := summary(&parts), summary(&whole)
		if got != want && len(msg) < maxCarry {
			t.Errorf("split at %d and %d: %s, whole: %s", i, j, got, want)
		}
	})
}

func summary(h *headerScan) string {
	return fmt.Sprint(h.done, h.eightBit, h.received, h.marked, h.marks)
}
