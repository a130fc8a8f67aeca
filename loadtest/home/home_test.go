// The home-server example of docs/configuration.md, played through: a node on the Internet, and behind a slow link a
// Postfix that has its mail by Dovecot and sends all that goes out by the node and a smarthost.
package home_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/smtp"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// inside says that the process is in a network of its own.
const inside = "MILLRACE_HOME_INSIDE"

// TestMain runs the tests in a network of their own. Who is not root can have no Postfix, and the test says so.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" || os.Getuid() != 0 {
		os.Exit(world.Main(m))
	}
	runtime.LockOSThread() // whose end would end the process
	cmd, err := fleet.Apart(context.Background(), os.Args[1:]...)
	if err == nil {
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), inside+"=1"), os.Stdout, os.Stderr
		err = cmd.Run()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

// homeCF is the Postfix at home. It takes mail for home.example from the node, which says who the client is, and sends
// what is written at home by the node.
const homeCF = `
compatibility_level = 3.6
myhostname = home.test
queue_directory = DIR/queue
data_directory = DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = HOST
inet_protocols = ipv4
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
mynetworks = 127.0.0.0/8 HOST/32
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_peername_lookup = no
smtpd_authorized_xclient_hosts = HUB
smtp_dns_support_level = disabled
smtp_tls_security_level = may
smtp_connect_timeout = 5s
virtual_mailbox_domains = home.example
virtual_mailbox_maps = static:box
virtual_transport = lmtp:inet:DOVECOT
relayhost = [HUB]:2526
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
`

// smarthostCF is a Postfix on the Internet that takes mail of those alone who authenticate in TLS. AUTH is who knows
// their passwords.
const smarthostCF = `
compatibility_level = 3.6
myhostname = postfix.test
queue_directory = DIR/queue
data_directory = DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = HOST
inet_protocols = ipv4
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
mynetworks =
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_peername_lookup = no
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = DIR/cert.pem
smtpd_tls_key_file = DIR/cert.pem
smtpd_tls_received_header = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:AUTH
smtpd_sasl_authenticated_header = yes
smtp_dns_support_level = disabled
virtual_mailbox_domains = far.example
virtual_mailbox_base = DIR/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
`

// A home is the world of the test.
type home struct {
	port      fleet.Port // where home is plugged in
	postfix   string     // its address
	mailbox   func() []extern.Message
	smarthost string // the folder of the Postfix outside
	balancer  string // the listener of the node that strangers come to
}

