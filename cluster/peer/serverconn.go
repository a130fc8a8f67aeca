package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/mail"
)

// keptRoom bounds what a connection keeps for the next frame, in octets.
const keptRoom = 160 << 10

// A serverConn is a connection from another node. Two goroutines serve it: one reads frames and answers pings at once, the
// other carries them out. There are two buffers, so that one frame is read while one is carried out, and TCP holds the
// peer back beyond that.
type serverConn struct {
	*link
	srv *Server
	raw net.Conn

	frames chan request
	free   chan []byte

	ctx    context.Context // ends when the connection is lost or cut
	cancel context.CancelFunc

	mu         sync.Mutex
	heard      time.Time
	busy       bool // a transaction is open
	committing bool
	closed     bool

	// The transaction; the worker's own.
	tx       mail.Transaction
	span     trace.Span
	opened   bool  // Data was called
	failed   error // told to the peer, which does not know it yet: what comes of this message is passed over
	dots     []uint32
	accepted int
}

// A request is a frame that came.
type request struct {
	kind kind
	body []byte
}

func newServerConn(s *Server, raw net.Conn) *serverConn {
	c := &serverConn{srv: s, raw: raw, frames: make(chan request), free: make(chan []byte, 2), heard: time.Now()}
	c.link = newLink(tls.Server(&patient{raw, c.lastHeard}, s.cfg.TLS))
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.free <- nil
	c.free <- nil
	return c
}

func (c *serverConn) lastHeard() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard
}

// serve runs the connection until it ends.
func (c *serverConn) serve() {
	defer c.cancel()
	defer c.raw.Close()
	if _, err := c.greet(c.ctx, c.srv.cfg.Name); err != nil {
		c.srv.cfg.Emit(mail.Event{Kind: mail.Anomaly, Time: c.srv.cfg.Now(), Reason: "peer refused", Cause: err})
		return
	}
	var worker sync.WaitGroup
	worker.Go(c.work) // ends when read closes frames
	c.read()
	worker.Wait()
}

// read takes frames off the connection and hands them to the worker. While that is busy and the next frame waits, the peer
// is told every now and then that somebody is here.
func (c *serverConn) read() {
	defer close(c.frames)
	defer c.cancel()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		var room []byte
		select {
		case room = <-c.free:
		case <-tick.C:
			if c.send(header(nil, pong, 0)) != nil {
				return
			}
			continue
		}
		k, b, err := c.receive(room[:0])
		if err != nil {
			return
		}
		c.mu.Lock()
		c.heard = time.Now()
		c.mu.Unlock()
		switch k {
		case ping:
			c.free <- b
			if c.send(header(nil, pong, 0)) != nil {
				return
			}
			continue
		case pong:
			c.free <- b
			continue
		}
		c.frames <- request{k, b} // the worker takes all until this is closed
	}
}

// work carries frames out until there are no more.
func (c *serverConn) work() {
	defer c.raw.Close() // so that read ends if this ends first
	defer c.end(nil)
	broken := false
	for r := range c.frames {
		if !broken && c.carryOut(r) != nil {
			broken = true
			c.raw.Close()
		}
		if cap(r.body) > keptRoom {
			r.body = nil
		}
		c.free <- r.body
	}
}

// carryOut does what a frame asks for. An error ends the connection.
func (c *serverConn) carryOut(r request) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.srv.cfg.Panicked(v, debug.Stack())
			err = errors.New("panic")
		}
	}()
	switch r.kind {
	case open:
		return c.open(r.body)
	case rcpt:
		return c.rcpt(r.body)
	case renew:
		return c.renew(r.body)
	case lend:
		lender, ok := c.tx.(mail.Lender)
		return c.done(fYes, ok && lender.Lend())
	case wanted:
		lender, ok := c.tx.(mail.Lender)
		return c.done(fYes, ok && lender.Wanted())
	case data, commit:
		return c.piece(r)
	case abort:
		c.end(nil)
		if err := c.done(fYes, false); err != nil {
			return err
		}
		return c.rest()
	}
	return errFrame
}

func (c *serverConn) done(name byte, yes bool) error {
	return c.sendFields(done, fields(nil).flag(name, yes))
}

func (c *serverConn) refuse(err error) error { return c.sendFields(refused, appendRefusal(nil, err)) }

// within gives the ctx of one command.
func (c *serverConn) within(budget time.Duration) context.Context {
	if budget <= 0 {
		budget = c.srv.cfg.Budget
	}
	ctx := c.ctx
	if c.span != nil {
		ctx = trace.ContextWithSpan(ctx, c.span)
	}
	return mail.Until(ctx, time.Now().Add(budget))
}

func (c *serverConn) open(b []byte) error {
	if c.tx != nil {
		return errFrame
	}
	d, traceparent, budget, err := parseDelivery(b)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.busy = true
	c.mu.Unlock()
	if c.srv.draining.Load() {
		c.leave() // whichever came first, the peer does not get to wait
		return errGoodbye
	}
	var ctx context.Context
	ctx, c.span = c.srv.span(c.ctx, traceparent, "")
	if budget <= 0 {
		budget = c.srv.cfg.Budget
	}
	c.tx, err = c.srv.cfg.Beginner.Begin(mail.Until(ctx, time.Now().Add(budget)), d)
	if err != nil {
		c.tx = nil
		c.end(err)
		if err := c.refuse(err); err != nil {
			return err
		}
		return nil
	}
	return c.done(fYes, false)
}

