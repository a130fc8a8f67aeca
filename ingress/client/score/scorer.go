package score

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/router/mail"
)

// A Scorer scores clients. Its methods are safe for concurrent use. Make one with New.
type Scorer struct {
	cfg          Config
	allow, block entries
	weights      [signals]float64
	hostnames    []string // in lower case without the last dot
	domainLists  bool     // some list is one of domains
	tarred       atomic.Int64
	spoke        [signals]atomic.Uint64
	unheard      [16]atomic.Uint64 // by the bit of the source
}

// New makes a Scorer. It fails as Config.Validate does and asks nobody anything.
func New(c Config) (*Scorer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s := &Scorer{cfg: c, allow: compile("allow", c.Allow), block: compile("block", c.Block)}
	for sig, is := range catalogue {
		s.weights[sig] = is.weight
		if weight, ok := c.Weights[is.name]; ok {
			s.weights[sig] = weight
		}
	}
	for _, name := range c.Hostnames {
		s.hostnames = append(s.hostnames, plainName(name))
	}
	s.cfg.OwnAddrs = nil
	for _, a := range c.OwnAddrs {
		s.cfg.OwnAddrs = append(s.cfg.OwnAddrs, a.Unmap().WithZone(""))
	}
	if c.Lists != nil {
		s.domainLists = slices.ContainsFunc(c.Lists.State(), func(l dnsbl.ListState) bool {
			return l.Kind == dnsbl.Domains
		})
	}
	// What New made of these is what is used; the files they came from may be long.
	s.cfg.Allow, s.cfg.Block, s.cfg.Weights = nil, nil, nil
	return s, nil
}

// Close ends nothing: all that is under way belongs to a Score. It is there so that who owns a Scorer may treat it like
// what has an end.
func (s *Scorer) Close() {}

// A Count is how often a signal spoke, or a source of signals gave no answer in time.
type Count struct {
	Name  string
	Count uint64
}

// Spoke tells how often each signal spoke, since New, in the order of Explain.
func (s *Scorer) Spoke() []Count {
	counts := make([]Count, 0, signals)
	for sig := range s.spoke {
		counts = append(counts, Count{catalogue[sig].name, s.spoke[sig].Load()})
	}
	return counts
}

// Unheard tells how often each source gave no answer in time, since New. Of one list that is missing among others, the
// list itself keeps count.
func (s *Scorer) Unheard() []Count {
	var counts []Count
	for bit := range s.unheard {
		from := source(1) << bit
		if from > fromSenderLists {
			break
		}
		name := from.unheard()
		if name == "other" {
			continue
		}
		n := s.unheard[bit].Load()
		if i := slices.IndexFunc(counts, func(c Count) bool { return c.Name == name }); i >= 0 {
			counts[i].Count += n
			continue
		}
		counts = append(counts, Count{name, n})
	}
	return counts
}

// Tarred is the number of connections whose refusals are held back now.
func (s *Scorer) Tarred() int { return int(s.tarred.Load()) }

// A Client is who is to be scored.
type Client struct {
	Addr netip.Addr // invalid if it is not known, as after PROXY LOCAL: then there are no signals of an address
	// Name is what a front end says that the client is called (XCLIENT NAME). It is not believed: DNS is asked.
	Name string
}

// Connect begins to score a client: what is known of it, the lists, its reverse DNS. It waits for nothing. ctx is that
// of the session; when it ends, so does what is under way. Close must be called.
func (s *Scorer) Connect(ctx context.Context, c Client) *Score {
	k := s.score(ctx, c)
	k.connect()
	return k
}

// Look is Connect for explain: no rate is drawn, no lock on a list is taken, nothing is counted, and what silent
// signals saw is kept for Explain.
func (s *Scorer) Look(ctx context.Context, c Client) *Score {
	k := s.score(ctx, c)
	k.facts = map[source]string{}
	k.connect()
	return k
}

func (s *Scorer) score(ctx context.Context, c Client) *Score {
	k := &Score{s: s, ctx: ctx, addr: c.Addr.Unmap().WithZone("")}
	k.public = k.addr.IsValid() && (s.cfg.Private || public(k.addr))
	return k
}

// public reports whether addr, which is not IPv4-mapped, is one that public DNS can know.
func public(addr netip.Addr) bool {
	// 100.64/10 is the space between a provider and its customers (RFC 6598).
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !shared.Contains(addr)
}

// judge gives the action for a score.
func (s *Scorer) judge(score float64) mail.VerdictAction {
	switch {
	case score >= s.cfg.Reject:
		return mail.VerdictReject
	case score >= s.cfg.Defer:
		return mail.VerdictDefer
	}
	return mail.VerdictAccept
}

// patience is how much of the deadline those have who gather. The rest is for what they have found by then to come in.
func (s *Scorer) patience() time.Duration { return s.cfg.Deadline - s.cfg.Deadline/20 }
