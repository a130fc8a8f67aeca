package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A ClientConfig says how other nodes are reached.
type ClientConfig struct {
	// TLS has our certificate and the authority of the cluster as its RootCAs; see Certificates. The name that a peer's
	// certificate must have is the node's. Required.
	TLS *tls.Config
	// Name is this node's own, and in its certificate. Required.
	Name string
	// Addr gives the address of the hop to a node. Required.
	Addr func(node string) (addr string, ok bool)
	// Unreachable is told that the hop to a node failed, and until when it is left alone; the zero time says that it
	// answered again. It must not block. Nil: nobody.
	Unreachable func(node string, until time.Time)
	// Came is when a node was first seen or came back: what failed before that says nothing any more. It must not
	// block. Nil: nobody knows.
	Came func(node string) time.Time
	// Dial bounds the beginning of a connection, TLS included. 0: 3 s.
	Dial time.Duration
	// Idle is how long an unused connection is kept, and Most how many unused ones for each node. 0: 1 min, 64.
	Idle time.Duration
	Most int
	// Now is the clock of the breaker and of Idle. Nil: time.Now.
	Now func() time.Time
}

// Validate reports the first field that is wrong as a *mail.FieldError.
func (c ClientConfig) Validate() error {
	switch {
	case c.TLS == nil:
		return &mail.FieldError{Field: "tls", Reason: "is required"}
	case !verifies(c.TLS):
		return &mail.FieldError{Field: "tls", Reason: "has to verify by the cluster's authority"}
	case c.Name == "":
		return &mail.FieldError{Field: "name", Reason: "is required"}
	case c.Addr == nil:
		return &mail.FieldError{Field: "addr", Reason: "is required"}
	case c.Dial < 0:
		return &mail.FieldError{Field: "dial", Reason: "is negative"}
	case c.Idle < 0:
		return &mail.FieldError{Field: "idle", Reason: "is negative"}
	case c.Most < 0:
		return &mail.FieldError{Field: "most", Reason: "is negative"}
	}
	return nil
}

func verifies(c *tls.Config) bool { return c.RootCAs != nil && !c.InsecureSkipVerify }

const (
	// firstPause is how long a node is left alone after a failed hop: long enough for gossip to notice one that died.
	// It doubles with each failed attempt to connect, up to longestPause.
	firstPause   = 3 * time.Second
	longestPause = 30 * time.Second
	// rest is how long no connection is opened to a node that said goodbye, or hello and that it takes nothing.
	rest = time.Second
)

// A Client begins transactions at other nodes. It is safe for concurrent use. Close must be called to end it.
type Client struct {
	cfg  ClientConfig
	beat time.Duration
	tls  atomic.Pointer[tls.Config] // of connections to come

	mu     sync.Mutex // never held across I/O
	peers  map[string]*pool
	links  map[*clientLink]struct{} // all that are open
	listen bool                     // the goroutine that looks after them runs
	closed bool
	stop   chan struct{}
	reaper sync.WaitGroup // and who looks after the links
	conns  sync.WaitGroup // links, those who listen to them, and those that connect
	rooms  rooms
}

// A pool is what a Client knows of one node; Client.mu guards it.
type pool struct {
	idle     []*clientLink // the one used last is last
	failures int           // in a row
	failed   time.Time     // when the last of these was
	until    time.Time     // left alone after a failure
	probing  bool          // somebody finds out whether it answers again
	resting  time.Time     // no connection is opened until then
}

// NewClient makes a Client. It dials when it is asked to begin something. The error is Validate's.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Dial == 0 {
		cfg.Dial = 3 * time.Second
	}
	if cfg.Idle == 0 {
		cfg.Idle = time.Minute
	}
	if cfg.Most == 0 {
		cfg.Most = 64
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Unreachable == nil {
		cfg.Unreachable = func(string, time.Time) {}
	}
	if cfg.Came == nil {
		cfg.Came = func(string) time.Time { return time.Time{} }
	}
	c := &Client{
		cfg: cfg, beat: beat, peers: make(map[string]*pool), links: make(map[*clientLink]struct{}),
		stop: make(chan struct{}),
	}
	c.tls.Store(cfg.TLS)
	c.reaper.Go(c.reap) // ends with stop
	return c, nil
}

