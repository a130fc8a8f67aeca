package router

import (
	"maps"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// hopOf returns the next hops of the first route of an answer in turn, and the reply of a refusal.
func hopOf(routes []mail.Route, err error) (out string) {
	if err != nil {
		return mail.ReplyFor(err).String()
	}
	for r := &routes[0]; r != nil; r = r.Else {
		out += r.NextHop.String() + " "
	}
	return out
}

// TestRouter_RelayBounce: a bounce that a stranger sends to a rewritten reverse-path goes to MX hosts, whatever relay
// lines there are, and that of a trusted client as the mail does that it writes.
func TestRouter_RelayBounce(t *testing.T) {
	cfg := srsConfig()
	cfg.Text += "relay @sender.example try smtp://192.0.2.20, smtp://192.0.2.21\nrelay * smtp://192.0.2.22\n"
	r := newRouter(t, cfg)
	via := mail.NextHop{Transport: mail.SMTP, Host: "192.0.2.30"}
	for _, tt := range []struct {
		name, from string
		trusted    bool
		want       string
	}{
		{"of a stranger", "alice@sender.example", false, "mx:sender.example "},
		{"of a stranger, to another domain", "bob@other.example", false, "mx:other.example "},
		{"of a trusted client", "alice@sender.example", true, "smtp://192.0.2.20 smtp://192.0.2.21 "},
		{"of a trusted client, to another domain", "bob@other.example", true, "smtp://192.0.2.30 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := query(t, rewritten(t, keyB, tt.from, noon))
			q.Trusted, q.Via, q.Client = tt.trusted, via, from
			routes, err := r.Route(q)
			if got := hopOf(routes, err); got != tt.want {
				t.Fatalf("got %s, want %s", got, tt.want)
			}
			for r := &routes[0]; r != nil; r = r.Else {
				if !r.Alone || r.Rule.Pattern != "srs" || len(r.Rates) == 0 || r.Policy.Seal != mail.SealNever ||
					r.Forwards[0].String() != tt.from {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// TestRouter_RelayReload: relay lines come and go with a reload, for trusted clients alone. What a reload took away is
// not sent by a relay line.
func TestRouter_RelayReload(t *testing.T) {
	now := noon
	cfg := testConfig("routes.txt")
	cfg.Empty, cfg.Now = true, func() time.Time { return now }
	r := newRouter(t, cfg)
	use := func(text string) {
		t.Helper()
		put, err := r.Prepare(0, maps.All(map[string]string{"routes.txt": text}))
		if err != nil {
			t.Fatal(err)
		}
		put()
	}
	check := func(step, to string, trusted bool, want string) {
		t.Helper()
		q := query(t, to)
		q.Trusted = trusted
		routes, err := r.Route(q)
		if got := hopOf(routes, err); got != want {
			t.Errorf("%s, %s: got %s, want %s", step, to, got, want)
		}
	}
	const denied = "550 5.7.1 Relaying denied"
	use("domain h.example\n@h.example smtp://192.0.2.9\n")
	check("without relay lines", "a@far.example", true, "mx:far.example ")
	check("without relay lines", "a@far.example", false, denied)
	use("relay * smtp://192.0.2.20\n")
	check("with one", "a@far.example", true, "smtp://192.0.2.20 ")
	check("with one", "a@far.example", false, denied)
	check("with one, hosted before", "a@h.example", false, "451 4.3.0 Temporarily not deliverable")
	check("with one, hosted before", "a@h.example", true, "451 4.3.0 Temporarily not deliverable")
	now = now.Add(grace)
	check("ten minutes after", "a@h.example", false, denied)
	check("ten minutes after", "a@h.example", true, "smtp://192.0.2.20 ")
	if r.Len() != 1 || !r.Ready() || r.Needs().Trusted.Rules != 1 ||
		!r.HasNextHop(mail.NextHop{Transport: mail.SMTP, Host: "192.0.2.20"}) {
		t.Errorf("%d rules, %+v", r.Len(), r.Needs().Trusted)
	}
	use("domain h.example\n@h.example smtp://192.0.2.9\n")
	check("without it", "a@far.example", true, "mx:far.example ")
	check("without it", "a@far.example", false, denied)
}
