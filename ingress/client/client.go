package client

import (
	"context"
	"net/netip"
	"time"

	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/mail"
)

// A Client is one client, for as long as its session lasts. The zero Client is a trusted one: nothing is asked about
// it. Its methods are called by one goroutine at a time. Make one with Clients.Arrive.
type Client struct {
	clients *Clients     // nil: trusted
	addr    netip.Addr   // zero: unknown
	score   *score.Score // nil: not scored
	verdict mail.Verdict // of the score, as awaited last
	tallied bool         // the verdict on the sender of the present transaction was counted

	counted <-chan struct{} // closed when what its last transaction drew is drawn; nil: it drew nothing
}

// An SPF is a check of the reverse-path that is under way.
type SPF = score.SPF

// Arrive begins the score of a client and waits for nothing. addr is its address, or the zero Addr if that is not
// known; name is what a front end calls it (XCLIENT NAME), or "". ctx is that of the session: its end ends what is
// under way. The caller calls Close.
func (c *Clients) Arrive(ctx context.Context, addr netip.Addr, name string) Client {
	a := Client{clients: c, addr: addr}
	switch who := (score.Client{Addr: addr, Name: name}); {
	case c.cfg.Score == nil:
	case c.cfg.Look:
		a.score = c.cfg.Score.Look(ctx, who)
	default:
		a.score = c.cfg.Score.Connect(ctx, who)
	}
	return a
}

// Close ends what is under way for the client and awaits it.
func (c *Client) Close() {
	if c.score != nil {
		c.score.Close()
	}
}

// Name returns the organizational domain of the client's name in the DNS, where that leads back to the client; "" if it
// does not, or is not known.
func (c *Client) Name() string {
	if c.score == nil {
		return ""
	}
	return c.score.Name()
}

// IsScored reports whether the client has a score, which Judge waits for.
func (c *Client) IsScored() bool { return c.score != nil }

// Greeting returns how long the greeting is to be held back from the client. It may wait shortly for what is known of
// it. The error, a *mail.Refusal, is the greeting instead.
func (c *Client) Greeting(ctx context.Context) (delay time.Duration, err error) {
	if c.score == nil {
		return 0, nil
	}
	if delay, err = c.score.Greeting(ctx); err != nil {
		c.verdict = c.score.Verdict(ctx)
		c.score.Count(c.verdict)
	}
	if c.clients.cfg.Look {
		delay = 0
	}
	return delay, err
}

// EarlyTalker says that the client spoke while its greeting was held back.
func (c *Client) EarlyTalker() {
	if c.score != nil {
		c.score.EarlyTalker()
	}
}

// Introduce begins to look up the name that the client gave itself, and waits for nothing.
func (c *Client) Introduce(helo string) {
	if c.score != nil {
		c.score.Helo(helo)
	}
}

// Sender begins to look up the present reverse-path, and waits for nothing. check is its check of SPF, nil if it is
// not checked.
func (c *Client) Sender(reverse mail.Path, check SPF) {
	if c.score != nil {
		c.score.Mail(reverse, check)
		c.tallied = false
	}
}

// Judge awaits the verdict on the client, once in a transaction as far as it takes time, and returns the *mail.Refusal
// of a client that is refused, or nil. A spared recipient is held to rates alone (RFC 5321 section
// 4.5.1).
func (c *Client) Judge(ctx context.Context, spared bool) error {
	if c.score == nil {
		return nil
	}
	c.verdict = c.score.Verdict(ctx)
	if !c.tallied {
		c.score.Count(c.verdict)
		c.tallied = true
	}
	if r := c.score.Limited(); r != nil {
		return r
	}
	if spared {
		return nil
	}
	if r := c.score.Refusal(c.verdict); r != nil {
		return r
	}
	if r := c.score.Unsure(c.verdict); r != nil {
		return r
	}
	return nil
}

// Tarpit returns how long a refusal of the client is to be held back, and counts the client among those that are.
func (c *Client) Tarpit() time.Duration {
	if c.score == nil || c.clients.cfg.Look {
		return 0
	}
	return c.score.Tarpit(c.verdict)
}

// Scored writes the client's score, and the signals and the entries of lists that spoke, into an event.
func (c *Client) Scored(e *mail.Event) {
	e.Score, e.Signals, e.Entries = c.verdict.Score, score.Signals(c.verdict), c.verdict.Entries
}

// AllowedBy returns where the entry of an allow list stands that speaks for the client, "" without one. The answer is
// in after Judge.
func (c *Client) AllowedBy() string {
	if c.score == nil {
		return ""
	}
	return c.score.AllowedBy()
}

// Reputation reports what local knowledge says for the client: whether an entry of the allow list that
// says dmarc speaks for it, and whether its network is known good.
func (c *Client) Reputation() (allowed, knownGood bool) {
	if c.score == nil {
		return false, false
	}
	return c.score.Allowed()&score.ForDMARC != 0, c.score.KnownGood()
}

// An Explanation tells what the score says of a client and why.
type Explanation struct {
	Verdict mail.Verdict
	Signals []score.Signal // each signal there is, with what it saw
	Grey    bool           // mail of the client is greylisted
}

// isAllowed reports whether the allow list speaks for the client where clients share something, or for its score.
func (c *Client) isAllowed() bool {
	return c.score != nil && c.score.Allowed()&(score.ForPlaces|score.ForScore) != 0
}

// IsFavoured reports whether the client has no part in what strangers share: it is trusted, known good, or the allow
// list speaks for it where clients share something. It waits for nothing: the answer is in after Judge.
func (c *Client) IsFavoured() bool {
	if c.score == nil {
		return c.clients == nil
	}
	return c.score.Allowed()&score.ForPlaces != 0 || c.score.KnownGood()
}

// Limited returns the refusal of a client that named too many recipients that were refused for good, or nil. It waits
// for nothing: what the score knows of the client is in after Judge.
func (c *Client) Limited() error {
	if c.clients == nil || c.isAllowed() {
		return nil
	}
	knownGood := c.score != nil && c.score.KnownGood()
	if r := c.clients.cfg.Guard.Refusal(c.addr, knownGood); r != nil { // a nil *Refusal must not become an error
		return r
	}
	return nil
}

// Explain awaits the verdict on a client of a Config with Look. It is zero if the client has no score.
func (c *Client) Explain(ctx context.Context) Explanation {
	if c.score == nil {
		return Explanation{}
	}
	v := c.score.Verdict(ctx)
	return Explanation{Verdict: v, Signals: c.score.Explain(), Grey: c.score.Grey(v)}
}
