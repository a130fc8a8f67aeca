package feedback

import (
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestObserver_Observe has one client meet each reply: nothing follows for others but what a host says by itself.
func TestObserver_Observe(t *testing.T) {
	rules, err := Parse("f", "450 4.7.0 * * -> suspend 5m\n450 4.7.1 * * -> fewer sessions\n")
	if err != nil {
		t.Fatal(err)
	}
	suspend, fewer := Action{Kind: Suspend, For: 5 * time.Minute}, Action{Kind: Fewer}
	for _, c := range []struct {
		name  string
		reply Reply
		want  Decision
	}{
		{"a rule at the opening", Reply{Reply: mail.NewReply(450, 7, 0, ""), Opening: true}, Decision{Action: suspend}},
		{
			"a rule later", Reply{Reply: mail.NewReply(450, 7, 0, ""), Verb: "RCPT"},
			Decision{Action: suspend, Withheld: true, OneDomain: true},
		},
		{
			"a rule for a favoured client", Reply{Reply: mail.NewReply(450, 7, 0, ""), Favoured: true},
			Decision{Action: suspend},
		},
		{
			"a rule on sessions", Reply{Reply: mail.NewReply(450, 7, 1, ""), Verb: "MAIL"},
			Decision{Action: fewer, Withheld: true, OneDomain: true},
		},
		{
			"a rule goes before a refusal of us", Reply{Reply: mail.NewReply(450, 7, 0, ""), AboutUs: true},
			Decision{Action: suspend, Withheld: true, OneDomain: true},
		},
		{"a refusal of us", Reply{Reply: mail.NewReply(550, 7, 1, ""), AboutUs: true, Verb: "RCPT"}, Decision{}},
		{"a refusal of us without a reply", Reply{AboutUs: true}, Decision{}},
		{"a syntax error at MAIL", Reply{Reply: mail.NewReply(501, 5, 2, ""), AboutUs: true, Verb: "MAIL"}, Decision{}},
		{"a refusal of the message", Reply{Reply: mail.NewReply(550, 7, 1, "")}, Decision{}},
	} {
		o := New(rules, time.Now)
		c.reply.Site, c.reply.Client = "one.test", netip.MustParsePrefix("192.0.2.0/24")
		if got := o.Observe(c.reply); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}
