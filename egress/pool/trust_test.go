package pool

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/tlspolicy"
)

// TestPool_Trust: in whatever order sessions are opened for messages with different demands, lent, parked, taken by
// others and put back, none serves a message that demands more than what it was checked for, or another check, and what
// was opened for a message that waives its demands serves no other.
func TestPool_Trust(t *testing.T) {
	authorities := []*tlspolicy.Authorities{nil, {Number: 1}, {Number: 2}}
	rapid.Check(t, func(t *rapid.T) {
		p, d := New[*fake](time.Now, DefaultStreamFloor), new(dest)
		opened := make(map[*fake]tlspolicy.Trust)
		var held []*Slot[*fake]
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "ends") {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				s := held[i]
				held = append(held[:i], held[i+1:]...)
				switch {
				case !s.Unpark():
				case rapid.Bool().Draw(t, "keeps"):
					s.Dirty()
					s.Put()
				default:
					s.Discard()
				}
				continue
			}
			if len(held) == 3 {
				continue // one more would wait
			}
			demands := tlspolicy.Demands{
				Least:       tlspolicy.Level(rapid.IntRange(0, int(tlspolicy.DANE)).Draw(t, "level")),
				Authorities: rapid.SampledFrom(authorities).Draw(t, "authorities"), Written: true,
				Waived: rapid.Bool().Draw(t, "waived"), Required: rapid.Bool().Draw(t, "required"),
			}
			r := Request{
				Site: "site", Limits: Limits{Sessions: 3}, Hosts: []mx.Host{{Name: "mx1", Pref: 10}}, Demands: demands,
				Client: rapid.SampledFrom([]netip.Prefix{netA, netB, netC}).Draw(t, "client"),
			}
			s, err := p.Get(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			need := demands.Of("mx1").Trust
			if c, full := s.Conn(); !full {
				has := need
				has.RequireTLS = need.RequireTLS || rapid.Bool().Draw(t, "offered")
				c = d.dial()
				opened[c] = has
				s.Fill(Key{Way: r.Way, Host: "mx1", Trust: has}, c)
			} else if has := opened[c]; has.Waived && !need.Waived || need.RequireTLS && !has.RequireTLS ||
				has.Level < need.Level || need.Level > tlspolicy.Encrypted && has.Level != need.Level ||
				need.Level == tlspolicy.Verified && has.Against != need.Against {
				t.Fatalf("a session of %+v serves %+v", has, need)
			}
			s.Park()
			held = append(held, s)
		}
		for _, s := range held {
			if s.Unpark() {
				s.Discard()
			}
		}
		endings(p)
	})
}
