package ingresstest

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Store is a world.Store that knows nothing about clients, allows every rate, passes every triplet and leaves every
// list to the caller. It keeps marks, and those forever. A test embeds it and overrides the methods that it is about.
type Store struct {
	mu    sync.Mutex
	marks map[string]time.Duration
	down  bool
	own   map[string]bool // what was marked while it was down
}

// SetDown says whether the part that the nodes share fails from now on.
func (s *Store) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Marks returns the marks that the nodes share, with the ttl that each was set for.
func (s *Store) Marks() map[string]time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]time.Duration, len(s.marks))
	for k, ttl := range s.marks {
		out[k] = ttl
	}
	return out
}

func allowed(rates []mail.Rate) []mail.RateResult {
	return slices.Repeat([]mail.RateResult{{Allowed: true}}, len(rates))
}

func yours(lists []string) []mail.ListAnswer {
	return slices.Repeat([]mail.ListAnswer{{State: mail.ListAskedOfYou}}, len(lists))
}

// Client allows the rates and leaves the lists to the caller.
func (s *Store) Client(_ context.Context, q mail.ClientQuery) (mail.Facts, error) {
	return mail.Facts{Rates: allowed(q.Rates), Lists: yours(q.Lists)}, nil
}

// Rcpt allows the rates and passes the triplets.
func (s *Store) Rcpt(ctx context.Context, q mail.RcptQuery) (mail.RcptFacts, error) {
	marked, _ := s.Marked(ctx, q.Marks...)
	return mail.RcptFacts{
		Rates: allowed(q.Rates), Marked: marked,
		Grey: slices.Repeat([]mail.GreylistAnswer{{Passed: true}}, len(q.Triplets)),
	}, nil
}

// Rates allows the rates.
func (s *Store) Rates(_ context.Context, rates []mail.Rate) ([]mail.RateResult, error) {
	return allowed(rates), nil
}

// AwaitLists leaves the lists to the caller.
func (s *Store) AwaitLists(_ context.Context, _ netip.Addr, lists []string,
	_ time.Duration) ([]mail.ListAnswer, error) {
	return yours(lists), nil
}

// PutDNSBL forgets the answer.
func (s *Store) PutDNSBL(context.Context, netip.Addr, string, []netip.Addr, time.Duration) {}

// Vote reports true and forgets the vote.
func (s *Store) Vote(context.Context, mail.Vote) bool { return true }

// KnowGood forgets the network.
func (s *Store) KnowGood(context.Context, netip.Addr, string, time.Duration) {}

// Mark keeps a mark.
func (s *Store) Mark(_ context.Context, key string, ttl time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		if s.own == nil {
			s.own = make(map[string]bool)
		}
		s.own[key] = true
		return false
	}
	if s.marks == nil {
		s.marks = make(map[string]time.Duration)
	}
	s.marks[key] = ttl
	return true
}

// Marked reports which marks are kept. While the shared part is down only those set meanwhile are known.
func (s *Store) Marked(_ context.Context, keys ...string) ([]bool, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]bool, len(keys))
	for i, k := range keys {
		out[i] = s.own[k] || !s.down && s.marks[k] > 0
	}
	return out, !s.down
}
