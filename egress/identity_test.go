package egress

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_KnownOutside: a refusal that names us as destinations see us is about us, from wherever that is known.
func TestRelay_KnownOutside(t *testing.T) {
	const refused = "550 5.7.1 Mail from 203.0.113.9 is not welcome here"
	at := func(c *Config) { c.Addresses = []netip.Addr{netip.MustParseAddr("::ffff:203.0.113.9")} }
	named := func(c *Config) { c.Helo = "out.test" }
	for _, c := range []struct {
		name   string
		change func(*Config)
		greets string // behind our name in the reply to EHLO
		reply  string
		want   string
	}{
		{"it is not known", nil, "", refused, "550 5.7.1"},
		{"it is configured", at, "", refused, "451 4.7.0"},
		{"it is behind our name", named, "", refused, "451 4.7.0"},
		{"our name itself", named, "", "550 5.7.1 out.test is not welcome here", "451 4.7.0"},
		{"the host greets us by it", nil, " at your service, [203.0.113.9]", refused, "451 4.7.0"},
		{
			"the host greets us by it in another way", nil, " Hello relay.test [IPv6:2001:db8::9] 203.0.113.9.",
			refused, "451 4.7.0",
		},
		{"the host says its own", nil, " [127.0.0.1] at your service", refused, "550 5.7.1"},
		{
			"our SRS domain", func(c *Config) { c.SRSDomain = "srs.test" }, "",
			"550 5.7.26 SPF [srs.test] with ip: [203.0.113.9] = Did not pass", "451 4.7.0",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{
				Hostname: "destination.test" + c.greets, Answers: map[string]smtptest.Answer{"RCPT": {Reply: c.reply}},
			})
			w := newWorldOf(t, zone+"out.test. 60 IN A 203.0.113.9\n", port(t, s), c.change)
			tx := begin(t, w, to("one.test"))
			defer tx.Abort()
			r := want(t, tx.Rcpt(t.Context(), path("b@one.test")), c.want)
			about := c.want != "550 5.7.1"
			if events := w.events(); r.AboutUs != about || len(events) > 0 != about ||
				about && events[0].Kind != mail.Anomaly {
				t.Errorf("about us: %v, %+v", r.AboutUs, events)
			}
		})
	}
}
