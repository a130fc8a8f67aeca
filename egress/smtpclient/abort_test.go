package smtpclient

import (
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// A Client that was aborted before one of its calls sends nothing more.
func TestClient_Abort(t *testing.T) {
	rcpt := func(t *testing.T, s *Client) error { return s.Rcpt(t.Context(), path("to@dest.test")) }
	commit := func(t *testing.T, s *Client) error {
		out := s.Commit(t.Context(), octets("hi\r\n", 0, true))
		if len(out) != 1 || out[0].InDoubt || out[0].Reply.Code != 451 {
			t.Errorf("got %+v", out)
		}
		return out[0].Cause
	}
	for _, tc := range []struct {
		name, verb string // the verb that would come next
		before     func(testing.TB, *Client)
		do         func(*testing.T, *Client) error
	}{
		{"MAIL", "MAIL", func(_ testing.TB, s *Client) { s.Begin(mail.Delivery{}) }, rcpt},
		{"DATA", "DATA", func(t testing.TB, s *Client) {
			s.Begin(mail.Delivery{})
			if err := s.Rcpt(t.Context(), path("to@dest.test")); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, s *Client) error { return s.Data(t.Context(), mail.Stuffed) }},
		{"octets", smtptest.Dot, begin, func(_ *testing.T, s *Client) error {
			return s.Write(octets("hi\r\n", 0, false))
		}},
		{"the end of data", smtptest.Dot, begin, commit},
		{"the end of data behind octets", smtptest.Dot, func(t testing.TB, s *Client) {
			begin(t, s)
			if err := s.Write(octets("hi\r\n", 0, false)); err != nil {
				t.Fatal(err)
			}
		}, commit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")})
			s := dial(t, target(d))
			tc.before(t, s)
			before := d.Counts().Commands[tc.verb]
			s.Abort()
			err := tc.do(t, s)
			var connErr *ConnError
			if !errors.As(err, &connErr) || !errors.Is(err, errAborted) {
				t.Errorf("got %v", err)
			}
			if s.Reusable() || s.Alive() {
				t.Error("it may still be used")
			}
			s.Close()
			if err := d.WaitFor(t.Context(), func(c smtptest.Counts) bool { return c.Current == 0 }); err != nil {
				t.Fatal(err)
			}
			if c := d.Counts(); c.Messages != 0 || c.Commands[tc.verb] != before || c.Commands["QUIT"] != 0 {
				t.Errorf("got %+v", c)
			}
		})
	}
}

// TestClient_AbortOrCommit has the two meet.
func TestClient_AbortOrCommit(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	said := 0
	for range 100 {
		s := dial(t, target(d))
		begin(t, s)
		done := make(chan struct{})
		go func() { // ends at once
			s.Abort()
			close(done)
		}()
		out := s.Commit(t.Context(), octets("hi\r\n", 0, true))
		<-done
		switch o := out[0]; {
		case o.InDoubt:
			t.Errorf("got %+v", o)
		case o.Reply.Code == 250:
			said++
		case !errors.Is(o.Cause, errAborted):
			t.Errorf("got %+v", o)
		}
		s.Close()
	}
	if n := d.Counts().Messages; n != said {
		t.Errorf("%d messages arrived, %d were acknowledged", n, said)
	}
}

// An Abort leaves the deadline of a Commit alone.
func TestClient_AbortKeepsDeadline(t *testing.T) {
	dot := make(chan struct{})
	d := smtptest.Start(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb != smtptest.Dot {
			return smtptest.Answer{}, false
		}
		close(dot)
		return smtptest.Answer{After: time.Hour}, true
	}})
	s := dial(t, target(d))
	begin(t, s)
	go func() { // ends when the message has arrived
		<-dot
		s.Abort()
	}()
	const patience = 100 * time.Millisecond
	begun := time.Now()
	out := s.Commit(mail.Until(t.Context(), begun.Add(patience)), octets("hi\r\n", 0, true))
	if took := time.Since(begun); took < patience || !out[0].InDoubt {
		t.Errorf("after %v: %+v", took, out[0])
	}
}