var errNoTransaction = mail.Refuse(451, 3, 0, "Local error, try again later", "no transaction at the peer", nil)

func (c *serverConn) rcpt(b []byte) error {
	var forward mail.Path
	var budget time.Duration
	if err := fields(b).each(func(name byte, v []byte) {
		switch name {
		case fForwardLocal:
			forward.Local = string(v)
		case fForwardDomain:
			forward.Domain = string(v)
		case fBudget:
			budget = asBudget(v)
		}
	}); err != nil {
		return err
	}
	if err := checkPath(forward); err != nil || forward.IsNull() {
		return errors.Join(errFrame, err)
	}
	if c.tx == nil {
		if err := c.refuse(errNoTransaction); err != nil {
			return err
		}
		return c.rest()
	}
	if err := c.tx.Rcpt(c.within(budget), forward); err != nil {
		return c.refuse(err)
	}
	c.accepted++
	return c.done(fYes, c.speaks())
}

func (c *serverConn) speaks() bool {
	s, ok := c.tx.(mail.Speaker)
	return ok && s.SMTPUTF8()
}

func (c *serverConn) renew(b []byte) error {
	var budget time.Duration
	if err := fields(b).each(func(name byte, v []byte) {
		if name == fBudget {
			budget = asBudget(v)
		}
	}); err != nil {
		return err
	}
	if c.tx == nil {
		return c.refuse(errNoTransaction)
	}
	if lender, ok := c.tx.(mail.Lender); ok {
		if err := lender.Renew(c.within(budget)); err != nil {
			return c.refuse(err)
		}
	}
	return c.done(fYes, c.speaks())
}

// piece passes a piece of the message on. What a message that has failed already still sends is passed over: the peer was
// told, and abort or commit ends it.
func (c *serverConn) piece(r request) error {
	o, form, budget, err := parsePiece(r.body, c.dots)
	if err != nil {
		return err
	}
	c.dots = o.Dots
	if cap(c.dots) > 4096 {
		c.dots = nil
	}
	if c.failed == nil && c.tx == nil {
		return errFrame
	}
	if c.failed == nil && !c.opened {
		c.opened = true
		c.failed = c.tx.Data(c.within(min(max(budget, 0), c.srv.cfg.Budget)), form)
	}
	if r.kind == commit {
		return c.commit(o, budget)
	}
	if c.failed == nil {
		if c.failed = c.tx.Write(o); c.failed == nil {
			return nil
		}
	} else if c.tx == nil {
		return nil
	}
	c.tx.Abort()
	c.tx = nil
	return c.refuse(c.failed)
}

// commit releases the end of data. From here on nothing but its deadline ends the wait for what becomes of it.
func (c *serverConn) commit(o mail.Octets, budget time.Duration) error {
	if c.failed != nil {
		told := c.tx == nil
		err := c.failed
		c.end(err)
		if !told {
			if err := c.refuse(err); err != nil {
				return err
			}
		}
		return c.rest()
	}
	c.mu.Lock()
	c.committing = !c.closed
	cut := c.closed
	c.mu.Unlock()
	if cut {
		return errGone
	}
	tx := c.tx
	c.tx = nil // Commit ends it
	out := tx.Commit(context.WithoutCancel(c.within(budget)), o)
	if len(out) == 0 {
		out = []mail.Outcome{{Reply: mail.ReplyFor(nil), Cause: errors.New("no outcome")}}
	}
	err := c.sendFields(outcomes, appendOutcomes(nil, out))
	c.mu.Lock()
	c.committing = false
	c.mu.Unlock()
	c.end(out[0].Cause)
	if err != nil {
		return err
	}
	return c.rest()
}

// end forgets the transaction, and aborts it if it is open.
func (c *serverConn) end(err error) {
	if c.tx != nil {
		c.tx.Abort()
	}
	if c.span != nil {
		if err != nil {
			c.span.SetStatus(codes.Error, "failed") // the text may hold addresses
		}
		c.span.End()
	}
	c.tx, c.span, c.opened, c.failed, c.accepted = nil, nil, false, nil, 0
}

// rest is what follows a transaction: the connection waits for another one, unless the node drains.
func (c *serverConn) rest() error {
	c.mu.Lock()
	c.busy = false
	c.mu.Unlock()
	if c.srv.draining.Load() {
		_ = c.sendFields(goodbye, nil)
		return errGoodbye
	}
	return nil
}

// leave ends the connection if no transaction is open on it.
func (c *serverConn) leave() {
	_ = c.sendFields(goodbye, nil)
	c.mu.Lock()
	busy := c.busy
	c.mu.Unlock()
	if !busy {
		c.raw.Close()
	}
}

// cut ends the connection, unless a message is being committed: its outcome is told first.
func (c *serverConn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if !c.committing {
		c.raw.Close()
	}
}
