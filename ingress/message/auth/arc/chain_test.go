package arc

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

const (
	letter = "Received: from a.example by b.example; Fri, 11 Jul 2003 21:01:54 -0700\r\n" +
		"DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=x; h=from; bh=AAAA; b=AAAA\r\n" +
		"From: Joe SixPack <joe@football.example.com>\r\n" +
		"To: Suzie Q <suzie@shopping.example.net>\r\n" +
		"Subject: Is dinner ready?\r\n" +
		"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n" +
		"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
	text = "Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
	now  = 1700000000
)

// A forwarder is a sealer with a key of its own.
type forwarder struct {
	name   string // of its key
	sealer *Sealer
}

// hops makes n sealers and publishes their keys.
func hops(t testing.TB, n int) ([]forwarder, records) {
	t.Helper()
	keys := records{}
	all := make([]forwarder, n)
	for i := range all {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize))
		domain := fmt.Sprintf("hop%d.example", i+1)
		record, err := dkim.KeyRecord(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		all[i].name = dkim.KeyName("s", domain)
		keys[all[i].name] = []string{record}
		all[i].sealer = newSealer(t,
			SealConfig{Key: dkim.SigningKey{Domain: domain, Selector: "s", Key: key}, Now: clock(now)})
	}
	return all, keys
}

