package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	smallBuffer    = 512             // what a connection keeps while it waits for a command
	maxCommandLine = 2048            // CRLF included; RFC 5321 section 4.5.3.1.4 asks for 512 and more for extensions
	maxSkipped     = 64 << 10        // of a command line over that
	maxBatch       = 16 << 10        // replies that wait for a flush
	settleAfter    = 2 * time.Second // of silence behind a message: see conn.serve
	writeTimeout   = 5 * time.Minute // for the client to take a batch of replies
	lingerTimeout  = time.Second     // for the client to read the reply that a forced close ends with
	errorBudget    = 10              // bad commands of one connection before 421
	refusedBudget  = 20              // recipients refused with 5yz on one connection before 421: a client that guesses
	lastWrite      = 5 * time.Second // for the client to take what it is still told when Shutdown's time is up
)

// The ways in which waiting for a command can end without one.
var (
	errIdleTooLong = errors.New("no command in time")
	errDraining    = errors.New("shutting down")
	errSettled     = errors.New("no command soon")
)

// A batch holds replies until they are written together.
type batch struct{ octets []byte }

// A conn is one connection of a client. One goroutine runs serve and uses everything; Shutdown and InFlight use open
// and what mu guards as well.
type conn struct {
	srv     *Server
	raw     net.Conn // the socket
	rw      net.Conn // raw, or TLS over it
	session Session
	client  Client
	counted netip.Addr // the client that this connection counts for in the caps; zero: none yet

	buf   []byte // commands are read here: small, or big while a batch is longer, or what setAside left of it
	r, w  int    // buf[r:w] is not yet consumed
	mark  int    // where the line given last begins
	big   *slab
	out   *batch        // replies not yet written; borrowed
	since time.Duration // when the first of them was put there
	body  *Body         // not nil while Session.Body runs

	waited   error         // how a wait outside of fill ended: that of rest, or of quiet
	limit    time.Duration // when the wait for the present command line ends; 0: not begun
	readDue  time.Duration // the read deadline set last
	writeDue time.Duration

	failed   *mail.Reply // the reply to each further BDAT of a message that is lost
	rcpts    int32       // accepted in this transaction
	messages int32       // transactions begun
	bad      int32       // commands, see errorBudget
	refused  int32       // recipients, see refusedBudget
	skipped  int         // octets of a command line that is too long
	chunky   bool        // and it began like a BDAT

	behindProxy bool
	xclient     bool        // XCLIENT is allowed
	full        bool        // the last read filled buf: more is probably waiting
	open        atomic.Bool // a transaction is open
	utf8        bool        // with SMTPUTF8
	tried       bool        // a recipient of it was refused
	deferred    bool        // one of them for now
	lendable    bool        // Session.Idle is still to be called in this wait
	busy        bool        // a message came since the connection rested last
	restless    bool        // this wait is not for rest yet, but will be
	shunned     bool        // the greeting was a 554
	closing     bool        // after the replies that are waiting
	linger      bool        // the client may still be sending: see sayGoodbye
	dead        bool        // a write failed
	told        bool        // the reply to a message is among those that wait
	announced   bool        // Connected was emitted

	mu     sync.Mutex // guards what follows and every setting of the read deadline while parked
	parked bool       // waiting for what Shutdown need not wait for
	// a message is being committed, or was, and its reply is not written; set by serve's goroutine only
	owed bool
	cut  bool          // by Shutdown
	gone chan struct{} // closed when the connection has ended; nil unless Shutdown waits for that

	small [smallBuffer]byte
}

// count makes the connection count for the client at a in the caps, and reports whether there was room.
func (c *conn) count(a netip.Addr) bool {
	if !a.IsValid() || c.counted.IsValid() && clientKey(a) == clientKey(c.counted) {
		return true
	}
	if !c.srv.cfg.Caps.takeClient(a) {
		return false
	}
	c.uncount()
	c.counted = a
	return true
}