// UseTLS makes later connections use cfg, which is held to what ClientConfig.TLS says; those that are open stay. The
// error is a *mail.FieldError, and then nothing changes.
func (c *Client) UseTLS(cfg *tls.Config) error {
	with := c.cfg
	with.TLS = cfg
	if err := with.Validate(); err != nil {
		return err
	}
	c.tls.Store(cfg)
	return nil
}

// Reachable reports whether a node may be asked: it was not found unreachable a short while ago.
func (c *Client) Reachable(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[node]
	return p == nil || !c.cfg.Now().Before(p.until)
}

// Begin gets a connection to a node and sends nothing of the transaction: its first Rcpt does. The error is a
// *LostError whose Sent is false. A node that is left alone, leaving or full is one at once; a node that does not
// answer is one after ClientConfig.Dial at the latest.
//
// What the owner answers comes out of the transaction as it stands, with Outcome.Via the node. What the owner's Begin
// answers is the error of the Rcpt that asked for it; the next Rcpt asks again. A hop that is lost is a Refusal 451
// 4.4.2 with a *LostError as its cause. SMTPUTF8 is known once a recipient was accepted, of a Delivery that declares
// it.
func (c *Client) Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error) {
	l, err := c.take(ctx, node)
	if err != nil {
		return nil, &LostError{Node: node, Cause: err}
	}
	return &transaction{client: c, link: l, node: node, d: d}, nil
}

var (
	errLeftAlone = errors.New("did not answer a moment ago")
	errNoMember  = errors.New("is no member")
)

// take gives an idle connection that is alive, or a new one.
func (c *Client) take(ctx context.Context, node string) (*clientLink, error) {
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

// idle gives an idle connection, or nil: then the caller has to dial, and to call conns.Done.
func (c *Client) idle(node string) (*clientLink, error) {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(node)
	if p.failures > 0 && c.cfg.Came(node).After(p.failed) {
		p.failures, p.until, p.probing = 0, time.Time{}, false
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
	case now.Before(p.resting):
		return nil, errGoodbye
	}
	p.probing = p.failures > 0
	c.conns.Add(1)
	return nil, nil
}

// peer gives what is known of a node; mu is held.
func (c *Client) peer(node string) *pool {
	p := c.peers[node]
	if p == nil {
		p = new(pool)
		c.peers[node] = p
	}
	return p
}

// dial opens a connection and draws the consequences of what comes of it.
func (c *Client) dial(ctx context.Context, node string) (*clientLink, error) {
	begun, until := c.cfg.Now(), time.Now().Add(c.cfg.Dial)
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
		c.goodbye(node)
	// whose fault it is was not found out
	case errors.Is(err, errNoMember), ctx.Err() != nil, short && !time.Now().Before(until),
		c.cfg.Came(node).After(begun):
		c.mu.Lock()
		c.peer(node).probing = false
		c.mu.Unlock()
	default:
		c.failed(node)
	}
	return nil, err
}

func (c *Client) connect(ctx context.Context, node string) (*clientLink, error) {
	addr, ok := c.cfg.Addr(node)
	if !ok {
		return nil, errNoMember
	}
	var d net.Dialer
	socket, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &clientLink{
		client: c, node: node, answers: make(chan reply, 4), ended: make(chan struct{}),
		timer: time.NewTimer(time.Hour),
	}
	l.timer.Stop()
	l.link = newLink(socket, c.beat, func(raw net.Conn) *tls.Conn {
		cfg := c.tls.Load().Clone()
		cfg.ServerName = node
		return tls.Client(raw, cfg)
	})
	l.raw.rooms = &c.rooms
	g, err := l.greet(ctx, c.cfg.Name, false)
	switch {
	case err != nil:
	case g.node != node:
		err = errors.New("says that it is node " + g.node)
	case g.leaving:
		err = errGoodbye
	}
	if err == nil && !c.add(l) {
		err = errGone
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	return l, nil
}

// add notes an open connection. It reports whether the Client is open as well.
func (c *Client) add(l *clientLink) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.links[l] = struct{}{}
	c.conns.Add(1)
	if !c.listen {
		c.listen = true
		c.reaper.Go(c.lookAfter) // ends with stop
	}
	return true
}