func newSealer(t testing.TB, cfg SealConfig) *Sealer {
	t.Helper()
	s, err := NewSealer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pass has a message pass a sealer.
func (h forwarder) pass(t testing.TB, v *Verifier, message string) string {
	t.Helper()
	return h.seal(t, message, validate(t, v, []byte(message)))
}

func (h forwarder) seal(t testing.TB, message string, prior Result) string {
	t.Helper()
	header, body := split([]byte(message))
	hash, _ := hashes(body)(dkim.Relaxed)
	fields, err := h.sealer.Seal(nil, header, "mx.example; spf=pass\r\n smtp.mailfrom=a@example", dkim.Relaxed, hash,
		prior)
	if err != nil {
		t.Fatal(err)
	}
	return string(fields) + message
}

// sealed returns the letter after n hops.
func sealed(t testing.TB, n int) (string, []forwarder, records) {
	t.Helper()
	all, keys := hops(t, n)
	v := newVerifier(t, Config{Resolver: keys, Now: clock(now)})
	message := letter + "\r\n" + text
	for _, h := range all {
		message = h.pass(t, v, message)
	}
	return message, all, keys
}

// Fifty hops pass and no further one seals.
func TestChain_FiftySets(t *testing.T) {
	all, keys := hops(t, MaxInstance)
	v := newVerifier(t, Config{Resolver: keys, Now: clock(now)})
	message := letter + "\r\n" + text
	for i := 0; i <= MaxInstance; i++ {
		got := validate(t, v, []byte(message))
		want := Result{CV: Pass, Instances: i, Sealer: fmt.Sprintf("hop%d.example", i)}
		if i == 0 {
			want.CV, want.Sealer = None, ""
		}
		if got.CV != want.CV || got.Instances != i || got.Sealer != want.Sealer || got.OldestPass != 0 && i < 25 ||
			len(got.Domains) != i || len(got.Results) != i {
			t.Fatalf("after %d hops: %s since %d by %d", i, explain(got), got.OldestPass, len(got.Domains))
		}
		if i > 0 &&
			(got.Domains[i-1] != "hop1.example" ||
				got.Results[i-1] != "mx.example; spf=pass\r\n smtp.mailfrom=a@example") {
			t.Fatalf("after %d hops: %q, %q", i, got.Domains, got.Results)
		}
		if i == MaxInstance {
			if after := all[0].seal(t, message, got); after != message || got.Sealable() != ErrFull {
				t.Errorf("sealed beyond the last instance: %v", got.Sealable())
			}
			return
		}
		message = all[i].seal(t, message, got)
	}
}

// TestChain_ChangedOctet changes each octet of a message that all signatures together cover.
func TestChain_ChangedOctet(t *testing.T) {
	message, _, keys := sealed(t, 3)
	v := newVerifier(t, Config{Resolver: keys, Now: clock(now)})
	header, _ := split([]byte(message))
	newest := collect(header).sets[2].seal
	value, err := decodeBase64(newest.tags.Get("b"))
	if err != nil {
		t.Fatal(err)
	}
	received, signed := strings.Index(message, "Received:"), strings.Index(message, "DKIM-Signature:")
	step := 1
	if ingresstest.Raced {
		step = 7
	}
	for at := 0; at < len(message); at += step {
		if at >= received && at < signed {
			continue // Received is not signed
		}
		changed := []byte(message)
		changed[at] ^= 1
		if r := validate(t, v, changed); r.CV == Pass {
			// The last letters of b= have bits that stand for nothing.
			c := collect(dkim.Section(changed))
			if got, err := decodeBase64(c.sets[2].seal.tags.Get("b")); err == nil && bytes.Equal(got, value) {
				continue
			}
			t.Errorf("%q for %q at %d of %q passes", changed[at], message[at], at,
				message[max(0, at-20):min(len(message), at+20)])
		}
	}
}

// OldestPass tells since when nothing changed.
func TestResult_OldestPass(t *testing.T) {
	all, keys := hops(t, 4)
	v := newVerifier(t, Config{Resolver: keys, Now: clock(now)})
	message := all[0].pass(t, v, letter+"\r\n"+text)
	// A list changes the subject and seals; it has seen a good chain.
	prior := validate(t, v, []byte(message))
	message = all[1].seal(t, strings.Replace(message, "Subject: Is", "Subject: [list] Is", 1), prior)
	if got := validate(t, v, []byte(message)); got.CV != Pass || got.OldestPass != 2 {
		t.Errorf("got %s since %d", explain(got), got.OldestPass)
	}
	message = all[2].pass(t, v, message)
	if got := validate(t, v, []byte(message)); got.CV != Pass || got.OldestPass != 2 {
		t.Errorf("got %s since %d", explain(got), got.OldestPass)
	}
	// The next one signs the body in simple form. A caller that hashes only that does not know about the others.
	header, body := split([]byte(message))
	simple, _ := hashes(body)(dkim.Simple)
	fields, err := all[3].sealer.Seal(nil, header, "mx.example; none", dkim.Simple, simple,
		validate(t, v, []byte(message)))
	if err != nil {
		t.Fatal(err)
	}
	header = append(fields, header...)
	c, err := v.Begin(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if canon, ok := c.Body(); canon != dkim.Simple || !ok {
		t.Errorf("needs %v, %v", canon, ok)
	}
	one := func(c dkim.Canonicalization) ([sha256.Size]byte, bool) { return simple, c == dkim.Simple }
	if got := c.Finish(one); got.CV != Pass || got.OldestPass != 4 {
		t.Errorf("with one hash: %s since %d", explain(got), got.OldestPass)
	}
	if got := c.Finish(hashes(body)); got.CV != Pass || got.OldestPass != 2 {
		t.Errorf("with both hashes: %s since %d", explain(got), got.OldestPass)
	}
	if got := c.Finish(hashes([]byte("other\r\n"))); explain(got) != "fail: i=4 ARC-Message-Signature: body hash "+
		"did not verify" {
		t.Errorf("with another body: %s", explain(got))
	}
	if got := c.Finish(func(dkim.Canonicalization) (h [32]byte, ok bool) {
		return
	}); explain(got) != "temperror: body not checked" {
		t.Errorf("without a hash: %s", explain(got))
	}
}

// A resolver counts and delays questions.
type resolver struct {
	records
	hold  func(ctx context.Context, name string) error // nil: none
	mu    sync.Mutex
	asked []string
	open  atomic.Int32
	most  int32
}

func (r *resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	open := r.open.Add(1)
	defer r.open.Add(-1)
	r.mu.Lock()
	r.asked = append(r.asked, name)
	r.most = max(r.most, open)
	r.mu.Unlock()
	if r.hold != nil {
		if err := r.hold(ctx, name); err != nil {
			return nil, err
		}
	}
	return r.records.LookupTXT(ctx, name)
}

// A forged chain costs two look-ups.
func TestChain_Forged(t *testing.T) {
	message, _, keys := sealed(t, 50)
	forged := strings.Replace(message, "Subject: Is", "Subject: Was", 1)
	r := &resolver{records: keys}
	if got := validate(t, newVerifier(t, Config{Resolver: r}), []byte(forged)); got.CV != Fail || len(r.asked) != 1 {
		t.Errorf("%s after %q", explain(got), r.asked)
	}
	// Of a chain that is good at the top and bad below, no more is asked than is under way.
	r = &resolver{records: records{}}
	for name, record := range keys {
		r.records[name] = record
	}
	delete(r.records, "s._domainkey.hop40.example")
	got := validate(t, newVerifier(t, Config{Resolver: r}), []byte(message))
	if explain(got) != "fail: i=40 ARC-Seal: no key for signature" || len(r.asked) > 1+10+window {
		t.Errorf("%s after %d look-ups", explain(got), len(r.asked))
	}
}

// Keys are looked up once, and a few at a time.
func TestChain_Keys(t *testing.T) {
	message, _, keys := sealed(t, 50)
	r := &resolver{records: keys}
	full := make(chan struct{})
	var once sync.Once
	r.hold = func(ctx context.Context, name string) error {
		if name == "s._domainkey.hop50.example" {
			return nil
		}
		// The first ones wait until as many are open as may be.
		if r.open.Load() == window {
			once.Do(func() { close(full) })
		}
		select {
		case <-full:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	header, body := split([]byte(message))
	c, err := newVerifier(t, Config{Resolver: r}).Begin(ctx, header)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := c.Finish(hashes(body))
	seen := map[string]bool{}
	for _, name := range r.asked {
		if seen[name] {
			t.Errorf("%s was asked for again", name)
		}
		seen[name] = true
	}
	if got.CV != Pass || len(seen) != 50 || r.most != window {
		t.Errorf("%s after %d look-ups, %d at a time", explain(got), len(seen), r.most)
	}
}

// Chain is unknown while a key is.
func TestChain_UnknownKey(t *testing.T) {
	message, all, keys := sealed(t, 4)
	lost := func(names ...int) records {
		some := records{}
		for name, record := range keys {
			some[name] = record
		}
		for _, n := range names {
			if n < 0 {
				some[all[-n-1].name] = nil
			} else {
				some[all[n-1].name] = []string{ingresstest.ServFail}
			}
		}
		return some
	}
	tests := []struct {
		name string
		keys records
		want string
	}{
		{"the newest key cannot be had", lost(4), "temperror: i=4 ARC-Message-Signature: key unavailable"},
		{"an older key cannot be had", lost(2), "temperror: i=2 ARC-Seal: key unavailable"},
		{"no key can be had", lost(1, 2, 3, 4), "temperror: i=4 ARC-Message-Signature: key unavailable"},
		{
			"one cannot be had and an older one is gone for good", lost(3, -1),
			"fail: i=1 ARC-Seal: no key for signature",
		},
		{
			"one is gone for good and an older one cannot be had", lost(-3, 1),
			"fail: i=3 ARC-Seal: no key for signature",
		},
		{
			"there are two records", records{all[3].name: {"p=a", "p=b"}},
			"fail: i=4 ARC-Message-Signature: multiple key records",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := validate(t, newVerifier(t, Config{Resolver: tt.keys, Now: clock(now)}), []byte(message))
			if explain(got) != tt.want {
				t.Errorf("got %s, want %s", explain(got), tt.want)
			}
			after := all[0].seal(t, message, got)
			if temporary := got.CV == TempError; (after == message) != temporary ||
				errors.Is(got.Sealable(), ErrUnknown) != temporary {
				t.Errorf("sealed: %v, %v", after != message, got.Sealable())
			}
			if got.CV == TempError && got.Cause == nil {
				t.Error("no cause")
			}
		})
	}
}

// Close ends the search.
func TestChain_Close(t *testing.T) {
	message, _, keys := sealed(t, 2)
	begun := make(chan struct{})
	r := &resolver{records: keys, hold: func(ctx context.Context, _ string) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}}
	c, err := newVerifier(t, Config{Resolver: r}).Begin(t.Context(), []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	c.Close()
	c.Close()
	if open := r.open.Load(); open != 0 {
		t.Errorf("%d look-ups are open", open)
	}
	if got := c.Finish(hashes([]byte(text))); got.CV != TempError {
		t.Errorf("got %s", explain(got))
	}
}
