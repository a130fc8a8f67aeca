package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/client/greylist"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A greyStore remembers triplets as a store does, by a clock that a test sets.
type greyStore struct {
	ingresstest.Store
	now   time.Duration
	first map[string]time.Duration
}

func (s *greyStore) Rcpt(_ context.Context, q mail.RcptQuery) (mail.RcptFacts, error) {
	var f mail.RcptFacts
	for _, t := range q.Triplets {
		who := t.Group
		if who == "" {
			who = network.Of(t.Client).String()
		}
		key := who + " " + t.Key
		at, known := s.first[key]
		if !known {
			s.first[key], at = s.now, s.now
		}
		wait := at + t.Delay - s.now
		f.Grey = append(f.Grey, mail.GreylistAnswer{Passed: wait <= 0, Wait: max(wait, 0)})
	}
	return f, nil
}

// An spfWord is a check of SPF that has ended.
type spfWord struct{ word, domain string }

func (w spfWord) Wait(context.Context) (string, string) { return w.word, w.domain }

// A sender tries one message from one address after another.
type sender struct {
	helo, reverse string
	spf           func(addr string) SPF // nil: not checked
	zone          ingresstest.Zone
	attempts      []string // addresses
}

// passes returns the number of the attempt that passes, 0 if none does.
func (s sender) passes(t *testing.T) int {
	t.Helper()
	store := &greyStore{first: map[string]time.Duration{}}
	policy, err := greylist.New(greylist.Config{Key: testKey, Delay: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	scorer, err := score.New(score.Config{
		Store: store, Resolver: s.zone, Grey: score.Band{From: -100, To: 100}, Defer: 999, Reject: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	clients, err := New(Config{Score: scorer, Greylist: policy, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	for i, addr := range s.attempts {
		store.now = time.Duration(i) * 2 * time.Second
		if s.attempt(t, clients, addr) == nil {
			return i + 1
		}
	}
	return 0
}

// attempt returns what the recipient is answered.
func (s sender) attempt(t *testing.T, clients *Clients, addr string) error {
	t.Helper()
	c := clients.Arrive(t.Context(), netip.MustParseAddr(addr), "")
	defer c.Close()
	c.Introduce(s.helo)
	var reverse mail.Path
	if s.reverse != "" {
		reverse = ingresstest.Path(s.reverse)
	}
	var check SPF
	if s.spf != nil {
		check = s.spf(addr)
	}
	c.Sender(reverse, check)
	if err := c.Judge(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	tx := c.Begin(reverse)
	return tx.Recipient(t.Context(), Recipient{Forward: ingresstest.Path("info@relay.example")},
		func(g []Recipient) []Recipient { return g }).Await()
}

// always is SPF with one result from every address.
func always(word, domain string) func(string) SPF {
	return func(string) SPF { return spfWord{word, domain} }
}

// A sender that tries again passes, from whatever networks it does, where it proves a domain.
func TestTransaction_GreylistPool(t *testing.T) {
	pool := []string{"198.51.100.9", "203.0.113.9", "192.0.2.77", "203.0.114.9", "203.0.115.9"}
	names := func(format string) ingresstest.Zone {
		z := ingresstest.Zone{}
		for i, addr := range pool {
			name := fmt.Sprintf(format, i)
			z["PTR "+addr], z["A "+name] = []string{name}, []string{addr}
		}
		return z
	}
	made := ingresstest.Zone{}
	for _, addr := range pool {
		a := netip.MustParseAddr(addr).As4()
		name := fmt.Sprintf("mail-%d-%d-%d-%d.isp.test", a[0], a[1], a[2], a[3])
		made["PTR "+addr], made["A "+name] = []string{name}, []string{addr}
	}
	for name, tt := range map[string]struct {
		sender sender
		want   int
	}{
		"SPF passes":              {sender{reverse: "news@big.test", spf: always("pass", "big.test")}, 2},
		"SPF passes for a bounce": {sender{helo: "out.big.test", spf: always("pass", "out.big.test")}, 2},
		"SPF passes and the names differ": {sender{reverse: "a@big.test", spf: always("pass", "big.test"),
			zone: names("h%d.x%[1]d.test")}, 2},
		"SPF fails and the names are of one domain": {sender{reverse: "a@big.test", spf: always("fail", "big.test"),
			zone: names("o%d.out.big.test")}, 2},
		"SPF is none and the names are of one domain of a country": {sender{reverse: "a@x.test",
			spf: always("none", "x.test"), zone: names("o%d.big.co.uk")}, 2},
		"SPF is not known the first time": {sender{reverse: "a@big.test", spf: func(addr string) SPF {
			if addr == pool[0] {
				return spfWord{"temperror", ""}
			}
			return spfWord{"pass", "big.test"}
		}}, 3},
		"SPF fails":                          {sender{reverse: "a@big.test", spf: always("fail", "big.test")}, 0},
		"names of other domains":             {sender{reverse: "a@big.test", zone: names("h%d.x%[1]d.test")}, 0},
		"names that are made of the address": {sender{reverse: "a@big.test", zone: made}, 0},
		"names that do not lead back": {sender{reverse: "a@big.test", zone: ingresstest.Zone{
			"PTR " + pool[0]: {"o.big.test"}, "PTR " + pool[1]: {"o.big.test"}, "PTR " + pool[2]: {"o.big.test"},
		}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tt.sender.attempts = pool
			if got := tt.sender.passes(t); got != tt.want {
				t.Errorf("attempt %d passes, want %d", got, tt.want)
			}
		})
	}
	t.Run("one network passes without a proof", func(t *testing.T) {
		s := sender{reverse: "a@big.test", attempts: []string{"192.0.2.7", "192.0.2.99"}}
		if got := s.passes(t); got != 2 {
			t.Errorf("attempt %d passes", got)
		}
	})
}

// TestCases_GreylistPool has the sender from the field.
func TestCases_GreylistPool(t *testing.T) {
	text := ingresstest.Read(t, ingresstest.Shared(t, "cases", "messages", "a07-greylist-pool.yml"))
	var c struct {
		Attempts   []string
		Helo, Mail string
	}
	if err := json.Unmarshal(text, &c); err != nil || len(c.Attempts) == 0 {
		t.Fatalf("%d attempts, %v", len(c.Attempts), err)
	}
	s := sender{helo: c.Helo, reverse: c.Mail, spf: always("pass", "big.test"), attempts: c.Attempts}
	if got := s.passes(t); got != 2 {
		t.Errorf("attempt %d passes", got)
	}
}
