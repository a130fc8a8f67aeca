package wire

import (
	"errors"
	"io"
	"net"
	"runtime/debug"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The budgets of a connection: so much is answered before it is closed with a 421. All but the first begin anew with
// each accepted message.
const (
	errorBudget   = 10  // bad commands
	refusedBudget = 100 // recipients refused with 5yz, as a client that guesses addresses collects them
	// recipients that we put off, but for those that need a transaction of their own; commands that bring no message
	// nearer, such as NOOP; transactions without a message, but for those whose recipients a destination put off.
	idlingBudget = 100
)

// A conn is one connection of a client. One goroutine at a time runs serve and uses everything; Shutdown and InFlight
// use life and the phase of tx as well.
type conn struct {
	holding
	life life
	in   input
	out  output
	tx   transaction
	wait commandWait

	session Session // nil before the greeting and after closeSession
	client  Client
	body    *Body // not nil while Session.Body runs
	// answered is the last message with a 2yz; zero once more came from the client than it had sent before the 2yz
	answered mail.TraceID
	seat     seat
	spent    budgets

	spoke     bool // a command line came
	grown     bool // a message came since the connection rested last, and its stack has grown: see serve
	xclient   bool // XCLIENT is allowed
	announced bool // Connected was emitted
}

// budgets counts what a connection has spent. XCLIENT begins it anew.
type budgets struct {
	messages int16 // MAIL commands, as far as there is a limit for them
	bad      int16 // commands: see errorBudget
	refused  int16 // recipients: see refusedBudget
	putOff   int16 // recipients: see idlingBudget
	junk     int16 // commands: see idlingBudget
	barren   int16 // transactions: see idlingBudget
}

// accepted begins the budgets anew that a message does.
func (b *budgets) accepted() { b.refused, b.putOff, b.junk, b.barren = 0, 0, 0, 0 }

// newConn returns the connection of an accepted socket. It has no place yet.
func newConn(s *Server, raw net.Conn) *conn {
	c := &conn{holding: holding{srv: s}, wait: commandWait{accepted: uint32(s.now().Milliseconds())}}
	c.client = Client{Addr: addrPort(raw.RemoteAddr()), Local: addrPort(raw.LocalAddr()), conn: c}
	c.life.srv, c.life.raw, c.life.rw = s, raw, raw
	c.in.conn, c.in.buf = c, c.in.small[:]
	c.out.conn = c
	return c
}

// accepted returns when the connection was accepted. No connection lasts 49 days, in which the milliseconds come round.
func (c *conn) accepted() time.Time {
	age := uint32(c.srv.now().Milliseconds()) - c.wait.accepted
	return time.Now().Add(-time.Duration(age) * time.Millisecond)
}

// serve runs the connection until it ends, or until there is nothing to do outside of a transaction: then a goroutine
// with a fresh stack goes on. The runtime never takes back a stack that has grown as far as that of a message. After a
// message the next one is probably near, so the change waits for settleAfter of silence.
func (c *conn) serve(begun bool) {
	rests := false
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
		}
		if rests { // the other goroutine uses c
			return
		}
		c.tellUnread()
		c.out.flush()
		c.life.linger(c.in.small[:])
		c.close()
	}()
	if !begun && !c.begin() {
		return
	}
	for c.life.ending < closing && !c.spent.over(c) {
		line, fault, err := c.nextLine()
		switch {
		case err == nil && !c.srv.draining.Load():
			c.spoke = true
			c.command(line, fault)
			continue
		case errors.Is(err, errSettled):
			rests = true
			go c.rest() // ends like the goroutine that it continues
		case err == nil, errors.Is(err, errUnread):
			c.endsHere()
			c.out.reply(shuttingDown)
			c.life.end(lingering)
		case errors.Is(err, errDraining):
			c.endsHere()
			c.out.reply(shuttingDown)
		case errors.Is(err, errGaveWay):
			c.endsHere()
			c.out.reply(gaveWay)
		case errors.Is(err, errIdleTooLong):
			c.endsHere()
			c.out.reply(idleTooLong)
		case !errors.Is(err, io.EOF): // a client that only stopped sending still reads
			c.life.end(unreachable)
		default:
			c.out.receipt.ends(closed)
		}
		return
	}
}

// rest waits for the first octets of a command with as little stack as can be. The buffer is the small one, and empty.
func (c *conn) rest() {
	c.grown, c.wait.next = false, onlyEnd
	n, err := c.await(c.in.small[:])
	c.in.add(n)
	c.in.err = err
	c.serve(true)
}

