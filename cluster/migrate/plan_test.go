package migrate

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestEgress_Prefixes: neighbours are one prefix, which holds no other address.
func TestEgress_Prefixes(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":                               "192.0.2.1/32",
		"192.0.2.2 192.0.2.3":                     "192.0.2.2/31",
		"192.0.2.1 192.0.2.2":                     "192.0.2.1/32 192.0.2.2/32",
		"192.0.2.3 192.0.2.1 192.0.2.0 192.0.2.2": "192.0.2.0/30",
		"192.0.2.3 192.0.2.3":                     "192.0.2.3/32",
		"::ffff:192.0.2.3 2001:db8::1 2001:db8::": "192.0.2.3/32 2001:db8::/127",
	} {
		var addrs []netip.Addr
		for _, word := range strings.Fields(in) {
			addrs = append(addrs, netip.MustParseAddr(word))
		}
		var got []string
		for _, p := range NewEgress("mx1.a.test", addrs, time.Time{}).Prefixes {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", in, got, want)
		}
	}
}

// TestMove_Phases: the times follow from the TTL, and the way back has the records of today.
func TestMove_Phases(t *testing.T) {
	now := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		ttl    time.Duration
		change string
	}{
		{"a TTL of an hour", time.Hour, "2026-12-01T10:01:00Z"}, // a day's notice at least
		{"a TTL of two days", 48 * time.Hour, "2026-12-02T10:01:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Move{Domain: "a.test", Now: now, Old: []MX{{"old.a.test", 10}}, TTL: c.ttl, Host: "mx1.b.test",
				Config: "m.yaml",
				Size:   52428800}
			phases := m.Phases()
			begins := make(map[string]time.Time)
			for i, p := range phases {
				begins[p.Name] = p.Begin
				if i > 0 && p.Begin.Before(phases[i-1].Begin) || len(p.Do) == 0 || len(p.Until) == 0 {
					t.Errorf("%s begins at %s, does %v until %v", p.Name, p.Begin, p.Do, p.Until)
				}
			}
			if got := begins["Switch"].Format(time.RFC3339); got != c.change {
				t.Errorf("the switch is at %s, want %s", got, c.change)
			}
			if apart := begins["Take the old MX away"].Sub(begins["Switch"]); apart < retried {
				t.Errorf("the old MX goes %s behind the switch, and senders try it for %s", apart, retried)
			}
			text := m.Text() + m.RollBack()
			for _, line := range []string{"a.test. 300 IN MX 10 old.a.test.\n", "a.test. 300 IN MX 10 mx1.b.test.\n",
				"a.test. 300 IN MX 30 old.a.test.\n", "message_size_limit = 52428800\n", "update delete a.test. MX\n"} {
				if !strings.Contains(text, line) {
					t.Errorf("the plan has no line %s:\n%s", line, text)
				}
			}
		})
	}
}

// TestSight_Judge: a resolver that sees a new host sends mail there.
func TestSight_Judge(t *testing.T) {
	for _, c := range []struct {
		hosts, cause, want string
		all                bool
	}{
		{"new.test", "", SeesNew, true}, {"NEW.test old.test", "", SeesBoth, true}, {"old.test", "", SeesOld, false},
		{"", "", SeesNone, false}, {"", "timeout", SeesFailed, false},
	} {
		s := Sight{Hosts: strings.Fields(c.hosts), Cause: c.cause, TTL: 100}
		s.Judge([]string{"new.test"})
		if s.State != c.want || AllSee([]Sight{s}) != c.all {
			t.Errorf("%s %s: %s %v, want %s %v", c.hosts, c.cause, s.State, AllSee([]Sight{s}), c.want, c.all)
		}
	}
	for ttl, want := range map[int]time.Duration{0: leastWait, 100: 101 * time.Second, 90000: mostWait} {
		if got := NextLook([]Sight{{State: SeesOld, TTL: ttl}, {State: SeesNew, TTL: 20}}); got != want {
			t.Errorf("a TTL of %d s: %s, want %s", ttl, got, want)
		}
	}
	if AllSee(nil) {
		t.Error("no resolver was asked, and all see it")
	}
}
