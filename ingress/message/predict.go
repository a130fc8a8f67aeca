package message

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/leaf/network"
)

// How long a message is not predicted again after it was predicted wrongly, and how long no message is that has the
// same signing domain, comes from the same client network and passes SPF for the same domain, after that happened
// twice.
const (
	messageMark = 5 * 24 * time.Hour
	signerMark  = 24 * time.Hour
)

// predictions is what the nodes remember of bodies that were predicted wrongly. Its methods are safe for concurrent
// use.
type predictions struct {
	store world.Store // nil disables prediction
	keys  [][]byte    // of the MACs by which store knows them, current first
}

// allow reports whether a message that comes from client may be signed over the hash that one of its signatures
// foretells. That takes a store that knows of earlier failures: without it a sender whose messages change on their way
// could be put off for ever, by one node after the other.
func (p *predictions) allow(ctx context.Context, a *auth.Message, client netip.Addr) bool {
	if p.store == nil || !a.Predict(ctx) {
		return false
	}
	message, sender := a.PredictKey()
	keys := append(p.marks("message", message), p.marks("signer twice", signer(client, sender))...)
	marked, all := p.store.Marked(ctx, keys...)
	return all && !slices.Contains(marked, true)
}

// recordWrong remembers that the body was not the one that the signature foretold. It returns an error if the other
// nodes do not hear of it.
func (p *predictions) recordWrong(ctx context.Context, a *auth.Message, client netip.Addr) error {
	ctx = context.WithoutCancel(ctx)
	message, sender := a.PredictKey()
	from := signer(client, sender)
	shared := p.store.Mark(ctx, p.marks("message", message)[0], messageMark)
	key := p.marks("signer", from)
	if marked, _ := p.store.Marked(ctx, key...); slices.Contains(marked, true) {
		key = p.marks("signer twice", from)
	}
	p.store.Mark(ctx, key[0], signerMark)
	if !shared {
		return errNotShared
	}
	return nil
}

var errNotShared = errors.New("only this node remembers it")

// signer names a sender whose messages come from the client's network: both have to match.
func signer(client netip.Addr, sender string) string {
	return network.Of(client).String() + " " + sender
}

// marks returns the keys in the store that text has under each of our keys, the current one's first. What is marked
// cannot be read from them.
func (p *predictions) marks(kind, text string) []string {
	out := make([]string, len(p.keys))
	for i, key := range p.keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(kind))
		mac.Write([]byte{0})
		mac.Write([]byte(text))
		out[i] = "predict:" + hex.EncodeToString(mac.Sum(nil)[:16])
	}
	return out
}
