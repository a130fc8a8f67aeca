package store

import (
	"strings"
	"testing"
	"time"
)

// TestStore_TLSPolicy: a policy that one node keeps another one finds, until its time is over. Without Redis, or where
// it does not answer, there is none.
func TestStore_TLSPolicy(t *testing.T) {
	server := newServer(t)
	a, b := open(t, Config{URL: "redis://" + server.addr, Timeout: slow}), open(t, Config{
		URL: "redis://" + server.addr, Timeout: slow,
	})
	if got, ok := b.TLSPolicy(t.Context(), "one.test"); ok {
		t.Errorf("got %q before", got)
	}
	text := "1 id\n" + strings.Repeat("mx: a.test\r\n", 5000)
	a.KeepTLSPolicy(t.Context(), "one.test", text, time.Hour)
	a.KeepTLSPolicy(t.Context(), "two.test", text, 0)
	if got, ok := b.TLSPolicy(t.Context(), "one.test"); !ok || got != text {
		t.Errorf("got %d octets, %t", len(got), ok)
	}
	if _, ok := b.TLSPolicy(t.Context(), "two.test"); ok {
		t.Error("what has no time is kept")
	}
	key := strings.Trim(strings.TrimSpace(server.do("KEYS", "*")), "[]")
	if left := server.do("PTTL", key); strings.HasPrefix(left, "-") {
		t.Errorf("%s does not expire", key)
	}
	alone := open(t, Config{})
	alone.KeepTLSPolicy(t.Context(), "one.test", text, time.Hour)
	if _, ok := alone.TLSPolicy(t.Context(), "one.test"); ok {
		t.Error("a store without Redis has it")
	}
}
