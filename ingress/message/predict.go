package message

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/router/leaf/network"
)

// How long a message is not predicted again after it was predicted wrongly, and how long no message is that has the
// same signing domain, comes from the same client network and passes SPF for the same domain, after that happened
// twice.
const (
	messageMark = 5 * 24 * time.Hour
	signerMark  = 24 * time.Hour
)

// predicts reports whether the message may be signed over the hash that one of its signatures foretells. That takes a
// store that knows of earlier failures: without it a sender whose messages change on their way could be put off for
// ever, by one node after the other.
func (m *Message) predicts(ctx context.Context) bool {
	if m.cfg.Store == nil || !m.auth.Predict(ctx) {
		return false
	}
	message, sender := m.auth.PredictKey()
	keys := append(m.marks("message", message), m.marks("signer twice", m.signer(sender))...)
	marked, all := m.cfg.Store.Marked(ctx, keys...)
	return all && !slices.Contains(marked, true)
}

// recordMisprediction remembers that the body was not the one that the signature foretold.
func (m *Message) recordMisprediction(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	store := m.cfg.Store
	message, sender := m.auth.PredictKey()
	signer := m.signer(sender)
	shared := store.Mark(ctx, m.marks("message", message)[0], messageMark)
	key := m.marks("signer", signer)
	if marked, _ := store.Marked(ctx, key...); slices.Contains(marked, true) {
		key = m.marks("signer twice", signer)
	}
	store.Mark(ctx, key[0], signerMark)
	var cause error
	if !shared {
		cause = errNotShared
	}
	m.report.Anomaly("body hash foretold wrongly", cause)
}

var errNotShared = errors.New("only this node remembers it")

// signer names a sender whose messages come from the client's network: both have to match.
func (m *Message) signer(sender string) string {
	return network.Of(m.Client.Addr.Addr()).String() + " " + sender
}

// marks returns the keys in the store that text has under each of our keys, the current one's first. What is marked
// cannot be read from them.
func (m *Messages) marks(kind, text string) []string {
	out := make([]string, len(m.cfg.MarkKeys))
	for i, key := range m.cfg.MarkKeys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(kind))
		mac.Write([]byte{0})
		mac.Write([]byte(text))
		out[i] = "predict:" + hex.EncodeToString(mac.Sum(nil)[:16])
	}
	return out
}
