package nodes_test

import (
	"context"
	"fmt"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// homeCF is a Postfix that takes mail of home.test and discards it, with more lines behind it. It believes XCLIENT.
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
inet_protocols = all
mydestination = home.test
alias_maps =
alias_database =
local_recipient_maps =
local_transport = discard
default_transport = discard
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtpd_error_sleep_time = 0
smtpd_authorized_xclient_hosts = 127.0.0.0/8
maillog_file = DIR/maillog
maillog_file_prefixes = DIR
`

// movedEgress is where mail comes from in these tests.
func movedEgress() migrate.Egress {
	return migrate.NewEgress("mx1.example.net", []netip.Addr{
		netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::10"),
	}, time.Now())
}

// answerTo returns the code of a Postfix's answer to a recipient that a client with an address names.
func answerTo(t *testing.T, addr, client, recipient string) (code int) {
	t.Helper()
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if strings.Contains(client, ":") {
		client = "IPV6:" + client
	}
	lines := []string{"", "EHLO client.test", "XCLIENT ADDR=" + client + " NAME=[UNAVAILABLE]", "EHLO client.test",
		"MAIL FROM:<a@sender.test>", "RCPT TO:<" + recipient + ">"}
	for _, line := range lines {
		if line != "" {
			if err := c.PrintfLine("%s", line); err != nil {
				t.Fatal(err)
			}
		}
		code, _, _ = c.ReadResponse(0)
	}
	return code
}

// TestEgressList_Postfix: the lines for the host inside let these nodes in and no other, and let none of them relay.
func TestEgressList_Postfix(t *testing.T) {
	move := migrate.Move{Domain: "home.test", Size: 52428800}
	config := homeCF + strings.NewReplacer("/etc/postfix/", "DIR/", "127.0.0.0/8 [::1]/128", "127.0.0.99/32").
		Replace(move.MainCF())
	addr, _ := extern.StartPostfixOn(t, config, map[string]string{"millrace.cidr": movedEgress().Postfix()})
	for client, lets := range map[string]bool{
		"192.0.2.10": true, "192.0.2.11": true, "2001:db8::10": true, "127.0.0.99": true,
		"192.0.2.9": false, "192.0.2.12": false, "2001:db8::11": false, "203.0.113.5": false, "127.0.0.1": false,
	} {
		if got := answerTo(t, addr, client, "bob@home.test"); (got == 250) != lets {
			t.Errorf("%s to an address of home.test: %d, want it let in: %v", client, got, lets)
		}
		relays := client == "127.0.0.99"
		if got := answerTo(t, addr, client, "bob@far.test"); (got == 250) != relays {
			t.Errorf("%s to a foreign address: %d, want it relayed: %v", client, got, relays)
		}
	}
}

// TestCheckNetworks_Postfix: what the check says is mistyped, Postfix does not take either, and the other way round.
func TestCheckNetworks_Postfix(t *testing.T) {
	postmap := extern.Find(t, "postmap")
	dir := t.TempDir()
	world.Save(t, filepath.Join(dir, "main.cf"), "compatibility_level = 3.6\nmail_owner = mail\nsetgid_group = man\n")
	for _, word := range strings.Fields("192.0.2.0/24 192.0.2.1 2001:db8::/32 2001:db8::1 0.0.0.0/0 192.0.2.1/32 " +
		"192.0.2.0/33 " +
		"192.0.2.1/24 2001:db8::1/32 2001:db8::/129 192.0.2/24 192.0.2.256 192.0.2.* 192.0.2.1-192.0.2.9 mx1.test " +
		"192.0.2.0/255.255.255.0 10.0.0.0/8 192.0.2.0/ /24 1.2.3.4.5 192.0.02.1") {
		file := filepath.Join(dir, "networks")
		world.Save(t, file, word+" OK\n")
		findings, err := migrate.CheckNetworks(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		mistyped := false
		for _, f := range findings {
			mistyped = mistyped || f.Severity == migrate.NetworkError && !strings.Contains(f.Message, "may relay")
		}
		cmd := postmap.Command(t.Context(), "-c", dir, "-q", "198.51.100.1", "cidr:"+file)
		said, _ := cmd.CombinedOutput() // the exit code says only that no line matched
		if complains := strings.Contains(string(said), "warning: cidr"); complains != mistyped {
			t.Errorf("%s: the check finds it mistyped: %v, Postfix: %s", word, mistyped, said)
		}
	}
}

// TestEgressList_NFTables: the kernel takes the rules, with addresses of both families and of one.
func TestEgressList_NFTables(t *testing.T) {
	nft, unshare := extern.Find(t, "nft"), extern.Find(t, "unshare")
	for name, list := range map[string]migrate.Egress{
		"both families": movedEgress(),
		"IPv4":          migrate.NewEgress("mx1.test", []netip.Addr{netip.MustParseAddr("192.0.2.10")}, time.Now()),
		"IPv6":          migrate.NewEgress("mx1.test", []netip.Addr{netip.MustParseAddr("2001:db8::10")}, time.Now()),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rules")
			world.Save(t, file, list.NFTables())
			for range 2 { // a second time in place of the first
				cmd := nft.Command(context.Background(), "-c", "-f", file)
				cmd.Args = append([]string{unshare.Path(), "--user", "--map-root-user", "--net", nft.Path()},
					cmd.Args[1:]...)
				cmd.Path = unshare.Path()
				if said, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %s\n%s", err, said, list.NFTables())
				}
			}
		})
	}
}

// TestReconcile_Postfix: messages that a node hands to a Postfix are found in its log; what is taken out of that is
// missing, and what comes from elsewhere is extra.
func TestReconcile_Postfix(t *testing.T) {
	addr, dir := extern.StartPostfixOn(t, homeCF+"mynetworks = 127.0.0.0/8\nsmtpd_relay_restrictions = "+
		"reject_unauth_destination\n", nil)
	relay := world.Start(t, world.World{Routes: "@home.test smtp://" + addr + "\n", Log: "info"})
	const messages = 12
	for i := range messages {
		fields := fmt.Sprintf("Message-ID: <m%d@x.test>\r\nDate: Mon, 30 Nov 2026 10:00:00 +0000", i)
		if err := sendOne(relay.Addr, fields); err != nil {
			t.Fatal(err)
		}
		if i == messages/2 { // past the node
			if err := sendOne(addr, "Message-ID: <direct@x.test>"); err != nil {
				t.Fatal(err)
			}
		}
	}
	world.Await(t, "Postfix has delivered", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "maillog"))
		return strings.Count(string(text), ": removed") > messages
	})
	relay.Stop(t)
	text, err := os.ReadFile(filepath.Join(dir, "maillog"))
	if err != nil {
		t.Fatal(err)
	}
	out := reconciled(t, string(text), relay.Log.String())
	if out.Joined != messages || len(out.Missing)+len(out.Undelivered)+len(out.Twice) != 0 {
		t.Errorf("%d joined, %d missing, %d undelivered, want %d and none\n%s", out.Joined, len(out.Missing),
			len(out.Undelivered), messages, text)
	}
	if len(out.Extra) != 1 || out.Extra[0].MessageID != "direct@x.test" {
		t.Errorf("extra: %v, want the one past the node", out.Extra)
	}
	var kept []string
	id := queueIDOf(relay.Log.String())
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, id) {
			kept = append(kept, line)
		}
	}
	out = reconciled(t, strings.Join(kept, ""), relay.Log.String())
	if out.Joined != messages-1 || len(out.Missing) != 1 || out.Missing[0].ID != id {
		t.Errorf("without the lines of %s: %d joined, missing %v", id, out.Joined, out.Missing)
	}
}

// queueIDOf returns the queue id in the middle of a log.
func queueIDOf(log string) string {
	all := strings.Split(log, "queued as ")
	id, _, _ := strings.Cut(all[len(all)/2], `"`)
	id, _, _ = strings.Cut(id, " ")
	return id
}

// reconciled compares logs.
func reconciled(t *testing.T, theirs, ours string) *migrate.Reconciliation {
	t.Helper()
	r := migrate.Reconciler{Clock: time.Now(), Zone: time.Local}
	if err := r.ReadMaillog(strings.NewReader(theirs)); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadLog(strings.NewReader(ours)); err != nil {
		t.Fatal(err)
	}
	return r.Result()
}

// sendOne sends a message with these fields.
func sendOne(addr, fields string) error {
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, step := range []struct {
		line string
		code int
	}{
		{"", 220}, {"EHLO client.test", 250}, {"MAIL FROM:<a@sender.test>", 250}, {"RCPT TO:<bob@home.test>", 250},
		{"DATA", 354}, {fields + "\r\nFrom: a@sender.test\r\n\r\nHello.\r\n.", 250}, {"QUIT", 221},
	} {
		if step.line != "" {
			if err := c.PrintfLine("%s", step.line); err != nil {
				return err
			}
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return err
		}
	}
	return nil
}
