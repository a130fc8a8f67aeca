package ingress

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A goodStore knows each client as good.
type goodStore struct{ ingresstest.Store }

func (s *goodStore) Client(ctx context.Context, q mail.ClientQuery) (mail.Facts, error) {
	f, err := s.Store.Client(ctx, q)
	f.KnownGood = []string{""}
	return f, err
}

// A client that turns out to be known good leaves the share of its network, and so do its next connections.
func TestSession_KnownGoodPlaces(t *testing.T) {
	for _, good := range []bool{false, true} {
		w := serve(t, rules{"info": ingresstest.To("far.example")}, &ingresstest.Relay{},
			func(c *Config, w *wire.Config) {
				w.Places = wire.NewPlaces(wire.Limits{Total: 100, Net24: 1})
				if !good {
					return
				}
				scorer, err := score.New(score.Config{Store: new(goodStore), Private: true})
				if err != nil {
					t.Fatal(err)
				}
				c.Client.Score = scorer
			})
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<info@example.com>", "250")
		for range 2 {
			second, err := net.Dial("tcp", w.conn.RemoteAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { second.Close() })
			line, err := bufio.NewReader(second).ReadString('\n')
			if want := map[bool]string{false: "421 4.7.0 Too many", true: "220 "}[good]; err != nil ||
				!strings.HasPrefix(line, want) {
				t.Errorf("known good %t: got %q, %v", good, line, err)
			}
		}
	}
}
