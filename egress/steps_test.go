package egress

import (
	"slices"
	"testing"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// stepsOf returns the steps of a way by name, each behind those that it is a part of, and "!" behind one that failed.
func stepsOf(leg *mail.Leg) (names []string) {
	for i := range leg.Steps.List {
		s := &leg.Steps.List[i]
		name := s.Kind.String()
		if s.Above >= 0 {
			name = leg.Steps.List[s.Above].Kind.String() + "/" + name
		}
		if leg.Steps.Note(i).Err != nil {
			name += "!"
		}
		if s.Open {
			name += "..."
		}
		names = append(names, name)
	}
	return names
}

// traced returns d with a way whose steps are written down.
func traced(d mail.Delivery) mail.Delivery {
	d.Leg = &mail.Leg{NextHop: d.NextHop, Steps: new(mail.Steps)}
	return d
}

// TestRelay_Steps: each part of the way to a next hop is a step of its trace.
func TestRelay_Steps(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, nil)
	d := traced(to("one.test"))
	tx, err := w.relay.Begin(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if tx.Rcpt(t.Context(), path("550@one.test")) == nil {
		t.Fatal("accepted")
	}
	if err := tx.Rcpt(t.Context(), path("b@one.test")); err != nil {
		t.Fatal(err)
	}
	tx.Lend()
	if err := tx.Data(t.Context(), mail.Plain); err != nil {
		t.Fatal(err)
	}
	tx.Commit(t.Context(), octets(message))
	want := []string{"mx", "pool", "dial", "rcpt!", "rcpt", "pool", "replay", "send", "dot"}
	if got := stepsOf(d.Leg); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if s := d.Leg.Steps.Note(2); s.Host != "mx1.one.test" || !s.Addr.IsValid() {
		t.Errorf("dialled %q %v", s.Host, s.Addr)
	}
}

// TestRelay_StepsHandshake: a handshake is a part of the dialling.
func TestRelay_StepsHandshake(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{TLS: smtptest.NewCA().Server("x")}, nil)
	d := traced(to("one.test"))
	tx, err := w.relay.Begin(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	tx.Abort()
	if got := stepsOf(d.Leg); !slices.Contains(got, "dial/tls") {
		t.Errorf("got %q", got)
	}
}

// TestConfig_Limits: limits are overridden by Site.
func TestConfig_Limits(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, func(c *Config) {
		c.tune.limits = map[mail.Site]pool.Limits{"mx1.one.test": {Messages: 1}}
	})
	deliver(t, w, to("one.test"), "b@one.test")
	deliver(t, w, to("one.test"), "b@one.test")
	if c := s.Counts(); c.Connections != 2 {
		t.Errorf("%d connections", c.Connections)
	}
}
