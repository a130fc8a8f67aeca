package wire

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	writeTimeout  = 5 * time.Minute // for the client to take a batch of replies
	lingerTimeout = time.Second     // for the client to read the reply that a forced close ends with
	lastWrite     = 5 * time.Second // for the client to take what is still written when Shutdown's time is up
	promisedTLS   = 5 * time.Second // for a handshake that was announced before Shutdown began
	maxLinger     = 1 << 20         // octets that are read and dropped during lingerTimeout
)

// An endReason says how far a connection is on its way to its end. The reasons are in ascending order: a later one
// replaces an earlier one and never the other way round (see life.end).
type endReason uint8

const (
	serving           endReason = iota
	refusedAtGreeting           // the greeting was a 554: each command but QUIT is answered 503
	closing                     // to be closed after the replies that wait
	lingering                   // the same, and the client may still be sending: it gets a moment to read the replies
	writeFailed                 // nothing is written any more; a message whose octets were already read goes on
	unreachable                 // nothing is written or read any more
)

// A parking says which wait of a connection others may end.
type parking uint8

const (
	awake    parking = iota // none
	held                    // a wait with a message that is not committed: Memory may
	parked                  // Shutdown may
	idle                    // a wait for a command: Shutdown and Places may
	promised                // a handshake that a 220 announced: Shutdown leaves it promisedTLS
)

// A life is the socket of a connection, its deadlines, and what decides when it ends.
//
// Invariant: serve's goroutine decides and sets replyOwed, with two exceptions for Shutdown, which mu orders. While the
// connection is parked, Shutdown may end its wait. A connection that is not owed a reply may be aborted, and then it
// commits no message any more: replyOwed and aborted are never both true.
type life struct {
	srv *Server
	raw net.Conn // the socket
	rw  net.Conn // raw, or TLS over it

	readDue  time.Duration // the read deadline set last
	writeDue time.Duration // the write deadline set last
	ending   endReason     // used by serve's goroutine only
	failed   bool          // a write failed; likewise

	mu        sync.Mutex    // guards what follows, and each setting of the read deadline while parked
	parked    parking       // in a wait that others may end
	gaveWay   bool          // Places or Memory has ended the wait
	replyOwed bool          // a message is being committed, or was, and its reply is not written
	aborted   bool          // Shutdown has closed the socket
	firm      time.Duration // until when a wait is not to be ended
	message   *waiting      // not nil if and only if held
	gone      chan struct{} // closed when the connection has ended; nil unless Shutdown waits for that
}

// end moves the connection on to reason, unless it is already further. A failed write together with another reason to
// close makes the connection unreachable.
func (l *life) end(reason endReason) {
	from, to := min(l.ending, reason), max(l.ending, reason)
	if to == writeFailed && from >= closing {
		to = unreachable
	}
	l.ending = to
}

// isEnding reports whether the connection is to be closed for a reason other than a failed write.
func (l *life) isEnding() bool { return l.ending >= closing && l.ending != writeFailed }

// arm sets the read deadline to due, or leaves the one that stands: it may be up to slack later, and it may be earlier
// if it is not near, because the caller looks at the clock again when it passes. Setting a deadline costs more than
// reading the clock, and in a busy session it would have to be done with each read.
func (l *life) arm(now, due, slack time.Duration) {
	if near := now + min((due-now)/2, time.Second); near <= l.readDue && l.readDue <= due+slack {
		return
	}
	l.readDue = due + slack
	_ = l.raw.SetReadDeadline(l.srv.epoch.Add(l.readDue))
}

// park arms the read deadline of a wait that Shutdown may end at once, and Places if how is idle (see parkIdle). It
// returns false if Shutdown has begun.
func (l *life) park(how parking, now, due, slack time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.srv.draining.Load() {
		return false
	}
	l.parked = how
	l.arm(now, due, slack)
	return true
}

// parkIdle is park for a wait for a command, which Places may end from the moment firm on.
func (l *life) parkIdle(firm, now, due, slack time.Duration) bool {
	l.firm = firm // others read it while the connection is parked, and so after park
	return l.park(idle, now, due, slack)
}

// parkFor parks for exactly d, for a wait whose caller does not look at the clock again.
func (l *life) parkFor(d time.Duration) bool {
	l.readDue = 0
	now := l.srv.now()
	return l.park(parked, now, now+d, 0)
}

// hold begins a wait that Memory may end, and arms the read deadline if due is not 0.
func (l *life) hold(w *waiting, now, due time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parked, l.firm, l.message = held, 0, w
	if due > 0 {
		l.arm(now, due, 0)
	}
}

// A giving says whether a message may give way.
type giving uint8

const (
	stays      giving = iota // it does not wait, or is committed
	mayYield                 // it waits now
	hasYielded               // its wait was ended, and its goroutine did not get to run since
)

// rate returns how many octets of its message a client has brought in a second of waiting, infinitely many if it was
// not waited for long enough to tell, and whether the message may give way.
func (l *life) rate(now time.Duration) (float64, giving) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.parked != held:
		return 0, stays
	case l.gaveWay:
		return 0, hasYielded
	}
	return l.message.rate(now), mayYield
}

