package egress

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// The ways in which a destination fails, and the phases at which it does.
const (
	silent  = "silent"
	closed  = "closed"
	reset   = "reset"
	says421 = "421"
	garbage = "garbage"

	atConnect    = "connect"
	atGreeting   = "greeting"
	atEHLO       = "EHLO"
	atSTARTTLS   = "STARTTLS"
	atHandshake  = "TLS handshake"
	atSecureEHLO = "EHLO in TLS"
	atMAIL       = "MAIL"
	atRCPT       = "RCPT"
)

// sick returns the script of a destination that always fails at one phase in one way.
func sick(phase, way string) smtptest.Behaviour {
	ca := smtptest.NewCA()
	b := smtptest.Behaviour{TLS: ca.Server("mx.test")}
	if phase == atHandshake {
		b.TLS = b.TLS.Clone()
		b.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			breakOff(hello.Conn, way)
			return nil, io.ErrUnexpectedEOF
		}
		return b
	}
	answer := map[string]smtptest.Answer{
		silent: {After: time.Hour}, closed: {Close: true}, reset: {Reset: true},
		says421: {Reply: "421 4.3.2 Not now", Close: true}, garbage: {Reply: "what? I am a teapot"},
	}[way]
	b.On = func(s smtptest.Step) (smtptest.Answer, bool) {
		at := s.Verb
		switch {
		case s.Verb == smtptest.Greeting:
			at = atGreeting
		case s.Verb == "EHLO" && s.Message.TLS != 0:
			at = atSecureEHLO
		}
		return answer, at == phase
	}
	return b
}

// breakOff ends a handshake of which the ClientHello has come.
func breakOff(conn net.Conn, way string) {
	switch way {
	case silent:
		io.Copy(io.Discard, conn) // until either side closes
	case closed:
		conn.Close()
	case reset:
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	case says421:
		io.WriteString(conn, "421 4.3.2 Not now\r\n")
		conn.Close()
	case garbage:
		io.WriteString(conn, "what? I am a teapot\r\n")
	}
}

// deaf takes an address at which SYNs are dropped: the queue of a listener that accepts nothing is full.
func deaf(t *testing.T, host string, port int) {
	t.Helper()
	family, addr := syscall.AF_INET, syscall.Sockaddr(&syscall.SockaddrInet4{
		Port: port, Addr: [4]byte(net.ParseIP(host).To16()[12:]),
	})
	if net.ParseIP(host).To4() == nil {
		family, addr = syscall.AF_INET6, &syscall.SockaddrInet6{Port: port, Addr: [16]byte(net.ParseIP(host))}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, addr); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), 100*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue does not fill")
}

// TestRelay_FirstAttempt has a first address, of MX 10 or of IPv6, that fails at each phase in each way, and a second
// one that is well. The first attempt is delivered. Where TLS is what fails, the first address takes it in clear.
func TestRelay_FirstAttempt(t *testing.T) {
	cells := [][2]string{{atConnect, silent}, {atConnect, closed}}
	for _, phase := range []string{
		atGreeting, atEHLO, atSTARTTLS, atHandshake, atSecureEHLO, atMAIL, atRCPT,
	} {
		for _, way := range []string{silent, closed, reset, says421, garbage} {
			cells = append(cells, [2]string{phase, way})
		}
	}
	for _, pair := range []struct{ name, domain, sick, well string }{
		{"MX 10 and MX 20", "two.test", "127.0.0.2", "127.0.0.3"},
		{"IPv6 and IPv4", "both.test", "::1", "127.0.0.1"},
	} {
		for _, cell := range cells {
			t.Run(fmt.Sprintf("%s/%s/%s", pair.name, cell[0], cell[1]), func(t *testing.T) {
				t.Parallel()
				firstAttempt(t, pair.domain, pair.sick, pair.well, cell[0], cell[1])
			})
		}
	}
}

func firstAttempt(t *testing.T, domain, first, second, phase, way string) {
	well := listen(t, second, 0, smtptest.Behaviour{})
	p := port(t, well)
	var s *smtptest.Server
	switch {
	case phase != atConnect:
		s = listen(t, first, p, sick(phase, way))
	case way == silent:
		deaf(t, first, p)
	}
	w := newWorld(t, p, limits(t, "connections=5 messages=1 idle=1m age=1h"))
	deliverWithin(t, w, to(domain), "b@"+domain, 2400*time.Millisecond)
	inTLS := phase == atSTARTTLS || phase == atHandshake || phase == atSecureEHLO
	if got := len(well.Messages()); inTLS && len(s.Messages()) != 1 || !inTLS && got != 1 {
		t.Fatalf("the second took %d messages", got)
	}
	if s == nil || inTLS {
		return
	}
	before := s.Counts().Connections
	deliverWithin(t, w, to(domain), "b@"+domain, 2400*time.Millisecond)
	if after := s.Counts().Connections; after != before || len(well.Messages()) != 2 {
		t.Errorf("the next attempt met the first again: %d connections, then %d", before, after)
	}
}

// deliverWithin is deliver where Begin and Rcpt share a deadline.
func deliverWithin(t *testing.T, w *world, d mail.Delivery, to string, limit time.Duration) {
	t.Helper()
	ctx := mail.Until(t.Context(), time.Now().Add(limit))
	tx, err := w.relay.Begin(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rcpt(ctx, path(to)); err != nil {
		tx.Abort()
		t.Fatal(err)
	}
	if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
}