func (c *conn) uncount() {
	if c.counted.IsValid() {
		c.srv.cfg.Caps.giveClient(c.counted)
		c.counted = netip.Addr{}
	}
}

// serve runs the connection until it ends, or until there is nothing to do outside of a transaction: then a goroutine
// with a fresh stack goes on. The runtime never gives back a stack that has grown as far as that. After a message the
// next one is probably near, and the change waits for settleAfter of silence.
func (c *conn) serve(begun bool) {
	rests := false
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
		}
		if !rests {
			c.end()
		}
	}()
	if begun || c.begin() {
		rests = c.converse()
	}
	if rests {
		go c.rest() // ends like the one that it continues
		return
	}
	c.sayGoodbye()
}

// rest waits for the first octets of a command with as little stack as can be. The buffer is the small one, and empty.
func (c *conn) rest() {
	c.busy, c.restless = false, false
	c.w, c.waited = c.await(c.small[:])
	c.full = c.w == smallBuffer
	c.serve(true)
}

// begin does what comes before the first command: PROXY header, implicit TLS, the Session and its greeting.
func (c *conn) begin() bool {
	if c.behindProxy && !c.readProxyHeader() {
		return false
	}
	c.xclient = contains(c.srv.cfg.Xclient, c.client.Addr.Addr()) && !c.client.Unknown
	if !c.counted.IsValid() && !c.client.Unknown && !c.xclient && !c.count(c.client.Addr.Addr()) {
		c.event(mail.Refused, "connections_per_client", tooManyConnections)
		if !c.srv.cfg.Implicit {
			c.reply(tooManyConnections)
		}
		return false
	}
	c.announced = true
	c.srv.cfg.Emit(mail.Event{Kind: mail.Connected, Time: c.srv.cfg.Now(), Client: c.client.Addr.Addr()})
	if c.srv.cfg.Implicit && !c.startTLS() {
		return false
	}
	c.session = c.srv.cfg.NewSession(c.srv.ctx, &c.client)
	return c.greet()
}

// converse carries out one command after another, until the connection is to be closed or, with true, may rest.
func (c *conn) converse() (rests bool) {
	for !c.closing && !c.dead {
		if c.overBudget() {
			return false
		}
		line, fault, err := c.nextLine()
		switch {
		case errors.Is(err, errSettled):
			return true
		case errors.Is(err, errDraining), err == nil && c.srv.draining.Load():
			c.reply(shuttingDown)
			return false
		case errors.Is(err, errIdleTooLong):
			c.reply(idleTooLong)
			return false
		case err != nil:
			c.dead = !errors.Is(err, io.EOF) // a client that only stopped sending still reads
			return false
		}
		c.command(line, fault)
	}
	return false
}

// overBudget ends the connection of a client that has made too many mistakes or guessed too many recipients.
func (c *conn) overBudget() bool {
	cfg := &c.srv.cfg
	switch {
	case int(c.bad) >= cfg.tune.errorBudget:
		c.hangUp(tooManyErrors, "error budget")
	case int(c.refused) >= cfg.tune.refusedBudget:
		c.hangUp(tooManyRefused, "refused recipients")
	default:
		return false
	}
	return true
}

// hangUp replies, closes the connection and tells why.
func (c *conn) hangUp(r mail.Reply, reason string) {
	c.reply(r)
	c.closing, c.linger = true, true
	c.event(mail.Refused, reason, r)
}

func (c *conn) event(k mail.Kind, reason string, r mail.Reply) {
	c.srv.cfg.Emit(mail.Event{
		Kind: k, Time: c.srv.cfg.Now(), Client: c.client.Addr.Addr(), Helo: c.client.Helo, TLS: c.client.TLSVersion(),
		Reason: reason, Reply: r,
	})
}

// reply puts r behind the replies that wait for the next flush.
func (c *conn) reply(r mail.Reply) { c.append(r.AppendTo) }

