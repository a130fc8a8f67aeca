package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/ring"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
)

// A neighbourhood is nodes in one process: a Relay with a pool each, and hops that are calls.
type neighbourhood struct {
	members []ring.Member
	relays  map[string]*egress.Relay

	mu   sync.Mutex
	hops map[string]int // by message
}

// A neighbour is the cluster as one node of a neighbourhood sees it. All are present, and none is suspended.
type neighbour struct {
	*neighbourhood
	name string
}

func (n neighbour) Owner(site mail.Site, domain string) (string, bool) {
	owner := ring.Owner(n.members, site, 1, domain)
	return owner, owner == n.name
}

func (n neighbour) Share(site mail.Site) float64 {
	if _, self := n.Owner(site, ""); self {
		return 1
	}
	return 1 / float64(len(n.members))
}

func (n neighbour) Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error) {
	n.mu.Lock()
	n.hops[d.Reverse.Local]++
	n.mu.Unlock()
	return n.relays[node].Local().Begin(ctx, d)
}

func (neighbour) Next(mail.Site, string) (_ string, found bool)               { return }
func (neighbour) Reached(mail.Site)                                           {}
func (neighbour) Unable(mail.Site, string)                                    {}
func (neighbour) Suspended(mail.Site) (_ time.Time, _ string, suspended bool) { return }
func (neighbour) Suspend(mail.Site, time.Time, string)                        {}
func (neighbour) Resume(mail.Site)                                            {}

// listenAt starts destinations at so many addresses, with one port that is free at all of them.
func listenAt(t *testing.T, sites int) (all []*smtptest.Server, port string) {
	t.Helper()
	var err error
	for range 100 {
		all, port = nil, "0"
		for i := 0; i < sites && err == nil; i++ {
			var s *smtptest.Server
			if s, err = smtptest.Listen(fmt.Sprintf("127.0.9.%d:%s", i+1, port), smtptest.Behaviour{}); err == nil {
				all = append(all, s)
				_, port, _ = net.SplitHostPort(s.Addr())
			}
		}
		if err == nil {
			break
		}
		for _, s := range all {
			s.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Cleanup(s.Close)
	}
	return all, port
}

// TestScale_Nodes has the same mail enter at one node, at three and at thirty. The connections to each Site stay the
// same, whichever node the mail enters at, and no message hops more than once.
func TestScale_Nodes(t *testing.T) {
	const sites, connections, senders, messages = 12, 3, 48, 1200
	for _, nodes := range []int{1, 3, 30} {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			all, port := listenAt(t, sites)
			var zone strings.Builder
			for i := range sites {
				fmt.Fprintf(&zone, "site%d.test. 60 IN MX 10 mx%d.test.\nmx%d.test. 60 IN A 127.0.9.%d\n", i, i, i, i+1)
			}
			resolver, err := dns.New(dns.Config{Servers: []string{dnstest.Start(t, zone.String()).Addr()}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(resolver.Close)
			n := &neighbourhood{relays: make(map[string]*egress.Relay), hops: make(map[string]int)}
			for i := range nodes {
				n.members = append(n.members, ring.Member{Name: fmt.Sprintf("mx%d", i)})
			}
			limits, err := mx.ParseProviders("test", fmt.Sprintf("limits * connections=%d messages=%d idle=1h age=10h",
				connections, messages))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range n.members {
				n.relays[m.Name] = n.relay(t, m.Name, port, resolver, limits)
			}
			var sending sync.WaitGroup
			for s := range senders {
				sending.Go(func() { // ends after its messages
					for i := s; i < messages; i += senders {
						// Each Site's mail enters at every node in turn.
						entry := n.members[i/sites%nodes].Name
						if err := n.send(t.Context(), entry, i, fmt.Sprintf("site%d.test", i%sites)); err != nil {
							t.Errorf("message %d: %v", i, err)
						}
					}
				})
			}
			sending.Wait()
			hopped := 0
			for message, hops := range n.hops {
				if hopped++; hops > 1 {
					t.Errorf("%s hopped %d times", message, hops)
				}
			}
			arrived, opened := 0, 0
			for i, s := range all {
				c := s.Counts()
				if arrived, opened = arrived+c.Messages, opened+c.Connections; c.Connections > connections {
					t.Errorf("Site %d: %d connections, want %d at most", i, c.Connections, connections)
				}
			}
			if arrived != messages {
				t.Errorf("%d messages arrived", arrived)
			}
			t.Logf("%d connections to %d Sites for %d messages, of which %d hopped", opened, sites, arrived, hopped)
			if others := messages * (nodes - 1) / nodes; hopped > others+messages/3 || nodes == 1 && hopped > 0 {
				t.Errorf("%d messages hopped, about %d enter at a node that is not the owner", hopped, others)
			}
		})
	}
}

func (n *neighbourhood) relay(t *testing.T, name, port string, resolver *dns.Resolver,
	limits *mx.Providers) *egress.Relay {
	t.Helper()
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	r, err := egress.NewRelay(egress.Config{
		Helo: "relay.test", Port: uint16(number), Resolver: resolver, AllowPrivate: true, Providers: limits,
		Cluster: neighbour{n, name},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), world.Patience)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// send delivers a message that enters at a node.
func (n *neighbourhood) send(ctx context.Context, entry string, number int, domain string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*world.Patience)
	defer cancel()
	tx, err := n.relays[entry].Begin(ctx, mail.Delivery{
		NextHop:         mail.NextHop{Transport: mail.MX, Host: domain},
		Reverse:         mail.Path{Local: fmt.Sprint("m", number), Domain: "client.test"},
		RecipientDomain: domain, Client: netip.MustParsePrefix("192.0.2.0/24"),
	})
	if err != nil {
		return err
	}
	if err := tx.Rcpt(ctx, mail.Path{Local: "b", Domain: domain}); err != nil {
		tx.Abort()
		return err
	}
	if err := tx.Data(ctx, mail.Stuffed); err != nil {
		tx.Abort()
		return err
	}
	octets := mail.Octets{Segments: net.Buffers{[]byte("Subject: x\r\n\r\nhello\r\n")}}
	if out := tx.Commit(ctx, octets); len(out) != 1 || out[0].Reply.Code != 250 {
		return errors.New(fmt.Sprint(out))
	}
	return nil
}
