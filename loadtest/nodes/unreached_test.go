package nodes_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestCluster_OwnerReachesNone: a node that reaches no destination costs no mail an answer, and owns no Site before
// long. It says so, and serves its clients.
func TestCluster_OwnerReachesNone(t *testing.T) {
	const sites = 24
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := oneUnable(t, d, sites)
	readyz := func() string {
		resp, err := http.Get("http://" + c.nodes[0].Node.AdminAddr().String() + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		said, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("/readyz: %s %v", resp.Status, err)
		}
		return string(said)
	}
	if said := readyz(); !strings.Contains(said, `"name":"destinations","ok":true}`) {
		t.Errorf("before: %s", said)
	}
	for n := range 4 { // first and last through the node that reaches none
		if n == 3 {
			world.Await(t, "it owns none", func() bool { return strings.Contains(readyz(), "this node owns no Site") })
		}
		sendEach(t, c.nodes[n%3], sites)
	}
	world.Messages(t, d, 4*sites)
	if n := c.nodes[0].Node.OpenSessions(); n != 0 {
		t.Errorf("it has %d sessions", n)
	}
}

// oneUnable starts three nodes, the first of which cannot connect anywhere. Each of some domains is a Site of its own.
func oneUnable(t *testing.T, d *smtptest.Server, sites int) *cluster {
	t.Helper()
	w := reaching(t, d)
	zone, routes := "", ""
	for i := range sites {
		zone += fmt.Sprintf("d%d.example. 60 IN MX 10 mx%d.example.\nmx%d.example. 60 IN A 127.0.0.1\n", i, i, i)
		routes += fmt.Sprintf("/(.+)/@d%d.test $1@d%d.example\ndomain d%d.test\n", i, i, i)
	}
	w.DNS, w.Routes = dnstest.Start(t, zone), routes
	w.Config += "admin: {addr: \"127.0.0.1:0\"}\n"
	c := &cluster{keys: t.TempDir(), world: w}
	c.world.Config = strings.Replace(w.Config, "}", `, source: ["192.0.2.77"]}`, 1) // no address of this machine
	c.join(t, "a")
	c.world = w
	c.join(t, "b")
	c.join(t, "c")
	return c
}

// sendEach sends a message to each of the domains through a node.
func sendEach(t *testing.T, r *world.Relay, sites int) {
	t.Helper()
	s := world.Dial(t, source.Config{Addr: r.Addr})
	for i := range sites {
		world.Send(t, s, source.Message{
			Reverse: "a@client.example", Forward: []string{fmt.Sprintf("b@d%d.test", i)},
			Octets: fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", i),
		})
	}
}
