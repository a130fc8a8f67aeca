package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A ClientConfig says how other nodes are reached.
type ClientConfig struct {
	// TLS has our certificate and the authority of the cluster as its RootCAs; see Certificates. The certificate of a
	// peer must be for the node's name. Required.
	TLS *tls.Config
	// Name is this node's name, which is in its certificate. Required.
	Name string
	// Addr returns the address of the hop to a node, and false if the node is no member. Required.
	Addr func(node string) (addr string, ok bool)
	// Unreachable is called when the hop to a node failed, with the time until which the node is not used, and with the
	// zero time when the node answered again. It must not block. nil disables it.
	Unreachable func(node string, until time.Time)
	// LastJoined returns when a node was first seen or came back. Failures before that time are forgotten. It must not
	// block. nil disables it.
	LastJoined func(node string) time.Time
	// Shared says that all nodes have one store, so that this node can remove what the owner of a Site wrote into it.
	Shared bool
	// Dial opens connections; nil means the system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is the clock of the pauses after failures and of the age of idle connections. nil means time.Now.
	Now func() time.Time
	// Handshake is told how long a TLS handshake took, and why it failed. It must not block; nil disables it.
	Handshake func(took time.Duration, err error)

	tune tuning
}

// Validate returns the first field that is wrong as a *mail.FieldError, or nil.
func (c ClientConfig) Validate() error {
	switch {
	case c.TLS == nil:
		return &mail.FieldError{Field: "tls", Reason: "is required"}
	case c.TLS.RootCAs == nil || c.TLS.InsecureSkipVerify:
		return &mail.FieldError{Field: "tls", Reason: "has to verify by the cluster's authority"}
	case c.Name == "":
		return &mail.FieldError{Field: "name", Reason: "is required"}
	case c.Addr == nil:
		return &mail.FieldError{Field: "addr", Reason: "is required"}
	}
	return nil
}

// A Client begins transactions at other nodes. It is safe for concurrent use. Close must be called to end it.
type Client struct {
	cfg     ClientConfig
	tls     atomic.Pointer[tls.Config] // of connections to come
	buffers frameBuffers

	stop       chan struct{}  // closed by Close
	background sync.WaitGroup // reap and watchIdle
	conns      sync.WaitGroup // open links, their listeners, and dials

	mu       sync.Mutex // never held across I/O; guards what follows
	peers    map[string]*peerState
	links    map[*clientLink]struct{} // all open links
	watching bool                     // watchIdle runs
	closed   bool
}

// NewClient returns a Client. It dials when a transaction begins. The error is that of Validate.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Unreachable == nil {
		cfg.Unreachable = func(string, time.Time) {}
	}
	if cfg.LastJoined == nil {
		cfg.LastJoined = func(string) time.Time { return time.Time{} }
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	cfg.tune = cfg.tune.withDefaults()
	c := &Client{
		cfg: cfg, stop: make(chan struct{}),
		peers: make(map[string]*peerState), links: make(map[*clientLink]struct{}),
	}
	c.tls.Store(cfg.TLS)
	c.background.Go(c.reap) // ends with stop
	return c, nil
}

// UseTLS makes connections to come use cfg, which has to be as ClientConfig.TLS demands. Open connections stay. The
// error is a *mail.FieldError; UseTLS then changes nothing.
func (c *Client) UseTLS(cfg *tls.Config) error {
	with := c.cfg
	with.TLS = cfg
	if err := with.Validate(); err != nil {
		return err
	}
	c.tls.Store(cfg)
	return nil
}

// Reachable reports whether a node may be used, that is, whether no pause after a failure is running.
func (c *Client) Reachable(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[node]
	return p == nil || !c.cfg.Now().Before(p.until)
}

// Begin gets a connection to a node. It sends nothing of the transaction, which the first Rcpt does. The error is a
// *PeerError whose Sent is false. It is returned at once for a node in a pause after a failure, a leaving and a full
// node, and after 3 s for a node that does not answer.
//
// The transaction returns the owner's answers unchanged, with the node as Outcome.Via. The error of the owner's Begin
// is that of the Rcpt that caused it, and the next Rcpt tries again. A failed hop is a Refusal 451 4.4.2 with a
// *PeerError as its cause. SMTPUTF8 is set after a recipient was accepted, if the Delivery declares it.
func (c *Client) Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error) {
	l, err := c.get(ctx, node)
	if err != nil {
		return nil, &PeerError{Node: node, Cause: err}
	}
	if l.version < tlsVersion && demandsTLS(&d) {
		c.put(l)
		return nil, &PeerError{Node: node, Cause: errNotTaken}
	}
	t := &transaction{client: c, link: l, node: node, d: d}
	if d.Leg != nil {
		d.Leg.Site, d.Leg.Node, d.Leg.Reverse = d.Site, node, d.Reverse
		t.tried = len(d.Leg.Tried)
	}
	return t, nil
}

// Abort closes every connection except those on which COMMIT waits for its answer. The present or next call of a
// transaction on a closed connection fails as that of a failed hop. It is for the end of a drain.
func (c *Client) Abort() {
	for _, l := range c.open(nil) {
		l.abort()
	}
}

// Close closes idle connections, refuses transactions to come and waits for those under way.
func (c *Client) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	var idle []*clientLink
	for _, p := range c.peers {
		idle = append(idle, p.idle...)
		p.idle = nil
	}
	c.mu.Unlock()
	close(c.stop)
	closeAll(idle)
	c.background.Wait()
	c.conns.Wait()
}

// open appends all open links to links.
func (c *Client) open(links []*clientLink) []*clientLink {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.links {
		links = append(links, l)
	}
	return links
}

// watchIdle starts a listener on each link that no goroutine has read from for some time: its peer asks for signs of
// life, says goodbye or goes away. It ends with stop.
func (c *Client) watchIdle() {
	ticker := time.NewTicker(c.cfg.tune.beat / ticksPerBeat)
	defer ticker.Stop()
	var links []*clientLink
	for {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
		}
		links = c.open(links[:0])
		for _, l := range links {
			l.tick()
		}
		clear(links)
	}
}

// reap closes idle links that were not used for some time. It ends with stop.
func (c *Client) reap() {
	ticker := time.NewTicker(max(c.cfg.tune.idleTimeout/4, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
		}
		oldest := c.cfg.Now().Add(-c.cfg.tune.idleTimeout)
		var old []*clientLink
		c.mu.Lock()
		for _, p := range c.peers {
			old = append(old, p.removeIdle(func(l *clientLink) bool { return l.used.Before(oldest) })...)
		}
		c.mu.Unlock()
		closeAll(old)
	}
}

func closeAll(links []*clientLink) {
	for _, l := range links {
		l.close()
	}
}

var (
	errLeftAlone = errors.New("did not answer a moment ago")
	errNoMember  = errors.New("is no member")
)