// startHome starts all of it.
func startHome(t *testing.T) *home {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ports, err := fleet.Plug(ctx, 1, fleet.Wire{Delay: 30 * time.Millisecond, Jitter: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ports[0].Close)
	if err := ports[0].Narrow(ctx, "4mbit"); err != nil {
		t.Fatal(err)
	}
	h := &home{port: ports[0], balancer: fleet.Hub + ":2525"}
	err = h.port.Within(func() {
		dovecot, _, mailbox := extern.StartDovecotLMTP(t)
		fill := strings.NewReplacer("HUB", fleet.Hub, "DOVECOT", dovecot)
		h.postfix, _ = extern.StartPostfixAt(t, h.port.Addr(), fill.Replace(homeCF), nil)
		h.mailbox = mailbox
	})
	if err != nil {
		t.Fatal(err)
	}
	h.startNode(t)
	return h
}

// startNode starts the smarthost, which demands TLS and AUTH, and the node.
func (h *home) startNode(t *testing.T) {
	t.Helper()
	const password = "the.password.of.relay"
	dir, auth := t.TempDir(), extern.StartDovecotAuth(t, password)
	smarthost, folder := extern.StartPostfixOn(t, strings.ReplaceAll(smarthostCF, "AUTH", auth), nil)
	h.smarthost = folder
	_, port, err := net.SplitHostPort(smarthost)
	if err != nil {
		t.Fatal(err)
	}
	at := "@postfix.test:" + port
	world.Save(t, filepath.Join(dir, "smarthosts"), "relay"+at+" "+password+"\nlocked"+at+" not.the.password\n")
	world.Save(t, filepath.Join(dir, "users"), "me "+submission.Hash(userPassword)+" me@home.example\n")
	saveKey(t, filepath.Join(dir, "dkim.pem"))
	w := world.World{
		DNS: dnstest.Start(t, "postfix.test. 60 IN A 127.0.0.1\n"),
		Routes: "domain home.example\n@home.example smtp://" + h.postfix + " client=xclient\n" +
			"relay @locked.example submission://locked" + at + "\nrelay * submission://relay" + at + "\n",
		Config: "egress: {credentials_file: smarthosts}\ndkim: {unpublished: sign, domains: [{domain: home.example, " +
			"selector: s, key_file: dkim.pem}]}\n",
		Listen: fmt.Sprintf("xclient: []}\n  - {addr: %q, proxy_protocol: [%q]}\n  - {addr: \"%s:2587\", "+
			"submission: true, users_file: users}\n  - {addr: \"%[3]s:2526\", relay: trusted, networks: [%q], "+
			"relay_via: \"submission://relay%s\"", h.balancer, fleet.Hub+"/32", fleet.Hub, h.port.Addr()+"/32", at),
	}
	binary := world.Binary(t)
	world.StartProcess(t, func(addr string) *exec.Cmd {
		cmd := exec.Command(binary, "serve", "-c", w.Write(t, dir, addr))
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+filepath.Join(folder, "cert.pem"))
		return cmd
	})
}

// userPassword is that of the user of the node.
const userPassword = "the password of me"

// saveKey writes a key that signs.
func saveKey(t *testing.T, file string) {
	t.Helper()
	key, err := dkim.GenerateKey(dkim.RSASHA256, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text, err := dkim.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	world.Save(t, file, string(text))
}

// sendAsUser logs in at the node and sends a letter with an author. The error is the first refusal.
func sendAsUser(author, to, id string) error {
	c, err := smtp.Dial(fleet.Hub + ":2587")
	if err != nil {
		return err
	}
	defer c.Close()
	if err = c.StartTLS(world.AnyCertificate()); err == nil {
		err = c.Auth(smtp.PlainAuth("", "me", userPassword, fleet.Hub))
	}
	if err == nil {
		err = c.Mail("me@home.example")
	}
	if err == nil {
		err = c.Rcpt(to)
	}
	if err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "From: %s\r\nSubject: %s\r\n\r\nby a user\r\n", author, id)
	return w.Close()
}

// usersSend has a user of the node send by the same smarthost. What the smarthost refuses for its own account is put
// off, and keeps nothing else from it.
func (h *home) usersSend(ctx context.Context, t *testing.T) {
	t.Helper()
	before := len(h.arrivedOutside())
	for _, one := range []struct {
		author, to, id string
		code           int
	}{
		{"me@home.example", "you@far.example", "out-101", 0},
		{"me@home.example", "you@locked.example", "out-102", 451}, // the smarthost does not take our password
		{"me@home.example", "you@far.example", "out-103", 0},
		{"you@home.example", "you@far.example", "out-104", 550},
		{"me@home.example", "you@home.example", "in-101", 0},
	} {
		err := sendAsUser(one.author, one.to, one.id)
		code := 0
		if said, ok := errors.AsType[*textproto.Error](err); ok {
			code = said.Code
		}
		if code != one.code || err != nil && code == 0 {
			t.Errorf("%s to %s: %v, want %d", one.id, one.to, err, one.code)
		}
	}
	h.await(ctx, t, "the letters of a user have arrived", func() bool {
		return len(h.arrivedOutside()) == before+2 && len(h.arrivedAtHome()["in-101"]) == 1
	})
	outside := h.arrivedOutside()
	for _, id := range []string{"out-101", "out-103"} {
		if len(outside[id]) != 1 {
			t.Errorf("%d copies of %s", len(outside[id]), id)
		}
		for _, text := range outside[id] {
			for _, want := range []string{
				"(Authenticated sender: relay)", "d=home.example", "\nMessage-ID: <", "\nDate: ",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("%s lacks %q at the smarthost:\n%s", id, want, text)
				}
			}
		}
	}
}

