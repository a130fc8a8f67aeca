package wire

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A script is a connection whose client has said everything in advance: Read returns it in cuts and then ends. Where
// waits is odd, the deadline passes once before that cut.
type script struct {
	octets []byte
	cuts   []byte
	waits  []byte
	waited bool
	reads  int
	out    bytes.Buffer
	addr   net.Addr
}

func (s *script) Read(p []byte) (int, error) {
	if n := len(s.waits); n > 0 && s.waits[s.reads%n]&1 == 1 && !s.waited {
		s.waited = true
		return 0, os.ErrDeadlineExceeded
	}
	s.waited = false
	if len(s.octets) == 0 {
		return 0, io.EOF
	}
	n := len(s.octets)
	if len(s.cuts) > 0 {
		n = min(n, int(s.cuts[s.reads%len(s.cuts)])+1)
	}
	n = copy(p, s.octets[:n])
	s.octets = s.octets[n:]
	s.reads++
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return s.addr }
func (s *script) RemoteAddr() net.Addr             { return s.addr }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// converseAlone runs a connection to its end on this goroutine.
func converseAlone(
	t testing.TB, octets, cuts, waits []byte, change func(*Config),
) (replies string, r *recorder, held int64) {
	t.Helper()
	r = &recorder{}
	cfg := Config{Hostname: "mx.example", NewSession: r.session, Memory: new(Memory), Lend: -1}
	cfg.tune.park = 1
	cfg.Panicked = func(v any, stack []byte) {
		if v != "told to" {
			t.Errorf("panic: %v\n%s", v, stack)
		}
	}
	if change != nil {
		change(&cfg)
	}
	srv, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	raw := &script{octets: octets, cuts: cuts, waits: waits, addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}
	srv.running.Add(1)
	newConn(srv, raw).serve(false)
	srv.running.Wait()
	return ids.ReplaceAllString(raw.out.String(), ""), r, cfg.Memory.InUse()
}

// ids are those at the ends of replies, which differ in each run.
var ids = regexp.MustCompile(` id=[0-9a-f]{32}`)

// FuzzConversation plays arbitrary octets to the engine: it ends, returns its slabs, says and accepts the same
// however the octets are cut and waited for, and never accepts more messages than there are ends of messages in them.
func FuzzConversation(f *testing.F) {
	const hello = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
	for _, s := range []string{
		hello + "DATA\r\nhi\r\n.\r\nQUIT\r\n",
		hello + "DATA\r\na\n.\r\nMAIL FROM:<a@x.example>\r\n\r\n.\r\n" + hello + "DATA\r\n.\r\n",
		hello + "BDAT 4\r\nhi\r\nBDAT 3 LAST\r\nabcRSET\r\n" + hello + "BDAT 0 LAST\r\n",
		hello + "BDAT 4\r\nhi\r\nMAIL FROM:<early@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 2\r\nabBDAT 1 LAST\r\nc",
		hello + "BDAT 3\r\nhi\rRSET\r\nDATA\r\nVRFY\r\n" + strings.Repeat("NOOP\r\n", 100),
		hello + "DATA\r\n" + strings.Repeat("..dot\r\n", 200) + ".\r\nSTARTTLS\r\nPROXY\r\n",
		"MAIL FROM:<panicbody@x.example>\r\n" + strings.Repeat("x", 3000) + "\r\nGET / HTTP/1.1\r\n",
	} {
		f.Add([]byte(s), []byte{0}, []byte{0})
		f.Add([]byte(s), []byte{13, 200}, []byte{1, 0, 0})
	}
	long := text(200_000)
	f.Add([]byte(hello+"DATA\r\n"+long+".\r\nNOOP\r\n"), []byte{255, 255, 7}, []byte{1, 0})
	f.Add(fmt.Appendf(nil, "%sBDAT %d\r\n%sBDAT %[2]d LAST\r\n%[3]sQUIT\r\n", hello, len(long), long), []byte{255},
		[]byte{0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, octets, cuts, waits []byte) {
		change := func(c *Config) { c.MessageSize = 1 << 20; c.tune.errorBudget = 30 }
		whole, a, _ := converseAlone(t, bytes.Clone(octets), nil, nil, change)
		cut, b, held := converseAlone(t, bytes.Clone(octets), cuts, waits, change)
		if whole != cut {
			t.Errorf("whole:\n%s\ncut:\n%s", whole, cut)
		}
		if !slices.EqualFunc(a.messages, b.messages, func(a, b message) bool {
			return a.octets == b.octets && a.plain == b.plain && a.reverse == b.reverse
		}) {
			t.Errorf("whole: %+v\ncut: %+v", a.messages, b.messages)
		}
		if n := ends(octets); len(a.messages) > n {
			t.Errorf("%d messages of %d ends", len(a.messages), n)
		}
		if held != 0 && !bytes.Contains(octets, []byte("panic")) {
			t.Errorf("%d octets were not given back", held)
		}
	})
}

// ends counts the places at which a message may end.
func ends(p []byte) int {
	n := 0
	for i := range p {
		if bytes.HasPrefix(p[i:], []byte("\n.\r\n")) && i > 0 && p[i-1] == '\r' {
			n++
		}
	}
	return n + bytes.Count(bytes.ToUpper(p), []byte("LAST"))
}

