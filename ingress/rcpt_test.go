package ingress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A limitedStore is a store that allows so many of each rate and keeps what it was asked.
type limitedStore struct {
	ingresstest.Store
	mu    sync.Mutex
	allow map[string]int
	drawn map[string]int
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
		out[i].Allowed = c.drawn[r.Name] < c.allow[r.Name]
		if !r.Peek {
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
		routes[0].RefusedRates = []mail.Rate{{Name: name + " refused", Count: 1, Per: time.Hour}}
		routes[0].BarrenRates = []mail.Rate{{Name: name + " barren", Count: 1, Per: time.Hour}}
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
			counts := &limitedStore{
				allow: map[string]int{"a": 9, "b": 9, "a refused": 9, "b refused": 9, "a barren": 9, "b barren": 9},
				drawn: map[string]int{},
			}
			w := serve(t, routes, relay, func(c *Config, _ *wire.Config) { c.Store = counts })
			w.say("MAIL FROM:<>", "250")
			w.say("RCPT TO:<"+tt.first+"@example.com>", "250 2.1.5")
			w.say("RCPT TO:<"+tt.then+"@example.com>", "452 4.5.3 Send this recipient in a transaction of its own id=")
			if tt.first == "plain" || tt.first == "a" {
				w.say("DATA", "354")
				w.say(text+".", "250")
			} else {
				w.say("RSET", "250")
			}
			w.say("MAIL FROM:<>", "250")
			w.say("RCPT TO:<"+tt.then+"@example.com>", "250 2.1.5") // in a transaction of its own
			if want := map[bool]int{true: 1}[tt.first == "a"]; counts.drawn["a"] != want {
				t.Errorf("drawn %v", counts.drawn)
			}
		})
	}
}

// TestRcpt_BudgetsCountMessages: hosts that verify an address without a message use up no message of it. What comes to
// nothing has a budget of its own.
func TestRcpt_BudgetsCountMessages(t *testing.T) {
	relay := &ingresstest.Relay{}
	counts := &limitedStore{allow: map[string]int{"a": 1, "a refused": 1, "a barren": 30}, drawn: map[string]int{}}
	w := serve(t, rules{"a": alone("a")}, relay, func(c *Config, _ *wire.Config) { c.Store = counts })
	verify := func(ends string) {
		w.say("MAIL FROM:<>", "250")
		w.say("RCPT TO:<a@example.com>", "250 2.1.5")
		w.say(ends, "250")
	}
	for range 20 {
		verify("RSET")
	}
	verify("EHLO client.example")
	if want := map[string]int{"a barren": 21}; !maps.Equal(counts.drawn, want) {
		t.Errorf("21 look-ups have drawn %v, want %v", counts.drawn, want)
	}
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<a@example.com>", "250 2.1.5")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if want := map[string]int{"a barren": 21, "a": 1}; !maps.Equal(counts.drawn, want) {
		t.Errorf("with a message they have drawn %v, want %v", counts.drawn, want)
	}
	counts.mu.Lock()
	counts.allow["a"] = 9
	counts.mu.Unlock()
	for range 9 {
		verify("RSET")
	}
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<a@example.com>", "450 4.7.1 Too many messages to this address, try again later id=")
}

