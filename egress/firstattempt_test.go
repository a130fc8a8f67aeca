package egress

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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

// deaf takes an address at which SYNs are dropped: the queue of a listener that accepts nothing is full. end frees it.
func deaf(host, port string) (end func(), err error) {
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	family, addr := syscall.AF_INET, syscall.Sockaddr(&syscall.SockaddrInet4{
		Port: number, Addr: [4]byte(net.ParseIP(host).To16()[12:]),
	})
	if net.ParseIP(host).To4() == nil {
		family, addr = syscall.AF_INET6, &syscall.SockaddrInet6{Port: number, Addr: [16]byte(net.ParseIP(host))}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	waiting := []io.Closer{os.NewFile(uintptr(fd), "listener")}
	end = func() {
		for _, c := range waiting {
			c.Close()
		}
	}
	if err := cmp.Or(syscall.Bind(fd, addr), syscall.Listen(fd, 0)); err != nil {
		end()
		return nil, err
	}
	for range 16 {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), 500*time.Millisecond)
		if err != nil {
			return end, nil
		}
		waiting = append(waiting, c)
	}
	end()
	return nil, errors.New("the queue does not fill")
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
				inTime(t, 2400*time.Millisecond, func(limit time.Duration) error {
					return firstAttempt(t, pair.domain, pair.sick, pair.well, cell[0], cell[1], limit)
				})
			})
		}
	}
}

func firstAttempt(t *testing.T, domain, first, second, phase, way string, limit time.Duration) error {
	endpoints := []endpoint{{host: second}}
	if phase != atConnect {
		endpoints = append(endpoints, endpoint{host: first, behaviour: sick(phase, way)})
	} else if way == silent {
		endpoints = append(endpoints, endpoint{host: first, deaf: true})
	}
	all := listen(t, endpoints...)
	well := all[0]
	w := newWorld(t, port(t, well), limits(t, "connections=5 messages=1 idle=1m age=1h"))
	if err := deliverWithin(t, w, to(domain), "b@"+domain, limit); err != nil {
		return err
	}
	inTLS := phase == atSTARTTLS || phase == atHandshake || phase == atSecureEHLO
	if got := len(well.Messages()); inTLS && len(all[1].Messages()) != 1 || !inTLS && got != 1 {
		return fmt.Errorf("the second took %d messages", got)
	}
	if phase == atConnect || inTLS {
		return nil
	}
	before := all[1].Counts().Connections
	if err := deliverWithin(t, w, to(domain), "b@"+domain, limit); err != nil {
		return err
	}
	if after := all[1].Counts().Connections; after != before || len(well.Messages()) != 2 {
		return fmt.Errorf("the next attempt met the first again: %d connections, then %d", before, after)
	}
	return nil
}

// TestRelay_FirstAttempt_Many has more than one address that is sick, and one that is well, which comes last.
func TestRelay_FirstAttempt_Many(t *testing.T) {
	twice := func(b smtptest.Behaviour, second string) smtptest.Behaviour { // in clear it fails at another phase
		On := sick(second, silent).On
		b.On = On
		return b
	}
	all := func(phase, way string, n int) (list []smtptest.Behaviour) {
		for range n {
			list = append(list, sick(phase, way))
		}
		return list
	}
	for _, c := range []struct {
		name string
		sick []smtptest.Behaviour
		deaf int  // of the first, how many do not even accept a connection
		one  bool // they are addresses of one host, in any order
	}{
		{"four are silent at the greeting", all(atGreeting, silent, 4), 0, false},
		{"four addresses of one host are", all(atGreeting, silent, 4), 0, true},
		{"four close at the greeting", all(atGreeting, closed, 4), 0, false},
		{"four say 421 to MAIL", all(atMAIL, says421, 4), 0, false},
		{"four close at RCPT", all(atRCPT, closed, 4), 0, false},
		{"TLS hangs, and MAIL in clear", []smtptest.Behaviour{twice(sick(atHandshake, silent), atMAIL)}, 0, false},
		{"each at another phase", []smtptest.Behaviour{
			sick(atEHLO, silent), sick(atMAIL, silent), sick(atRCPT, garbage),
		}, 0, false},
		{"no connection, then silence", all(atGreeting, silent, 2), 1, false},
		{"three do not accept a connection", all(atGreeting, silent, 3), 3, false},
		{"nor three of one host", all(atGreeting, silent, 3), 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			endpoints, records := []endpoint{{host: "127.0.0.30"}}, ""
			for i := range len(c.sick) + 1 {
				addr := "127.0.0.30"
				if i < len(c.sick) {
					addr = fmt.Sprintf("127.0.0.%d", 20+i)
					endpoints = append(endpoints, endpoint{host: addr, behaviour: c.sick[i], deaf: i < c.deaf})
				}
				if !c.one {
					records += fmt.Sprintf("many.test. 60 IN MX %d mx%d.many.test.\nmx%d.many.test. 60 IN A %s\n",
						i, i, i, addr)
				} else {
					records += "many.test. 60 IN A " + addr + "\n"
				}
			}
			inTime(t, 4*time.Second, func(limit time.Duration) error {
				well := listen(t, endpoints...)[0]
				w := newWorldOf(t, records, port(t, well), nil)
				err := deliverWithin(t, w, to("many.test"), "b@many.test", limit)
				if err == nil && len(well.Messages()) != 1 {
					return errors.New("it arrived elsewhere")
				}
				return err
			})
		})
	}
}

// inTime calls attempt with a limit that a machine of its own has time for, and with larger ones where the machine was
// too busy for that. All that an attempt waits for is a part of its limit.
func inTime(t *testing.T, limit time.Duration, attempt func(limit time.Duration) error) {
	t.Helper()
	for {
		err := attempt(limit)
		if err == nil {
			return
		}
		if limit *= 4; limit > time.Minute {
			t.Fatal(err)
		}
		t.Logf("%v: once more, with %v", err, limit)
	}
}

// deliverWithin is deliver where Begin and Rcpt share a deadline. The error says why the message is not delivered.
func deliverWithin(t *testing.T, w *world, d mail.Delivery, to string, limit time.Duration) error {
	t.Helper()
	ctx := mail.Until(t.Context(), time.Now().Add(limit))
	tx, err := w.relay.Begin(ctx, d)
	if err != nil {
		return err
	}
	if err := tx.Rcpt(ctx, path(to)); err != nil {
		tx.Abort()
		return err
	}
	if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
		return fmt.Errorf("got %+v", out)
	}
	return nil
}
