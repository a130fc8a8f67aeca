package egress

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// fixed is a delivery to the host at which s listens, by name.
func fixed(t testing.TB, s *smtptest.Server) mail.Delivery {
	t.Helper()
	d := to("one.test")
	d.NextHop = mail.NextHop{Transport: mail.SMTP, Host: "fixed.test", Port: uint16(port(t, s))}
	return d
}

// offering is a server that takes commands about clients.
func offering(lines ...string) smtptest.Behaviour {
	return smtptest.Behaviour{Extensions: append(smtptest.DefaultExtensions(), lines...)}
}

const (
	xforward = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
	xclient  = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
)

// TestRelay_Origin: a fixed next hop is told who the client is, by the command that the rule asks for, where it offers
// it, in front of each message.
func TestRelay_Origin(t *testing.T) {
	known := mail.Origin{
		Addr: netip.MustParseAddrPort("192.0.2.7:1234"), Helo: "c=+ü.example", ESMTP: true,
	}
	six := mail.Origin{Addr: netip.MustParseAddrPort("[2001:db8::7]:25"), Name: "n.example", Helo: "c.example"}
	by := func(o mail.Origin, by mail.Client) *mail.Origin { o.By = by; return &o }
	without := smtptest.Behaviour{Extensions: append(smtptest.Without("PIPELINING"), xforward)}
	refusing := offering(xforward, xclient)
	refusing.Answers = map[string]smtptest.Answer{
		"XFORWARD": {Reply: "550 5.7.0 Not from you"}, "XCLIENT": {Reply: "550 5.7.0 Not from you"},
	}
	for _, tt := range []struct {
		name   string
		server smtptest.Behaviour
		origin *mail.Origin
		want   string
		helo   string // "" for relay.test
	}{
		{"XFORWARD", offering(xforward, xclient), by(known, mail.ClientXforward),
			"XFORWARD NAME=[UNAVAILABLE] ADDR=192.0.2.7 PORT=1234 PROTO=ESMTP HELO=c+3D+2B+C3+BC.example " +
				"IDENT=00000000000000000000000000000000", ""},
		{"XFORWARD of IPv6, where a front end named it", offering("xforward addr name proto helo"),
			by(six, mail.ClientXforward), "XFORWARD NAME=n.example ADDR=IPV6:2001:db8::7 PROTO=SMTP HELO=c.example",
			""},
		{"XFORWARD without PIPELINING", without, by(six, mail.ClientXforward),
			"XFORWARD NAME=n.example ADDR=IPV6:2001:db8::7 PORT=25 PROTO=SMTP HELO=c.example " +
				"IDENT=00000000000000000000000000000000", ""},
		{"XCLIENT", offering(xforward, xclient), by(known, mail.ClientXclient),
			"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 PORT=1234 PROTO=ESMTP HELO=c+3D+2B+C3+BC.example",
			"[192.0.2.7]"},
		{"XCLIENT of IPv6", offering("XCLIENT ADDR"), by(mail.Origin{Addr: six.Addr}, mail.ClientXclient),
			"XCLIENT ADDR=IPV6:2001:db8::7", "[IPv6:2001:db8::7]"},
		{"XCLIENT of a client with a name", offering("XCLIENT ADDR"), by(six, mail.ClientXclient),
			"XCLIENT ADDR=IPV6:2001:db8::7", "c.example"},
		{"XCLIENT of a client of which nothing is known", offering("XCLIENT ADDR"),
			by(mail.Origin{}, mail.ClientXclient), "XCLIENT ADDR=[UNAVAILABLE]", ""},
		{"of a client without an address", offering(xclient), by(mail.Origin{Helo: "c.example"}, mail.ClientXclient),
			"XCLIENT NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] PROTO=SMTP HELO=c.example", "c.example"},
		{"where it is not offered", offering(), by(known, mail.ClientXclient), "", ""},
		{"where the other one is offered", offering(xclient), by(known, mail.ClientXforward), "", ""},
		{"where XFORWARD is refused", refusing, by(known, mail.ClientXforward), "", ""},
		{"where XCLIENT is refused", refusing, by(known, mail.ClientXclient), "", ""},
		{"where no rule asks", offering(xforward, xclient), nil, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, s := one(t, tt.server, nil)
			for range 2 { // the second one on the session of the first
				d := fixed(t, s)
				d.Origin = tt.origin
				deliver(t, w, d, "b@one.test")
			}
			for _, m := range s.Messages() {
				if m.Introduced != tt.want || m.Helo != cmp.Or(tt.helo, "relay.test") {
					t.Errorf("told %q by %s, want %q", m.Introduced, m.Helo, tt.want)
				}
			}
			if n := s.Counts().Connections; n != 1 {
				t.Errorf("%d connections", n)
			}
			if v := s.Violations(); len(v) != 0 {
				t.Errorf("%q", v)
			}
		})
	}
}

