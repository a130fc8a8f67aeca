package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A serverConn is a connection from another node. Its worker reads frames and carries them out. While the worker is
// busy with one frame for some time, a listener reads: it answers pings, notices the end of the connection, and ends
// with the first frame to carry out, which it hands to the worker. TCP holds the peer back beyond that.
type serverConn struct {
	*link
	srv    *Server
	work   worker
	from   netip.Prefix // the address that it counts for
	proved bool         // it has shown a certificate of the cluster; belongs to serve

	ctx      context.Context // ends when the connection ends or is aborted
	cancel   context.CancelFunc
	farewell farewell
	// open counts the transactions whose OPEN was read and whose last answer was not written. The OPEN of the next one
	// may be read before the end of the last one is noted.
	open atomic.Int32

	silence   silenceWatch
	requests  chan request // from the listener
	listeners sync.WaitGroup

	mu         sync.Mutex // guards what follows
	greeted    bool
	committing bool // the end of data was released and its answer is not written
	aborted    bool
	busy       busyState
}

// A farewell is the state of saying goodbye.
type farewell struct {
	begun   atomic.Bool // leave was called
	pending atomic.Bool // goodbye is not written yet
}

// A silenceWatch watches for a silent peer. It belongs to the goroutine that reads.
type silenceWatch struct {
	missed missedBeats
	on     bool // a read deadline is set
}

// A busyState says which frame is carried out, and whether a listener reads meanwhile.
type busyState struct {
	working   bool
	frame     uint64 // counts the frames that were carried out
	seen      uint64 // frame at the last tick
	listening bool   // a listener reads, or has read
}

// A request is a frame that was read. Its content is in buffer.
type request struct {
	kind   kind
	size   int
	buffer *[]byte
}

func newServerConn(s *Server, socket net.Conn, secure func(net.Conn) *tls.Conn) *serverConn {
	c := &serverConn{srv: s, requests: make(chan request)}
	c.link = newLink(socket, s.cfg.tune.beat, &s.buffers, secure)
	c.shook = s.cfg.Handshake
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.work.conn = c
	return c
}

// serve serves the connection until it ends. If the server is full, it greets with that and says goodbye.
func (c *serverConn) serve(full bool) {
	defer c.cancel()
	defer c.raw.Close()
	leaving := full || c.srv.draining.Load()
	if err := c.meet(leaving); err != nil {
		if !errors.Is(err, io.EOF) && c.ctx.Err() == nil { // EOF: a client that only tested whether the port is open
			c.srv.refused(c.from, err)
		}
		return
	}
	c.proved = true
	c.srv.guard.proved(c.from)
	c.onTimeout = c.beatPassed
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	if leaving || c.srv.draining.Load() {
		c.leave()
	}
	c.work.run()
}

// meet waits for the turn of the connection, makes TLS and exchanges greetings.
func (c *serverConn) meet(leaving bool) error {
	waiting, cancel := context.WithTimeout(c.ctx, maxMissedBeats*c.beat)
	defer cancel()
	if !c.srv.guard.shake(waiting, c.from) {
		return errPlaces
	}
	defer c.srv.guard.shaken(c.from)
	g, err := c.greet(c.ctx, c.srv.cfg.Name, leaving)
	if err == nil && !c.srv.cfg.Admits(g.node) {
		err = fmt.Errorf("%w: %s", errNotAdmitted, g.node)
	}
	return err
}

// take returns the next frame to carry out. After an error there are no more, and the listener has ended.
func (c *serverConn) take() (r request, err error) {
	c.mu.Lock()
	c.busy.working = false // so that no listener is started
	listening := c.busy.listening
	c.mu.Unlock()
	if listening {
		var ok bool
		if r, ok = <-c.requests; !ok {
			return r, errGone
		}
	} else if r, err = c.read(); err != nil {
		c.cancel()
		return r, err
	}
	c.mu.Lock()
	c.busy.working, c.busy.listening = true, false
	c.busy.frame++
	c.mu.Unlock()
	return r, nil
}

// end closes the connection and waits for the listener.
func (c *serverConn) end() {
	c.cancel()
	c.raw.Close()
	c.mu.Lock()
	c.busy.working = false
	listening := c.busy.listening
	c.mu.Unlock()
	if listening {
		if r, ok := <-c.requests; ok {
			c.srv.buffers.put(r.buffer)
		}
	}
	c.listeners.Wait()
}

