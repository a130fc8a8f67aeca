package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"
)

// A peerState is what a Client knows of one node. Client.mu guards it.
type peerState struct {
	idle     []*clientLink // the most recently used one is last
	failures int           // in a row
	failedAt time.Time     // of the last failure
	until    time.Time     // the end of the pause after a failure
	probing  bool          // a caller finds out whether the node answers again
	goodbye  time.Time     // no connection is opened until then
	dials    chan struct{} // holds a token for each connection that is being opened; not guarded
}

// forgive forgets failures.
func (p *peerState) forgive() { p.failures, p.until, p.probing = 0, time.Time{}, false }

// removeIdle removes the idle links for which drop returns true, and returns them.
func (p *peerState) removeIdle(drop func(*clientLink) bool) (dropped []*clientLink) {
	p.idle = slices.DeleteFunc(p.idle, func(l *clientLink) bool {
		if !drop(l) {
			return false
		}
		dropped = append(dropped, l)
		return true
	})
	return dropped
}

// get returns an idle link that is usable, or a new one.
func (c *Client) get(ctx context.Context, node string) (*clientLink, error) {
	for {
		l, err := c.idle(node)
		if err != nil {
			return nil, err
		}
		if l == nil {
			defer c.conns.Done()
			return c.dial(ctx, node)
		}
		if l.alive() && l.ready() {
			return l, nil
		}
		l.close()
	}
}

// idle returns an idle link, or nil. If both results are nil, the caller has to dial and to call conns.Done.
func (c *Client) idle(node string) (*clientLink, error) {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(node)
	if p.failures > 0 && c.cfg.LastJoined(node).After(p.failedAt) {
		p.forgive()
	}
	if n := len(p.idle) - 1; n >= 0 {
		l := p.idle[n]
		p.idle = slices.Delete(p.idle, n, n+1)
		return l, nil
	}
	switch {
	case c.closed:
		return nil, errGone
	case now.Before(p.until), p.probing:
		return nil, errLeftAlone
	case now.Before(p.goodbye):
		return nil, errGoodbye
	}
	p.probing = p.failures > 0
	c.conns.Add(1)
	return nil, nil
}

// peer returns the state of a node. mu is held.
func (c *Client) peer(node string) *peerState {
	p := c.peers[node]
	if p == nil {
		p = &peerState{dials: make(chan struct{}, maxDials)}
		c.peers[node] = p
	}
	return p
}

// dial opens a link and notes whether the node answered.
func (c *Client) dial(ctx context.Context, node string) (*clientLink, error) {
	begun, until := c.cfg.Now(), time.Now().Add(dialTimeout)
	at, short := ctx.Deadline()
	if short = short && at.Before(until); short {
		until = at
	}
	within, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	l, err := c.connect(within, node)
	switch {
	case err == nil:
		c.answered(node)
		return l, nil
	case errors.Is(err, errGoodbye):
		c.answered(node)
		c.heardGoodbye(node)
	// The node may work: it is no member, we have no descriptor left, the caller's time was too short, or the node came
	// back meanwhile.
	case errors.Is(err, errNoMember), errors.Is(err, syscall.EMFILE), ctx.Err() != nil,
		short && !time.Now().Before(until), c.cfg.LastJoined(node).After(begun):
		c.mu.Lock()
		c.peer(node).probing = false
		c.mu.Unlock()
	default:
		c.failed(node)
	}
	return nil, err
}

// connect opens a link: TCP, TLS and the greeting.
func (c *Client) connect(ctx context.Context, node string) (*clientLink, error) {
	addr, ok := c.cfg.Addr(node)
	if !ok {
		return nil, errNoMember
	}
	c.mu.Lock()
	dials := c.peer(node).dials
	c.mu.Unlock()
	select {
	case dials <- struct{}{}:
		defer func() { <-dials }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	socket, err := c.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l := newClientLink(c, node, newLink(socket, c.cfg.tune.beat, &c.buffers, func(raw net.Conn) *tls.Conn {
		cfg := c.tls.Load().Clone()
		cfg.ServerName = node
		return tls.Client(raw, cfg)
	}))
	l.shook = c.cfg.Handshake
	g, err := l.greet(ctx, c.cfg.Name, false)
	switch {
	case err != nil:
	case g.node != node:
		err = errors.New("says that it is node " + g.node)
	case g.leaving:
		err = errGoodbye
	}
	l.version = g.version
	if err == nil && !c.add(l) {
		err = errGone
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	return l, nil
}

// add adds an open link. It reports false if the Client is closed.
func (c *Client) add(l *clientLink) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.links[l] = struct{}{}
	c.conns.Add(1)
	if !c.watching {
		c.watching = true
		c.background.Go(c.watchIdle) // ends with stop
	}
	return true
}

// remove removes a link that is closed.
func (c *Client) remove(l *clientLink) {
	defer c.conns.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.links, l)
	p := c.peer(l.node)
	if i := slices.Index(p.idle, l); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
}

// failed begins a pause in which a node is not used. It closes the node's idle links, which lead to the same machine or
// to a process that has ended.
func (c *Client) failed(node string) {
	now := c.cfg.Now()
	c.mu.Lock()
	p := c.peer(node)
	if now.Before(p.until) { // another failure of the same moment was counted
		c.mu.Unlock()
		return
	}
	p.until = now.Add(min(firstPause<<min(p.failures, 8), longestPause))
	p.failures++
	p.failedAt = now
	p.probing = false
	until, idle := p.until, p.idle
	p.idle = nil
	c.mu.Unlock()
	closeAll(idle)
	c.cfg.Unreachable(node, until)
}

// answered forgets the failures of a node.
func (c *Client) answered(node string) {
	c.mu.Lock()
	p := c.peer(node)
	before := p.failures
	p.forgive()
	c.mu.Unlock()
	if before > 0 {
		c.cfg.Unreachable(node, time.Time{})
	}
}

// heardGoodbye notes that a node accepts no new transaction, and closes its idle links on which it said so. On the
// others it will say so, too.
func (c *Client) heardGoodbye(node string) {
	now := c.cfg.Now()
	c.mu.Lock()
	p := c.peer(node)
	p.goodbye = now.Add(goodbyePause)
	dead := p.removeIdle(func(l *clientLink) bool { return !l.alive() })
	others := slices.Clone(p.idle)
	c.mu.Unlock()
	closeAll(dead)
	for _, l := range others {
		l.startListener()
	}
}

// put takes a link back that has no open transaction.
func (c *Client) put(l *clientLink) {
	l.used = c.cfg.Now()
	c.mu.Lock()
	p := c.peer(l.node)
	keep := !c.closed && len(p.idle) < c.cfg.tune.maxIdle && l.alive()
	if keep {
		p.idle = append(p.idle, l)
	}
	c.mu.Unlock()
	if !keep {
		l.close()
	}
}
