package ingress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// guard makes the sessions have a ledger, which no Relay of these tests asks. Recipients are told apart for it all the
// same.
func guard(t *testing.T, change func(*Config)) func(*Config, *wire.Config) {
	t.Helper()
	return func(c *Config, _ *wire.Config) {
		store := new(ingresstest.Store)
		c.Message.Store, c.Message.MarkKeys = store, [][]byte{[]byte("sixteen octets..")}
		c.Message.Once = once.New(noLedger{}, once.NewKeys([][]byte{[]byte("a key of sixteen octets")}),
			func(mail.Event) {}, time.Now)
		if change != nil {
			change(c)
		}
	}
}

// A noLedger is the store of a ledger that is not asked.
type noLedger struct{}

func (noLedger) Ledger(context.Context, []mail.LedgerKeys, mail.LedgerEvent) ([]mail.LedgerEntry, bool) {
	panic("asked")
}

func (noLedger) Ledgers(context.Context, []mail.LedgerCall) bool { panic("told") }

// several returns what makes a route to each address at the host of its domain, all at a time.
func several(mixed mail.Mixed, addresses ...string) func(q mail.Query) ([]mail.Route, error) {
	return func(q mail.Query) ([]mail.Route, error) {
		var all []mail.Route
		for _, a := range addresses {
			routes, _ := ingresstest.To(ingresstest.Path(a).Domain, a)(q) // has no error
			routes[0].Policy.Mixed = mixed
			all = append(all, routes...)
		}
		return all, nil
	}
}

// end returns the event that ended the last transaction.
func (w *fixture) end() (end mail.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Ends {
			end = e
		}
	}
	return end
}

// outcome is a reply of a next hop to the end of data.
func outcome(code, subject, detail int, text string) []mail.Outcome {
	return []mail.Outcome{{Reply: mail.NewReply(code, subject, detail, text), Host: "mx.far.example"}}
}

// TestFanOut_Recipients: recipients with different next hops share a transaction, each next hop gets its own, and one
// reply says what became of all.
func TestFanOut_Recipients(t *testing.T) {
	took := outcome(250, 0, 0, "Ok")
	refused, worse := outcome(550, 6, 0, "No"), outcome(554, 6, 0, "Never")
	later, doubt := outcome(452, 2, 2, "Full"), outcome(451, 4, 2, "Lost")
	doubt[0].InDoubt = true
	for _, tt := range []struct {
		name string
		x, y []mail.Outcome
		want string
		mark bool
	}{
		{"both take it", took, took, "250 2.0.0 Ok id=", false},
		{"one puts it off", took, later, "451 4.3.0", true},
		{"one refuses it", refused, took, "451 4.3.0", true},
		{"one is in doubt", took, doubt, "451 4.3.0", true},
		{"both refuse it", refused, worse, "554 5.6.0 Never", false},
		{"both put it off", later, doubt, "452 4.2.2 Full", false},
		{"one refuses and one puts off", refused, later, "451 4.3.0", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{By: map[string][]mail.Outcome{"x.example": tt.x, "y.example": tt.y}}
			var store *ingresstest.Store
			w := serve(t, rules{
				"a": ingresstest.To("x.example", "a@x.example"), "b": ingresstest.To("y.example", "b@y.example"),
			}, relay, guard(t, func(c *Config) { store = c.Message.Store.(*ingresstest.Store) }))
			w.say("MAIL FROM:<s@client.example>", "250")
			w.say("RCPT TO:<a@example.com>", "250")
			w.say("RCPT TO:<b@example.com>", "250")
			w.say("DATA", "354")
			w.say(text+".", tt.want)
			if len(relay.Got) != 2 || relay.Got[0].Octets != relay.Got[1].Octets ||
				!strings.Contains(relay.Got[0].Octets, "..stuffed") {
				t.Errorf("got %+v", relay.Got)
			}
			want := 0
			if tt.mark {
				want = 2
			}
			if marks := store.Marks(); len(marks) != want {
				t.Errorf("marked are %v, want %d", marks, want)
			}
			if tt.name == "both take it" {
				e := w.last(mail.Relayed)
				to := e.To[1].Targets[0]
				if len(e.Legs) != 2 || e.Legs[0].Replied.Text != "Ok" || e.Legs[1].Replied.Text != "Ok" ||
					len(e.To) != 2 || to.NextHop.Host != "y.example" || to.Reply.Code != 250 {
					t.Errorf("the line says %+v, %+v", e.Legs, e.To)
				}
			}
			if !tt.mark {
				return
			}
			w.say("MAIL FROM:<s@client.example>", "250")
			w.say("RCPT TO:<a@example.com>", "250")
			w.say("RCPT TO:<b@example.com>", "452 4.5.3")
		})
	}
}

