package ingress

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A limitedStore is a store that allows so many of each rate and keeps what it was asked.
type limitedStore struct {
	ingresstest.Store
	mu    sync.Mutex
	allow map[string]int
	drawn map[string]int
	race  bool // it is used up between the question and the draw
	err   error
}

func (c *limitedStore) Rates(_ context.Context, rates []mail.Rate) ([]mail.RateResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	out := make([]mail.RateResult, len(rates))
	for i, r := range rates {
		out[i].Allowed = c.drawn[r.Name] < c.allow[r.Name] && (r.Peek || !c.race)
		if out[i].Allowed && !r.Peek {
			c.drawn[r.Name]++
		}
	}
	return out, nil
}

// alone is a bounce's way home.
func alone(name string) func(q mail.Query) ([]mail.Route, error) {
	return func(q mail.Query) ([]mail.Route, error) {
		routes, err := ingresstest.To("far.example", name+"@far.example")(q)
		routes[0].Alone = true
		routes[0].Rates = []mail.Rate{{Name: name, Count: 1, Per: time.Hour}}
		return routes, err
	}
}

// A recipient that is to be alone in its transaction is.
func TestRcpt_Alone(t *testing.T) {
	routes := rules{"a": alone("a"), "b": alone("b"), "plain": ingresstest.To("far.example", "x@far.example"),
		"trap": func(q mail.Query) ([]mail.Route, error) {
			return []mail.Route{{Action: mail.Drop}}, nil
		}}
	for _, tt := range []struct{ name, first, then string }{
		{"beside another one", "a", "b"},
		{"beside a plain one", "a", "plain"},
		{"beside a dropped one", "a", "trap"},
		{"behind a plain one", "plain", "a"},
		{"behind a dropped one", "trap", "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{}
			counts := &limitedStore{allow: map[string]int{"a": 9, "b": 9}, drawn: map[string]int{}}
			w := serve(t, routes, relay, func(c *Config, _ *wire.Config) { c.Store = counts })
			w.say("MAIL FROM:<>", "250")
			w.say("RCPT TO:<"+tt.first+"@example.com>", "250 2.1.5")
			w.say("RCPT TO:<"+tt.then+"@example.com>", "452 4.5.3 ")
			if tt.first == "plain" || tt.first == "a" {
				w.say("DATA", "354")
				w.say(text+".", "250")
			} else {
				w.say("RSET", "250")
			}
			w.say("MAIL FROM:<>", "250")
			w.say("RCPT TO:<"+tt.then+"@example.com>", "250 2.1.5") // in a transaction of its own
			if counts.drawn["a"] != 1 {
				t.Errorf("drawn %v", counts.drawn)
			}
		})
	}
}

// A recipient's rate is drawn when it is accepted.
func TestRcpt_RouteRate(t *testing.T) {
	refused := mail.Refuse(450, 2, 0, "Not now", "upstream", nil)
	relay := &ingresstest.Relay{Refuse: map[string]error{"a@far.example": refused}}
	counts := &limitedStore{allow: map[string]int{"a": 2}, drawn: map[string]int{}}
	w := serve(t, rules{"a": alone("a")}, relay, func(c *Config, _ *wire.Config) { c.Store = counts })
	once := func(want string) string {
		w.say("MAIL FROM:<>", "250")
		reply := w.say("RCPT TO:<a@example.com>", want)
		w.say("RSET", "250")
		return reply
	}
	for range 3 {
		once("450 4.2.0 ") // counts for nothing
	}
	relay.Mu.Lock()
	relay.Refuse = nil
	relay.Mu.Unlock()
	once("250")
	once("250")
	begins := relay.Begins
	if reply := once("450 4.7.1 Too many messages to this address"); !strings.Contains(reply, "id=") {
		t.Errorf("got %q", reply)
	}
	if e := w.last(mail.Refused); e.Reason != "rate of the recipient" || e.Forward.String() != "a@example.com" ||
		relay.Begins != begins {
		t.Errorf("%+v, and the next hop was asked %d times", e, relay.Begins-begins)
	}
}

// A session that loses the race for a rate is refused and can go on.
func TestRcpt_RouteRateRace(t *testing.T) {
	relay := &ingresstest.Relay{}
	counts := &limitedStore{allow: map[string]int{"a": 1}, drawn: map[string]int{}, race: true}
	w := serve(t, rules{"a": alone("a"), "plain": ingresstest.To("far.example", "x@far.example")}, relay,
		func(c *Config, _ *wire.Config) { c.Store = counts })
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<a@example.com>", "450 4.7.1 ")
	w.say("RCPT TO:<plain@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if got := strings.Join(relay.Got[0].Forwards, " "); got != "x@far.example" {
		t.Errorf("delivered to %s", got)
	}
}

// A rate that cannot be kept refuses no client.
func TestRcpt_RouteRateBroken(t *testing.T) {
	counts := &limitedStore{err: errors.New("broken")}
	w := serve(t, rules{"a": alone("a")}, &ingresstest.Relay{}, func(c *Config, _ *wire.Config) { c.Store = counts })
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<a@example.com>", "250")
	if e := w.last(mail.Anomaly); e.Reason != "rates" || e.Cause == nil {
		t.Errorf("%+v", e)
	}
}

// A route's remark is an anomaly.
func TestRcpt_Remark(t *testing.T) {
	w := serve(t, rules{"odd": func(q mail.Query) ([]mail.Route, error) {
		routes, err := ingresstest.To("far.example")(q)
		routes[0].Remark = "something odd"
		return routes, err
	}}, &ingresstest.Relay{}, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<odd@example.com>", "250")
	if e := w.last(mail.Anomaly); e.Reason != "something odd" || e.Forward.String() != "odd@example.com" {
		t.Errorf("%+v", e)
	}
}