// link takes the link down, or up again.
func (h *home) link(t *testing.T, state string) {
	t.Helper()
	if err := h.port.Do(func() error { return fleet.IP(t.Context(), "link set eth0 "+state) }); err != nil {
		t.Fatal(err)
	}
}

// A letter is a message that is sent until it is taken.
type letter struct {
	cfg   source.Config
	to    string
	id    string
	taken bool
}

// send sends a letter until it is taken or refused for good, and calls deferred for each time that it is not.
func (l *letter) send(ctx context.Context, deferred func()) error {
	octets := fmt.Appendf(nil, "From: me@home.example\r\nSubject: %s\r\nMessage-ID: <%[1]s@test>\r\n\r\n%s", l.id,
		strings.Repeat("a line of a letter that is not short\r\n", 600))
	for ctx.Err() == nil {
		end, err := l.attempt(ctx, octets)
		switch {
		case err == nil && end.Class() == 2:
			l.taken = true
			return nil
		case err == nil && end.Class() == 5:
			return fmt.Errorf("%s: %s", l.id, end)
		}
		deferred()
		fleet.Rest(ctx, 200*time.Millisecond)
	}
	return fmt.Errorf("%s: not taken in time", l.id)
}

// attempt sends a letter once and returns the reply that ended it.
func (l *letter) attempt(ctx context.Context, octets []byte) (source.Reply, error) {
	s, err := source.Dial(ctx, l.cfg)
	if err != nil {
		return source.Reply{}, err
	}
	defer s.Abort(false)
	r, err := s.Send(source.Message{Reverse: "me@home.example", Forward: []string{l.to}, Octets: octets})
	return r.End, err
}

// letters returns those that strangers write to home, each from an address of its own, and those that are written at
// home.
func (h *home) letters(n int) (in, out []*letter) {
	for i := range n {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), 1000)
		in = append(in, &letter{
			cfg: source.Config{
				Addr: h.balancer, Timeout: 2 * time.Minute,
				Proxy: source.ProxyV1(client, netip.MustParseAddrPort("192.0.2.1:25")),
			},
			to: "you@home.example", id: fmt.Sprintf("in-%d", i+1),
		})
		out = append(out, &letter{
			cfg: source.Config{Addr: h.postfix, Timeout: 2 * time.Minute, Dial: h.dialAtHome},
			to:  "you@far.example", id: fmt.Sprintf("out-%d", i+1),
		})
	}
	return in, out
}

// dialAtHome connects in the network of home.
func (h *home) dialAtHome(_ context.Context, addr string) (c net.Conn, err error) {
	failed := h.port.Do(func() error {
		c, err = net.Dial("tcp", addr)
		return nil
	})
	return c, errors.Join(err, failed)
}

var subject = regexp.MustCompile(`(?m)^Subject: ((?:in|out)-\d+)\r?$`)

// arrivedAtHome returns the texts of the letters in the mailbox, by their ids.
func (h *home) arrivedAtHome() map[string][]string {
	there := make(map[string][]string)
	for _, m := range h.mailbox() {
		sort(there, string(m.Content))
	}
	return there
}

// arrivedOutside returns the texts of the letters at the smarthost, by their ids.
func (h *home) arrivedOutside() map[string][]string {
	there := make(map[string][]string)
	files, _ := filepath.Glob(filepath.Join(h.smarthost, "mail", "box", "new", "*")) // the pattern is well formed
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			sort(there, string(text))
		}
	}
	return there
}

// sort puts the text of a letter where its id is.
func sort(there map[string][]string, text string) {
	if id := subject.FindStringSubmatch(text); id != nil {
		there[id[1]] = append(there[id[1]], text)
	}
}

