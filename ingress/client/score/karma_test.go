package score

import (
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestScore_Karma: which votes weigh at connect, and which at RCPT, and that Explain tells the same.
func TestScore_Karma(t *testing.T) {
	const why = "destinations refused mail of this client or its network as unwanted"
	bad, worst := mail.Karma{Score: -30, Votes: 10}, mail.Karma{Score: -100, Votes: 40}
	neighbours := mail.Senders{{Sender: "bad.example", Karma: worst}, {Sender: "", Karma: worst}}
	own := append(mail.Senders{{Sender: "example.net", Karma: bad}}, neighbours...)
	for _, c := range []struct {
		name            string
		address         mail.Karma
		network         mail.Senders
		change          func(c *Config, v *visit)
		connect, atRCPT float64
		explained       string
	}{
		{"a neighbour's votes are not those of another domain", mail.Karma{}, neighbours, nil, 0, 0, ""},
		{"nor are good ones", mail.Karma{},
			mail.Senders{{Sender: "other.example", Karma: mail.Karma{Score: 90, Votes: 90}}}, nil, 0, 0, ""},
		{"its own weigh half, once SPF is known", mail.Karma{}, own, nil, 0, 2.7,
			why + " (votes on the network for example.net count too)"},
		{"without a passing SPF those of such mail do", mail.Karma{}, own,
			func(_ *Config, v *visit) { v.spf = spfResult{"neutral", "example.net"} }, 0, 3.6,
			why + " (votes on the network for mail without a passing SPF count too)"},
		{"and without any SPF", mail.Karma{}, own, func(_ *Config, v *visit) { v.spf = nil }, 0, 3.6,
			why + " (votes on the network for mail without a passing SPF count too)"},
		{"of SPF that cannot be known nothing is held against a client", mail.Karma{}, own,
			func(_ *Config, v *visit) { v.spf = spfResult{"temperror", "example.net"} }, 0, 0, ""},
		{"a new name does not wash off what the address has", bad, neighbours,
			func(_ *Config, v *visit) { v.spf = spfResult{"pass", "new.example"} }, 3.6, 3.6, why},
		{"nor does a good one of the network", bad,
			mail.Senders{{Sender: "example.net", Karma: mail.Karma{Score: 5, Votes: 5}}}, nil, 3.6, 2.8,
			why + " (votes on the network for example.net count too)"},
		{"before MAIL the address counts alone", bad, own, func(_ *Config, v *visit) { v.reverse = "" }, 3.6, 3.6, why},
		{"an entry about the address is no sender", mail.Karma{}, own,
			func(c *Config, _ *visit) { c.Allow = []Entry{{Client: "203.0.113.9"}} }, 0, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, v := proper(), good()
			w.facts = mail.Facts{Address: c.address, Network: c.network}
			cfg := w.config()
			if c.change != nil {
				c.change(&cfg, &v)
			}
			s := scorer(t, cfg)
			k, verdict := v.score(t, s)
			if got := karmaIn(k.sum(atConnect)); !isNear(got, c.connect) {
				t.Errorf("at connect %v, want %v", got, c.connect)
			}
			if got := karmaIn(verdict); !isNear(got, c.atRCPT) {
				t.Errorf("at RCPT %v, want %v", got, c.atRCPT)
			}
			look := s.Look(t.Context(), Client{Addr: client})
			defer look.Close()
			v.to(look)
			if got := karmaIn(look.Verdict(t.Context())); got != karmaIn(verdict) {
				t.Errorf("Look sums up %v", got)
			}
			for _, l := range look.Explain() {
				if l.Name == "karma" && (l.Weight != karmaIn(verdict) || l.State == Spoke && l.Text != c.explained) {
					t.Errorf("explained as %+v", l)
				}
			}
			for _, n := range s.Spoke() {
				if n.Name == "karma" && (n.Count == 1) != (c.atRCPT != 0 || c.connect != 0) {
					t.Errorf("counted %d times", n.Count)
				}
			}
		})
	}
}

// karmaIn returns what karma adds to a verdict.
func karmaIn(v mail.Verdict) (weight float64) {
	for _, r := range v.Reasons {
		if r.Name == "karma" {
			weight += r.Weight
		}
	}
	return weight
}

func isNear(a, b float64) bool { return a-b < 0.06 && b-a < 0.06 }
