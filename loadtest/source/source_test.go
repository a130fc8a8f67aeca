package source_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
)

// letter needs stuffing and has no CRLF at its end.
const letter = "Subject: test\r\n\r\n.one\r\n..two\r\nthree"

func message(octets string) source.Message {
	return source.Message{
		Reverse: "a@client.example", Forward: []string{"b@x.example", "c@x.example"}, Octets: []byte(octets),
	}
}

// TestSession_Send: a message arrives as it was given.
func TestSession_Send(t *testing.T) {
	ca := smtptest.NewCA()
	for _, c := range []struct {
		name string
		cfg  source.Config
		want string
	}{
		{"by DATA", source.Config{}, letter + "\r\n"},
		{"by DATA with pipelining", source.Config{Pipeline: true}, letter + "\r\n"},
		{"by a chunk", source.Config{Chunking: true}, letter},
		{"by chunks", source.Config{Chunking: true, Chunk: 5}, letter},
		{"by chunks in one go", source.Config{Chunking: true, Chunk: 5, Pipeline: true}, letter},
		{"under TLS", source.Config{TLS: &tls.Config{}}, letter + "\r\n"},
		{"slowly", source.Config{Pace: source.Pace{Octets: 3}}, letter + "\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{TLS: ca.Server("x.example")})
			c.cfg.Addr = d.Addr()
			if c.cfg.TLS != nil {
				c.cfg.TLS.RootCAs, c.cfg.TLS.ServerName = ca.Pool(), "x.example"
			}
			s, err := source.Dial(t.Context(), c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if r, err := s.Send(message(letter)); err != nil || r.End.Code != 250 || len(r.Rcpt) != 2 {
					t.Fatalf("got %+v, %v", r, err)
				}
			}
			if err := s.Quit(); err != nil {
				t.Error(err)
			}
			for _, m := range d.Messages() {
				if string(m.Octets) != c.want || m.Reverse != "a@client.example" ||
					strings.Join(m.Forwards, " ") != "b@x.example c@x.example" {
					t.Errorf("got %q for %q", m.Octets, m.Forwards)
				}
			}
			if v := d.Violations(); len(v) > 0 {
				t.Errorf("%q", v)
			}
		})
	}
}

// TestSession_Refusal: a refusal is a result.
func TestSession_Refusal(t *testing.T) {
	refuse := smtptest.Answer{Reply: "550-5.1.1 No\n550 5.1.1 never"}
	for _, verb := range []string{"MAIL", "RCPT", "DATA", smtptest.Dot} {
		for _, pipeline := range []bool{false, true} {
			d := smtptest.Start(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{verb: refuse}})
			s, err := source.Dial(t.Context(), source.Config{Addr: d.Addr(), Pipeline: pipeline})
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Send(message(letter))
			if err != nil || r.End.Code/100 != 5 || verb != "MAIL" && r.End.String() != "550 5.1.1 No / 5.1.1 never" {
				t.Errorf("%s, pipelining %t: got %+v, %v", verb, pipeline, r, err)
			}
			if err := s.Reset(); err != nil {
				t.Errorf("%s, pipelining %t: RSET: %v", verb, pipeline, err)
			}
			s.Abort(false)
		}
	}
}

// TestSession_RefusedGreeting: a refused greeting is an error with the reply.
func TestSession_RefusedGreeting(t *testing.T) {
	d := smtptest.Start(t,
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Greeting: {
			Reply: "554 5.7.1 No", Close: true,
		}}})
	_, err := source.Dial(t.Context(), source.Config{Addr: d.Addr()})
	var refused *source.RefusedError
	if !errors.As(err, &refused) || refused.Reply.Code != 554 {
		t.Errorf("got %v", err)
	}
}

// TestSession_Cut: a cut ends the connection after so many octets.
func TestSession_Cut(t *testing.T) {
	for _, reset := range []bool{false, true} {
		d := smtptest.Start(t, smtptest.Behaviour{})
		s, err := source.Dial(t.Context(), source.Config{Addr: d.Addr(), Cut: source.Cut{After: 120, Reset: reset}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Send(message(strings.Repeat("x\r\n", 100))); !errors.Is(err, source.ErrCut) {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := d.WaitFor(ctx, func(c smtptest.Counts) bool { return c.Halves == 1 && c.Current == 0 }); err != nil {
			t.Error(err)
		}
	}
}

// TestLoad_Count: a load sends so many messages.
func TestLoad_Count(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		d := smtptest.Start(t, smtptest.Behaviour{MaxMessages: 7})
		l := source.Load{
			Config: source.Config{Addr: d.Addr()}, Sessions: 3, Messages: 20, Reuse: reuse, Message: message(letter),
		}
		r := l.Run(t.Context())
		if r.Accepted+r.Refused+r.Failed != 20 || r.Accepted != d.Counts().Messages ||
			r.Latency.TotalCount() != int64(r.Accepted) {
			t.Errorf("reuse %t: got %+v", reuse, r)
		}
		if !reuse && r.Accepted != 20 || r.Quantile(100) < r.Quantile(50) {
			t.Errorf("reuse %t: got %+v", reuse, r)
		}
	}
}

// TestLoad_EndsWithContext: a load without a number ends with its context.
func TestLoad_EndsWithContext(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := source.Load{Config: source.Config{Addr: d.Addr()}, Reuse: true, Message: message(letter)}.Run(ctx)
	if r.Accepted == 0 || r.Failed != 0 {
		t.Errorf("got %+v", r)
	}
}

// TestProxy_Headers: proxy headers.
func TestProxy_Headers(t *testing.T) {
	client, server := netip.MustParseAddrPort("192.0.2.7:258"), netip.MustParseAddrPort("192.0.2.1:25")
	if got, want := string(source.ProxyV1(client, server)), "PROXY TCP4 192.0.2.7 192.0.2.1 258 25\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x01\x02\x00\x19"
	if got := string(source.ProxyV2(client, server)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestBody_Size: body is of the size asked for and needs no stuffing.
func TestBody_Size(t *testing.T) {
	for _, n := range []int{200, 4096, 65536, 1 << 20} {
		b := source.Body(n)
		if len(b) < n || len(b) > n+80 || bytes.Contains(b, []byte("\n.")) || !bytes.HasSuffix(b, []byte("\r\n")) {
			t.Errorf("%d: got %d octets", n, len(b))
		}
		if got := source.Stuff(b); len(got) != len(b)+3 {
			t.Errorf("%d: stuffed %d", n, len(got))
		}
	}
}
