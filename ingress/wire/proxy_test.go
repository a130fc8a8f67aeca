package wire

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
)

// pieces is a reader that returns one of them at each call.
type pieces []string

func (p *pieces) Read(b []byte) (int, error) {
	for len(*p) > 0 && (*p)[0] == "" {
		*p = (*p)[1:]
	}
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	(*p)[0] = (*p)[0][n:]
	return n, nil
}

// headerIn returns what a PROXY header in pieces says, and what is left behind it.
func headerIn(parts ...string) string {
	p := pieces(parts)
	in := bufio.NewReaderSize(&p, smallBuffer)
	h, err := readProxy(in)
	if err != nil {
		return "!"
	}
	var c Client
	if err := c.takeProxied(h); err != nil {
		return "!"
	}
	rest, _ := io.ReadAll(in)
	return fmt.Sprintf("%v %v unknown=%t %q", c.Addr, c.Local, c.Unknown, rest)
}

const (
	proxyV2Signature = "\r\n" + proxyV2Rest
	proxyV2Client    = proxyV2Signature + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19"
)

// A header is the same in whatever pieces it comes.
func TestReadProxy_Pieces(t *testing.T) {
	for header, want := range map[string]string{
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n":    "192.0.2.7:4711 198.51.100.1:25 unknown=false",
		"PROXY TCP6 2001:db8::7 2001:db8::1 1 25\r\n":      "[2001:db8::7]:1 [2001:db8::1]:25 unknown=false",
		"PROXY UNKNOWN\r\n":                                "invalid AddrPort invalid AddrPort unknown=true",
		"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n":            "invalid AddrPort invalid AddrPort unknown=true",
		proxyV2Signature + "\x20\x00\x00\x00":              "invalid AddrPort invalid AddrPort unknown=true",
		proxyV2Signature + "\x21\x00\x00\x00":              "invalid AddrPort invalid AddrPort unknown=true",
		proxyV2Signature + "\x21\x00\x00\x04\x04\x00\x01x": "invalid AddrPort invalid AddrPort unknown=true",
		proxyV2Client: "192.0.2.7:4711 198.51.100.1:25 unknown=false",
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n":                                          "!",
		"PROXYTCP4 192.0.2.7 198.51.100.1 4711 25\r\n":                                        "!",
		"PROXX TCP4 192.0.2.7 198.51.100.1 4711 25\r\n":                                       "!",
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\n":                                         "!",
		"EHLO c.example\r\n":                                                                  "!",
		proxyV2Signature + "\x21\x00\xff\xff":                                                 "!",
		proxyV2Signature + "\x21\x03\x00\x00":                                                 "!",
		proxyV2Signature + "\x21\x12\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19": "!", // UDP
	} {
		if want != "!" {
			want += ` "EHLO c.example\r\n"`
		}
		const behind = "EHLO c.example\r\n"
		for i := range len(header) + 1 {
			if got := headerIn(header[:i], header[i:]+behind); got != want {
				t.Errorf("%q cut at %d: got %s, want %s", header, i, got, want)
			}
			if got := headerIn(header[:i], header[i:], behind); got != want {
				t.Errorf("%q cut at %d and behind it: got %s, want %s", header, i, got, want)
			}
		}
		if got := headerIn(strings.Split(header+behind, "")...); got != want {
			t.Errorf("%q in single octets: got %s, want %s", header, got, want)
		}
	}
	if got := headerIn("PROXY TCP4 ", strings.Repeat("1", 200)); got != "!" {
		t.Errorf("a header without an end: %s", got)
	}
}

// TestCases_ProxyPieces has the headers from the field.
func TestCases_ProxyPieces(t *testing.T) {
	text := ingresstest.Read(t, ingresstest.Shared(t, "cases", "messages", "a09-proxy-v1-split.txt"))
	n := 0
	for line := range strings.Lines(string(text)) {
		if header, ok := strings.CutSuffix(strings.TrimSpace(line), `\r\n`); ok && strings.HasPrefix(line, "PROXY") {
			n++
			if got := headerIn(strings.Split(header+"\r\n", "|")...); !strings.HasPrefix(got, "192.0.2.7:40000 ") {
				t.Errorf("%s: %s", header, got)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d headers", n)
	}
}

// FuzzProxyPieces reads any octets in two pieces: they mean what they mean in one.
func FuzzProxyPieces(f *testing.F) {
	for _, s := range []string{
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\nEHLO", "PROXY UNKNOWN\r\n",
		proxyV2Signature + "\x21\x00\x00\x01x", proxyV2Client, "PROXY " + strings.Repeat("x", 120),
	} {
		f.Add(s, 7)
	}
	f.Fuzz(func(t *testing.T, s string, at int) {
		if len(s) > smallBuffer {
			return
		}
		at = min(max(at, 0), len(s))
		if whole, cut := headerIn(s), headerIn(s[:at], s[at:]); whole != cut {
			t.Fatalf("%q is %s, and cut at %d %s", s, whole, at, cut)
		}
	})
}
