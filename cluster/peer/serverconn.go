package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A serverConn is a connection from another node. Two goroutines serve it: one reads frames and answers pings at once, the
// other carries them out. One frame is read while one is carried out, and TCP holds the peer back beyond that.
type serverConn struct {
	*link
	srv    *Server
	frames chan request

	ctx    context.Context // ends when the connection is lost or cut
	cancel context.CancelFunc

	left atomic.Bool  // goodbye was said, or is
	open atomic.Int32 // transactions that OPEN came for and whose end was not answered: the next may come before that is noted

	mu         sync.Mutex
	greeted    bool
	committing bool
	closed     bool

	// The reader's own.
	silence silence
	watched bool // a read deadline is set
	waiting *time.Ticker

	work worker
}

// A request is a frame that came. Its content lies in room.
type request struct {
	kind kind
	size int
	room *[]byte
}

func newServerConn(s *Server, socket net.Conn, secure func(net.Conn) *tls.Conn) *serverConn {
	c := &serverConn{srv: s, frames: make(chan request)}
	c.link = newLink(socket, s.beat, secure)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.work.conn = c
	return c
}

// serve runs the connection until it ends. One that is too many is told so, and to go.
func (c *serverConn) serve(full bool) {
	defer c.cancel()
	defer c.raw.Close()
	leaving := full || c.srv.draining.Load()
	if _, err := c.greet(c.ctx, c.srv.cfg.Name, leaving); err != nil {
		if !errors.Is(err, io.EOF) && c.ctx.Err() == nil { // who says nothing only looks whether the port is open
			e := mail.Event{Kind: mail.Anomaly, Time: c.srv.cfg.Now(), Reason: "peer refused", Cause: err}
			if from, ok := c.raw.RemoteAddr().(*net.TCPAddr); ok {
				e.Client = from.AddrPort().Addr().Unmap()
			}
			c.srv.cfg.Emit(e)
		}
		return
	}
	c.quiet = c.beatPassed
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	if leaving || c.srv.draining.Load() {
		c.leave()
	}
	var running sync.WaitGroup
	running.Go(func() { // ends when read closes frames
		c.work.run(c.frames)
		c.raw.Close() // so that read ends if this ended first
	})
	c.waiting = time.NewTicker(c.beat)
	c.read()
	c.waiting.Stop()
	running.Wait()
}

// read takes frames off the connection and hands them to the worker.
func (c *serverConn) read() {
	defer close(c.frames)
	defer c.cancel()
	for c.readOne() == nil {
	}
}

func (c *serverConn) readOne() error {
	k, n, err := c.next()
	if err != nil {
		return err
	}
	switch k {
	case ping:
		return c.sign(pong)
	case pong:
		return nil
	case open:
		c.open.Add(1)
		c.watch()
	}
	r := request{k, n, c.srv.rooms.get(n + len(endOfData))}
	if err := c.fill((*r.room)[:n]); err != nil {
		c.srv.rooms.put(r.room)
		return err
	}
	return c.hand(r)
}

// hand hands a frame to the worker. For as long as that is busy with the one before, nothing is read, so that pings are not
// heard: the peer is told every now and then that somebody is here.
func (c *serverConn) hand(r request) error {
	select {
	case c.frames <- r:
		return nil
	default:
	}
	for {
		select {
		case c.frames <- r:
			return nil
		case <-c.waiting.C:
		}
		if err := c.sign(pong); err != nil {
			c.srv.rooms.put(r.room)
			return err
		}
	}
}

// watch has beatPassed called in a while, if it is not to be yet.
func (c *serverConn) watch() {
	if c.watched {
		return
	}
	c.watched = true
	c.silence = silence{heard: c.heard()}
	c.raw.SetReadDeadline(time.Now().Add(c.beat))
}

// beatPassed is called by the reader when nothing came for a while. Within a transaction the peer, whose client may take its
// time, has to show that it lives. Who was told goodbye has had the time to close the connection.
func (c *serverConn) beatPassed() error {
	if c.open.Load() > 0 {
		if c.silence.beat(c.heard()) {
			return errSilent
		}
		if err := c.sign(ping); err != nil {
			return err
		}
		return c.raw.SetReadDeadline(time.Now().Add(c.beat))
	}
	if c.left.Load() {
		return errGoodbye
	}
	c.watched = false
	if err := c.raw.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if c.left.Load() { // it was told in between, and the deadline that was set for it is gone
		return c.raw.SetReadDeadline(time.Now().Add(c.beat))
	}
	return nil
}

// leave says goodbye. The peer closes the connection then, at once or at the end of its transaction; if it does not, we do.
func (c *serverConn) leave() {
	c.mu.Lock()
	greeted := c.greeted
	c.mu.Unlock()
	if !greeted { // serve comes here again
		return
	}
	c.left.Store(true)
	if c.sign(goodbye) != nil { // if an answer is being written, it is said behind the end of the transaction
		c.raw.Close()
		return
	}
	c.raw.SetReadDeadline(time.Now().Add(c.beat))
}

// cut ends the connection, unless a message is being committed: its outcome is told first.
func (c *serverConn) cut() {
	c.mu.Lock()
	c.closed = true
	committing := c.committing
	c.mu.Unlock()
	if !committing {
		c.raw.Close()
	}
}

// release reports whether the end of data may go out, which is decided once: what is released is not cut.
func (c *serverConn) release() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committing = !c.closed
	return c.committing
}

// rest is what follows a transaction: the connection waits for another one, or for the peer to close it.
func (c *serverConn) rest() {
	c.mu.Lock()
	c.committing = false
	c.mu.Unlock()
	c.open.Add(-1)
	if c.srv.draining.Load() {
		c.leave()
	}
}