// TestRcpt_Chosen: a stranger chose the next hop of mail to a rewritten reverse-path, and of no other. A client that
// has no part in what strangers share chose none.
func TestRcpt_Chosen(t *testing.T) {
	routes := rules{"srs": alone("srs"), "rule": ingresstest.To("far.example", "x@far.example")}
	scorer := func(store world.Store, allow ...score.Entry) func(*Config) {
		return func(c *Config) {
			var err error
			if c.Client.Score, err = score.New(score.Config{Store: store, Private: true, Allow: allow}); err != nil {
				t.Fatal(err)
			}
		}
	}
	entry := func(purpose score.Purposes) score.Entry {
		return score.Entry{Client: "127.0.0.0/8", For: purpose}
	}
	for _, tt := range []struct {
		name, rcpt string
		trusted    bool
		change     func(*Config)
		want       bool
	}{
		{"a stranger to a rewritten path", "srs", false, func(*Config) {}, true},
		{"a stranger to a rule", "rule", false, func(*Config) {}, false},
		{"a scored stranger", "srs", false, scorer(new(ingresstest.Store)), true},
		{"a trusted client", "srs", true, func(*Config) {}, false},
		{"a known-good client", "srs", false, scorer(new(goodStore)), false},
		{"a client that is allowed for places", "srs", false,
			scorer(new(ingresstest.Store), entry(score.ForPlaces)), false},
		{"a client that is allowed for its score alone", "srs", false,
			scorer(new(ingresstest.Store), entry(score.ForScore)), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{}
			w := serve(t, routes, relay, func(c *Config, wc *wire.Config) {
				tt.change(c)
				if tt.trusted {
					trusting(c, wc)
				}
			})
			w.say("MAIL FROM:<>", "250")
			w.say("RCPT TO:<"+tt.rcpt+"@example.com>", "250 2.1.5")
			w.say("DATA", "354")
			w.say(text+".", "250")
			if got := relay.Got[0].Delivery.Chosen; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A recipient's rates are drawn when a message is taken, others when it or a message for it is refused for good, and
// others when it comes to nothing. A recipient waits while one of them is used up.
func TestRcpt_RouteRate(t *testing.T) {
	no, later := mail.Refuse(550, 1, 1, "No", "upstream", nil), mail.Refuse(450, 2, 0, "Not now", "upstream", nil)
	tests := []struct {
		name  string
		rcpt  error // of the next hop
		dot   mail.Outcome
		says  string
		drawn string
	}{
		{"taken", nil, mail.Outcome{Reply: mail.NewReply(250, 0, 0, "OK")}, "250", "a"},
		{"perhaps taken", nil, mail.Outcome{Reply: mail.NewReply(451, 4, 2, "Lost"), InDoubt: true}, "451", "a"},
		{"put off at the dot", nil, mail.Outcome{Reply: mail.NewReply(451, 3, 0, "Later")}, "451", "a barren"},
		{"refused at the dot", nil, mail.Outcome{Reply: mail.NewReply(554, 7, 1, "No")}, "554", "a refused"},
		{"put off at RCPT", later, mail.Outcome{}, "450 4.2.0", "a barren"},
		{"refused at RCPT", no, mail.Outcome{}, "550 5.1.1", "a refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{
				Refuse: map[string]error{"a@far.example": tt.rcpt}, Outcomes: []mail.Outcome{tt.dot},
			}
			counts := &limitedStore{
				allow: map[string]int{"a": 2, "a refused": 2, "a barren": 2}, drawn: map[string]int{},
			}
			w := serve(t, rules{"a": alone("a")}, relay, func(c *Config, _ *wire.Config) { c.Store = counts })
			for range 2 {
				w.say("MAIL FROM:<>", "250")
				if tt.rcpt != nil {
					w.say("RCPT TO:<a@example.com>", tt.says)
					w.say("RSET", "250")
					continue
				}
				w.say("RCPT TO:<a@example.com>", "250")
				w.say("DATA", "354")
				w.say(text+".", tt.says)
			}
			want := map[string]int{tt.drawn: 2}
			if fmt.Sprint(counts.drawn) != fmt.Sprint(want) {
				t.Fatalf("drawn %v", counts.drawn)
			}
			begins := relay.Begins
			w.say("MAIL FROM:<>", "250")
			reply := w.say("RCPT TO:<a@example.com>", "450 4.7.1 Too many messages to this address")
			if !strings.Contains(reply, "id=") {
				t.Errorf("got %q", reply)
			}
			if e := w.last(mail.Deferred); e.Reason != "rate of the recipient" ||
				e.Forward.String() != "a@example.com" || relay.Begins != begins {
				t.Errorf("%+v, and the next hop was asked %d times", e, relay.Begins-begins)
			}
		})
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

// A recipient that a reload took away is an event besides its refusal.
func TestRcpt_Withdrawn(t *testing.T) {
	cause := errors.New("the rules before")
	w := serve(t, rules{"gone": func(mail.Query) ([]mail.Route, error) {
		return nil, mail.Refuse(451, 3, 0, "Temporarily not deliverable", mail.ReasonWithdrawn, cause)
	}}, &ingresstest.Relay{}, nil)
	w.say("MAIL FROM:<a@sender.example>", "250")
	w.say("RCPT TO:<gone@example.com>", "451 4.3.0 Temporarily not deliverable")
	if e := w.last(mail.Anomaly); e.Reason != mail.ReasonWithdrawn || !errors.Is(e.Cause, cause) ||
		e.Forward.String() != "gone@example.com" {
		t.Errorf("%+v", e)
	}
	if e := w.last(mail.Deferred); e.Reason != mail.ReasonWithdrawn {
		t.Errorf("%+v", e)
	}
}

// Recipients share a transaction or wait.
func TestRcpt_SharedTransaction(t *testing.T) {
	relay := &ingresstest.Relay{}
	w := serve(t,
		rules{"one": ingresstest.To("far.example"), "two": ingresstest.To("far.example"),
			"other": ingresstest.To("else.example"),
			"gone": func(q mail.Query) ([]mail.Route, error) {
				return []mail.Route{{Action: mail.Drop}}, nil
			}}, relay, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<gone@example.com>", "250")
	w.say("RCPT TO:<one@example.com>", "250")
	w.say("RCPT TO:<other@example.com>", "452 4.5.3 Send this recipient in a transaction of its own id=")
	w.say("RCPT TO:<two@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if got := fmt.Sprint(relay.Got[0].Forwards); got != "[one@example.com two@example.com]" || relay.Begins != 1 {
		t.Errorf("forwards %s in %d transactions", got, relay.Begins)
	}
	if strings.Contains(relay.Got[0].Octets, "for <") || strings.Count(relay.Got[0].Octets, "(hop=") != 3 {
		t.Errorf("Received names a recipient, or loop tags are missing: %q", relay.Got[0].Octets)
	}
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<gone@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250 2.0.0 OK id=")
	if relay.Begins != 1 || w.last(mail.Dropped).Recipients != 1 {
		t.Error("a dropped message reached a next hop")
	}
}

func TestRcpt_FanOut(t *testing.T) {
	no := mail.Refuse(550, 1, 1, "no", "upstream", nil)
	later := mail.Refuse(451, 2, 1, "later", "upstream", nil)
	reject := func(f func(mail.Query) ([]mail.Route, error)) func(mail.Query) ([]mail.Route, error) {
		return func(q mail.Query) ([]mail.Route, error) {
			r, err := f(q)
			r[0].Policy.Mixed = mail.MixedReject
			return r, err
		}
	}
	both := ingresstest.To("far.example", "a@far.example", "b@far.example")
	tests := []struct {
		name   string
		refuse map[string]error
		route  func(mail.Query) ([]mail.Route, error)
		rcpt   string
		begins int
	}{
		{"both accept", nil, both, "250", 1},
		{"one refuses for good, the rule accepts", map[string]error{"b@far.example": no}, both, "250", 1},
		{"one refuses for good, the rule rejects", map[string]error{"b@far.example": no}, reject(both), "550", 2},
		{"one refuses for now", map[string]error{"a@far.example": later}, both, "451", 2},
		{"both refuse", map[string]error{"a@far.example": no, "b@far.example": no}, both, "550", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{Refuse: tt.refuse}
			w := serve(t, rules{
				"team": tt.route, "info": ingresstest.To("far.example", "info@far.example"),
			}, relay, nil)
			w.say("MAIL FROM:<a@b.example>", "250")
			w.say("RCPT TO:<team@example.com>", tt.rcpt)
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			w.say(text+".", "250")
			got := relay.Got[len(relay.Got)-1].Forwards
			if tt.begins == 2 && fmt.Sprint(got) != "[info@far.example]" {
				t.Errorf("a recipient that we refused was delivered to: %v", got)
			}
			if relay.Begins != tt.begins {
				t.Errorf("%d transactions, want %d", relay.Begins, tt.begins)
			}
		})
	}
}
