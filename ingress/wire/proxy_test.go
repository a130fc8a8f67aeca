package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
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
		inPieces(t, header, want)
	}
	if got := headerIn("PROXY TCP4 ", strings.Repeat("1", 200)); got != "!" {
		t.Errorf("a header without an end: %s", got)
	}
}

// inPieces reads a header in one piece and in all cuts, with a command behind it.
func inPieces(t *testing.T, header, want string) {
	t.Helper()
	const behind = "EHLO c.example\r\n"
	if want != "!" {
		want += ` "EHLO c.example\r\n"`
	}
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

// TestCases_ProxyHeaders: headers as load balancers write them.
func TestCases_ProxyHeaders(t *testing.T) {
	const (
		client  = "192.0.2.7:4711 198.51.100.1:25 unknown=false"
		unknown = "invalid AddrPort invalid AddrPort unknown=true"
		ports   = "\x12\x67\x00\x19"
		four    = "\xc0\x00\x02\x07\xc6\x33\x64\x01" + ports
		mapped  = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"
		six     = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		noop    = "\x04\x00\x04\x00\x00\x00\x00"
		vpc     = "\xea\x00\x0d\x01vpce-0123456"
		ssl     = "\x20\x00\x05\x01\x00\x00\x00\x00"
	)
	zeros := strings.Repeat("\x00", 36)
	for _, tt := range []struct{ name, header, want string }{
		{"version 1, IPv4", "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", client},
		{
			"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n",
			"[2001:db8::7]:4711 [2001:db8::1]:25 unknown=false",
		},
		{"version 1, IPv4 in IPv6", "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4711 25\r\n", client},
		{"version 1, UNKNOWN", "PROXY UNKNOWN\r\n", unknown},
		{"version 1, UNKNOWN with rubbish", "PROXY UNKNOWN ff ff 0 0\r\n", unknown},
		{"version 1, in small letters", "proxy TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", "!"},
		{"version 2, IPv4", proxyV2Signature + "\x21\x11\x00\x0c" + four, client},
		{
			"version 2, IPv6", proxyV2Signature + "\x21\x21\x00\x24" + six + "\x07" + six + "\x01" + ports,
			"[2001:db8::7]:4711 [2001:db8::1]:25 unknown=false",
		},
		{
			"version 2, IPv4 in IPv6", proxyV2Signature + "\x21\x21\x00\x24" + mapped + "\xc0\x00\x02\x07" + mapped +
				"\xc6\x33\x64\x01" + ports, client,
		},
		{"version 2, fields behind it", proxyV2Signature + "\x21\x11\x00\x2b" + four + noop + vpc + ssl, client},
		{
			"version 2, fields behind IPv6",
			proxyV2Signature + "\x21\x21\x00\x3b" + six + "\x07" + six + "\x01" + ports + noop + vpc,
			"[2001:db8::7]:4711 [2001:db8::1]:25 unknown=false",
		},
		{
			"version 2, a checksum",
			proxyV2Signature + "\x21\x11\x00\x13" + four + "\x03\x00\x04\x35\x8a\x29\xe7", client,
		},
		{ // The library reads none. TCP has one of its own.
			"version 2, a wrong checksum",
			proxyV2Signature + "\x21\x11\x00\x13" + four + "\x03\x00\x04\x35\x8a\x29\xe6", client,
		},
		{
			"version 2, 3000 octets of fields",
			proxyV2Signature + "\x21\x11\x0b\xc4" + four + "\xe0\x0b\xb5" + strings.Repeat("x", 2997), client,
		},
		{"version 2, LOCAL", proxyV2Signature + "\x20\x00\x00\x00", unknown},
		{"version 2, LOCAL with addresses", proxyV2Signature + "\x20\x11\x00\x0c" + four, unknown},
		{"version 2, LOCAL with addresses of IPv6", proxyV2Signature + "\x20\x21\x00\x24" + zeros, unknown},
		{"version 2, no address", proxyV2Signature + "\x21\x00\x00\x00", unknown},
		{"version 2, UDP", proxyV2Signature + "\x21\x12\x00\x0c" + four, "!"},
		{"version 2, UDP over IPv6", proxyV2Signature + "\x21\x22\x00\x24" + zeros, "!"},
		{"none", "EHLO x.example\r\n", "!"},
	} {
		t.Run(tt.name, func(t *testing.T) { inPieces(t, tt.header, tt.want) })
	}
}

// TestCases_ProxyChecks: a balancer that looks whether we are there is no client that is refused.
func TestCases_ProxyChecks(t *testing.T) {
	for _, tt := range []struct {
		name, says, want string
		refused          bool
	}{
		{"it says nothing", "", "", false},
		{"a header and nothing behind it", proxyV2Client, "220 ", false},
		{"a header of version 1 and nothing behind it", "PROXY UNKNOWN\r\n", "220 ", false},
		{"LOCAL and nothing behind it", proxyV2Signature + "\x20\x00\x00\x00", "220 ", false},
		{"half a header", proxyV2Client[:14], "421 4.7.0 ", true},
		{"half a header of version 1", "PROXY TCP4 192.", "421 4.7.0 ", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, func(c *Config) { c.Proxy = loopback })
			p := r.dial()
			p.say(tt.says)
			if err := p.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := p.all(); !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			refused := slices.ContainsFunc(r.events, func(e mail.Event) bool { return e.Kind == mail.Deferred })
			if refused != tt.refused {
				t.Errorf("events %v", r.events)
			}
		})
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
