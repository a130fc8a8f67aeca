package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/router/mail"
)

// A ClientConfig says how other nodes are reached.
type ClientConfig struct {
	// TLS has our certificate and the authority of the cluster as its RootCAs. The name that a peer's certificate must have
	// is the node's. Required.
	TLS *tls.Config
	// Name is this node's own.
	Name string
	// Addr gives the address of the hop to a node. Required.
	Addr func(node string) (addr string, ok bool)
	// Unreachable is told that the hop to a node failed, and until when it is to be left alone; a moment that has passed
	// says that it answered again. Nil: nobody.
	Unreachable func(node string, until time.Time)
	// Dial bounds a connection's beginning, TLS included. 0: 3 s.
	Dial time.Duration
	// Idle is how long an unused connection is kept, and Most how many unused ones for each node. 0: 1 min, 64.
	Idle time.Duration
	Most int
	// Now is the clock of the breaker. Nil: time.Now.
	Now func() time.Time
}

// Validate reports the first field that is wrong as a *mail.FieldError.
func (c ClientConfig) Validate() error {
	switch {
	case c.TLS == nil:
		return &mail.FieldError{Field: "tls", Reason: "is required"}
	case c.Addr == nil:
		return &mail.FieldError{Field: "addr", Reason: "is required"}
	case c.Dial < 0 || c.Idle < 0 || c.Most < 0:
		return &mail.FieldError{Field: "dial", Reason: "is negative"}
	}
	return nil
}

// A Client begins transactions at other nodes. It is safe for concurrent use. Close must be called to end it.
type Client struct {
	cfg ClientConfig

	mu     sync.Mutex // never held across I/O
	peers  map[string]*pool
	closed bool
	reaper sync.WaitGroup
	stop   chan struct{}
	conns  sync.WaitGroup // readers
}

// A pool is what a Client knows of one node.
type pool struct {
	idle     []*clientLink // the one used last is last
	failures int           // in a row
	until    time.Time     // left alone
}

// NewClient makes a Client. It dials when it is asked to begin something.
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
	c := &Client{cfg: cfg, peers: make(map[string]*pool), stop: make(chan struct{})}
	c.reaper.Go(c.reap)
	return c, nil
}

// Reachable reports whether a node may be asked: it was not found unreachable a short while ago.
func (c *Client) Reachable(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[node]
	return p == nil || !c.cfg.Now().Before(p.until)
}

// Begin gets a connection to a node and sends nothing of the transaction: its Rcpt does. The error is a *LostError.
func (c *Client) Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error) {
	l, err := c.take(ctx, node)
	if err != nil {
		return nil, &LostError{Node: node, Cause: err}
	}
	return &transaction{client: c, link: l, node: node, d: d}, nil
}

// take gives an idle connection that is alive, or a new one.
func (c *Client) take(ctx context.Context, node string) (*clientLink, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, errGone
		}
		p := c.peer(node)
		if c.cfg.Now().Before(p.until) {
			c.mu.Unlock()
			return nil, errors.New("was unreachable a moment ago")
		}
		var l *clientLink
		if n := len(p.idle); n > 0 {
			l, p.idle = p.idle[n-1], p.idle[:n-1]
		}
		c.mu.Unlock()
		if l == nil {
			return c.dial(ctx, node)
		}
		if l.alive() {
			return l, nil
		}
		l.close()
	}
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

func (c *Client) dial(ctx context.Context, node string) (*clientLink, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Dial)
	defer cancel()
	l, err := c.connect(ctx, node)
	if err != nil {
		if ctx.Err() == nil || time.Until(deadlineOf(ctx)) <= 0 {
			c.failed(node)
		}
		return nil, err
	}
	c.answered(node)
	return l, nil
}

func deadlineOf(ctx context.Context) time.Time {
	at, _ := ctx.Deadline()
	return at
}

