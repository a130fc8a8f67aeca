package dial

import (
	"crypto/tls"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/leaf/lru"
)

const (
	// memorySize bounds the addresses whose TLS is remembered.
	memorySize = 8192
	// helloFor is how long an address is remembered that needs another hello, and neverTLS where no TLS ever worked.
	helloFor = time.Hour
	neverTLS = 24 * time.Hour
	// refusedFor is how long STARTTLS is not asked for where its refusal was followed by the end.
	refusedFor = 5 * time.Minute
	// oldFor is how long HELO is said in place of EHLO, at which an address ended the connection; helloFor if it did so
	// the last time as well.
	oldFor = 5 * time.Minute
	// failuresForClear is how many sessions must have failed in TLS and then worked in clear.
	failuresForClear = 2
)

// A memory is which hello each address needs. All methods are safe for concurrent use.
type memory struct {
	now  func() time.Time
	kept *lru.Cache[feedback.Spot, learnt]

	classic, clear *atomic.Uint64 // sessions that were tried with these because TLS had just failed
}

// A learnt is what is remembered of an address.
type learnt struct {
	hello  hello
	until  time.Time
	failed int  // sessions in a row that failed in TLS and then worked in clear
	worked bool // TLS did, once
}

func newMemory(now func() time.Time) memory {
	if now == nil {
		now = time.Now
	}
	return memory{
		now: now, kept: lru.New[feedback.Spot, learnt](memorySize),
		classic: new(atomic.Uint64), clear: new(atomic.Uint64),
	}
}

// TLSFallbacks returns how many sessions were tried with a classic ClientHello, and how many in clear, because TLS had
// just failed there.
func (d *Dialer) TLSFallbacks() (classic, clear uint64) {
	return d.memory.classic.Load(), d.memory.clear.Load()
}

// LostAtMail learns that a session which had just been opened was lost before any reply to MAIL, without a time-out. In
// TLS 1.3 a host that demands a certificate of the client may break off so late: the classic hello finds out within the
// handshake. And a host that refuses STARTTLS may close behind the refusal.
func (d *Dialer) LostAtMail(s feedback.Spot, c *client) {
	switch {
	case c.TLS() == tls.VersionName(tls.VersionTLS13):
		d.memory.kept.Put(s, learnt{hello: classic, until: d.memory.now().Add(helloFor), worked: true}, 1)
		d.memory.tried(classic)
	case c.TLSRefused():
		d.memory.kept.Put(s, learnt{hello: clear, until: d.memory.now().Add(refusedFor)}, 1)
		d.memory.tried(clear)
	}
}

// tried counts that a session is tried with h because TLS has just failed.
func (m *memory) tried(h hello) {
	if h == classic {
		m.classic.Add(1)
	} else {
		m.clear.Add(1)
	}
}

// forget has the next session with an address begin as if it were the first.
func (m *memory) forget(s feedback.Spot) { m.kept.Put(s, learnt{}, 1) }

// hadTLS reports whether TLS worked with an address, as far as is remembered.
func (m *memory) hadTLS(s feedback.Spot) bool {
	l, _ := m.kept.Get(s)
	return l.worked
}

// hello returns how to begin a session with an address under a policy.
func (m *memory) hello(s feedback.Spot, policy smtpclient.TLSPolicy) hello {
	l, ok := m.kept.Get(s)
	if !ok || !m.now().Before(l.until) {
		return full
	}
	if l.hello == clear && policy != smtpclient.Opportunistic ||
		l.hello == old && policy != smtpclient.Opportunistic && policy != smtpclient.None {
		return full
	}
	return l.hello
}

// worked learns that a session was opened with h, in TLS or not. failed says that another hello failed just before.
func (m *memory) worked(s feedback.Spot, h hello, secure, failed bool) {
	l, _ := m.kept.Get(s)
	before := l
	switch {
	case h == old && failed:
		l.until = m.now().Add(oldFor)
		if l.hello == old {
			l.until = m.now().Add(helloFor)
		}
		l.hello = old
	case h != old && l.hello == old && !secure && !failed: // EHLO is understood again
		l = learnt{}
	case secure && failed:
		l = learnt{hello: classic, until: m.now().Add(helloFor), worked: true}
	case secure && h == full:
		l = learnt{worked: true}
	case secure:
		l.failed, l.worked = 0, true
	case h == clear && failed:
		l.failed++
		if l.failed < failuresForClear {
			break
		}
		l.hello, l.until = clear, m.now().Add(neverTLS)
		if l.worked {
			l.until = m.now().Add(helloFor)
		}
	}
	if l != before {
		m.kept.Put(s, l, 1)
	}
}
