package ingress

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// Rcpt is Rates for a group of recipients.
func (c *limitedStore) Rcpt(ctx context.Context, q mail.RcptQuery) (mail.RcptFacts, error) {
	f, err := c.Store.Rcpt(ctx, q)
	if err == nil {
		f.Rates, err = c.Rates(ctx, q.Rates)
	}
	return f, err
}

// limiting makes a Config limit the messages of a client and to a recipient's domain, as often as counts allows.
func limiting(t *testing.T, c *Config, counts *limitedStore) {
	t.Helper()
	some := rate.Limit{Count: 1, Per: time.Hour} // counts has other figures
	limits, err := rate.New(rate.Config{
		Key: []byte("sixteen octets.."), ClientMessages: some, DomainMessages: some,
	})
	if err != nil {
		t.Fatal(err)
	}
	background, err := rate.NewBackground(counts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := background.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	c.Client = client.Config{Limits: limits, Store: counts, Counts: background}
}

// TestDraw_MessagesCount: what limits messages counts those that were accepted, for each recipient by what became of
// it. What comes to nothing has a budget of its own.
func TestDraw_MessagesCount(t *testing.T) {
	took, no, after := outcome(250, 0, 0, "Ok"), outcome(554, 7, 1, "No"), outcome(451, 3, 0, "Later")
	doubt := outcome(451, 4, 2, "Lost")
	doubt[0].InDoubt = true
	refused := mail.Refuse(550, 1, 1, "No", "upstream", nil)
	const messages, domain, barren = "messages", "taken", "barren "
	for name, tt := range map[string]struct {
		rcpts []string
		says  []string // to each
		ends  string   // what the client says in place of a message
		reply string   // to that, or to the message
		x, y  []mail.Outcome
		want  map[string]int
	}{
		"taken": {rcpts: []string{"x"}, x: took, reply: "250", want: map[string]int{messages: 1, domain: 1}},
		"taken by two": {
			rcpts: []string{"x", "y"}, x: took, y: took, reply: "250", want: map[string]int{messages: 1, domain: 2},
		},
		"taken by one of two": {
			rcpts: []string{"y", "x"}, x: took, y: after, reply: "451",
			want: map[string]int{messages: 1, domain: 1, barren + domain: 1},
		},
		"refused by one of two": {
			rcpts: []string{"x", "y"}, x: took, y: no, reply: "451",
			want: map[string]int{messages: 1, domain: 1, barren + domain: 1},
		},
		"perhaps taken": {rcpts: []string{"x"}, x: doubt, reply: "451", want: map[string]int{messages: 1, domain: 1}},
		"refused": {
			rcpts: []string{"x"}, x: no, reply: "554", want: map[string]int{barren + messages: 1, barren + domain: 1},
		},
		"put off": {
			rcpts: []string{"x"}, x: after, reply: "451",
			want: map[string]int{barren + messages: 1, barren + domain: 1},
		},
		"a look-up": {
			rcpts: []string{"x"}, ends: "RSET", reply: "250",
			want: map[string]int{barren + messages: 1, barren + domain: 1},
		},
		"a recipient that is refused": {
			rcpts: []string{"gone"}, says: []string{"550"}, ends: "RSET", reply: "250",
			want: map[string]int{barren + messages: 1, barren + domain: 1},
		},
		"a recipient that is refused beside one that has it": {
			rcpts: []string{"x", "gone"}, says: []string{"250", "550"}, x: took, reply: "250",
			want: map[string]int{messages: 1, domain: 1, barren + domain: 1},
		},
		"dropped":      {rcpts: []string{"trap"}, reply: "250", want: map[string]int{messages: 1, domain: 1}},
		"no recipient": {ends: "RSET", reply: "250", want: map[string]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			counts := &limitedStore{
				allow: map[string]int{messages: 9, domain: 9, barren + messages: 9, barren + domain: 9},
				drawn: map[string]int{},
			}
			relay := &ingresstest.Relay{
				By:     map[string][]mail.Outcome{"x.example": tt.x, "y.example": tt.y},
				Refuse: map[string]error{"gone@x.example": refused},
			}
			w := serve(t, rules{
				"x": ingresstest.To("x.example", "x@x.example"), "y": ingresstest.To("y.example", "y@y.example"),
				"gone": ingresstest.To("x.example", "gone@x.example"),
				"trap": func(mail.Query) ([]mail.Route, error) { return []mail.Route{{Action: mail.Drop}}, nil },
			}, relay, guard(t, func(c *Config) { limiting(t, c, counts) }))
			w.say("MAIL FROM:<s@client.example>", "250")
			for i, r := range tt.rcpts {
				want := "250"
				if tt.says != nil {
					want = tt.says[i]
				}
				w.say("RCPT TO:<"+r+"@example.com>", want)
			}
			if tt.ends == "" {
				w.say("DATA", "354")
				tt.ends = text + "."
			}
			w.say(tt.ends, tt.reply)
			w.say("MAIL FROM:<s@client.example>", "250")
			w.say("RCPT TO:<x@example.com>", "250") // asks behind what was drawn
			counts.mu.Lock()
			got := maps.Clone(counts.drawn)
			counts.mu.Unlock()
			if !maps.Equal(got, tt.want) {
				t.Errorf("drawn %v, want %v", got, tt.want)
			}
		})
	}
}

// TestDraw_UsedUp: a recipient is put off while messages are used up, or what may come to nothing is.
func TestDraw_UsedUp(t *testing.T) {
	const messages, domain, barren = "messages", "taken", "barren "
	all := []string{messages, domain, barren + messages, barren + domain}
	for _, used := range all {
		counts := &limitedStore{allow: map[string]int{}, drawn: map[string]int{}}
		for _, name := range all {
			counts.allow[name] = 9
		}
		counts.allow[used] = 0
		w := serve(t, rules{"x": ingresstest.To("x.example", "x@x.example")}, &ingresstest.Relay{},
			func(c *Config, _ *wire.Config) { limiting(t, c, counts) })
		w.say("MAIL FROM:<s@client.example>", "250")
		w.say("RCPT TO:<x@example.com>", "450 4.7.1 Too many ")
		w.say("RSET", "250")
		if slices.ContainsFunc(all, func(name string) bool { return counts.drawn[name] > 0 }) {
			t.Errorf("without %s: drawn %v", used, counts.drawn)
		}
	}
}