// tick starts a listener if the worker is busy with the same frame as at the last tick.
func (c *serverConn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	still := c.busy.working && c.busy.seen == c.busy.frame
	c.busy.seen = c.busy.frame
	if still && !c.busy.listening {
		c.busy.listening = true
		c.listeners.Go(c.listen) // ends with a frame that is taken, or with the connection
	}
}

// listen reads one frame while the worker carries out another one.
func (c *serverConn) listen() {
	r, err := c.read()
	if err == nil {
		err = c.handOver(r)
	}
	if err != nil {
		c.cancel()
		close(c.requests)
	}
}

// read reads frames until one is to be carried out.
func (c *serverConn) read() (request, error) {
	for {
		k, n, err := c.next()
		if err != nil {
			return request{}, err
		}
		switch k {
		case ping:
			if _, err := c.trySend(pong); err != nil {
				return request{}, err
			}
			continue
		case pong:
			continue
		case open:
			c.open.Add(1)
			c.watchSilence()
		}
		r := request{k, n, c.srv.buffers.get(n + len(endOfData))}
		if err := c.fill((*r.buffer)[:n]); err != nil {
			c.srv.buffers.put(r.buffer)
			return request{}, err
		}
		return r, nil
	}
}

// handOver hands a frame to the worker. Until the worker takes it nothing is read and no ping is heard, so a pong is
// sent in each beat.
func (c *serverConn) handOver(r request) error {
	ticker := time.NewTicker(c.beat)
	defer ticker.Stop()
	for {
		select {
		case c.requests <- r:
			return nil
		case <-ticker.C:
		}
		if _, err := c.trySend(pong); err != nil {
			c.srv.buffers.put(r.buffer)
			return err
		}
	}
}

// watchSilence sets a read deadline, after which beatPassed is called, unless one is set.
func (c *serverConn) watchSilence() {
	if c.silence.on {
		return
	}
	c.silence = silenceWatch{missed: missedBeats{heard: c.heard()}, on: true}
	c.raw.SetReadDeadline(time.Now().Add(c.beat))
}

// beatPassed is called by the reading goroutine when a read meets its deadline. Within a transaction the peer's client
// may be slow, but the peer has to send signs of life. Outside of one, a peer that was told goodbye had the time to
// close the connection.
func (c *serverConn) beatPassed() error {
	if c.open.Load() > 0 {
		if c.silence.missed.tooMany(c.heard()) {
			return errSilent
		}
		if _, err := c.trySend(ping); err != nil {
			return err
		}
		return c.raw.SetReadDeadline(time.Now().Add(c.beat))
	}
	if c.farewell.begun.Load() {
		return errGoodbye
	}
	c.silence.on = false
	if err := c.raw.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if c.farewell.begun.Load() { // leave ran in between, and its deadline was overwritten
		return c.raw.SetReadDeadline(time.Now().Add(c.beat))
	}
	return nil
}

// leave says goodbye. The peer then closes the connection, at once or at the end of its transaction. If it does not,
// the next deadline outside a transaction does.
func (c *serverConn) leave() {
	c.mu.Lock()
	greeted := c.greeted
	c.mu.Unlock()
	if !greeted { // serve calls leave after the greeting
		return
	}
	c.farewell.begun.Store(true)
	c.farewell.pending.Store(true)
	if c.sayGoodbye() != nil {
		c.raw.Close()
		return
	}
	c.raw.SetReadDeadline(time.Now().Add(c.beat))
}

// sayGoodbye writes a pending goodbye. While another goroutine writes an answer, goodbye stays pending, and the writer
// calls sayGoodbye after the answer.
func (c *serverConn) sayGoodbye() error {
	if !c.farewell.pending.Load() {
		return nil
	}
	written, err := c.trySend(goodbye)
	if written {
		c.farewell.pending.Store(false)
	}
	return err
}

// abort closes the connection, unless a message is being committed, whose outcome is sent first.
func (c *serverConn) abort() {
	c.mu.Lock()
	c.aborted = true
	committing := c.committing
	c.mu.Unlock()
	if !committing {
		c.raw.Close()
	}
}

// release reports whether the end of data may be sent. After that abort does not close the connection.
func (c *serverConn) release() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committing = !c.aborted
	return c.committing
}

// transactionEnded is called after the last answer of a transaction. The connection then waits for the next
// transaction, or for the peer to close it.
func (c *serverConn) transactionEnded() {
	c.mu.Lock()
	c.committing = false
	c.mu.Unlock()
	c.open.Add(-1)
	if c.srv.draining.Load() {
		c.leave()
	}
}