// TestHome: mail flows both ways through a slow link that drops meanwhile, and none is lost. The Postfix at home knows
// the client of each letter, and the smarthost the account.
func TestHome(t *testing.T) {
	const each = 30
	h := startHome(t)
	in, out := h.letters(each)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var sending sync.WaitGroup
	var deferrals, taken atomic.Int64
	for _, list := range [][]*letter{in[:each/2], in[each/2:], out[:each/2], out[each/2:]} {
		sending.Go(func() {
			for _, l := range list {
				if err := l.send(ctx, func() { deferrals.Add(1) }); err != nil {
					t.Error(err)
				}
				taken.Add(1)
			}
		})
	}
	h.await(ctx, t, "some letters are taken", func() bool { return taken.Load() >= each/3 })
	h.link(t, "down")
	h.await(ctx, t, "the lost link is felt", func() bool { return deferrals.Load() >= 3 })
	h.link(t, "up")
	sending.Wait()
	h.await(ctx, t, "all have arrived", func() bool {
		return len(h.arrivedAtHome()) == each && len(h.arrivedOutside()) == each
	})
	h.check(t, in, out)
	h.refusesStranger(ctx, t)
	h.usersSend(ctx, t)
	t.Logf("%d letters each way, %d attempts were put off", each, deferrals.Load())
}

// refusesStranger wants a stranger to reach the smarthost by no way: the node does not relay for him.
func (h *home) refusesStranger(ctx context.Context, t *testing.T) {
	t.Helper()
	before := len(h.arrivedOutside())
	in, _ := h.letters(1)
	in[0].id, in[0].to = "in-0", "you@far.example"
	end, err := in[0].attempt(ctx, []byte("Subject: in-0\r\n\r\nhi\r\n"))
	if err != nil || end.Code != 550 {
		t.Errorf("%s, %v", end, err)
	}
	if n := len(h.arrivedOutside()); n != before {
		t.Errorf("%d messages of a stranger at the smarthost", n-before)
	}
}

// await waits until cond holds or ctx ends.
func (h *home) await(ctx context.Context, t *testing.T, what string, cond func() bool) {
	t.Helper()
	for !cond() {
		if ctx.Err() != nil {
			t.Fatalf("not in time: %s; at home %d, outside %d", what, len(h.arrivedAtHome()), len(h.arrivedOutside()))
		}
		fleet.Rest(ctx, 50*time.Millisecond)
	}
}

// check looks at what arrived.
func (h *home) check(t *testing.T, in, out []*letter) {
	t.Helper()
	copies := 0
	inside, outside := h.arrivedAtHome(), h.arrivedOutside()
	for i, l := range in {
		client := fmt.Sprintf("[198.51.100.%d]", i+1)
		if len(inside[l.id]) == 0 {
			t.Errorf("%s is lost", l.id)
		}
		for _, text := range inside[l.id] {
			header, _, _ := strings.Cut(text, "\r\n\r\n")
			if !strings.Contains(header, "Received: from client.example (unknown "+client+")") {
				t.Errorf("%s: home does not know %s:\n%s", l.id, client, header)
			}
		}
		copies += len(inside[l.id])
	}
	for _, l := range out {
		if len(outside[l.id]) == 0 {
			t.Errorf("%s is lost", l.id)
		}
		for _, text := range outside[l.id] {
			header, _, _ := strings.Cut(text, "\n\n")
			for _, want := range []string{
				"Return-Path: <me@home.example>", "using TLSv1.", "(Authenticated sender: relay)",
				"by home.test (Postfix)", "d=home.example",
			} {
				if !strings.Contains(header, want) {
					t.Errorf("%s lacks %q at the smarthost:\n%s", l.id, want, header)
				}
			}
		}
		copies += len(outside[l.id])
	}
	if extra := slices.Sorted(maps.Keys(inside)); len(extra) != len(in) {
		t.Errorf("in the mailbox: %q", extra)
	}
	t.Logf("%d letters, %d copies", len(in)+len(out), copies)
}