func (c *Client) connect(ctx context.Context, node string) (*clientLink, error) {
	addr, ok := c.cfg.Addr(node)
	if !ok {
		return nil, errors.New("is no member")
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	cfg := c.cfg.TLS.Clone()
	cfg.ServerName = node
	l := &clientLink{answers: make(chan reply, 4), ended: make(chan struct{}), raw: raw, heard: time.Now()}
	l.link = newLink(tls.Client(&patient{raw, l.lastHeard}, cfg))
	if _, err := l.greet(ctx, c.cfg.Name); err != nil {
		raw.Close()
		return nil, err
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.conns.Add(1)
	}
	c.mu.Unlock()
	if closed {
		raw.Close()
		return nil, errGone
	}
	// Ends when the connection does, which whoever holds it or the reaper closes.
	go func() {
		defer c.conns.Done()
		l.read()
	}()
	return l, nil
}

// failed leaves a node alone for a while that doubles up to half a minute.
func (c *Client) failed(node string) {
	c.mu.Lock()
	p := c.peer(node)
	p.failures++
	p.until = c.cfg.Now().Add(min(500*time.Millisecond<<min(p.failures, 6), 30*time.Second))
	until := p.until
	idle := p.idle
	p.idle = nil
	c.mu.Unlock()
	for _, l := range idle { // they lead to the same machine, or to its former life
		l.close()
	}
	c.cfg.Unreachable(node, until)
}

func (c *Client) answered(node string) {
	c.mu.Lock()
	p := c.peer(node)
	before := p.failures
	p.failures, p.until = 0, time.Time{}
	c.mu.Unlock()
	if before > 0 {
		c.cfg.Unreachable(node, time.Time{})
	}
}

// give takes a connection back on which nothing is open.
func (c *Client) give(node string, l *clientLink) {
	l.used = c.cfg.Now()
	c.mu.Lock()
	p := c.peer(node)
	keep := !c.closed && len(p.idle) < c.cfg.Most
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
	tick := time.NewTicker(c.cfg.Idle / 4)
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
			n := 0
			for n < len(p.idle) && p.idle[n].used.Before(old) {
				n++
			}
			out = append(out, p.idle[:n]...)
			p.idle = append([]*clientLink(nil), p.idle[n:]...)
		}
		c.mu.Unlock()
		for _, l := range out {
			l.close()
		}
	}
}

// Close ends idle connections and waits for those in use, whose transactions go on.
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

// Count gives, for a node, the connections that are idle now.
func (c *Client) Count(node string) (idle int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[node]; p != nil {
		return len(p.idle)
	}
	return 0
}

// traceparent is the W3C form of the span that ctx carries, "" without one.
func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// A reply is a frame that answers something.
type reply struct {
	kind kind
	body []byte // its own
}

// A clientLink is a connection to a peer with the one goroutine that reads from it.
type clientLink struct {
	*link
	raw     net.Conn
	used    time.Time
	answers chan reply    // closed never; what does not fit means that the peer talks out of turn
	ended   chan struct{} // closed when reading ended
	err     error         // why; set before ended is closed

	leaving sync.Once
	mu      sync.Mutex
	bye     bool
	heard   time.Time
}

// read takes frames off the connection until it ends.
func (l *clientLink) read() {
	defer close(l.ended)
	defer l.close()
	var room []byte
	for {
		k, b, err := l.receive(room)
		if err != nil {
			l.err = err
			return
		}
		room = b[:0]
		l.mu.Lock()
		l.heard = time.Now()
		if k == goodbye {
			l.bye = true
		}
		l.mu.Unlock()
		switch k {
		case goodbye, pong:
		case done, refused, outcomes:
			select {
			case l.answers <- reply{k, append([]byte(nil), b...)}:
			default:
				l.err = errFrame
				return
			}
		case ping:
			if l.err = l.send(header(nil, pong, 0)); l.err != nil {
				return
			}
		default:
			l.err = errFrame
			return
		}
	}
}

// alive reports whether an idle connection can be used: it did not end, the peer did not say goodbye, and nothing came
// unasked.
func (l *clientLink) alive() bool {
	select {
	case <-l.ended:
		return false
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.bye && len(l.answers) == 0
}

// why gives the reason for which reading ended, after ended was closed.
func (l *clientLink) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return errGone
	}
	return l.err
}

func (l *clientLink) lastHeard() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard
}

// close closes the socket without a word of TLS, which the peer might not take: frames tell what is whole.
func (l *clientLink) close() { l.leaving.Do(func() { l.raw.Close() }) }

// await waits for an answer until deadline (zero: for ever), and asks for a sign of life when it takes long.
func (l *clientLink) await(deadline time.Time) (reply, error) {
	select {
	case r := <-l.answers:
		return r, nil
	default:
	}
	began := time.Now()
	timer := time.NewTimer(beat)
	defer timer.Stop()
	for {
		select {
		case r := <-l.answers:
			return r, nil
		case <-l.ended:
			select {
			case r := <-l.answers: // it came before the end
				return r, nil
			default:
			}
			return reply{}, l.why()
		case <-timer.C:
		}
		now := time.Now()
		if !deadline.IsZero() && now.After(deadline) {
			return reply{}, context.DeadlineExceeded
		}
		last := l.lastHeard()
		if last.Before(began) {
			last = began
		}
		if now.Sub(last) > lostAfter {
			return reply{}, errSilent
		}
		if err := l.send(header(nil, ping, 0)); err != nil {
			return reply{}, err
		}
		wait := beat
		if !deadline.IsZero() {
			wait = min(wait, max(time.Until(deadline), time.Millisecond))
		}
		timer.Reset(wait)
	}
}