// TestFanOut_OneRecipient: all targets of a recipient have to accept it; where some refuse it for good, the rule
// decides, at RCPT and at the dot alike.
func TestFanOut_OneRecipient(t *testing.T) {
	no := mail.Refuse(550, 1, 1, "No such user", "upstream", nil)
	full := mail.Refuse(452, 2, 2, "Mailbox full", "upstream", nil)
	took, refused, later := outcome(250, 0, 0, "Ok"), outcome(554, 6, 0, "No"), outcome(452, 2, 2, "Full")
	for _, tt := range []struct {
		name   string
		mixed  mail.Mixed
		refuse map[string]error
		by     map[string][]mail.Outcome
		rcpt   string
		dot    string
		copies int // that went out
	}{
		{"all take it", mail.MixedAccept, nil, nil, "250", "250", 3},
		{"one refuses it, and the rule accepts", mail.MixedAccept, map[string]error{"b@y.example": no}, nil,
			"250", "250", 2},
		{"one refuses it, and the rule rejects", mail.MixedReject, map[string]error{"b@y.example": no}, nil,
			"550 5.1.1", "", 0},
		{"one puts it off", mail.MixedAccept, map[string]error{"b@y.example": full, "a@x.example": no}, nil,
			"452 4.2.2", "", 0},
		{"all refuse it", mail.MixedAccept,
			map[string]error{"a@x.example": no, "b@y.example": no, "c@z.example": no}, nil, "550 5.1.1", "", 0},
		{"one refuses the message, and the rule accepts", mail.MixedAccept, nil,
			map[string][]mail.Outcome{"x.example": refused, "y.example": took, "z.example": took}, "250", "250", 3},
		{"one refuses the message, and the rule rejects", mail.MixedReject, nil,
			map[string][]mail.Outcome{"x.example": took, "y.example": refused, "z.example": took},
			"250", "554 5.6.0", 3},
		{"one puts the message off", mail.MixedAccept, nil,
			map[string][]mail.Outcome{"x.example": took, "y.example": refused, "z.example": later},
			"250", "452 4.2.2", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{Refuse: tt.refuse, By: tt.by}
			w := serve(t, rules{
				"team": several(tt.mixed, "a@x.example", "b@y.example", "c@z.example"),
			}, relay, guard(t, nil))
			w.say("MAIL FROM:<s@client.example>", "250")
			w.say("RCPT TO:<team@example.com>", tt.rcpt)
			if tt.dot == "" {
				w.say("DATA", map[byte]string{'4': "451", '5': "554"}[tt.rcpt[0]])
				w.say("RSET", "250")
				if relay.Aborts != relay.Begins {
					t.Errorf("of %d transactions %d were aborted", relay.Begins, relay.Aborts)
				}
				return
			}
			w.say("DATA", "354")
			w.say(text+".", tt.dot)
			if len(relay.Got) != tt.copies {
				t.Errorf("%d copies went out, want %d", len(relay.Got), tt.copies)
			}
			if e := w.end(); len(e.To) != 1 || len(e.To[0].Targets) != tt.copies || len(e.Legs) != tt.copies ||
				e.Recipients != 1 {
				t.Errorf("the line says %d recipients, %+v, %+v", e.Recipients, e.To, e.Legs)
			}
			for _, got := range relay.Got {
				if strings.Count(got.Octets, "(hop=") != 1 || !strings.Contains(got.Octets, "for <team@example.com>") {
					t.Errorf("our field names the recipient once: %.300q", got.Octets)
				}
			}
		})
	}
}

// TestFanOut_RefusedWaysAreReplayed: a next hop that accepted a recipient which we refuse gets a new transaction.
func TestFanOut_RefusedWaysAreReplayed(t *testing.T) {
	relay := &ingresstest.Relay{Refuse: map[string]error{
		"b@y.example": mail.Refuse(452, 2, 2, "Mailbox full", "upstream", nil),
	}}
	w := serve(t, rules{
		"one":  ingresstest.To("x.example", "one@x.example"),
		"team": several(mail.MixedAccept, "a@x.example", "b@y.example"),
	}, relay, guard(t, nil))
	w.say("MAIL FROM:<s@client.example>", "250")
	w.say("RCPT TO:<one@example.com>", "250")
	w.say("RCPT TO:<team@example.com>", "452 4.2.2")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if len(relay.Got) != 1 || fmt.Sprint(relay.Got[0].Forwards) != "[one@x.example]" {
		t.Errorf("got %+v", relay.Got)
	}
	if relay.Aborts != 2 {
		t.Errorf("%d transactions were aborted, want that of the other recipient and the empty one", relay.Aborts)
	}
}