// FuzzCommandLine reads arbitrary arguments of MAIL and RCPT: what is accepted can be written down again and means the
// same.
func FuzzCommandLine(f *testing.F) {
	for _, s := range []string{
		"FROM:<a@x.example> SIZE=10 BODY=8BITMIME SMTPUTF8", "from: <>", `TO:<"a b\"c"@[IPv6:::1]>`, "TO:<Postmaster>",
		"TO:<@a,@b:c@d> X=Y",
		"FROM:<a..b@x.> SIZE=1", "FROM: < .a @ x >", "TO:a@x SIZE=1", "TO:\t<a.@x>",
		"FROM:<a@x> SIZE=99999999999999999999", "TO:<ピ@例.jp>", "10 LAST", "0", "TO:<", "FROM:<",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, arg []byte) {
		const limit = 1 << 40
		for _, loose := range []mail.Looseness{mail.Strict, mail.Dotted, mail.Bare} {
			p, params, fault := parseMail(arg, limit, loose, offers{trace: true, auth: true})
			if fault != nil {
				continue
			}
			if params.Size < 0 || params.Size > limit {
				t.Errorf("size %d", params.Size)
			}
			again := []byte("FROM:<" + p.String() + ">")
			if params.SMTPUTF8 {
				again = append(again, " SMTPUTF8"...)
			}
			if q, _, fault := parseMail(again, limit, mail.Strict, offers{}); fault != nil || q != p {
				t.Errorf("%q: %v, again %v", arg, p, q)
			}
			noInjection(t, p)
		}
		for _, utf8 := range []bool{false, true} {
			for _, loose := range []mail.Looseness{mail.Strict, mail.Dotted, mail.Bare} {
				p, fault := parseRcpt(arg, utf8, loose)
				if fault != nil {
					continue
				}
				if q, fault := parseRcpt([]byte("TO:<"+p.String()+">"), utf8, mail.Strict); fault != nil || q != p {
					t.Errorf("%q: %v, again %v", arg, p, q)
				}
				noInjection(t, p)
			}
		}
		if k, ok := parseChunk(arg); ok && k.size < 0 {
			t.Errorf("chunk of %d", k.size)
		}
	})
}

func noInjection(t *testing.T, p mail.Path) {
	t.Helper()
	if strings.ContainsAny(p.String(), "\r\n\x00") {
		t.Errorf("%q", p)
	}
}

// FuzzProxyHeader sends arbitrary octets as a PROXY header: what is accepted is an address, and what stands behind the
// header is what the engine reads next.
func FuzzProxyHeader(f *testing.F) {
	v2 := "\r\n\r\n\x00\r\nQUIT\n"
	for _, s := range []string{
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", "PROXY UNKNOWN\r\n", "PROXY TCP6 ::1 ::2 1 2\r\n",
		v2 + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19", v2 + "\x20\x00\x00\x00",
		v2 + "\x21\x21\x00\x24" + strings.Repeat("\x01", 36),
		v2 + "\x21\x31\x00\xd8" + strings.Repeat("\x01", 216),
		v2 + "\x21\x11\x00\x10\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x19\x04\x00\x01x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, header []byte) {
		const behind = "EHLO behind.example\r\n"
		proxied := func(c *Config) { c.Proxy = loopback }
		replies, r, _ := converseAlone(t, append(bytes.Clone(header), behind...), nil, nil, proxied)
		switch {
		case replies == "", strings.HasPrefix(replies, "421 "):
			if len(r.calls) != 0 {
				t.Errorf("refused, yet %v", r.calls)
			}
		// the fakeSession's, for some addresses
		case strings.HasPrefix(replies, "554 "), strings.HasPrefix(replies, "521 "):
		case strings.HasPrefix(replies, "220 "):
			if bytes.HasSuffix(header, []byte("\r\n")) && len(header) < 200 && bytes.Count(header, []byte("\n")) == 1 &&
				!strings.Contains(r.got(), "helo behind.example") {
				t.Errorf("%q: what is behind the header was lost:\n%s\n%s", header, replies, r.got())
			}
		default:
			t.Errorf("%q: %s", header, replies)
		}
	})
}

// FuzzXclient reads arbitrary attributes: what is accepted holds no control characters, and what is written in xtext
// is read back.
func FuzzXclient(f *testing.F) {
	for _, s := range []string{
		"NAME=spike.example ADDR=192.0.2.9", "ADDR=IPV6:2001:db8::1 PORT=25", "HELO=a+2Bb PROTO=SMTP",
		"ADDR=[UNAVAILABLE] LOGIN=[TEMPUNAVAIL]", "NAME=a+0Ab",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		o, ok := parseXclient(arg)
		if ok && strings.ContainsFunc(o.name+o.helo, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q: %+v", arg, o)
		}
		if ok && o.addr.IsValid() && (o.addr.Is4In6() || o.addr.Zone() != "") {
			t.Errorf("%q: %v", arg, o.addr)
		}
		text := netip.AddrPortFrom(o.addr, o.port).String() + o.name + o.helo
		if got, ok := decodeXtext(encodeXtext(text)); !ok || got != text {
			t.Errorf("%q became %q", text, got)
		}
	})
}

func encodeXtext(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			b.Write([]byte{'+', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
