package score

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A Scorer scores clients. Its methods are safe for concurrent use. Make one with New. It needs no end: all that is
// under way belongs to a Score.
type Scorer struct {
	cfg         Config
	allow       allowList
	block       entryList
	weights     [signals]float64
	hostnames   []string // in canonical form
	domainLists bool     // one list at least is one of domains
	heldBack    atomic.Int64
	spoke       [signals]atomic.Uint64
	unheard     [16]atomic.Uint64 // by the bit of the source
	verdicts    [len(verdictNames)]atomic.Uint64
}

// verdictNames are what verdicts are counted by: the actions, and accepted clients whose mail is greylisted.
var verdictNames = [...]string{"accept", "defer", "reject", "grey"}

// New makes a Scorer. It fails as Config.Validate does and asks nothing yet.
func New(c Config) (*Scorer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s := &Scorer{cfg: c, allow: compileAllow(c.Allow), block: compile("block", c.Block)}
	for sig, info := range catalogue {
		s.weights[sig] = info.weight
		if weight, ok := c.Weights[info.name]; ok {
			s.weights[sig] = weight
		}
	}
	for _, name := range c.Hostnames {
		s.hostnames = append(s.hostnames, domain.Canonical(name))
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
	// Only the compiled form of these is used. The files that they came from may be long.
	s.cfg.Allow, s.cfg.Block, s.cfg.Weights = nil, nil, nil
	return s, nil
}

// A Count is how often a signal spoke, or a source of signals had no answer in time.
type Count struct {
	Name  string
	Count uint64
}

// Spoke returns how often each signal spoke since New, in the order of Explain.
func (s *Scorer) Spoke() []Count {
	counts := make([]Count, 0, signals)
	for sig := range s.spoke {
		counts = append(counts, Count{catalogue[sig].name, s.spoke[sig].Load()})
	}
	return counts
}

// Verdicts returns how often each verdict was counted since New.
func (s *Scorer) Verdicts() []Count {
	counts := make([]Count, len(verdictNames))
	for i, name := range verdictNames {
		counts[i] = Count{name, s.verdicts[i].Load()}
	}
	return counts
}

// Unheard returns how often each source had no answer in time since New. The lists count for themselves where one of
// them is missing.
func (s *Scorer) Unheard() []Count {
	var counts []Count
	for bit := range s.unheard {
		from := source(1) << bit
		if from > lastSource {
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

// HeldBack returns the number of connections whose refusals are held back now.
func (s *Scorer) HeldBack() int { return int(s.heldBack.Load()) }

// AllowsPlace reports whether the allow list speaks for the address of a client where clients share places (ForPlaces).
// Entries about names need proof, which is not there when a client connects.
func (s *Scorer) AllowsPlace(addr netip.Addr) bool {
	allow, bits := s.allow[placesIndex].client(addr)
	if allow == nil {
		return false
	}
	_, blockBits := s.block.client(addr)
	return bits >= blockBits
}

// A Client is the client that is scored.
type Client struct {
	Addr netip.Addr // invalid if it is not known, as after PROXY LOCAL: then there are no signals of an address
	// Name is the client's name by a front end (XCLIENT NAME). It is not believed: DNS is asked.
	Name string
}

// Connect begins to score a client: what is known of it, the lists, its reverse DNS. It waits for nothing. ctx is that
// of the session: all that is under way ends with it. The caller must call Close.
func (s *Scorer) Connect(ctx context.Context, c Client) *Score {
	k := s.score(ctx, c)
	k.inquiry.connect()
	return k
}

// Look is Connect for explain: no rate is drawn, no lock on a list is taken, nothing is counted, and the answers of
// silent signals are kept for Explain.
func (s *Scorer) Look(ctx context.Context, c Client) *Score {
	k := s.score(ctx, c)
	k.inquiry.explanation = map[source]string{}
	k.inquiry.connect()
	return k
}

func (s *Scorer) score(ctx context.Context, c Client) *Score {
	k := &Score{inquiry: inquiry{s: s, ctx: ctx, addr: c.Addr.Unmap().WithZone("")}}
	k.inquiry.public = k.inquiry.addr.IsValid() && (s.cfg.Private || network.IsPublic(k.inquiry.addr))
	return k
}

// action returns the action for a score.
func (s *Scorer) action(score float64) mail.VerdictAction {
	switch {
	case score >= s.cfg.Reject:
		return mail.VerdictReject
	case score >= s.cfg.Defer:
		return mail.VerdictDefer
	}
	return mail.VerdictAccept
}

// gatherTime returns how long sources may work, which is the deadline without a part in which their answers come in.
func (s *Scorer) gatherTime() time.Duration { return s.cfg.Deadline - s.cfg.Deadline/20 }
