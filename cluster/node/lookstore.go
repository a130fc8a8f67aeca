package node

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/router/mail"
)

// A lookStore is the store of a node for an explanation: it answers as ever and remembers nothing.
type lookStore struct{ *store.Store }

// Rcpt answers without drawing a rate or remembering a triplet.
func (s lookStore) Rcpt(ctx context.Context, q mail.RcptQuery) (mail.RcptFacts, error) {
	q.Triplets = slices.Clone(q.Triplets)
	for i := range q.Triplets {
		q.Triplets[i].Peek = true
	}
	q.Rates = peeked(q.Rates)
	return s.Store.Rcpt(ctx, q)
}

// Rates answers without drawing.
func (s lookStore) Rates(ctx context.Context, rates []mail.Rate) ([]mail.RateResult, error) {
	return s.Store.Rates(ctx, peeked(rates))
}

// peeked returns rates that are not drawn.
func peeked(rates []mail.Rate) []mail.Rate {
	rates = slices.Clone(rates)
	for i := range rates {
		rates[i].Peek = true
	}
	return rates
}

// Vote counts nothing.
func (lookStore) Vote(context.Context, mail.Vote) bool { return false }

// KnowGood marks nothing.
func (lookStore) KnowGood(context.Context, netip.Addr, string, time.Duration) {}

// Mark sets no mark.
func (lookStore) Mark(context.Context, string, time.Duration) bool { return true }

// Ledger has no entry: what would be delivered is told, whether or not it was before.
func (lookStore) Ledger(_ context.Context, keys []mail.LedgerKeys, _ mail.LedgerEvent) ([]mail.LedgerEntry, bool) {
	if len(keys) == 0 {
		return nil, false
	}
	return make([]mail.LedgerEntry, len(keys[0].Recipients)), false
}

// Ledgers writes nothing.
func (lookStore) Ledgers(context.Context, []mail.LedgerCall) bool { return false }