// append lets what write a reply behind those that wait.
func (c *conn) append(what func([]byte) []byte) {
	if c.out == nil {
		c.out = c.srv.batches.Get().(*batch)
		c.since = c.srv.now()
	}
	c.out.octets = what(c.out.octets)
	if len(c.out.octets) >= maxBatch {
		c.flush()
	}
}

// maxAge is how old a reply may get that waits for those of the commands behind it.
const maxAge = 200 * time.Millisecond

// beforeWait writes the replies that wait if they cannot stay behind a call of the Session that may take long: when the
// oldest of them is old already, and when one is the reply to a message. A client that does not hear of a message in
// time sends it again (RFC 1047), and RFC 2920 section 3.2 lets a server hold back the replies of a group of commands
// only.
func (c *conn) beforeWait() {
	if c.out != nil && (c.told || c.srv.now()-c.since > maxAge) {
		c.flush()
	}
}

// flush writes the replies that wait, in one write, and gives their buffer back.
func (c *conn) flush() {
	if c.out == nil {
		return
	}
	if !c.dead {
		wait := c.srv.cfg.tune.write
		late := c.srv.draining.Load() && c.srv.ctx.Err() != nil
		if late {
			wait = min(wait, lastWrite)
		}
		if due := c.srv.now() + wait; late || c.writeDue < due {
			c.writeDue = due + wait/8
			_ = c.raw.SetWriteDeadline(c.srv.epoch.Add(c.writeDue))
		}
		if _, err := c.rw.Write(c.out.octets); err != nil {
			c.dead = true
		}
	}
	c.out.octets = c.out.octets[:0]
	c.srv.batches.Put(c.out)
	c.out, c.told = nil, false
	if c.owed {
		c.mu.Lock()
		c.owed = false
		c.mu.Unlock()
	}
}

// nextLine gives the next command line without CRLF; it stays valid until the next read. A fault is the reply to a line
// that cannot be a command; of that line no more than its beginning may be left. An error is one of the wait's.
func (c *conn) nextLine() (line []byte, fault *mail.Reply, err error) {
	c.limit = 0
	c.lendable = c.open.Load() && c.body == nil && c.srv.cfg.Lend > 0
	c.restless = c.busy && !c.open.Load() && c.body == nil
	for {
		if i := bytes.IndexByte(c.buf[c.r:c.w], '\n'); i >= 0 {
			c.mark = c.r
			line = c.buf[c.r : c.r+i]
			c.r += i + 1
			c.limit = 0
			long := c.skipped+i+1 > maxCommandLine
			if c.skipped > 0 {
				line = nil
				if c.chunky {
					line = chunkVerb
				}
			}
			c.skipped = 0
			switch {
			case long:
				return line, &lineTooLong, nil
			case i == 0 || line[i-1] != '\r':
				return line, &lineNotCRLF, nil
			}
			return line[:i-1], nil, nil
		}
		if p := c.buf[c.r:c.w]; startsTLS(p) { // a line would be long in coming
			c.r = c.w
			return p, nil, nil
		}
		if c.skipped > 0 || c.w-c.r > maxCommandLine {
			if c.skipped == 0 {
				c.chunky = isChunk(c.buf[c.r:c.w])
			}
			c.skipped += c.w - c.r
			c.r = c.w
			if c.skipped > maxSkipped {
				c.closing, c.linger = true, true
				return nil, &lineTooLong, nil
			}
		}
		if err := c.fill(); err != nil {
			return nil, nil, err
		}
	}
}

// unreadLine makes nextLine give its last line again.
func (c *conn) unreadLine() { c.r = c.mark }

// unread puts octets that were read too far in front of everything else. The buffer holds nothing else.
func (c *conn) unread(p []byte) {
	if len(p) > len(c.buf) {
		c.grow()
	}
	c.r, c.w = 0, copy(c.buf, p)
	c.full = false
}

// grow exchanges the small buffer for a slab.
func (c *conn) grow() {
	if c.big != nil {
		return
	}
	c.big = c.srv.cfg.Slabs.take()
	n := copy(c.big[:], c.buf[c.r:c.w])
	c.buf, c.r, c.w = c.big[:], 0, n
}