// begin does what comes before the first command: PROXY header, implicit TLS, the Session and its greeting. It reports
// whether the conversation goes on.
func (c *conn) begin() bool {
	peer := c.client.Addr.Addr()
	if contains(c.srv.cfg.Proxy, peer) && !(proxied{c}).readHeader() {
		return false
	}
	client := c.client.Addr.Addr()
	c.xclient = contains(c.srv.cfg.Xclient, client) && !c.client.Unknown
	if limit := c.srv.nameByProxy(c, peer); limit != "" {
		r := c.tell(mail.Event{Reply: tooManyConnections, Reason: limit})
		if !c.srv.cfg.Implicit {
			c.out.reply(r)
		}
		return false
	}
	c.announced = true
	c.srv.cfg.Emit(mail.Event{Kind: mail.Connected, Time: c.srv.cfg.Now(), Client: client})
	if c.srv.cfg.Implicit && !c.handshake(false) {
		return false
	}
	c.session = c.srv.cfg.NewSession(c.srv.ctx, &c.client)
	return c.greet()
}

// over ends the connection of a client that has spent one of its budgets, and reports whether it did.
func (b *budgets) over(c *conn) bool {
	tune := &c.srv.cfg.tune
	switch {
	case int(b.bad) >= tune.errorBudget:
		c.hangUp(tooManyErrors, "error budget")
	case int(b.refused) >= tune.refusedBudget:
		c.hangUp(tooManyRefused, "refused recipients")
	case int(b.putOff) >= tune.idlingBudget:
		c.hangUp(tooManyPutOff, "deferred recipients")
	case int(b.junk) >= tune.idlingBudget:
		c.hangUp(tooMuchJunk, "junk commands")
	case int(b.barren) >= tune.idlingBudget:
		c.hangUp(tooMuchJunk, "transactions without a message")
	default:
		return false
	}
	return true
}

// hangUp replies, ends the connection and emits an event with the reason.
func (c *conn) hangUp(r mail.Reply, reason string) {
	c.out.reply(c.tell(mail.Event{Reply: r, Reason: reason}))
	c.life.end(lingering)
}

// tell emits e with what is known of the client. Where it is a refusal it gets the id of the transaction, which hears
// of it, or one of its own and a trace. The reply that is returned has the id as well.
func (c *conn) tell(e mail.Event) mail.Reply {
	e.Time, e.Client, e.Helo, e.TLS = c.srv.cfg.Now(), c.client.Addr.Addr(), c.client.Helo, c.client.TLSVersion()
	if e.Reply.Code != 0 {
		if e.Kind == mail.Connected {
			e.Kind = mail.RefusedBy(e.Reply)
		}
		if c.tx.phase().open() {
			e.Trace = c.session.Trace(&e)
		}
		alone := e.Trace.IsZero()
		if alone {
			e.Trace = mail.NewTraceID()
		}
		e.Reply = e.Reply.Ours()
		if e.Reply.ID = e.Trace; alone && !c.srv.draining.Load() { // a drain refuses each idle client
			c.srv.cfg.Tracing.Refuse(&e, c.client.Visit())
		}
	}
	c.srv.cfg.Emit(e)
	return e.Reply
}

// panicked ends the connection after a panic in a Session.
func (c *conn) panicked(v any) {
	c.srv.cfg.Panicked(v, debug.Stack())
	if b := c.body; b != nil {
		c.body = nil
		b.abandon()
	}
	c.out.reply(c.tell(mail.Event{Kind: mail.Anomaly, Reply: localError, Reason: "panic"}))
	c.life.end(lingering)
}

// close closes the socket, returns what the connection has borrowed and takes it out of the server.
func (c *conn) close() {
	if s := c.session; s != nil {
		c.session = nil
		c.srv.closeSession(s)
	}
	c.life.rw.Close()
	c.out.drop()
	c.in.release()
	c.in.buf = c.in.small[:]
	if c.announced {
		c.tell(mail.Event{Kind: mail.Disconnected})
	}
	s := c.srv
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.cfg.Places.release(c)
	s.running.Done()
	c.life.ended()
}

// closeSession calls Session.Close and reports a panic in it.
func (s *Server) closeSession(session Session) {
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Panicked(v, debug.Stack())
		}
	}()
	session.Close()
}
