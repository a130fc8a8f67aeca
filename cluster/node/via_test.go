package node

import (
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// A relaying is a node with relay lines, and the hosts that they name.
type relaying struct {
	*bench
	smart, lan, all *smtptest.Server
}

// The listeners of a relaying, by their place.
const (
	exposed = iota
	trusted
	proxied
	plain // trusted, and without relay_via
)

// startRelaying runs a node whose trusted listeners send mail by way of smart, but what relay lines send elsewhere.
func startRelaying(t *testing.T) *relaying {
	t.Helper()
	r := &relaying{
		smart: smtptest.Start(t, smtptest.Behaviour{}), lan: smtptest.Start(t, smtptest.Behaviour{}),
		all: smtptest.Start(t, smtptest.Behaviour{}),
	}
	r.bench = startNode(t, fmt.Sprintf(`listen:
  - {addr: "127.0.0.1:0"}
  - {addr: "127.0.0.1:0", relay: trusted, networks: [127.0.0.0/8], xclient: [127.0.0.1/32], relay_via: "smtp://%[1]s"}
  - {addr: "127.0.0.1:0", relay: trusted, networks: [192.0.2.0/24], proxy_protocol: [127.0.0.1/32],
     relay_via: "smtp://%[1]s"}
  - {addr: "127.0.0.1:0", relay: trusted, networks: [127.0.0.0/8]}
`, r.smart.Addr()), nil)
	r.use(t, fmt.Sprintf("relay @lan.example smtp://%s\nrelay * smtp://%s\n", r.lan.Addr(), r.all.Addr()))
	return r
}

// use has the node reload rules for example.com, and more.
func (r *relaying) use(t *testing.T, more string) {
	t.Helper()
	r.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%s\n", r.dest.Addr())+more)
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mail sends a message to a recipient by a listener, behind a PROXY header and XCLIENT where they are not "", and
// returns the code of the answer to RCPT.
func (r *relaying) mail(t *testing.T, listener int, proxy, xclient, to string) int {
	t.Helper()
	raw, err := net.Dial("tcp", r.Addrs()[listener].String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if proxy != "" {
		fmt.Fprintf(raw, "%s\r\n", proxy)
	}
	c := &talk{t: t, Conn: textproto.NewConn(raw), raw: raw}
	c.expect(220)
	c.say("EHLO client.example", 250)
	if xclient != "" {
		c.say(xclient, 220)
		c.say("EHLO client.example", 250)
	}
	c.say("MAIL FROM:<me@example.com>", 250)
	if err := c.PrintfLine("RCPT TO:<%s>", to); err != nil {
		t.Fatal(err)
	}
	code, _, err := c.ReadResponse(0)
	if err != nil {
		t.Fatal(err)
	}
	if code == 250 {
		c.say("DATA", 354)
		c.say("From: me@example.com\r\n\r\nhi\r\n.", 250)
	}
	return code
}

// arrived returns how many messages came to each host.
func (r *relaying) arrived() string {
	return fmt.Sprintf("dest %d, smart %d, lan %d, all %d", len(r.dest.Messages()), len(r.smart.Messages()),
		len(r.lan.Messages()), len(r.all.Messages()))
}

// TestNode_RelayTrust: what trusted clients write to domains of others goes by the relay line of the domain, by the
// next hop of the listener, or by the line for all; no way of a stranger leads there, with rules that came by a reload
// either.
func TestNode_RelayTrust(t *testing.T) {
	r := startRelaying(t)
	const known, stranger = "PROXY TCP4 192.0.2.5 192.0.2.1 1000 25", "PROXY TCP4 198.51.100.9 192.0.2.1 1000 25"
	for _, tt := range []struct {
		name           string
		listener       int
		proxy, xclient string
		to             string
		want           int
		arrived        string
	}{
		{"a stranger", exposed, "", "", "x@far.example", 550, "dest 0, smart 0, lan 0, all 0"},
		{"a stranger, to a domain with a relay line", exposed, "", "", "x@lan.example", 550,
			"dest 0, smart 0, lan 0, all 0"},
		{"a stranger, with a route in the name", exposed, "", "", "x%lan.example@example.com", 550,
			"dest 0, smart 0, lan 0, all 0"},
		{"lowered by XCLIENT", trusted, "", "XCLIENT ADDR=198.51.100.9", "x@far.example", 550,
			"dest 0, smart 0, lan 0, all 0"},
		{"a trusted address in XCLIENT", trusted, "", "XCLIENT ADDR=127.0.0.2", "x@lan.example", 550,
			"dest 0, smart 0, lan 0, all 0"},
		{"a stranger behind a balancer", proxied, stranger, "", "x@far.example", 550, "dest 0, smart 0, lan 0, all 0"},
		{"the balancer itself", proxied, "PROXY UNKNOWN", "", "x@lan.example", 550, "dest 0, smart 0, lan 0, all 0"},
		{"a stranger, to a hosted domain", exposed, "", "", "x@example.com", 250, "dest 1, smart 0, lan 0, all 0"},
		{"trusted, to a hosted domain", trusted, "", "", "x@example.com", 250, "dest 2, smart 0, lan 0, all 0"},
		{"trusted", trusted, "", "", "x@far.example", 250, "dest 2, smart 1, lan 0, all 0"},
		{"trusted behind a balancer", proxied, known, "", "x@far.example", 250, "dest 2, smart 2, lan 0, all 0"},
		{"trusted, to a domain with a relay line", trusted, "", "", "x@lan.example", 250,
			"dest 2, smart 2, lan 1, all 0"},
		{"without relay_via", plain, "", "", "x@far.example", 250, "dest 2, smart 2, lan 1, all 1"},
	} {
		if got := r.mail(t, tt.listener, tt.proxy, tt.xclient, tt.to); got != tt.want || r.arrived() != tt.arrived {
			t.Errorf("%s: %d, %s; want %d, %s", tt.name, got, r.arrived(), tt.want, tt.arrived)
		}
	}
	r.use(t, fmt.Sprintf("relay * smtp://%s\n", r.lan.Addr()))
	if got := r.mail(t, exposed, "", "", "x@far.example"); got != 550 {
		t.Errorf("a stranger after a reload: %d", got)
	}
	if got := r.mail(t, plain, "", "", "x@far.example"); got != 250 || r.arrived() != "dest 2, smart 2, lan 2, all 1" {
		t.Errorf("trusted after a reload: %d, %s", got, r.arrived())
	}
	m := r.smart.Messages()[0]
	if m.Reverse != "me@example.com" || strings.Contains(string(m.Octets), "Authentication-Results") {
		t.Errorf("%+v", m)
	}
}

// TestNode_RelaySigned: what trusted clients send by way of another host is signed for the domain of its author, which
// this node hosts, unless the line says otherwise.
func TestNode_RelaySigned(t *testing.T) {
	key, err := dkim.GenerateKey(dkim.Ed25519SHA256, 0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := dkim.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "d.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	smart := smtptest.Start(t, smtptest.Behaviour{})
	b := startNode(t, fmt.Sprintf("listen: [{addr: \"127.0.0.1:0\", relay: trusted, networks: [127.0.0.0/8]}]\n"+
		"dkim: {unpublished: sign, domains: [{domain: example.com, selector: s1, key_file: %q}]}\n", file), nil)
	r := &relaying{bench: b}
	r.use(t, fmt.Sprintf("relay * smtp://%s\nrelay @unsigned.example smtp://%[1]s seal=never\n", smart.Addr()))
	for i, tt := range []struct {
		to     string
		signed bool
	}{{"x@far.example", true}, {"x@unsigned.example", false}} {
		r.mail(t, 0, "", "", tt.to)
		octets := string(smart.Messages()[i].Octets)
		if got := strings.Contains(octets, "DKIM-Signature: ") && strings.Contains(octets, "d=example.com"); got !=
			tt.signed {
			t.Errorf("%s: signed is %v\n%s", tt.to, got, octets)
		}
	}
}

// TestExplain_Relay: explain answers for trusted clients and for strangers by the listener that they come to.
func TestExplain_Relay(t *testing.T) {
	dir := t.TempDir()
	rules := "domain example.com\n@example.com smtp://192.0.2.9\nrelay @lan.example smtp://192.0.2.20\n" +
		"relay * smtp://192.0.2.21\n"
	cfg, err := config.Parse(filepath.Join(dir, "millrace.yaml"), []byte(fmt.Sprintf(`hostname: mx1.example.net
postmaster: ops@elsewhere.example
routes: routes.txt
dns: {servers: [%q]}
listen:
  - {addr: "127.0.0.1:2525"}
  - {addr: "127.0.0.1:2526", relay: trusted, networks: [10.0.0.0/8], relay_via: "smtp://192.0.2.30"}
  - {addr: "127.0.0.1:2527", relay: trusted, networks: [10.0.0.0/8]}
`, dnstest.Start(t, "").Addr())), rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ ip, on, to, verdict, rule, way string }{
		{"10.0.0.1", "127.0.0.1:2525", "x@far.example", Reject, "", ""},
		{"10.0.0.1", "127.0.0.1:2526", "x@far.example", Accept, "relay_via", "smtp://192.0.2.30"},
		{"10.0.0.1", "127.0.0.1:2526", "x@lan.example", Accept, "relay @lan.example", "smtp://192.0.2.20"},
		{"10.0.0.1", "127.0.0.1:2527", "x@far.example", Accept, "relay *", "smtp://192.0.2.21"},
		{"198.51.100.9", "127.0.0.1:2526", "x@far.example", Reject, "", ""},
		{"198.51.100.9", "127.0.0.1:2527", "x@lan.example", Reject, "", ""},
	} {
		forward, err := mail.ParsePath(tt.to, false)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Explain(t.Context(), cfg, Question{IP: netip.MustParseAddr(tt.ip), On: tt.on, To: &forward})
		if err != nil {
			t.Fatal(err)
		}
		way := ""
		if len(a.Ways) > 0 {
			way = a.Ways[0].NextHop
		}
		if a.Verdict != tt.verdict || !strings.HasSuffix(a.Rule, tt.rule) || way != tt.way {
			t.Errorf("%s by %q to %q, want %+v; %q", a.Verdict, a.Rule, way, tt, a.Steps)
		}
	}
}

// TestCheck_Relay: a next hop of a listener without a password, and relay lines that no client is trusted for, are
// complained about; a reload without the password changes nothing.
func TestCheck_Relay(t *testing.T) {
	dir := t.TempDir()
	save := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	save("routes.txt", "relay @lan.example smtp://192.0.2.20\n")
	save("smarthosts", "other@smart.example:587 hunter2\n")
	const base = "hostname: mx1.example.net\nroutes: routes.txt\negress: {credentials_file: smarthosts}\n"
	check := func(listen string) (warnings []config.Problem, err error) {
		t.Helper()
		c, err := config.Load(save("millrace.yaml", base+listen))
		if err != nil {
			t.Fatal(err)
		}
		return Check(c, nil)
	}
	_, err := check("listen: [{addr: \"127.0.0.1:0\", relay: trusted, networks: [10.0.0.0/8], " +
		"relay_via: \"submission://me@smart.example\"}]\n")
	if err == nil || !strings.Contains(err.Error(), `listen[0].relay_via: there is no line for "me"`) {
		t.Errorf("without a password: %v", err)
	}
	warnings, err := check("listen: [{addr: \"127.0.0.1:0\"}]\n")
	const wants = "routes.txt:1:7: relay @lan.example: wants trusted clients"
	if err != nil || !strings.Contains(fmt.Sprint(warnings), wants) {
		t.Errorf("without trusted clients: %v, %v", warnings, err)
	}
	save("smarthosts", "me@Smart.example:587 hunter2\n")
	warnings, err = check("listen: [{addr: \"127.0.0.1:0\", relay: trusted, networks: [10.0.0.0/8], " +
		"relay_via: \"submission://me@smart.example\"}]\n")
	if err != nil || strings.Contains(fmt.Sprint(warnings), "relay") {
		t.Errorf("%v, %v", warnings, err)
	}
}