// shrink goes back to the small buffer, if what is left fits.
func (c *conn) shrink() {
	if &c.buf[0] == &c.small[0] || c.w-c.r > smallBuffer/2 {
		return
	}
	n := copy(c.small[:], c.buf[c.r:c.w])
	c.giveBig()
	c.buf, c.r, c.w = c.small[:], 0, n
}

// setAside gives the slab back before a long wait. What is left of a batch stays in a buffer of just its size.
func (c *conn) setAside() {
	c.shrink()
	if c.big == nil {
		return
	}
	rest := bytes.Clone(c.buf[c.r:c.w])
	c.giveBig()
	c.buf, c.r, c.w = rest, 0, len(rest)
}

func (c *conn) giveBig() {
	if c.big != nil {
		c.srv.cfg.Slabs.give(c.big)
		c.big = nil
	}
}

// fill reads once behind what is left in the buffer. Before that it writes the replies that wait, because the client
// may be waiting for them; but not when the last read filled the buffer and left half a line: then the other half is on
// its way, whatever the client waits for, and the replies to the whole batch leave together (RFC 2920 section 3.2).
func (c *conn) fill() error {
	if half := c.w > c.r; c.full && half {
		c.grow()
	} else {
		c.flush()
		c.shrink()
	}
	if c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.buf) {
		c.grow()
	}
	if c.dead {
		return io.ErrClosedPipe
	}
	if err := c.waited; err != nil {
		c.waited = nil
		return err
	}
	if c.r == c.w && !c.busy && !c.open.Load() && c.body == nil && c.skipped == 0 {
		return errSettled
	}
	var n int
	var err error
	if c.body != nil {
		n, err = c.body.wait(c.buf[c.w:])
	} else {
		n, err = c.await(c.buf[c.w:])
	}
	c.w += n
	c.full = c.w == len(c.buf)
	return err
}

// sayGoodbye writes what waits. Where the client may still be sending, closing at once would make its kernel throw away
// the reply (RST): it gets a moment to read it.
func (c *conn) sayGoodbye() {
	c.flush()
	if !c.linger || c.dead {
		return
	}
	half, ok := c.raw.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	if t, ok := c.rw.(*tls.Conn); ok {
		_ = t.CloseWrite()
	}
	_ = half.CloseWrite()
	if !c.parkFor(lingerTimeout) {
		return
	}
	for sunk := 0; sunk < 1<<20; {
		n, err := c.raw.Read(c.small[:])
		if sunk += n; err != nil {
			return
		}
	}
}

// panicked answers for a Session that panicked.
func (c *conn) panicked(v any) {
	c.srv.cfg.Panicked(v, debug.Stack())
	if b := c.body; b != nil {
		c.body = nil
		b.abandon()
	}
	c.reply(localError)
	c.linger = true
	c.event(mail.Anomaly, "panic", localError)
	c.sayGoodbye()
}

// end gives everything back and takes the connection out of the server.
func (c *conn) end() {
	if c.session != nil {
		c.closeSession()
	}
	c.rw.Close()
	c.flushNothing()
	if c.announced {
		c.event(mail.Disconnected, "", mail.Reply{})
	}
	s := c.srv
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	c.uncount()
	s.cfg.Caps.give()
	s.running.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed = false // the client is gone
	if c.gone != nil {
		close(c.gone)
	}
}

// flushNothing gives the borrowed buffers back without writing.
func (c *conn) flushNothing() {
	if c.out != nil {
		c.out.octets = c.out.octets[:0]
		c.srv.batches.Put(c.out)
		c.out = nil
	}
	c.giveBig()
	c.buf = c.small[:]
}

// closeSession calls Session.Close once, and survives its panic.
func (c *conn) closeSession() {
	defer func() {
		if v := recover(); v != nil {
			c.srv.cfg.Panicked(v, debug.Stack())
		}
	}()
	s := c.session
	c.session = nil
	s.Close()
}
