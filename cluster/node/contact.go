package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// A Contact is a session with a next hop that went as far as RCPT, or did not come about.
type Contact struct {
	Host        string  `json:"host,omitempty"` // that took the session; "" if none did
	Addr        string  `json:"address,omitempty"`
	Source      string  `json:"source,omitempty"` // our address
	TLS         string  `json:"tls,omitempty"`    // the version; "" in clear
	Cipher      string  `json:"cipher,omitempty"`
	KeyExchange string  `json:"key_exchange,omitempty"`
	Verified    bool    `json:"verified"` // the certificate is valid for the host
	Said        []Said  `json:"said"`
	Tried       []Tried `json:"tried,omitempty"` // what did not take a session, and why
}

// A Said is a reply of a host, and what it is the reply to: GREETING or a command.
type Said struct {
	Host  string `json:"host"`
	Verb  string `json:"verb"`
	Reply string `json:"reply"`
}

// A Tried is a host, or an address of one, that did not take a session.
type Tried struct {
	Host         string `json:"host"`
	Addr         string `json:"address,omitempty"`
	Cause        string `json:"cause"`
	Milliseconds int64  `json:"ms"`
}

// A reacher opens sessions with next hops as mail does, by a relay of its own, and writes down what is said there. No
// session gets past RCPT. It is safe for concurrent use.
type reacher struct {
	relay *egress.Relay

	mu   sync.Mutex // guards said
	said []Said
}

// newReacher returns a reacher whose relay has a configuration. The caller calls hangUp.
func newReacher(cfg egress.Config) (*reacher, error) {
	r := &reacher{}
	cfg.Client.Heard = r.hear
	var err error
	r.relay, err = egress.NewRelay(cfg)
	return r, err
}

// hear writes a reply down.
func (r *reacher) hear(host, verb string, reply mail.Reply) {
	text := reply.String()
	if reply.Enhanced == (mail.EnhancedCode{}) { // which stands there only where the host said it
		text = fmt.Sprintf("%d %s", reply.Code, strings.ReplaceAll(strings.TrimSpace(reply.Text), "\n", " / "))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, Said{host, verb, printable.Text(text)})
}

// hangUp ends the sessions. Those that do not end so end with the process.
func (r *reacher) hangUp() {
	ctx, cancel := context.WithTimeout(context.Background(), relayShutdown)
	defer cancel()
	_ = r.relay.Shutdown(ctx)
}

// reach goes to a next hop as mail for d goes there, up to the replies to RCPT for all of forwards, and leaves nothing
// there. The error is that of the first recipient that was refused, or why there was no session.
func (r *reacher) reach(ctx context.Context, d mail.Delivery, forwards []mail.Path) (Contact, error) {
	d.Leg = &mail.Leg{}
	tx, err := r.relay.Begin(ctx, d)
	if err == nil {
		defer tx.Abort()
		for _, f := range forwards {
			if refused := tx.Rcpt(ctx, f); err == nil {
				err = refused
			}
		}
	}
	return r.contact(d.Leg), err
}

// contact returns what was written down on a way.
func (r *reacher) contact(leg *mail.Leg) Contact {
	took := &leg.Session
	c := Contact{
		Host: took.Host, TLS: took.TLS, Cipher: took.Cipher, KeyExchange: took.KeyExchange, Verified: took.Verified,
		Said: []Said{},
	}
	if took.Addr.IsValid() {
		c.Addr = took.Addr.String()
	}
	if took.Source.IsValid() {
		c.Source = took.Source.String()
	}
	hosts := []string{took.Host}
	for _, t := range leg.Tried {
		tried := Tried{Host: t.Host, Cause: t.Cause, Milliseconds: t.Took.Round(time.Millisecond).Milliseconds()}
		if t.Addr.IsValid() {
			tried.Addr = t.Addr.String()
		}
		c.Tried = append(c.Tried, tried)
		hosts = append(hosts, t.Host)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.said {
		if slices.Contains(hosts, s.Host) {
			c.Said = append(c.Said, s)
		}
	}
	return c
}