// lookAfter has somebody listen to the connections that nobody reads from for longer than a moment: their peers ask for
// signs of life, say goodbye and go. It ends with stop.
func (c *Client) lookAfter() {
	tick := time.NewTicker(c.beat / momentsInBeat)
	defer tick.Stop()
	var all []*clientLink
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		all = all[:0]
		for l := range c.links {
			all = append(all, l)
		}
		c.mu.Unlock()
		for _, l := range all {
			l.momentPassed()
		}
		clear(all)
	}
}

// remove forgets a connection that is closed.
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

// failed leaves a node alone for a while, and closes its idle connections: they lead to the same machine, or to its
// former life.
func (c *Client) failed(node string) {
	now := c.cfg.Now()
	c.mu.Lock()
	p := c.peer(node)
	if now.Before(p.until) { // others of the same moment were counted
		c.mu.Unlock()
		return
	}
	p.until = now.Add(min(firstPause<<min(p.failures, 8), longestPause))
	p.failures++
	p.failed = now
	p.probing = false
	until, idle := p.until, p.idle
	p.idle = nil
	c.mu.Unlock()
	for _, l := range idle {
		l.close()
	}
	c.cfg.Unreachable(node, until)
}

func (c *Client) answered(node string) {
	c.mu.Lock()
	p := c.peer(node)
	before := p.failures
	p.failures, p.until, p.probing = 0, time.Time{}, false
	c.mu.Unlock()
	if before > 0 {
		c.cfg.Unreachable(node, time.Time{})
	}
}

// goodbye notes that a node takes no new transaction, and closes its idle connections.
func (c *Client) goodbye(node string) {
	now := c.cfg.Now()
	c.mu.Lock()
	p := c.peer(node)
	p.resting = now.Add(rest)
	var out []*clientLink
	p.idle = slices.DeleteFunc(p.idle, func(l *clientLink) bool {
		if !l.alive() {
			out = append(out, l)
		}
		return !l.alive()
	})
	rest := slices.Clone(p.idle)
	c.mu.Unlock()
	for _, l := range out {
		l.close()
	}
	for _, l := range rest { // each is told, too
		l.watch(false)
	}
}

// give takes a connection back on which nothing is open.
func (c *Client) give(l *clientLink) {
	l.used = c.cfg.Now()
	c.mu.Lock()
	p := c.peer(l.node)
	keep := !c.closed && len(p.idle) < c.cfg.Most && l.alive()
	if keep {
		p.idle = append(p.idle, l)
	}
	c.mu.Unlock()
	if !keep {
		l.close()
	}
}

// reap closes connections that nobody uses. It ends with stop.
func (c *Client) reap() {
	tick := time.NewTicker(max(c.cfg.Idle/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		old := c.cfg.Now().Add(-c.cfg.Idle)
		var out []*clientLink
		c.mu.Lock()
		for _, p := range c.peers {
			p.idle = slices.DeleteFunc(p.idle, func(l *clientLink) bool {
				if l.used.Before(old) {
					out = append(out, l)
				}
				return l.used.Before(old)
			})
		}
		c.mu.Unlock()
		for _, l := range out {
			l.close()
		}
	}
}

// Cut ends every connection on which no COMMIT waits for its answer, those of transactions that are under way among
// them, whose next or present call fails as that of a lost hop. It is for a drain whose time is up.
func (c *Client) Cut() {
	c.mu.Lock()
	var out []*clientLink
	for l := range c.links {
		out = append(out, l)
	}
	c.mu.Unlock()
	for _, l := range out {
		l.cut()
	}
}

// Close ends idle connections, lets no transaction begin and waits for those under way.
func (c *Client) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	var out []*clientLink
	for _, p := range c.peers {
		out = append(out, p.idle...)
		p.idle = nil
	}
	c.mu.Unlock()
	close(c.stop)
	for _, l := range out {
		l.close()
	}
	c.reaper.Wait()
	c.conns.Wait()
}

// Count gives the connections to a node that are open now, and how many of these are idle.
func (c *Client) Count(node string) (open, idle int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.links {
		if l.node == node {
			open++
		}
	}
	if p := c.peers[node]; p != nil {
		idle = len(p.idle)
	}
	return open, idle
}