// TestFanOut_WithoutLedger: what one next hop has and another one has not would come again to both.
func TestFanOut_WithoutLedger(t *testing.T) {
	w := serve(t, rules{
		"a": ingresstest.To("x.example", "a@x.example"), "b": ingresstest.To("y.example", "b@y.example"),
		"team": several(mail.MixedAccept, "a@x.example", "b@y.example"),
	}, &ingresstest.Relay{}, nil)
	w.say("MAIL FROM:<s@client.example>", "250")
	w.say("RCPT TO:<team@example.com>", "451 4.3.0")
	w.say("RCPT TO:<a@example.com>", "250")
	w.say("RCPT TO:<b@example.com>", "452 4.5.3")
}

// TestFanOut_Limits: a message goes to so many next hops at a time, and so do all of a client.
func TestFanOut_Limits(t *testing.T) {
	routes := rules{}
	for _, name := range []string{"a", "b", "c", "d"} {
		routes[name] = ingresstest.To(name+".example", name+"@"+name+".example")
	}
	relay := &ingresstest.Relay{}
	w := serve(t, routes, relay, guard(t, func(c *Config) { c.FanOut, c.FanOutPerClient = 3, 3 }))
	open := func(w *fixture, last string) {
		w.say("MAIL FROM:<s@client.example>", "250")
		w.say("RCPT TO:<a@example.com>", "250")
		w.say("RCPT TO:<b@example.com>", "250")
		w.say("RCPT TO:<c@example.com>", last)
	}
	open(w, "250")
	w.say("RCPT TO:<d@example.com>", "452 4.5.3")
	w.say("RCPT TO:<a@example.com>", "250")
	other := &fixture{t: t}
	other.connect(w.conn.RemoteAddr().String())
	open(other, "452 4.5.3")
	w.say("DATA", "354")
	w.say(text+".", "250")
	other.say("RCPT TO:<c@example.com>", "250")
}

// TestFanOut_MemberFailsAlone: a next hop that fails while the message goes out does not take it from the others.
func TestFanOut_MemberFailsAlone(t *testing.T) {
	no := mail.Refuse(554, 6, 0, "No", "upstream", nil)
	long := text + strings.Repeat("a line that makes the message long\r\n", 12000)
	for _, tt := range []struct {
		name string
		fail func(*ingresstest.Relay, map[string]error)
		body string
	}{
		{"at DATA", func(r *ingresstest.Relay, by map[string]error) { r.DataErrs = by }, text},
		{"for a place to stream", func(r *ingresstest.Relay, by map[string]error) { r.StreamErrs = by }, long},
		{"within the octets", func(r *ingresstest.Relay, by map[string]error) { r.WriteErrs = by }, long},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, all := range []bool{false, true} {
				relay := &ingresstest.Relay{}
				by := map[string]error{"x.example": no}
				want := "451 4.3.0"
				if all {
					by["y.example"], want = no, "554 5.6.0 No"
				}
				tt.fail(relay, by)
				w := serve(t, rules{
					"a": ingresstest.To("x.example", "a@x.example"), "b": ingresstest.To("y.example", "b@y.example"),
				}, relay, guard(t, nil))
				w.say("MAIL FROM:<s@client.example>", "250")
				w.say("RCPT TO:<a@example.com>", "250")
				w.say("RCPT TO:<b@example.com>", "250")
				w.say("DATA", "354")
				w.say(tt.body+".", want)
				if all {
					if len(relay.Got) != 0 || relay.Aborts != 2 {
						t.Errorf("got %d copies, %d aborted", len(relay.Got), relay.Aborts)
					}
					continue
				}
				if len(relay.Got) != 1 || relay.Got[0].Delivery.NextHop.Host != "y.example" || relay.Aborts != 1 ||
					!strings.HasSuffix(relay.Got[0].Octets, "long\r\n") && tt.body == long {
					t.Errorf("got %d copies, %d aborted", len(relay.Got), relay.Aborts)
				}
			}
		})
	}
}

