//go:build openssl

package rsasign

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func newKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func bound(t *testing.T, key *rsa.PrivateKey) crypto.Signer {
	t.Helper()
	s, err := Bind(key)
	if err != nil || By(s) != "openssl" {
		t.Fatalf("%s: %v", By(s), err)
	}
	return s
}

func TestBind(t *testing.T) {
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	if s, err := Bind(edwards); err != nil || By(s) != "go" {
		t.Errorf("a key other than RSA: %s, %v", By(s), err)
	}
	if !strings.HasPrefix(Library(), "OpenSSL ") {
		t.Errorf("library %q", Library())
	}
	key, other := newKey(t, 1024), newKey(t, 1024)
	s, err := load(key, x509.MarshalPKCS1PrivateKey(other))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.check(); err == nil || !strings.Contains(err.Error(), "another signature") {
		t.Errorf("a library that signs otherwise than Go: %v", err)
	}
	if _, err := load(key, []byte("no key")); err == nil {
		t.Error("what is no key was loaded")
	}
	// What OpenSSL is not asked for is Go's.
	digest := sha256.Sum256(nil)
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	signature, err := bound(t, key).Sign(rand.Reader, digest[:], pss)
	if err != nil || rsa.VerifyPSS(&key.PublicKey, crypto.SHA256, digest[:], signature, pss) != nil {
		t.Errorf("a signature by PSS: %v", err)
	}
	if _, err := bound(t, key).Sign(rand.Reader, digest[:3], crypto.SHA256); err == nil {
		t.Error("a digest of three octets was signed")
	}
}

// Each signature that many goroutines make with many keys at a time is Go's.
func TestSigner_Concurrent(t *testing.T) {
	var running sync.WaitGroup
	for i := range 24 {
		key := newKey(t, []int{1024, 2048, 1536}[i%3])
		s := bound(t, key)
		for j := range 4 {
			running.Go(func() {
				for k := range 20 {
					digest := sha256.Sum256([]byte{byte(j), byte(k)})
					got, err := s.Sign(rand.Reader, digest[:], crypto.SHA256)
					want, _ := key.Sign(rand.Reader, digest[:], crypto.SHA256)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("key %d: %v, or another signature", i, err)
						return
					}
				}
			})
		}
	}
	running.Wait()
}

// With one processor, a goroutine runs on while others are in calls of milliseconds, and these take a thread each at
// most.
func TestSigner_Stalls(t *testing.T) {
	const callers, calls = 4, 25
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s, before := bound(t, newKey(t, 4096)), threads(t)
	var running sync.WaitGroup
	var made, left atomic.Int64
	left.Store(callers)
	for range callers {
		running.Go(func() {
			defer left.Add(-1)
			digest := sha256.Sum256(nil)
			for range calls {
				if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
					t.Error(err)
				}
				made.Add(1)
			}
		})
	}
	turns, most := 0, 0
	for left.Load() > 0 {
		if turns++; turns%64 == 0 {
			most = max(most, threads(t))
		}
		runtime.Gosched()
	}
	running.Wait()
	if int64(turns) < made.Load() {
		t.Errorf("%d turns of another goroutine while %d signatures were made", turns, made.Load())
	}
	if most > before+callers+4 { // the runtime's own among them
		t.Errorf("%d threads, %d before", most, before)
	}
	t.Logf("%d turns, %d signatures, %d threads, %d before", turns, made.Load(), most, before)
}

func threads(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Neither keys that are dropped nor what goes wrong leaves memory of C behind.
func TestSigner_Leaks(t *testing.T) {
	const most = 8 << 20
	key := newKey(t, 1024)
	der := x509.MarshalPKCS1PrivateKey(key)
	digest := sha256.Sum256(nil)
	long, err := load(newKey(t, 2048), x509.MarshalPKCS1PrivateKey(newKey(t, 2048)))
	if err != nil {
		t.Fatal(err)
	}
	broken := &signer{key, long.held} // its signatures need more room than there is
	for _, tc := range []struct {
		name string
		n    int
		work func()
	}{
		{"keys that nothing refers to any more", 8000, func() {
			if _, err := load(key, der); err != nil {
				t.Fatal(err)
			}
		}},
		{"what is no key", 2000, func() {
			if _, err := load(key, der[:len(der)/2]); err == nil {
				t.Fatal("half a key was loaded")
			}
		}},
		{"signatures that fail", 100_000, func() {
			if _, ok := broken.sign(digest[:]); ok {
				t.Fatal("signed without a key")
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer runtime.KeepAlive(long)
			round := func() {
				for i := range tc.n {
					if tc.work(); i%1000 == 999 {
						runtime.GC()
					}
				}
				runtime.GC()
			}
			round() // what is kept once
			before := resident(t)
			round()
			if grown := resident(t) - before; grown > most {
				t.Errorf("%d octets more after %d of them", grown, tc.n)
			} else {
				t.Logf("%d octets more after %d of them", grown, tc.n)
			}
		})
	}
}

// resident returns the octets of this process that are in memory.
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