// parkPromised is parkFor for a handshake that was announced. A client whose handshake is broken off may come back in
// clear, so Shutdown leaves it a moment.
func (l *life) parkPromised(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.srv.draining.Load() {
		d = min(d, promisedTLS)
	}
	l.parked, l.readDue = promised, 0
	now := l.srv.now()
	l.arm(now, now+d, 0)
}

// unpark ends what park or hold began, and reports whether Places or Memory ended the wait.
func (l *life) unpark() (gaveWay bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gaveWay = l.gaveWay
	l.parked, l.gaveWay, l.message = awake, false, nil
	if gaveWay {
		l.readDue = 0 // the deadline that giveWay set stands
	}
	return gaveWay
}

// giveWay ends the wait of a connection that is parked so, if at now it has lasted long enough, and reports whether it
// did.
func (l *life) giveWay(how parking, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parked != how || now < l.firm || l.gaveWay {
		return false
	}
	l.gaveWay = true
	if how == held && l.message.end != nil {
		l.message.end()
		return true
	}
	_ = l.raw.SetReadDeadline(time.Unix(1, 0))
	return true
}

// wake ends the wait of a parked connection, or shortens that for a handshake. Shutdown calls it after it has begun
// draining. A connection that is not parked sees that when it is about to park.
func (l *life) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch due := l.srv.now() + promisedTLS; {
	case l.parked < parked:
	case l.parked != promised:
		_ = l.raw.SetReadDeadline(time.Unix(1, 0))
	case due < l.readDue:
		l.readDue = due
		_ = l.raw.SetReadDeadline(l.srv.epoch.Add(due))
	}
}

// write writes replies in one write, unless an earlier write failed. The reply that was owed is then written, or the
// client cannot be reached.
func (l *life) write(replies []byte) {
	if l.ending < writeFailed {
		wait := l.srv.cfg.tune.write
		late := l.srv.draining.Load() && l.srv.ctx.Err() != nil
		if late {
			wait = min(wait, lastWrite)
		}
		if due := l.srv.now() + wait; late || l.writeDue < due {
			l.writeDue = due + wait/8
			_ = l.raw.SetWriteDeadline(l.srv.epoch.Add(l.writeDue))
		}
		if _, err := l.rw.Write(replies); err != nil {
			l.failed = true
			l.end(writeFailed)
		}
	}
	if l.replyOwed {
		l.mu.Lock()
		l.replyOwed = false
		l.mu.Unlock()
	}
}

// commit makes the connection owed a reply for which Shutdown waits. It returns false if Shutdown has aborted the
// connection already.
func (l *life) commit() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replyOwed = !l.aborted
	return l.replyOwed
}

// isReplyOwed reports whether the connection is owed the reply to a message that is being committed or was.
func (l *life) isReplyOwed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.replyOwed
}

// abort closes the socket and returns nil. If a reply is owed, it leaves the socket open and returns a channel that is
// closed when the connection has ended. Whether a message is committed or its connection is aborted is decided here,
// once: never both.
func (l *life) abort() (gone <-chan struct{}) {
	l.mu.Lock()
	if l.replyOwed {
		defer l.mu.Unlock()
		if l.gone == nil {
			l.gone = make(chan struct{})
		}
		// The client may have stopped reading.
		_ = l.raw.SetWriteDeadline(l.srv.epoch.Add(l.srv.now() + lastWrite))
		return l.gone
	}
	l.aborted = true
	l.mu.Unlock()
	l.raw.Close()
	return nil
}

// ended ends what Shutdown waits for: the connection is gone, and no reply is owed any more.
func (l *life) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replyOwed = false
	if l.gone != nil {
		close(l.gone)
	}
}

// linger waits for the client to read the last replies if it may still be sending. Closing at once would make the
// kernel throw away the replies (RST). What the client sends meanwhile is read into scratch and dropped. Shutdown does
// not end it: one of the replies may be that to a message.
func (l *life) linger(scratch []byte) {
	if l.ending != lingering {
		return
	}
	half, ok := l.raw.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	if t, ok := l.rw.(*tls.Conn); ok {
		_ = t.CloseWrite()
	}
	_ = half.CloseWrite()
	now := l.srv.now()
	l.readDue = 0
	l.arm(now, now+lingerTimeout, 0)
	for dropped := 0; dropped < maxLinger; {
		n, err := l.raw.Read(scratch)
		if dropped += n; err != nil {
			return
		}
	}
}

// hangsUp waits until the client has hung up, and returns false if the read deadline passes before. On a connection
// without a descriptor nothing can be seen: then it waits for patience, or until Shutdown begins, and returns false.
func (l *life) hangsUp(patience time.Duration) bool {
	if s, ok := l.raw.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return !errors.Is(raw.Read(hungUp), os.ErrDeadlineExceeded)
		}
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case <-over.C:
	case <-l.srv.drain:
	}
	return false
}
