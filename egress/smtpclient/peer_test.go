package smtpclient

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// A mailbox is a go-smtp backend: a destination that was written by others.
type mailbox struct {
	mu   sync.Mutex
	got  []string
	opts []smtp.MailOptions
}

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &delivery{box: m}, nil }

type delivery struct {
	box  *mailbox
	from string
	to   []string
}

func (d *delivery) Mail(from string, opts *smtp.MailOptions) error {
	d.box.mu.Lock()
	defer d.box.mu.Unlock()
	d.from = from
	d.box.opts = append(d.box.opts, *opts)
	return nil
}

func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "no") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	d.to = append(d.to, to)
	return nil
}

func (d *delivery) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	d.box.mu.Lock()
	defer d.box.mu.Unlock()
	d.box.got = append(d.box.got, d.from+" "+strings.Join(d.to, ",")+" "+string(b))
	return nil
}

func (d *delivery) Reset()        { d.from, d.to = "", nil }
func (d *delivery) Logout() error { return nil }

// A destination that was written by others gets the same message.
func TestClient_GoSMTP(t *testing.T) {
	ca := smtptest.NewCA()
	box := &mailbox{}
	server := smtp.NewServer(box)
	server.Domain, server.TLSConfig = "mx.dest.test", ca.Server("mx.dest.test")
	server.EnableSMTPUTF8, server.MaxMessageBytes = true, 1<<20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when the server is closed
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() { server.Close(); <-done })

	text := "Subject: x\r\n\r\n.dot\r\n..two\r\n" + strings.Repeat("0123456789\r\n", 10000)
	sent := 0
	for _, policy := range []TLSPolicy{None, Required} {
		s := dial(t,
			Target{
				Network: "tcp", Addr: l.Addr().String(), Host: "mx.dest.test", Helo: "relay.test", TLS: policy,
				TLSConfig: ca.Client(),
			})
		if x := s.Extensions(); !x.Has(Chunking) || !x.Has(Pipelining) || x.Size != 1<<20 {
			t.Fatalf("got %+v", x)
		}
		for _, chunking := range []bool{true, false} {
			for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
				if s.ext.Keywords |= Chunking; !chunking {
					s.ext.Keywords &^= Chunking
				}
				given := text
				if form == mail.Stuffed {
					given = stuffed(text)
				}
				half := strings.LastIndex(given[:len(given)/2], "\n") + 1
				s.Begin(mail.Delivery{
					Reverse: path(`"a b"@x.test`),
					Params:  mail.Params{Size: int64(len(given)), Body: mail.Body8BitMIME},
				})
				if got := mail.ReplyFor(s.Rcpt(t.Context(),
					path("no@y.test"))).String(); got != "550 5.1.1 no such user" {
					t.Fatalf("got %s", got)
				}
				if err := s.Rcpt(t.Context(), path("b@y.test")); err != nil {
					t.Fatal(err)
				}
				if err := s.Data(t.Context(), form); err != nil {
					t.Fatal(err)
				}
				if err := s.Write(in(form, octets(given[:half], 0, false))); err != nil {
					t.Fatal(err)
				}
				out := s.Commit(t.Context(), in(form, octets(given[half:], 0, true)))
				if len(out) != 1 || out[0].Reply.Code != 250 || !s.Reusable() || !s.Alive() {
					t.Fatalf("got %+v", out)
				}
				sent++
				box.mu.Lock()
				if len(box.got) != sent || !strings.HasSuffix(box.got[sent-1], " b@y.test "+text) ||
					box.opts[sent-1].Size != int64(len(given)) {
					t.Errorf("got %.100q, %+v", box.got[len(box.got)-1], box.opts[sent-1])
				}
				box.mu.Unlock()
			}
		}
	}
}

// in returns o in the form.
func in(form mail.Form, o mail.Octets) mail.Octets {
	o.Form = form
	return o
}
