package events

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/hook"
)

// A Receiver is where events are posted.
type Receiver struct {
	Name    string // for the metrics and the log
	URL     string // one that hook.CheckURL takes
	Types   []Type
	Domains []string // of recipients, in lower case and A-labels
	Rules   []string // patterns of rules; with neither these nor Domains all recipients
	Secrets []hook.Secret
}

// A Result is what came of an event for one receiver.
type Result uint8

// The results.
const (
	Sent     Result = iota // the receiver took it
	Repeated               // a post failed, and the event waits for the next one
	Dropped                // it found no room, or its last post failed
)

// String returns the result in lower case.
func (r Result) String() string { return resultNames[r] }

var resultNames = [...]string{"sent", "repeated", "dropped"}

// Results returns the names of all results.
func Results() []string { return slices.Clone(resultNames[:]) }

// A Config says who is told of events, and how. All fields are required.
type Config struct {
	Receivers []Receiver
	Queue     int   // how many events may wait for one receiver
	Octets    int64 // how much memory they may take, for one receiver
	Post      func(context.Context, hook.Request) (hook.Response, error)
	Now       func() time.Time
	// Count is told of each result, and Trouble when a receiver fails: of the status of its answer, or of the error
	// that stands in for one. Neither may wait.
	Count   func(receiver string, r Result)
	Trouble func(receiver string, status int, err error)
}

// A Sender posts events to receivers. Its methods are safe for concurrent use.
type Sender struct {
	cfg       Config
	receivers []*receiver
	cancel    context.CancelFunc
	ended     sync.WaitGroup
}

// Start returns a Sender with one goroutine for each receiver, which Close ends.
func Start(c Config) *Sender {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sender{cfg: c, cancel: cancel}
	for _, to := range c.Receivers {
		r := &receiver{Receiver: to, sender: s, secrets: to.Secrets, wake: make(chan struct{}, 1)}
		s.receivers = append(s.receivers, r)
		s.ended.Go(func() { r.run(ctx) })
	}
	return s
}

// Emit hands an event over to the receivers that want it. Its recipient is at a domain, in lower case and A-labels. It
// never waits: an event without room is counted and dropped.
func (s *Sender) Emit(e *Event, domain string) {
	for _, r := range s.receivers {
		if r.wants(e, domain) && !r.add(e) {
			s.cfg.Count(r.Name, Dropped)
		}
	}
}

// UseSecrets replaces the secrets of the receivers, which are in the order of the Config.
func (s *Sender) UseSecrets(secrets [][]hook.Secret) {
	for i, r := range s.receivers {
		r.mu.Lock()
		r.secrets = secrets[i]
		r.mu.Unlock()
	}
}

// Waiting returns how many events wait for a receiver, those under way left out.
func (s *Sender) Waiting() map[string]int {
	out := make(map[string]int)
	for _, r := range s.receivers {
		r.mu.Lock()
		out[r.Name] = len(r.fresh) + len(r.again)
		r.mu.Unlock()
	}
	return out
}

// Close posts what waits until ctx ends, and ends the Sender. What is not posted is dropped and counted.
func (s *Sender) Close(ctx context.Context) {
	for _, r := range s.receivers {
		r.close()
	}
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	s.ended.Wait()
	s.cancel()
	for _, r := range s.receivers {
		r.mu.Lock()
		r.clear()
		r.mu.Unlock()
	}
}
