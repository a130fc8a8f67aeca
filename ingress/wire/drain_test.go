package wire

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// drained calls Shutdown with a time that is up when end is called, and gives its result.
func (r *rig) drained() (done <-chan error, end context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- r.srv.Shutdown(ctx) }() // ends with Shutdown
	return result, cancel
}

const opened = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"

// open brings a client to where it may send a message.
func (r *rig) opened() *peer {
	p := r.dial()
	p.want("220")
	p.say(opened)
	p.want("250 ")
	p.want("250")
	p.want("250")
	return p
}

func TestADrainWhoseTimeIsUpCutsAllButWhoIsOwedAReply(t *testing.T) {
	for _, tc := range []struct{ name, octets string }{
		{"DATA", "DATA\r\nhi\r\n.\r\n"},
		{"BDAT", "BDAT 4 LAST\r\nhi\r\n"},
		{"a client that sends ahead", "DATA\r\nhi\r\n.\r\nMAIL FROM:<c@x.example>\r\nRCPT TO:<d@y.example>\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			severed := make(chan struct{})
			r := start(t, func(c *Config) { c.Abort = func() { close(severed) } })
			r.full, r.dot = make(chan struct{}, 1), make(chan struct{}, 1)
			owed, open := r.opened(), r.opened()
			owed.say(tc.octets)
			<-r.full
			r.expect(t, 0, "committing")
			open.say("DATA\r\n")
			open.want("354")
			if open, committing := r.srv.InFlight(); open != 1 || committing != 1 {
				t.Errorf("in flight: %d open, %d committing", open, committing)
			}
			done, end := r.drained()
			end()
			open.want("") // cut
			r.expect(t, 0, "body client lost before the end of the message: cut")
			select {
			case err := <-done:
				t.Fatalf("Shutdown did not wait for the dot: %v", err)
			default:
			}
			<-severed // all that are to be cut: who ends before is one more
			r.dot <- struct{}{}
			if strings.HasPrefix(tc.octets, "DATA") {
				owed.want("354")
			}
			owed.want("250 2.0.0 took 4")
			owed.want("421 4.3.2")
			owed.want("")
			if err := <-done; !errors.Is(err, context.Canceled) ||
				!strings.HasPrefix(err.Error(), "1 connections cut: ") {
				t.Errorf("got %v", err)
			}
			if open, committing := r.srv.InFlight(); open != 0 || committing != 0 {
				t.Errorf("in flight at the end: %d open, %d committing", open, committing)
			}
		})
	}
}

func TestAMessageWhoseClientWasCutIsNotCommitted(t *testing.T) {
	r := start(t, nil)
	r.full, r.hold = make(chan struct{}, 1), make(chan struct{})
	p := r.opened()
	p.say("DATA\r\nhi\r\n.\r\n")
	<-r.full
	done, end := r.drained()
	end()
	p.want("")
	close(r.hold)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := len(r.accepted()); n != 0 {
		t.Errorf("%d messages were committed:\n%s", n, r.got())
	}
	r.expect(t, 0, "committing: client lost")
}

func TestAReplyThatIsOwedIsWaitedForOnlyWhileTheClientIsThere(t *testing.T) {
	r := start(t, nil)
	r.full, r.dot = make(chan struct{}, 1), make(chan struct{}, 1)
	p := r.opened()
	p.say("DATA\r\nhi\r\n.\r\n")
	<-r.full
	r.expect(t, 0, "committing")
	done, end := r.drained()
	end()
	p.Close()
	r.dot <- struct{}{}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestADrainEndsTheContextOfASessionThatWaits(t *testing.T) {
	r := start(t, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<hang@y.example>\r\n")
	r.expect(t, 0, "rcpt")
	done, end := r.drained()
	end()
	if err := <-done; !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "did not end") {
		t.Errorf("got %v", err)
	}
}

func TestASessionThatHeedsNothingDoesNotHoldTheDrain(t *testing.T) {
	r := start(t, func(c *Config) { c.tune.abandon = 20 * time.Millisecond })
	r.hold = make(chan struct{})
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<deaf@y.example>\r\n")
	r.expect(t, 0, "rcpt")
	done, end := r.drained()
	end()
	if err := <-done; err == nil || !strings.HasPrefix(err.Error(), "1 sessions did not end, 1 connections cut: ") {
		t.Errorf("got %v", err)
	}
	close(r.hold)
	r.expect(t, 0, "close")
}

// TestWhatASessionWaitsForElsewhereIsCutBehindItsConnection has a Session that heeds nothing but Config.Abort.
func TestWhatASessionWaitsForElsewhereIsCutBehindItsConnection(t *testing.T) {
	elsewhere := make(chan struct{})
	r := start(t, func(c *Config) { c.Abort = sync.OnceFunc(func() { close(elsewhere) }) })
	r.hold = elsewhere
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<deaf@y.example>\r\n")
	r.expect(t, 0, "rcpt")
	done, end := r.drained()
	select {
	case <-elsewhere:
		t.Error("cut although there is time left")
	default:
	}
	end()
	if err := <-done; err == nil || !strings.HasPrefix(err.Error(), "1 connections cut: ") {
		t.Errorf("got %v", err)
	}
}

func TestNothingIsCutBehindADrainThatEndsInTime(t *testing.T) {
	r := start(t, func(c *Config) { c.Abort = func() { t.Error("cut") } })
	p := r.opened()
	if err := r.srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	p.want("421 4.3.2")
}
