package nodes_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestCluster_Relay: what trusted clients of two nodes send by way of another host goes through the one of them that
// owns its Site, by relay_via and by a relay line. Strangers of either node come to neither.
func TestCluster_Relay(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	w := world.World{
		Routes:  "domain x.example\nrelay @lan.example smtp://lan.test:" + port + "\n",
		Listen:  "relay: trusted, networks: [127.0.0.0/8], relay_via: \"smtp://smart.test:" + port + "\"",
		Proxied: "127.0.0.1:0",
		DNS:     dnstest.Start(t, "smart.test. 60 IN A 127.0.0.1\nlan.test. 60 IN A 127.0.0.1\n"),
	}
	c := startCluster(t, 2, w)
	for _, to := range []string{"a@far.example", "a@lan.example"} {
		for _, r := range c.nodes {
			world.Send(t, world.Dial(t, source.Config{Addr: r.Addr}), source.Message{
				Reverse: "me@x.example", Forward: []string{to}, Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
			})
			s := world.Dial(t, source.Config{
				Addr: r.Node.Addrs()[1].String(),
				Proxy: source.ProxyV1(netip.MustParseAddrPort("198.51.100.9:1000"),
					netip.MustParseAddrPort("192.0.2.1:25")),
			})
			got, err := s.Send(source.Message{
				Reverse: "me@x.example", Forward: []string{to}, Octets: []byte("Subject: y\r\n\r\nhi\r\n"),
			})
			if err != nil || len(got.Rcpt) != 1 || got.Rcpt[0].Code != 550 {
				t.Errorf("a stranger to %s: %+v, %v", to, got, err)
			}
		}
	}
	if n := len(world.Messages(t, d, 4)); n != 4 {
		t.Errorf("%d messages arrived, want 4", n)
	}
	if n := c.nodes[0].Node.OpenSessions() + c.nodes[1].Node.OpenSessions(); n != 2 {
		t.Errorf("%d sessions, want one at the owner of each Site", n)
	}
}
