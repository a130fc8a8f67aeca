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

// A serverConn is a connection from another node. One goroutine reads frames and carries them out. While it does one
// for longer than a moment, another one listens: it answers pings, notices the end of the connection, and ends with the
// one frame that it reads ahead. TCP holds the peer back beyond that.
type serverConn struct {
	*link
	srv    *Server
	frames chan request // from who listens

	ctx    context.Context // ends when the connection is lost or cut
	cancel context.CancelFunc

	left atomic.Bool // goodbye was said, or is
	owed atomic.Bool // it could not be said yet, because an answer was being written
	// transactions that OPEN came for and whose end was not answered: the next may come before that is noted
	open atomic.Int32

	mu         sync.Mutex
	greeted    bool
	committing bool
	closed     bool
	busy       bool   // a frame is carried out
	frame      uint64 // which one
	seen       uint64 // frame when momentPassed looked last
	listening  bool   // somebody reads, or has read, beside who is busy
	listeners  sync.WaitGroup

	// Of whoever reads.
	silence silence
	watched bool // a read deadline is set

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
	c.raw.rooms = &s.rooms
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
	c.work.run()
}

// take gives the next frame to carry out. The error means that there are no more, and whoever listened has ended.
func (c *serverConn) take() (r request, err error) {
	c.mu.Lock()
	c.busy = false // so that nobody begins to listen
	listening := c.listening
	c.mu.Unlock()
	if listening {
		var ok bool
		if r, ok = <-c.frames; !ok {
			return r, errGone
		}
	} else if r, err = c.read(); err != nil {
		c.cancel()
		return r, err
	}
	c.mu.Lock()
	c.busy, c.listening = true, false
	c.frame++
	c.mu.Unlock()
	return r, nil
}

// end closes the connection from this side, and waits for who listens.
func (c *serverConn) end() {
	c.cancel()
	c.raw.Close()
	c.mu.Lock()
	c.busy = false
	listening := c.listening
	c.mu.Unlock()
	if listening {
		if r, ok := <-c.frames; ok {
			c.srv.rooms.put(r.room)
		}
	}
	c.listeners.Wait()
}

// momentPassed has somebody listen if the same frame is carried out as when it was called last.
func (c *serverConn) momentPassed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	still := c.busy && c.seen == c.frame
	c.seen = c.frame
	if still && !c.listening {
		c.listening = true
		c.listeners.Go(c.listen) // ends with a frame that is taken, or with the connection
	}
}

// listen reads one frame while another one is carried out.
func (c *serverConn) listen() {
	r, err := c.read()
	if err == nil {
		err = c.hand(r)
	}
	if err != nil {
		c.cancel()
		close(c.frames)
	}
}

// read takes frames off the connection until it was one to carry out.
func (c *serverConn) read() (request, error) {
	for {
		k, n, err := c.next()
		if err != nil {
			return request{}, err
		}
		switch k {
		case ping:
			if err := c.sign(pong); err != nil {
				return request{}, err
			}
			continue
		case pong:
			continue
		case open:
			c.open.Add(1)
			c.watch()
		}
		r := request{k, n, c.srv.rooms.get(n + len(endOfData))}
		if err := c.fill((*r.room)[:n]); err != nil {
			c.srv.rooms.put(r.room)
			return request{}, err
		}
		return r, nil
	}
}

// hand hands a frame over. Until it is taken nothing is read, so that pings are not heard: the peer is told every now
// and then that somebody is here.
func (c *serverConn) hand(r request) error {
	waiting := time.NewTicker(c.beat)
	defer waiting.Stop()
	for {
		select {
		case c.frames <- r:
			return nil
		case <-waiting.C:
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

// beatPassed is called by whoever reads when nothing came for a while. Within a transaction the peer, whose client may
// take its time, has to show that it lives. Who was told goodbye has had the time to close the connection.
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

// leave says goodbye. The peer closes the connection then, at once or at the end of its transaction; if it does not, we
// do.
func (c *serverConn) leave() {
	c.mu.Lock()
	greeted := c.greeted
	c.mu.Unlock()
	if !greeted { // serve comes here again
		return
	}
	c.left.Store(true)
	c.owed.Store(true)
	if c.sayGoodbye() != nil {
		c.raw.Close()
		return
	}
	c.raw.SetReadDeadline(time.Now().Add(c.beat))
}

// sayGoodbye says goodbye if that is owed. While an answer is being written it stays so: whoever writes comes here
// behind it.
func (c *serverConn) sayGoodbye() error {
	if !c.owed.Load() {
		return nil
	}
	said, err := c.trySign(goodbye)
	if said {
		c.owed.Store(false)
	}
	return err
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
