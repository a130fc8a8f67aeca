package client

import (
	"context"
	"slices"

	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/router/mail"
)

// MaxGroup bounds the recipients that are asked about in one round trip.
const MaxGroup = 64

// A Recipient is a recipient as the client wrote it, with the separator of its domain's subaddresses.
type Recipient = rate.Rcpt

// A Transaction is what is asked about the recipients of one mail transaction of a client.
type Transaction struct {
	client  *Client
	reverse mail.Path
	within  bool    // the rates of its message, as the store said with a recipient
	asked   []reply // about recipients that are still to come
}

// Begin returns the Transaction of a reverse-path.
func (c *Client) Begin(reverse mail.Path) Transaction {
	return Transaction{client: c, reverse: reverse}
}

// A reply is what the store said of one recipient.
type reply struct {
	forward mail.Path
	refusal *mail.Refusal // nil: it may come
}

// replies are what the store said of a group.
type replies struct {
	rcpts  []reply
	within bool // the rates of the message
}

// An Answer is the store's answer about one recipient, which may still be on its way. It must be awaited.
type Answer struct {
	t       *Transaction
	refusal *mail.Refusal
	coming  <-chan replies // nil: refusal is the answer
}

// Await waits for the answer and returns the *mail.Refusal of the recipient, or nil.
func (a Answer) Await() error {
	if a.coming != nil {
		r := <-a.coming
		a.t.within = a.t.within || r.within
		a.t.asked = append(a.t.asked, r.rcpts[1:]...)
		a.refusal = r.rcpts[0].refusal
	}
	if a.refusal == nil { // a nil *Refusal must not become an error
		return nil
	}
	return a.refusal
}

// Recipient asks for the rates of a recipient and for what greylisting thinks of it, in one round trip that goes on
// while the caller does other work. pipelined appends to a group the recipients that the client sent behind this one
// and that can share its transaction, MaxGroup in all at most: they are asked about together, and their own call finds
// the answer here. It is called only if the store is asked.
func (t *Transaction) Recipient(ctx context.Context, rcpt Recipient,
	pipelined func(group []Recipient) []Recipient) Answer {
	for i := range t.asked {
		if t.asked[i].forward == rcpt.Forward {
			refusal := t.asked[i].refusal
			t.asked = slices.Delete(t.asked, i, i+1)
			return Answer{refusal: refusal}
		}
	}
	c := t.client
	if c.clients == nil {
		return Answer{}
	}
	cfg := &c.clients.cfg
	grey := cfg.Greylist != nil && c.score != nil && c.score.Grey(c.verdict)
	if cfg.Limits == nil && !grey {
		return Answer{}
	}
	group := pipelined([]Recipient{rcpt})
	q := mail.RcptQuery{}
	if cfg.Limits != nil {
		q.Rates = cfg.Limits.Rcpt(rate.RcptQuestion{
			Client: c.addr, Reverse: t.reverse, First: !t.within, Rcpts: group,
		})
	}
	if grey {
		for i := range group {
			q.Triplets = append(q.Triplets,
				cfg.Greylist.Triplet(c.addr, c.score.Proved(t.reverse.Domain), t.reverse, group[i].Forward))
		}
	}
	if len(q.Rates) == 0 && len(q.Triplets) == 0 {
		return Answer{}
	}
	coming := make(chan replies, 1)
	// Ends with the store's own deadline; Answer.Await waits for it.
	go func(counted <-chan struct{}) {
		if counted != nil { // so that a client is not ahead of what it has sent itself
			select {
			case <-counted:
			case <-ctx.Done():
			}
		}
		coming <- c.clients.ask(ctx, q, group, grey)
	}(c.counted)
	return Answer{t: t, coming: coming}
}

// Allowed has the next call for a recipient find that it may come: the store was asked already.
func (t *Transaction) Allowed(forward mail.Path) { t.asked = append(t.asked, reply{forward: forward}) }

// ask asks the store about a group and makes refusals of its answers: first of the rates, then of greylisting. A store
// that cannot count is no fault of the client.
func (c *Clients) ask(ctx context.Context, q mail.RcptQuery, group []Recipient, grey bool) replies {
	out := make([]reply, len(group))
	facts, err := c.cfg.Store.Rcpt(ctx, q)
	within := err != nil
	for i := range group {
		forward := group[i].Forward
		out[i].forward = forward
		if err != nil {
			continue
		}
		if c.cfg.Limits != nil {
			out[i].refusal = c.cfg.Limits.RcptRefusal(q.Rates, facts.Rates, i)
		}
		within = within || out[i].refusal == nil
		if out[i].refusal == nil && grey && !forward.IsPostmasterOrAbuse() && i < len(facts.Grey) &&
			!facts.Grey[i].Passed {
			out[i].refusal = c.cfg.Greylist.Refusal(facts.Grey[i].Wait)
		}
	}
	return replies{out, within}
}

// IsCounted reports whether End counts anything.
func (t *Transaction) IsCounted() bool {
	c := t.client.clients
	return c != nil && c.cfg.Limits != nil && c.cfg.Counts != nil
}

// End counts a transaction that has ended: brought are the recipients that have its message, or may have it, and barren
// those that were accepted and have none. It waits for nothing.
func (t *Transaction) End(brought, barren []Recipient) {
	if !t.IsCounted() {
		return
	}
	t.count(rate.RcptQuestion{First: len(brought) > 0, Rcpts: brought}, true)
	t.count(rate.RcptQuestion{First: len(brought) == 0 && t.within, Rcpts: barren}, false)
	t.within = false
}

// Refused counts a recipient that was within its rates, and that its next hop does not take. It waits for nothing.
func (t *Transaction) Refused(r Recipient) {
	if t.IsCounted() {
		t.count(rate.RcptQuestion{Rcpts: []Recipient{r}}, false)
	}
}

func (t *Transaction) count(q rate.RcptQuestion, brought bool) {
	q.Client, q.Reverse = t.client.addr, t.reverse
	cfg := &t.client.clients.cfg
	if rates := cfg.Limits.Ended(q, brought); len(rates) > 0 {
		t.client.counted = cfg.Counts.DrawAll(rates)
	}
}
