package message

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

// The scan is the same however the section is split.
func TestHeaderScan_Split(t *testing.T) {
	msg := "Received: from a by b (hop=0011223344556677)\r\n\t(hop=8899aabbccddeeff)\r\nSubject: x\r\n Received: " +
		"folded\r\n" +
		"RECEIVED: y\r\nX-Received: z\r\nReceived-SPF: no\r\n\r\nReceived: body\r\n(hop=0000000000000000)\r\n"
	for i := range len(msg) {
		for j := i; j < len(msg); j += 7 {
			var h headerScan
			h.feed(octets(msg[:i]))
			h.feed(octets(msg[i:j], msg[j:]))
			if !h.done || h.received != 2 || h.tagged != 1 || len(h.tags) != 2 || h.eightBit {
				t.Fatalf("split %d,%d: done %v received %d tagged %d tags %d eightBit %v", i, j, h.done, h.received,
					h.tagged, len(h.tags), h.eightBit)
			}
			if got := hex.EncodeToString(h.tags[1][:]); got != "8899aabbccddeeff" {
				t.Fatalf("split %d,%d: second tag %s", i, j, got)
			}
		}
	}
}

func TestHeaderScan(t *testing.T) {
	tests := []struct {
		name, msg         string
		done, eightBit    bool
		received, withTag int
	}{
		{"an octet above 127 in the body does not count", "Subject: a\r\n\r\n\xc3\xa9\r\n", true, false, 0, 0},
		{"an octet above 127 in the header section counts", "Subject: \xc3\xa9\r\n\r\n", true, true, 0, 0},
		{"a message that is a header section only has no end", "Subject: a\r\n", false, false, 0, 0},
		{"an empty first line ends it", "\r\nReceived: x\r\n", true, false, 0, 0},
		{"a tag outside of Received does not count", "Subject: (hop=0011223344556677)\r\n\r\n", true, false, 0, 0},
		{
			"a tag of another shape does not count",
			"Received: (hop=001122334455667)\r\n (hop=00112233445566zz)\r\n\r\n",
			true, false, 1, 0,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h headerScan
			h.feed(octets(tt.msg))
			if h.done != tt.done || h.eightBit != tt.eightBit || h.received != tt.received || h.tagged != tt.withTag {
				t.Errorf("got done %v eightBit %v received %d tagged %d", h.done, h.eightBit, h.received, h.tagged)
			}
		})
	}
}

// A line without end takes no more memory.
func TestHeaderScan_Memory(t *testing.T) {
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

func TestLoopTags(t *testing.T) {
	old, key := []byte("an old key of 16 octets"), []byte("a new key of 16 octets.")
	rcpt := mail.Path{Local: "Info", Domain: "Example.COM"}
	before := newLoopTags([][]byte{old})
	now := newLoopTags([][]byte{key, old})
	tests := []struct {
		name string
		tag  loopTag
		rcpt mail.Path
		want bool
	}{
		{"the same recipient", now.tag(0, rcpt), rcpt, true},
		{
			"the same recipient in another case", now.tag(0, rcpt), mail.Path{Local: "iNFO", Domain: "example.com"},
			true,
		},
		{"the same recipient, quoted", now.tag(0, rcpt), mail.Path{Local: `"info"`, Domain: "example.com"}, true},
		{"a tag made with the previous key", before.tag(0, rcpt), rcpt, true},
		{"another recipient", now.tag(0, rcpt), mail.Path{Local: "sales", Domain: "example.com"}, false},
		{"the same local part elsewhere", now.tag(0, rcpt), mail.Path{Local: "info", Domain: "example.org"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := now.looped([]loopTag{{}, tt.tag}, tt.rcpt); got != tt.want {
				t.Errorf("looped = %v", got)
			}
		})
	}
}

func FuzzHeaderScan(f *testing.F) {
	f.Add([]byte("Received: a (hop=0011223344556677)\r\nSubject: x\r\n\r\nbody"), 5, 20)
	f.Add([]byte("a\r\n\tb\r\n"), 1, 2)
	f.Add([]byte("\n"), 0, 0)
	f.Add([]byte("Content-Type:\r\n multipart/report; x\r\nContent-Type : text/plain\r\n\r\n"), 9, 20)
	f.Fuzz(func(t *testing.T, msg []byte, i, j int) {
		i, j = min(max(i, 0), len(msg)), min(max(j, 0), len(msg))
		if i > j {
			i, j = j, i
		}
		var whole, parts headerScan
		whole.media.wanted, parts.media.wanted = true, true
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
	return fmt.Sprint(h.done, h.eightBit, h.received, h.tagged, h.tags, h.media)
}