// TestFanOut_Seals: of two next hops one gets our signatures and the other one the same message without them.
func TestFanOut_Seals(t *testing.T) {
	routes := rules{
		"info": ingresstest.To("far.example", "alice@far.example"),
		"desk": func(q mail.Query) ([]mail.Route, error) {
			routes, err := ingresstest.To("fixed.example", "desk@far.example")(q)
			routes[0].NextHop.Transport = mail.SMTP
			return routes, err
		},
	}
	for _, n := range []int{10, 100 << 10, 300 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			relay := &ingresstest.Relay{}
			c := serveAuth(t, routes, relay, true, func(c *Config, _ *wire.Config) {
				c.Message.Once = once.New(noLedger{}, once.NewKeys([][]byte{[]byte("a key of sixteen octets")}),
					func(mail.Event) {}, time.Now)
			})
			text := signed(t, c.sender, from("b.example", forged), lines(n))
			c.send("a@b.example", "Authentication-Results: MX.example.net; dkim=pass\r\n"+text, "250",
				"desk@example.com", "info@example.com")
			if len(relay.Got) != 2 {
				t.Fatalf("%d copies", len(relay.Got))
			}
			if relay.Got[1].Delivery.NextHop.Transport == mail.SMTP {
				relay.Got[0], relay.Got[1] = relay.Got[1], relay.Got[0]
			}
			want := strings.ReplaceAll(text, forged, "")
			if got := names(c.below(want)); got != arcNames {
				t.Errorf("the MX hosts get %s", got)
			}
			relay.Got = relay.Got[:1]
			if got := names(c.below(want)); got != "Received Authentication-Results" {
				t.Errorf("the fixed next hop gets %s", got)
			}
		})
	}
}

// TestFanOut_Sites: recipients of one message at several Sites get each what seal=auto has for theirs, and the log says
// it of each.
func TestFanOut_Sites(t *testing.T) {
	uses := map[mail.Site]mail.ARCUse{"a": mail.ARCOfAll, "u": mail.ARCOfUnproved}
	for _, tt := range []struct {
		name, want string // fields and what is noted, by host
		proved     bool
		octets     int
	}{
		{"held, its author proved", "a: arc by auto: arc=all\n" +
			"n: not, its author's own signature passes by auto: arc=none\n" +
			"u: not, its author's own signature passes by auto: arc=unproved\n", true, 10},
		{"predicted, its author proved", "a: arc by auto: arc=all\n" +
			"n: not, its author's own signature passes by auto: arc=none\n" +
			"u: not, its author's own signature passes by auto: arc=unproved\n", true, 600 << 10},
		{"held, its author not proved", "a: arc by auto: arc=all\n" +
			"n: not, no use of ARC is known there, and no key of ours proves its author by auto: arc=none\n" +
			"u: arc by auto: arc=unproved\n", false, 10},
		{"streamed", "a: not, the message was streamed by auto: arc=all\n" +
			"n: not, the message was streamed by auto: arc=none\n" +
			"u: not, the message was streamed by auto: arc=unproved\n", false, 600 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{
				Sites: map[string]mail.Site{"a.example": "a", "u.example": "u", "n.example": "n"},
			}
			routes := rules{}
			for host := range relay.Sites {
				routes[host[:1]] = func(q mail.Query) ([]mail.Route, error) {
					routes, err := ingresstest.To(host, "alice@"+host)(q)
					routes[0].Rewrite = true
					return routes, err
				}
			}
			c := serveAuth(t, routes, relay, true, func(c *Config, _ *wire.Config) {
				c.Message.Once = once.New(noLedger{}, once.NewKeys([][]byte{[]byte("a key of sixteen octets")}),
					func(mail.Event) {}, time.Now)
				c.Message.ARC = func(s mail.Site) mail.ARCUse { return uses[s] }
			})
			text := from("b.example", "") + "\r\n" + lines(tt.octets)
			if tt.proved {
				text = signed(t, c.sender, from("b.example", ""), lines(tt.octets))
			}
			c.send("a@b.example", text, "250", "n@example.com", "a@example.com", "u@example.com")
			var got []string
			for i := range c.end().Legs {
				leg := &c.end().Legs[i]
				of := slices.IndexFunc(relay.Got, func(d ingresstest.Delivered) bool {
					return d.Delivery.NextHop == leg.NextHop
				})
				octets := relay.Got[of].Octets
				is := leg.Sealed.Signed
				if is == "" {
					is = "not, " + leg.Sealed.Unsigned
				}
				got = append(got, string(leg.Site)+": "+is+" by "+leg.Sealed.Wanted+"\n")
				if strings.Contains(octets, "ARC-Seal:") != (leg.Sealed.Signed != "") ||
					strings.Count(octets, "DKIM-Signature:") != strings.Count(text, "DKIM-Signature:") {
					t.Errorf("%s gets\n%.600s", leg.Site, octets)
				}
			}
			if slices.Sort(got); strings.Join(got, "") != tt.want {
				t.Errorf("got\n%swant\n%s", strings.Join(got, ""), tt.want)
			}
		})
	}
}