// TestRelay_OriginShared: one session tells of each client in turn, and a session that was a client's by XCLIENT serves
// no delivery of which the host is told nothing.
func TestRelay_OriginShared(t *testing.T) {
	w, s := one(t, offering(xclient), nil)
	send := func(addr string) {
		t.Helper()
		d := fixed(t, s)
		if addr != "" {
			d.Origin = &mail.Origin{By: mail.ClientXclient, Addr: netip.MustParseAddrPort(addr), Helo: "c.example"}
		}
		deliver(t, w, d, "b@one.test")
	}
	clients := []string{"192.0.2.1:1", "192.0.2.2:2", "192.0.2.2:2", "", "192.0.2.1:1"}
	for _, addr := range clients {
		send(addr)
	}
	for i, m := range s.Messages() {
		addr, _, _ := strings.Cut(clients[i], ":")
		if addr != "" && !strings.Contains(m.Introduced, "ADDR="+addr+" ") || addr == "" && m.Introduced != "" {
			t.Errorf("%d of %q: told %q in session %d", i, addr, m.Introduced, m.Session)
		}
	}
	if n := s.Counts().Connections; n != 2 {
		t.Errorf("%d connections, want one for those that are told of and one for the other", n)
	}
}

// TestRelay_OriginStuck: a session that is one client's and takes no other name is replaced.
func TestRelay_OriginStuck(t *testing.T) {
	b := offering(xclient)
	b.On = func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == "EHLO" && s.Message.Introduced != "" {
			return smtptest.Answer{Reply: "250-once.test\n250 PIPELINING"}, true
		}
		return smtptest.Answer{}, false
	}
	w, s := one(t, b, nil)
	for _, addr := range []string{"192.0.2.1:1", "192.0.2.2:2"} {
		d := fixed(t, s)
		d.Origin = &mail.Origin{By: mail.ClientXclient, Addr: netip.MustParseAddrPort(addr), Helo: "c.example"}
		deliver(t, w, d, "b@one.test")
	}
	m := s.Messages()
	if len(m) != 2 || !strings.Contains(m[1].Introduced, "ADDR=192.0.2.2 ") || m[0].Session == m[1].Session {
		t.Errorf("%+v", m)
	}
}

