package karma

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// filter learns what filters say of a message of a client to a mailbox.
func (w *fixture) filter(c netip.Addr, mailbox, domain string, a Answer) {
	w.Helper()
	w.see(Outcome{Client: c, Domain: domain, Mailbox: mailbox, Reply: spammy, Answer: a})
}

// judged makes filters believed for domains.
func (w *fixture) judged(domains ...string) {
	for _, d := range domains {
		for i := range max(w.cfg.Volume, 1) {
			w.filter(netip.AddrFrom4([4]byte{198, 51, byte(i), 1}), "x", d, FilterTook)
		}
	}
}

// TestFiltered_OneVote: what filters refuse is one vote for a client in an hour, whatever the domains are.
func TestFiltered_OneVote(t *testing.T) {
	w := newWorld(t, nil)
	w.judged("a.test", "b.test")
	for i := range 30 {
		w.filter(client, fmt.Sprint("user", i), []string{"a.test", "b.test"}[i%2], FilterRefused)
	}
	w.want("203.0.113.9 (filters) -3\n")
	w.pass(time.Hour)
	w.filter(client, "user", "a.test", FilterRefused)
	w.want("203.0.113.9 (filters) -3\n203.0.113.9 (filters) -3\n")
}

// TestFiltered_StrictOwner: one who has his filter refuse all does not ruin a provider: not with a domain of his own
// that takes little, not with a mailbox at a large one, and not with a whole domain among those that the provider
// writes to.
func TestFiltered_StrictOwner(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Volume, c.Networks = 40, 8 })
	for i := range 100 {
		w.filter(client, fmt.Sprint("alias", i), "own.test", FilterRefused)
	}
	w.judged("large.test", "strict.test")
	for range 100 {
		w.filter(client, "owner", "large.test", FilterRefused)
	}
	w.want("")
	w.pass(30 * 24 * time.Hour)
	w.judged("large.test", "strict.test")
	for i := range 200 {
		w.filter(client, fmt.Sprint("user", i), "large.test", FilterTook)
	}
	for i := range 20 {
		w.filter(client, fmt.Sprint("user", i), "strict.test", FilterRefused)
	}
	w.want("")
	if s := w.Stats(); s.Unbelieved != 100+4*39 || s.Tolerated != 120 {
		t.Errorf("got %+v", s)
	}
}

// TestFiltered_Nothing: a filter votes for no client, nor against one that is allowed or known good; nothing is learnt
// of what it puts off or says about authentication, and no destination is believed for what a filter took.
func TestFiltered_Nothing(t *testing.T) {
	w := newWorld(t, nil)
	w.judged("a.test")
	for i := range 10 {
		o := Outcome{Client: client, Domain: "a.test", Mailbox: fmt.Sprint(i), Reply: spammy, Answer: FilterRefused}
		o.Allowed = true
		w.see(o)
		o.Allowed, o.Reply = false, mail.NewReply(550, 7, 20, "No DKIM signature that passes")
		w.see(o)
		o.Reply = mail.NewReply(451, 7, 1, "Spam, perhaps")
		w.see(o)
		w.filter(client, "x", "a.test", FilterTook)
	}
	w.KnowGood(t.Context(), client, "", time.Hour)
	for i := range 10 {
		w.filter(client, fmt.Sprint(i), "a.test", FilterRefused)
	}
	w.want("")
	if w.domains.size() != 0 || w.standings.size() != 0 {
		t.Error("something is learnt of a destination, or of a standing")
	}
}

// TestFiltered_Crowd: what strangers can make the tables hold is bounded.
func TestFiltered_Crowd(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 3 * maxFiltered {
		c := netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)})
		w.filter(c, "x", fmt.Sprintf("d%d.test", i), FilterTook)
	}
	if d, c := w.filtered.domains.size(), w.filtered.clients.size(); d > maxFiltered || c > maxFiltered {
		t.Errorf("%d domains and %d clients are kept", d, c)
	}
}
