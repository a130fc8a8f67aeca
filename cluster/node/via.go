package node

import (
	"crypto/tls"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/router/mail"
)

// trustOf returns which clients of a listener may relay anywhere, and where their mail goes.
func trustOf(l *config.Listener) *ingress.Trust {
	return &ingress.Trust{Networks: config.Prefixes(l.Networks), Certificates: l.ClientCA != "", Via: l.Via()}
}

// certifiedOn returns what reports whether a client of a listener showed a certificate of its authorities, nil for a
// listener without any.
func (f *files) certifiedOn(l *config.Listener) func(*tls.ConnectionState) bool {
	if l.ClientCA == "" {
		return nil
	}
	return func(s *tls.ConnectionState) bool { return f.authorities.Load().signed(l.ClientCA, s) }
}

// viasOf returns the next hops by which mail of trusted clients leaves, as listeners say.
func viasOf(c *config.Config) (vias []mail.NextHop) {
	for i := range c.Listen {
		if h := c.Listen[i].Via(); h != (mail.NextHop{}) && !slices.Contains(vias, h) {
			vias = append(vias, h)
		}
	}
	return vias
}

// nextHops returns the fixed next hops that mail can go to: those of the rules and those of listeners.
func (f *files) nextHops() iter.Seq[mail.NextHop] {
	return func(yield func(mail.NextHop) bool) {
		for h := range f.rules.NextHops() {
			if !yield(h) {
				return
			}
		}
		for _, h := range f.vias {
			if !f.rules.HasNextHop(h) && !yield(h) {
				return
			}
		}
	}
}

// hasNextHop reports whether a fixed next hop is one that mail can go to.
func (f *files) hasNextHop(h mail.NextHop) bool {
	return f.rules.HasNextHop(h) || slices.Contains(f.vias, h)
}

// checkVias requires a password for each user of the next hops of listeners. The error is Problems.
func checkVias(c *config.Config, logins credentials) error {
	var wrong config.Problems
	for i := range c.Listen {
		h := c.Listen[i].Via()
		port := h.Port
		switch {
		case h.User == "":
			continue
		case port == 0 && h.Transport == mail.SMTPS:
			port = 465
		case port == 0:
			port = 587
		}
		if _, ok := logins.password(h.User, h.Host, port); !ok {
			wrong = append(wrong, c.Problem(fmt.Sprintf("listen[%d].relay_via", i),
				"there is no line for "+strconv.Quote(h.User)+" in the credentials file"))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return wrong
}