// TestRelay_OriginRefused: what a host says of the client that it was told of is said of the message: it is passed on,
// no other session is tried, and mail of other clients goes on.
func TestRelay_OriginRefused(t *testing.T) {
	bad := netip.MustParseAddrPort("192.0.2.66:1")
	for _, tt := range []struct {
		name, verb, reply, want string
	}{
		{"its greeting", "XCLIENT", "554 5.7.1 No SMTP service here", "554 5.7.1"},
		{"its greeting, for now", "XCLIENT", "450 4.7.1 Come again", "450 4.7.1"},
		{"its name in EHLO", "EHLO", "550 5.7.1 You are not who you say", "550 5.7.1"},
		{"its name, by the code of a command", "RCPT",
			"504 5.5.2 <c.example>: Helo command rejected: need fully-qualified hostname", "504 5.5.2"},
		{"its address, which has no name", "RCPT",
			"450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.66]", "450 4.7.25"},
		{"its address, which is on a list", "RCPT",
			"554 5.7.1 Service unavailable; Client host [192.0.2.66] blocked", "554 5.7.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := offering(xclient)
			told := func(s smtptest.Step) string { return s.Line + s.Message.Introduced }
			b.On = func(s smtptest.Step) (smtptest.Answer, bool) {
				if tt.verb == "EHLO" && s.Verb == "HELO" {
					s.Verb = "EHLO"
				}
				return smtptest.Answer{Reply: tt.reply}, s.Verb == tt.verb && strings.Contains(told(s), "192.0.2.66")
			}
			w, s := one(t, b, nil)
			d := fixed(t, s)
			d.Origin = &mail.Origin{By: mail.ClientXclient, Addr: bad, Helo: "c.example"}
			tx, err := w.relay.Begin(t.Context(), d)
			if err == nil {
				err = tx.Rcpt(t.Context(), path("b@one.test"))
				tx.Abort()
			}
			if r := want(t, err, tt.want); r.AboutUs {
				t.Error("it is taken for a word about us")
			}
			if n := s.Counts().Connections; n != 1 {
				t.Errorf("%d connections for the client that is refused", n)
			}
			good := netip.MustParseAddrPort("192.0.2.1:1")
			d.Origin = &mail.Origin{By: mail.ClientXclient, Addr: good, Helo: "d.example"}
			deliver(t, w, d, "b@one.test")
			if m := s.Messages(); len(m) != 1 || !strings.Contains(m[0].Introduced, "ADDR=192.0.2.1 ") {
				t.Errorf("%+v", m)
			}
		})
	}
}

// A socks is a proxy of SOCKS5 without users, which connects to what names says.
type socks struct {
	addr  string
	names map[string]string // by host:port as it is asked for
	mu    sync.Mutex
	asked []string
}

// startSocks runs a proxy until the test ends.
func startSocks(t *testing.T, names map[string]string) *socks {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &socks{addr: l.Addr().String(), names: names}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(ctx, c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		running.Wait()
	})
	return p
}

// serve answers one connection (RFC 1928 sections 3 to 6).
func (p *socks) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	read(int(read(2)[1]))
	_, _ = c.Write([]byte{5, 0})
	host := ""
	switch read(4)[3] {
	case 1:
		host = netip.AddrFrom4([4]byte(read(4))).String()
	case 3:
		host = string(read(int(read(1)[0])))
	case 4:
		host = netip.AddrFrom16([16]byte(read(16))).String()
	}
	asked := net.JoinHostPort(host, fmt.Sprint(binary.BigEndian.Uint16(read(2))))
	p.mu.Lock()
	p.asked = append(p.asked, asked)
	p.mu.Unlock()
	next, err := net.Dial("tcp", p.names[asked])
	if err != nil {
		_, _ = c.Write([]byte{5, 4, 0, 1, 0, 0, 0, 0, 0, 0}) // host unreachable
		return
	}
	defer next.Close()
	_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	done := make(chan struct{})
	go func() { // ends with next, which is closed below
		_, _ = io.Copy(c, next)
		c.Close()
		close(done)
	}()
	_, _ = io.Copy(next, c)
	next.Close()
	<-done
}

