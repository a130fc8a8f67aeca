package nodes_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

const adminToken = "0123456789abcdef"

// checkAt has a node make a check by its API.
func checkAt(t *testing.T, r *world.Relay, what string, q node.CheckQuestion) (status int, answer node.CheckAnswer) {
	t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://"+r.Node.AdminAddr().String()+"/api/v1/check/"+what, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	return resp.StatusCode, answer
}

// administered returns a world whose nodes have an API.
func administered(t *testing.T, w world.World) world.World {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	world.Save(t, token, adminToken+"\n")
	w.Config += fmt.Sprintf("admin: {addr: \"127.0.0.1:0\", token_file: %q}\n", token)
	return w
}

// TestCheck_Target: every node of a cluster goes to the next hop itself, and the answer says from which one the path is
// not open. No mail is left there.
func TestCheck_Target(t *testing.T) {
	home := smtptest.Start(t, smtptest.Behaviour{Recipients: map[string]smtptest.Answer{
		"nobody": {Reply: "550 5.1.1 No such user"},
	}})
	_, port, err := net.SplitHostPort(home.Addr())
	if err != nil {
		t.Fatal(err)
	}
	hop := "smtp://home.example:" + port
	rules := "domain * dmarc=off require_auth=no seal=never\n@x.example " + hop + "\n"
	c := &cluster{keys: t.TempDir(), world: administered(t, world.World{
		Routes: rules, DNS: dnstest.Start(t, "home.example. 60 IN A 127.0.0.1\n"),
	})}
	c.join(t, "a")
	c.join(t, "b")
	c.world.DNS = dnstest.Start(t, "home.example. 60 IN A 127.0.0.9\n") // where nothing listens
	c.join(t, "c")
	status, answer := checkAt(t, c.nodes[0], node.CheckTarget, node.CheckQuestion{NextHop: hop, To: "info@x.example"})
	if status != http.StatusOK || answer.OK || len(answer.Nodes) != 3 {
		t.Fatalf("%d %+v", status, answer)
	}
	for i, want := range []struct {
		node string
		ok   bool
		says string
	}{{"a", true, "takes the recipient"}, {"b", true, "takes the recipient"}, {"c", false, "TCP: refused"}} {
		got := answer.Nodes[i]
		if got.Node != want.node || got.OK != want.ok || !strings.Contains(strings.Join(got.Says, " "), want.says) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if _, one := checkAt(t, c.nodes[1], node.CheckTarget, node.CheckQuestion{NextHop: hop, Here: true}); !one.OK ||
		len(one.Nodes) != 1 || one.Nodes[0].Node != "b" {
		t.Errorf("%+v", one)
	}
	_, unknown := checkAt(t, c.nodes[0], node.CheckTarget,
		node.CheckQuestion{NextHop: hop, To: "nobody@x.example", Here: true})
	if unknown.OK || !strings.Contains(unknown.Nodes[0].Says[0], "the path is open; the host does not know") {
		t.Errorf("%+v", unknown)
	}
	// What only the administrator of one node names, the others do not connect to.
	_, foreign := checkAt(t, c.nodes[0], node.CheckTarget, node.CheckQuestion{NextHop: "smtp://" + home.Addr()})
	if !foreign.Nodes[0].OK || foreign.Nodes[1].OK ||
		!strings.Contains(foreign.Nodes[1].Says[0], "is no next hop of this node's rules") {
		t.Errorf("%+v", foreign)
	}
	for _, q := range []node.CheckQuestion{
		{}, {NextHop: "10.0.0.1"}, {NextHop: "submission://who@home.example"}, {NextHop: hop, To: "a b"},
	} {
		if status, _ := checkAt(t, c.nodes[0], node.CheckTarget, q); status != http.StatusBadRequest {
			t.Errorf("%+v: %d", q, status)
		}
	}
	if status, _ := checkAt(t, c.nodes[0], "weather", node.CheckQuestion{}); status != http.StatusBadRequest {
		t.Errorf("weather: %d", status)
	}
	for _, command := range home.Commands() {
		if strings.Contains(command, " DATA") || strings.Contains(command, " BDAT") {
			t.Errorf("%s was said", command)
		}
	}
	c.through(t) // and mail goes on
}

// TestCheck_Addresses: a node says where mail of all nodes comes from.
func TestCheck_Addresses(t *testing.T) {
	c := &cluster{keys: t.TempDir(), world: administered(t, world.World{Routes: "@x.example smtp://192.0.2.9\n"})}
	config := c.world.Config
	for name, egress := range map[string]string{
		"a": "{addresses: [192.0.2.1, \"2001:db8::1\"]}",
		"b": "{source: [192.0.2.2 out2.example], addresses: [192.0.2.3]}",
		"c": "{source: [192.0.2.4 out4.example, 192.0.2.5]}",
	} {
		c.world.Config = config + "egress: " + egress + "\n"
		c.join(t, name)
	}
	status, answer := checkAt(t, c.nodes[0], node.CheckAddresses, node.CheckQuestion{})
	if status != http.StatusOK || !answer.OK || len(answer.Nodes) != 3 {
		t.Fatalf("%d %+v", status, answer)
	}
	got := make(map[string]string)
	for _, n := range answer.Nodes {
		got[n.Node] = fmt.Sprint(n.Addresses)
	}
	want := map[string]string{"a": "[192.0.2.1 2001:db8::1]", "b": "[192.0.2.3]", "c": "[192.0.2.4 192.0.2.5]"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCheck_Ingress: the other nodes connect to the hostname of the one that asks, and say whether that is it. A node
// alone can prove nothing.
func TestCheck_Ingress(t *testing.T) {
	zone := dnstest.Start(t, "relay.example. 60 IN A 127.0.0.1\n")
	addr := extern.FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	w := administered(t, world.World{
		Routes: "@x.example smtp://127.0.0.1:9\n", DNS: zone,
		Config: "egress: {port: " + port + ", allow_private: true}\n",
	})
	c := &cluster{keys: t.TempDir(), world: w}
	c.join(t, "a")
	_, alone := checkAt(t, c.nodes[0], node.CheckIngress, node.CheckQuestion{})
	if alone.OK || len(alone.Nodes) != 1 || !strings.Contains(strings.Join(alone.Nodes[0].Says, " "), "no proof") {
		t.Errorf("%+v", alone)
	}
	c.join(t, "b")
	_, closed := checkAt(t, c.nodes[0], node.CheckIngress, node.CheckQuestion{})
	if closed.OK || len(closed.Nodes) != 1 || closed.Nodes[0].Node != "b" ||
		!strings.Contains(strings.Join(closed.Nodes[0].Says, " "), "is not reached: TCP: refused") {
		t.Errorf("%+v", closed)
	}
	for name, want := range map[string]struct {
		ok   bool
		says string
	}{"relay.example": {true, "is reached and calls itself relay.example"}, "box.example": {false, "another host"}} {
		l, err := smtptest.Listen(addr, smtptest.Behaviour{Hostname: name})
		if err != nil {
			t.Fatal(err)
		}
		_, open := checkAt(t, c.nodes[0], node.CheckIngress, node.CheckQuestion{})
		if open.OK != want.ok || !strings.Contains(strings.Join(open.Nodes[0].Says, " "), want.says) {
			t.Errorf("%s: %+v", name, open)
		}
		l.Close()
	}
}

// TestCheck_Network: in a network of its own the commands tell a port that is dropped from one that is refused, one
// that this machine forbids, a network that has no route, and all of them from a port that is blocked on the way while
// another one is open.
func TestCheck_Network(t *testing.T) {
	dir := t.TempDir()
	cfg := world.World{
		Routes: "@x.example smtp://127.0.0.1:9\n", Config: "egress: {addresses: [203.0.113.1]}\n",
	}.Write(t, dir, "127.0.0.1:0")
	sink := extern.Find(t, "smtp-sink")
	for name, tt := range map[string]struct {
		args string
		want string
	}{
		"open":      {"egress --at smtp://198.51.100.1:2587", "port 25 is open: 1 of 1"},
		"dropped":   {"egress --at smtp://198.51.100.9", "none at another port"},
		"blocked":   {"egress --at smtp://198.51.100.9 --beside smtp://198.51.100.1:2587", "blocked by the provider"},
		"refused":   {"egress --at smtp://198.51.100.1:9", "refused: hosts that take mail"},
		"no route":  {"egress --at smtp://192.0.2.1", "no route: this machine has no way out"},
		"forbidden": {"egress --at smtp://203.0.113.9", "this machine itself forbids it"},

		"a next hop that is open": {"target smtp://198.51.100.1:2587 --to a@x.example", "takes the recipient"},
		"a next hop in a black hole": {
			"target smtp://198.51.100.9", "198.51.100.9:25 is not open: TCP: no answer: a firewall on the way",
		},
		"a next hop without a route": {"target smtp://192.0.2.1", "is not open: TCP: no route"},
	} {
		t.Run(name, func(t *testing.T) {
			// 0A1B is the port of the sink, and a last 0A says that it listens.
			script := "program=$4; ip() { \"$program\" \"$@\"; }; " +
				"ip link set lo up && ip link add road type veth peer name end && ip link set end up && " +
				"ip addr add 198.51.100.1/24 dev road && ip link set road up && " +
				"ip neigh replace 198.51.100.9 lladdr 02:00:00:00:00:ff dev road nud permanent && " +
				"ip route add prohibit 203.0.113.9/32 && " +
				"{ \"$2\" $3 198.51.100.1:2587 16 & sink=$!; } && " +
				"{ until grep -q ':0A1B 00000000:0000 0A' /proc/net/tcp; do :; done; } && " +
				"\"$0\" check " + tt.args + " -c \"$1\" --here --wait 1; kill $sink"
			user := ""
			if os.Getuid() == 0 {
				user = "-u nobody"
			}
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script, world.Binary(t), cfg, sink.Path(), user,
				extern.Find(t, "ip").Path())
			cmd.Env = sink.Command(t.Context()).Env
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			if uid := os.Getuid(); uid != 0 {
				cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
				cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
			}
			said, err := cmd.CombinedOutput()
			if !strings.Contains(string(said), tt.want) {
				t.Errorf("%v: %s", err, said)
			}
		})
	}
}
