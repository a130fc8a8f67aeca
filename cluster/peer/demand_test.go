package peer

import (
	"context"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestClient_BeginOlder: a node of an earlier version would drop what a message demands of TLS and deliver by what it
// demands itself. So such a message is not handed to it, and any other is.
func TestClient_BeginOlder(t *testing.T) {
	for name, c := range map[string]struct {
		demand func(*mail.Delivery)
		begins bool
	}{
		"nothing":           {func(*mail.Delivery) {}, true},
		"REQUIRETLS":        {func(d *mail.Delivery) { d.Params.RequireTLS = true }, false},
		"TLS-Required: No":  {func(d *mail.Delivery) { d.TLS.Waived = true }, false},
		"a policy is known": {func(d *mail.Delivery) { d.TLS.Least = 2 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := &destination{}
			w := newWorld(t, d, beat, nil)
			l, err := w.client.get(t.Context(), "b")
			if err != nil {
				t.Fatal(err)
			}
			l.version = tlsVersion - 1
			w.client.put(l)
			asked := delivery()
			c.demand(&asked)
			tx, err := w.client.Begin(t.Context(), "b", asked)
			if c.begins {
				if err != nil {
					t.Fatal(err)
				}
				tx.Abort()
				return
			}
			if e := peerError(t, err); e.Sent() || !e.Declined() {
				t.Errorf("got %v", err)
			}
			if open, idle := w.client.count("b"); open != 1 || idle != 1 || !w.client.Reachable("b") {
				t.Errorf("%d open, %d idle: the node is not used any more", open, idle)
			}
		})
	}
}

// leaves is the error of a node that demands less than the one that asks.
type leaves struct{}

func (leaves) Error() string  { return "less is known here" }
func (leaves) Declined() bool { return true }

// TestServer_Leaves: a node that demands less of a destination than the one that asks leaves the message to it.
func TestServer_Leaves(t *testing.T) {
	d := &destination{begin: func(_ context.Context, d mail.Delivery) error {
		if d.TLS.Least > 0 {
			return mail.Refuse(451, 7, 5, "Not here", "tls policy", leaves{})
		}
		return nil
	}}
	w := newWorld(t, d, beat, nil)
	for least := range uint8(2) {
		asked := delivery()
		asked.TLS.Least = least
		tx, err := w.client.Begin(t.Context(), "b", asked)
		if err != nil {
			t.Fatal(err)
		}
		err = tx.Rcpt(t.Context(), to("x"))
		tx.Abort()
		switch {
		case least == 0 && err != nil:
			t.Errorf("got %v", err)
		case least > 0:
			if e := peerError(t, err); e.Sent() || !e.Declined() {
				t.Errorf("got %v", err)
			}
		}
	}
}
