package ingress

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// TestSubmission_Signs: what a user sends is signed at each next hop of a recipient, and at those that are tried in the
// place of others.
func TestSubmission_Signs(t *testing.T) {
	const hers = "From: <alice@example.com>\r\nDate: Sat, 1 Aug 2026 00:00:00 +0000\r\n" +
		"Message-ID: <1@example.com>\r\n\r\nx\r\n"
	fixed := func(to func(mail.Query) ([]mail.Route, error)) func(mail.Query) ([]mail.Route, error) {
		return func(q mail.Query) ([]mail.Route, error) {
			routes, err := to(q)
			for i := range routes {
				for r := &routes[i]; r != nil; r = r.Else {
					r.NextHop.Transport = mail.SMTP
				}
			}
			return routes, err
		}
	}
	routes := rules{
		"alice": ingresstest.To("home.example", "alice@home.example"),
		"one":   fixed(ingresstest.To("x.example", "one@x.example")),
		"list":  fixed(ingresstest.Try("a@dead.example", "a@x.example")),
		"team":  fixed(several(mail.MixedReject, "a@x.example", "b@y.example")),
	}
	for recipient, copies := range map[string]int{"one": 1, "list": 1, "team": 2} {
		t.Run(recipient, func(t *testing.T) {
			relay := &ingresstest.Relay{Unreached: map[string]error{
				"dead.example": mail.Refuse(451, 4, 1, "Connection refused", "upstream", nil),
			}}
			c := serveAuth(t, routes, relay, true, func(cfg *Config, wc *wire.Config) {
				cfg.Message.Once = once.New(noLedger{}, once.NewKeys([][]byte{[]byte("a key of sixteen octets")}),
					func(mail.Event) {}, time.Now)
				serveAlice(t, cfg, wc)
			})
			c.send("alice@example.com", hers, "250", recipient+"@example.com")
			if len(relay.Got) != copies {
				t.Fatalf("%d copies", len(relay.Got))
			}
			for len(relay.Got) > 0 {
				below := c.below(hers)
				if !strings.Contains(names(below), "DKIM-Signature") {
					t.Errorf("%s gets %s", relay.Got[len(relay.Got)-1].Delivery.NextHop.Host, names(below))
				}
				relay.Got = relay.Got[:len(relay.Got)-1]
			}
		})
	}
}

// serveAlice makes each client alice, who may send as alice@example.com.
func serveAlice(t *testing.T, cfg *Config, wc *wire.Config) {
	t.Helper()
	users, err := submission.ParseUsers("users", "alice "+submission.Hash("right")+" alice@example.com")
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := submission.New(submission.Config{
		Store: &ingresstest.Store{}, Users: users, Key: []byte("sixteen octets.."), Now: cfg.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ofHost := wc.NewSession
	wc.NewSession = func(ctx context.Context, c *wire.Client) wire.Session {
		c.Login = &wire.Login{User: "alice"}
		ss, _ := ofHost(ctx, c).(*session) // it is one
		return ss.NewSubmission(c, accounts)
	}
}
