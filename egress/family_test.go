package egress

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// both starts a destination with an address of each family, the MX host of both.test.
func both(t *testing.T, six, four smtptest.Behaviour, change func(*Config)) (w *world, s6, s4 *smtptest.Server) {
	t.Helper()
	all := listen(t, endpoint{host: "::1", behaviour: six}, endpoint{host: "127.0.0.1", behaviour: four})
	return newWorld(t, port(t, all[0]), change), all[0], all[1]
}

// TestRelay_Family: hosts are connected to by the family that is asked for, and a next hop that is written as an
// address in any case.
func TestRelay_Family(t *testing.T) {
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for _, c := range []struct {
		name    string
		family  dial.Family
		sources []netip.Addr
		six     bool
	}{
		{"any", dial.Any, nil, true},
		{"IPv4 alone", dial.IPv4, nil, false},
		{"IPv6 alone", dial.IPv6, nil, true},
		{"IPv4 first", dial.PreferIPv4, nil, false},
		{"we come from IPv4", dial.Any, []netip.Addr{v4}, false},
		{"we come from IPv6", dial.PreferIPv4, []netip.Addr{v6}, true},
		{"we come from both", dial.PreferIPv4, []netip.Addr{v6, v4}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s6, s4 := both(t, smtptest.Behaviour{}, smtptest.Behaviour{}, func(cfg *Config) {
				cfg.Family, cfg.Sources = c.family, c.sources
			})
			deliver(t, w, to("both.test"), "b@both.test")
			if six := len(s6.Messages()) == 1; six != c.six || len(s4.Messages()) == 1 == c.six {
				t.Errorf("went by IPv6: %v", six)
			}
			d := to("both.test")
			for _, host := range []string{"::1", "127.0.0.1"} {
				d.NextHop = mail.NextHop{Transport: mail.SMTP, Host: host, Port: uint16(port(t, s4))}
				deliver(t, w, d, "b@both.test")
			}
		})
	}
	t.Run("a host without an address of the family", func(t *testing.T) {
		w, s := one(t, smtptest.Behaviour{}, func(c *Config) { c.Family = dial.IPv6 })
		_, err := w.relay.Begin(t.Context(), to("one.test"))
		want(t, err, "451 4.4.1")
		if n := s.Counts().Connections; n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestRelay_IPv6Refused: a refusal that names our IPv6 address is followed by IPv4, at once where another session may
// be tried, and by the next attempt where the message is over.
func TestRelay_IPv6Refused(t *testing.T) {
	const blocked = "550 5.7.1 Client host [::1] blocked, see the block list"
	for _, c := range []struct {
		name, verb, reply string
		first             string // answer to the first attempt
		then              bool   // the next message goes by IPv4
	}{
		{"at MAIL", "MAIL", blocked, "", true},
		{"at MAIL, for now", "MAIL", "450 4.7.1 Client host [IPv6:::1] is listed", "", true},
		{"at MAIL, in full", "MAIL", "550 5.7.1 0000:0000:0000:0000:0000:0000:0000:0001 has no PTR", "", true},
		{"at MAIL, as X.7.25", "MAIL", "550 5.7.25 [::1] The sending IP has no PTR", "", true},
		{"at RCPT", "RCPT", blocked, "", true},
		{"at DATA", "DATA", blocked, "", true},
		{"at the dot", smtptest.Dot, blocked, "451 4.7.0", true},
		{"at the dot, for now", smtptest.Dot, "451 4.7.1 Your IP address ::1 has a poor record", "451 4.7.0", true},
		{"of IPv4", smtptest.Dot, "550 5.7.1 Client host [192.0.2.66] is on a block list", "550 5.7.1", false},
		{"of another", smtptest.Dot, "550 5.7.1 Client host [2001:db8::66] is on a block list", "550 5.7.1", false},
		{"of the message", smtptest.Dot, "550 5.7.1 This message from ::1 has a virus", "550 5.7.1", false},
		{"that labels", smtptest.Dot, "550 5.7.1 [::1] Spam", "550 5.7.1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			six := smtptest.Behaviour{
				Extensions: smtptest.Without("CHUNKING"), Answers: map[string]smtptest.Answer{c.verb: {Reply: c.reply}},
			}
			w, s6, s4 := both(t, six, smtptest.Behaviour{}, nil)
			tx := begin(t, w, to("both.test"))
			rcpt(t, tx, "b@both.test")
			out := finish(t, tx)
			if c.first == "" {
				c.first = "250"
			}
			if got := out[0].Reply.String(); got[:len(c.first)] != c.first {
				t.Errorf("got %s", got)
			}
			s6.Set(smtptest.Behaviour{})
			before := len(s4.Messages())
			deliver(t, w, from(1, "both.test"), "b@both.test")
			if by4 := len(s4.Messages()) > before; by4 != c.then {
				t.Errorf("the next goes by IPv4: %v", by4)
			}
		})
	}
}
