package node

import (
	"bufio"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/wire"
)

func TestPlacesFor(t *testing.T) {
	for _, tc := range []struct {
		connections int
		openFiles   uint64
		want        int
	}{
		{20000, 1 << 20, 20000},
		{20000, 1 << 63, 20000},
		{20000, 20856, 20000},
		{20000, 20855, 19999},
		{20000, 20000, 19144},
		{20000, 1024, 576},
		{20000, 100, 1},
		{100, 1024, 100},
	} {
		if got := placesFor(tc.connections, tc.openFiles); got != tc.want {
			t.Errorf("%d connections and %d files: %d places, want %d", tc.connections, tc.openFiles, got, tc.want)
		}
	}
}

// A configuration that asks for more places than there are descriptors is warned about, with its line.
func TestPlacesFor_Warning(t *testing.T) {
	cfg, err := config.Parse(configFile(t), []byte(smallest+"limits:\n  connections: 3000\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if w := placesWarning(cfg, 3856); w != nil {
		t.Errorf("warned: %v", w)
	}
	w := placesWarning(cfg, 1024)
	if len(w) != 1 || w[0].Line != 5 || !strings.Contains(w[0].Message, "only 576 places") ||
		!strings.Contains(w[0].Message, "3000 connections need 3856") {
		t.Errorf("got %v", w)
	}
}

// The node says at its start how many places there are.
func TestNode_Places(t *testing.T) {
	b := startNode(t, "limits: {connections: 7}\n", nil)
	b.Node.log.flush()
	if log := b.log.String(); !strings.Contains(log, `"places":7`) {
		t.Errorf("the log has:\n%s", log)
	}
}

func TestStandingOn(t *testing.T) {
	b := startNode(t, "score: {allow: [192.0.2.0/24, \"helo:mx.good.example\", "+
		"\"198.51.100.0/24 for=score,dmarc x\", 198.51.100.9 for=places], block: [192.0.2.7]}\n", nil)
	trusting := &config.Listener{Networks: []config.Network{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}}
	for _, tc := range []struct {
		name    string
		addr    string
		lowered bool
		want    wire.Standing
	}{
		{"a stranger", "203.0.113.1", false, wire.Stranger},
		{"a client in networks", "10.1.2.3", false, wire.Favoured},
		{"a client in networks that XCLIENT named", "10.1.2.3", true, wire.Stranger},
		{"an entry of score.allow", "192.0.2.1", false, wire.Allowed},
		{"an entry that is not for places", "198.51.100.1", false, wire.Stranger},
		{"an entry for places inside it", "198.51.100.9", false, wire.Allowed},
		{"an address that is blocked inside it", "192.0.2.7", false, wire.Stranger},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &wire.Client{Addr: netip.AddrPortFrom(netip.MustParseAddr(tc.addr), 25), Lowered: tc.lowered}
			if got := standingOn(trusting, b.parts.scoring)(c); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
	c := &wire.Client{Addr: netip.MustParseAddrPort("192.0.2.1:25")}
	if got := standingOn(trusting, nil)(c); got != wire.Stranger {
		t.Errorf("without a score: %d", got)
	}
}

// An address in score.allow counts in no share of the connections.
func TestNode_AllowedPlaces(t *testing.T) {
	const one = "limits: {connections_per_client: 1}\n"
	for _, tc := range []struct{ extra, want string }{
		{one, "421 4.7.0"},
		{one + "score: {allow: [127.0.0.1]}\n", "220"},
	} {
		b := startNode(t, tc.extra, nil)
		b.dial(t)
		second, err := net.Dial("tcp", b.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(second).ReadString('\n')
		second.Close()
		if err != nil || !strings.HasPrefix(line, tc.want) {
			t.Errorf("%q: the second client reads %q, %v", tc.extra, line, err)
		}
	}
}
