package wire

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// drained calls Shutdown with a time that is up when end is called, and returns its result.
func (r *rig) drained() (done <-chan error, end context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- r.srv.Shutdown(ctx) }() // ends with Shutdown
	return result, cancel
}

const opened = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"

// opened brings a client to where it may send a message.
func (r *rig) opened() *testClient {
	p := r.dial()
	p.want("220")
	p.say(opened)
	p.want("250 ")
	p.want("250")
	p.want("250")
	return p
}

// TestShutdown_TimeUp shows that a drain whose time is up aborts all connections but those that are owed a reply.
func TestShutdown_TimeUp(t *testing.T) {
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
			open.want("") // aborted
			r.expect(t, 0, "body client lost before the end of the message: cut")
			select {
			case err := <-done:
				t.Fatalf("Shutdown did not wait for the dot: %v", err)
			default:
			}
			<-severed // all that are to be aborted: a connection that ends before is one more
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

// TestShutdown_NotCommitted shows that a message whose connection was aborted is not committed.
func TestShutdown_NotCommitted(t *testing.T) {
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

// TestShutdown_ClientGone shows that Shutdown waits for an owed reply only while the client is there.
func TestShutdown_ClientGone(t *testing.T) {
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

// TestShutdown_Context shows that a drain ends the context of a Session that waits.
func TestShutdown_Context(t *testing.T) {
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

// TestShutdown_DeafSession shows that a Session that heeds nothing does not hold up the drain.
func TestShutdown_DeafSession(t *testing.T) {
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

// TestShutdown_Abort shows that what a Session waits for elsewhere is aborted after its connection. The Session heeds
// nothing but Config.Abort.
func TestShutdown_Abort(t *testing.T) {
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

// TestShutdown_InTime shows that Config.Abort is not called by a drain that ends in time.
func TestShutdown_InTime(t *testing.T) {
	r := start(t, func(c *Config) { c.Abort = func() { t.Error("cut") } })
	p := r.opened()
	if err := r.srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	p.want("421 4.3.2")
}