// TestFanOut_Lists: each list of a recipient that has several falls back to a next hop of its own, and what a next hop
// says of each forward-path is noted for that one.
func TestFanOut_Lists(t *testing.T) {
	unreached := mail.Refuse(451, 4, 1, "Connection refused", "upstream", nil)
	ways := func(all ...func(mail.Query) ([]mail.Route, error)) func(mail.Query) ([]mail.Route, error) {
		return func(q mail.Query) (routes []mail.Route, _ error) {
			for _, way := range all {
				more, _ := way(q) // has no error
				routes = append(routes, more...)
			}
			return routes, nil
		}
	}
	for _, tt := range []struct {
		name string
		team func(mail.Query) ([]mail.Route, error)
		want string
	}{
		{"two lists fall back", ways(ingresstest.Try("a@dead.example", "a@x.example"),
			ingresstest.Try("b@gone.example", "b@y.example")), "x.example [a@x.example], y.example [b@y.example], "},
		{"a list falls back to the next hop of another way", ways(ingresstest.Try("a@dead.example", "a@x.example"),
			ingresstest.To("x.example", "b@x.example")), "x.example [b@x.example a@x.example], "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{
				Unreached: map[string]error{"dead.example": unreached, "gone.example": unreached},
			}
			w := serve(t, rules{"team": tt.team}, relay, guard(t, nil))
			w.say("MAIL FROM:<s@client.example>", "250")
			w.say("RCPT TO:<team@example.com>", "250")
			w.say("DATA", "354")
			w.say(text+".", "250")
			got := ""
			slices.SortFunc(relay.Got, func(a, b ingresstest.Delivered) int {
				return strings.Compare(a.Delivery.NextHop.Host, b.Delivery.NextHop.Host)
			})
			for _, d := range relay.Got {
				got += fmt.Sprint(d.Delivery.NextHop.Host, " ", d.Forwards, ", ")
			}
			if got != tt.want {
				t.Errorf("got %s want %s", got, tt.want)
			}
			noted := map[string][]string{}
			for _, target := range w.end().To[0].Targets {
				host := target.NextHop.Host
				noted[host] = append(noted[host], target.Forward.String())
			}
			for _, d := range relay.Got {
				if fmt.Sprint(noted[d.Delivery.NextHop.Host]) != fmt.Sprint(d.Forwards) {
					t.Errorf("outcomes of %s are noted for %s", d.Forwards, noted[d.Delivery.NextHop.Host])
				}
			}
		})
	}
}

// A heardStore keeps the events that a ledger tells its store of.
type heardStore struct {
	noLedger
	mu  sync.Mutex
	all []mail.LedgerEvent
}

func (l *heardStore) Ledger(_ context.Context, keys []mail.LedgerKeys, v mail.LedgerEvent) ([]mail.LedgerEntry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, v)
	return make([]mail.LedgerEntry, len(keys[0].Recipients)), false
}

// TestFanOut_WithoutMessageID: what one next hop has of a message that another one may look like is remembered for as
// long as it comes again for the others.
func TestFanOut_WithoutMessageID(t *testing.T) {
	took, later := outcome(250, 0, 0, "Ok"), outcome(452, 2, 2, "Full")
	took[0].Entry = mail.TraceID{1}
	relay := &ingresstest.Relay{By: map[string][]mail.Outcome{"x.example": took, "y.example": later}}
	store := new(heardStore)
	w := serve(t, rules{"team": several(mail.MixedAccept, "a@x.example", "b@y.example")}, relay,
		guard(t, func(c *Config) {
			c.Message.Once = once.New(store, once.NewKeys([][]byte{[]byte("a key of sixteen octets")}),
				func(mail.Event) {}, time.Now)
		}))
	w.say("MAIL FROM:<s@client.example>", "250")
	w.say("RCPT TO:<team@example.com>", "250")
	w.say("DATA", "354")
	w.say("Subject: hi\r\n\r\nhi\r\n.", "452 4.2.2")
	days := 4 * 24 * time.Hour.Milliseconds()
	if len(store.all) != 1 || store.all[0].Holder != took[0].Entry || store.all[0].Keep < days {
		t.Errorf("the store was told %+v", store.all)
	}
}
