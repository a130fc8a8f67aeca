package auth

import (
	"crypto"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// A brokenKey does not sign.
type brokenKey struct{ crypto.Signer }

func (brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the token is locked")
}

// A countingKey counts how many signatures are made at a time.
type countingKey struct {
	crypto.Signer
	now, most *atomic.Int32
}

func (k countingKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	n := k.now.Add(1)
	defer k.now.Add(-1)
	for most := k.most.Load(); n > most && !k.most.CompareAndSwap(most, n); most = k.most.Load() {
		runtime.Gosched()
	}
	runtime.Gosched()
	return k.Signer.Sign(r, digest, o)
}

// No more messages are signed at a time than there are workers.
func TestFields_Workers(t *testing.T) {
	const workers = 3
	z := dns()
	a, err := New(Config{AuthservID: "mx.example.net", Resolver: z, tune: tuning{workers: workers}})
	if err != nil {
		t.Fatal(err)
	}
	var now, most atomic.Int32
	k := dkim.SigningKey{Domain: "example.net", Selector: "ed", Key: countingKey{keys().ed, &now, &most}}
	use(t, a, Keyring{ARC: &k, Relay: []dkim.SigningKey{k}})
	var all sync.WaitGroup
	for range 40 {
		s := sending{header: from("none.example"), body: plainBody, env: Envelope{Seal: WantAll}}
		m := s.begin(t, a, z)
		write(m, s.body)
		m.Finish(t.Context())
		// Ends when it has signed; Wait awaits it.
		all.Go(func() {
			if _, err := m.Fields(nil, mail.ModeHold); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := most.Load(); got < 1 || got > workers {
		t.Errorf("%d at a time", got)
	}
}