// TestRelay_Proxy: a next hop behind a proxy is connected to by it, by its name as the rule has it, on a session that
// deliveries without the proxy do not share. What the proxy does not reach is put off.
func TestRelay_Proxy(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	number := fmt.Sprint(port(t, s))
	p := startSocks(t, map[string]string{
		"home.tailnet:25": s.Addr(), "100.64.0.7:2525": s.Addr(), "[fd7a::7]:25": s.Addr(),
		"fixed.test:" + number: s.Addr(),
	})
	hop := func(host string, port uint16) mail.Delivery {
		d := to("one.test")
		d.NextHop = mail.NextHop{Transport: mail.SMTP, Host: host, Port: port, Proxy: p.addr}
		return d
	}
	shared := hop("fixed.test", uint16(port(t, s)))
	direct := shared
	direct.NextHop.Proxy = ""
	for _, d := range []mail.Delivery{
		hop("home.tailnet", 0), hop("100.64.0.7", 2525), hop("fd7a::7", 0), shared, shared, direct,
	} {
		deliver(t, w, d, "b@one.test")
	}
	away := hop("away.tailnet", 0)
	_, err := w.relay.Begin(t.Context(), away)
	want(t, err, "451 4.4.1")
	if got := w.relay.Cooling(); !slices.Equal(got, []mail.Site{FixedSite(away.NextHop)}) {
		t.Errorf("%q take no mail", got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.asked, " "); got != "home.tailnet:25 100.64.0.7:2525 [fd7a::7]:25 fixed.test:"+number+
		" away.tailnet:25" {
		t.Errorf("the proxy was asked for %s", got)
	}
	if n := s.Counts().Connections; n != 5 {
		t.Errorf("%d connections, want 5", n)
	}
}

// TestRelay_ProxyFaults: a proxy that refuses, stops, lies or is none puts the message off, each in the time that its
// sender has, and no octet of the envelope reaches it.
func TestRelay_ProxyFaults(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	const method, yes = "\x05\x00", "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	for i, tt := range []struct{ name, says string }{
		{"closes", ""},
		{"another protocol", "HTTP/1.1 400 Bad Request\r\n\r\n"},
		{"another version", "\x04\x00"},
		{"wants a password", "\x05\xff"},
		{"refuses", method + "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"half an answer", method + "\x05\x00\x00"},
		{"an address of no family", method + "\x05\x00\x00\x09\x00\x00"},
		{"connects and closes", method + yes},
		{"connects to what speaks no SMTP", method + yes + "SSH-2.0-x\r\n"},
		{"connects to what is busy", method + yes + "421 busy\r\n"},
	} {
		addr, heard := startFalseProxy(t, tt.says)
		d := to("one.test")
		d.NextHop = mail.NextHop{Transport: mail.SMTP, Host: fmt.Sprintf("h%d.tailnet", i), Proxy: addr}
		_, err := w.relay.Begin(t.Context(), d)
		if reply := mail.ReplyFor(err); err == nil || reply.Class() != 4 {
			t.Errorf("%s: %v, %v", tt.name, reply, err)
		}
		if text := <-heard; strings.Contains(text, "MAIL") || strings.Contains(text, "one.test") {
			t.Errorf("%s: it heard %q", tt.name, text)
		}
	}
	if n := s.Counts().Connections; n != 0 {
		t.Errorf("%d connections to a host that no rule names", n)
	}
}

// TestRelay_ProxySilent: a proxy that says nothing is left when the sender's time is over.
func TestRelay_ProxySilent(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() { // ends when the relay leaves
		defer close(left)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, 3)); err == nil {
			cancel()
		}
		_, _ = io.Copy(io.Discard, c)
	}()
	d := to("one.test")
	d.NextHop = mail.NextHop{Transport: mail.SMTP, Host: "silent.tailnet", Proxy: l.Addr().String()}
	_, err = w.relay.Begin(ctx, d)
	if reply := mail.ReplyFor(err); err == nil || reply.Class() != 4 {
		t.Errorf("%v, %v", reply, err)
	}
	<-left
}

// startFalseProxy listens for one connection, says something there and no more, and tells what it heard.
func startFalseProxy(t *testing.T, says string) (addr string, heard <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	text := make(chan string, 1)
	go func() { // ends when the relay leaves
		c, err := l.Accept()
		if err != nil {
			text <- err.Error()
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, says)
		_ = c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		text <- string(b)
	}()
	return l.Addr().String(), text
}
