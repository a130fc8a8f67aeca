package peers_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	msgdkim "github.com/emersion/go-msgauth/dkim"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// theirPassword is that of alice and of bob.
const theirPassword = "correct horse battery"

// A users is a node with a listener for alice and bob, who are users of example.com, and its DKIM record.
type users struct {
	*world.Relay
	host, port string
	record     string
}

// startForUsers starts such a node. Mail for far.example goes to destination.
func startForUsers(t *testing.T, destination, listen, config, log string) *users {
	t.Helper()
	dir := t.TempDir()
	key, err := dkim.GenerateKey(dkim.RSASHA256, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := dkim.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	u := new(users)
	if u.record, err = dkim.KeyRecord(key.Public()); err != nil {
		t.Fatal(err)
	}
	world.Save(t, filepath.Join(dir, "dkim.pem"), string(pem))
	world.Save(t, filepath.Join(dir, "users"), fmt.Sprintf("alice %s alice@example.com to=alice@home.example\nbob %s "+
		"bob@example.com\n", submission.Hash(theirPassword), submission.Hash(theirPassword)))
	_, port, err := net.SplitHostPort(destination)
	if err != nil {
		t.Fatal(err)
	}
	u.Relay = world.Start(t, world.World{
		Dir: dir, Listen: "submission: true, users_file: users" + listen, Log: log, Judged: true,
		Routes: "domain example.com\nalice@example.com alice@home.example\nsales@example.com alice@home.example\n" +
			"bob@example.com bob@home.example\n",
		DNS: dnstest.Start(t, "far.example. 60 IN MX 10 mx.far.example.\nmx.far.example. 60 IN A 127.0.0.1\n"+
			"s._domainkey.example.com. 60 IN TXT "+dkim.ZoneText(u.record)+"\n"),
		Config: "egress: {port: " + port + ", allow_private: true}\n" +
			"dkim: {domains: [{domain: example.com, selector: s, key_file: dkim.pem}]}\n" + config,
	})
	if u.host, u.port, err = net.SplitHostPort(u.Addr); err != nil {
		t.Fatal(err)
	}
	return u
}

// swaks runs swaks with what each of its sessions has, and returns what it printed and whether the message was taken.
func (u *users) swaks(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
	defer cancel()
	all := []string{"--server", u.host, "--port", u.port, "--helo", "laptop.example", "--body", ".by swaks",
		"--auth-user", "alice", "--auth-password", theirPassword}
	out, err := extern.Find(t, "swaks").Command(ctx, append(all, args...)...).CombinedOutput()
	return string(out), err == nil
}

// TestSubmission_FromSwaks: swaks logs in and sends through the node to a real Postfix, in each way that mail programs
// have, and what arrives is signed by the domain of the user.
func TestSubmission_FromSwaks(t *testing.T) {
	addr, read := extern.StartPostfix(t, "")
	n := 0
	for _, c := range []struct{ name, listen, tls string }{
		{"port 465", ", tls: implicit", "--tls-on-connect"}, {"port 587", "", "--tls"},
	} {
		u := startForUsers(t, addr, c.listen, "", "")
		for _, mechanism := range []string{"PLAIN", "LOGIN"} {
			t.Run(c.name+" "+mechanism, func(t *testing.T) {
				out, ok := u.swaks(t, c.tls, "--auth", mechanism, "--from", "alice@example.com", "--to",
					"bob@far.example,carol@far.example", "--h-From", "Alice <alice@example.com>")
				if !ok || !strings.Contains(out, "235 2.7.0") {
					t.Fatalf("not sent:\n%s", out)
				}
				n += 2
				var got []extern.Message
				world.Await(t, "Postfix delivers", func() bool { got = read(); return len(got) >= n })
				m := got[0]
				if m.Reverse != "alice@example.com" || !bytes.Contains(m.Content, []byte(" with ESMTPSA id ")) ||
					!bytes.Contains(m.Content, []byte("\r\n.by swaks\r\n")) {
					t.Errorf("from %s: %s", m.Reverse, m.Content)
				}
			})
		}
		u.Stop(t)
	}
}

// TestSubmission_Refusals: what a user may not do, and a stranger not at all, is refused in words, and nothing of it
// arrives.
func TestSubmission_Refusals(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{Recipients: map[string]smtptest.Answer{
		"gone": {Reply: "550 5.1.1 No such mailbox"},
	}})
	u := startForUsers(t, d.Addr(), "", "submission: {messages: 12/1h}\n", "")
	alice := []string{"--tls", "--from", "alice@example.com", "--to", "bob@far.example"}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a wrong password", append(alice, "--auth-password", "another one"), "535 5.7.8 Authentication failed"},
		{"a user that there is not", append(alice, "--auth-user", "carol"), "535 5.7.8 Authentication failed"},
		{"no login", []string{"--tls", "--auth-optional", "--auth", "CRAM-MD5", "--from", "alice@example.com", "--to",
			"bob@far.example"}, "530 5.7.0 Authentication required"},
		{"no TLS", []string{"--auth-optional", "--from", "alice@example.com", "--to", "bob@far.example"},
			"530 5.7.0 Must issue a STARTTLS command first"},
		{"another's envelope", append(alice, "--from", "bob@example.com", "--h-From", "<alice@example.com>"),
			"550 5.7.1 <bob@example.com> is not an address of yours"},
		{"another's From", append(alice, "--h-From", "Bob <bob@example.com>"),
			"550 5.7.1 <bob@example.com> is not an address of yours"},
		{"a stranger's From", append(alice, "--h-From", "Boss <boss@bank.example>"), "550 5.7.1 <boss@bank.example>"},
		{"another's Sender", append(alice, "--h-From", "<alice@example.com>", "--add-header",
			"Sender: bob@example.com"), "550 5.7.1 <bob@example.com>"},
		{"two addresses", append(alice, "--h-From", "alice@example.com, bob@example.com"), "550 5.7.1 The from field"},
		{"a recipient that there is not", append(alice, "--to", "gone@far.example"), "550 5.1.1 No such mailbox"},
		{"the same again", append(alice, "--to", "gone@far.example"), "550 5.1.1 There was no such mailbox"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, ok := u.swaks(t, c.args...); ok || !strings.Contains(out, c.want) {
				t.Errorf("no %q:\n%s", c.want, out)
			}
		})
	}
	t.Run("as one of her addresses that the rules say", func(t *testing.T) {
		args := append(alice, "--from", "sales@example.com", "--h-From", "<sales@example.com>")
		if out, ok := u.swaks(t, args...); !ok {
			t.Error(out)
		}
	})
	t.Run("too many messages", func(t *testing.T) {
		limited := false
		for range 12 {
			out, ok := u.swaks(t, append(alice, "--h-From", "<alice@example.com>")...)
			if limited = strings.Contains(out, "450 4.7.1 You have sent too many messages"); limited {
				break
			}
			if !ok {
				t.Fatal(out)
			}
		}
		if !limited {
			t.Error("never too many")
		}
		bob := []string{"--tls", "--auth-user", "bob", "--from", "bob@example.com", "--to", "x@far.example"}
		if out, ok := u.swaks(t, append(bob, "--h-From", "<bob@example.com>")...); !ok {
			t.Errorf("bob has rates of his own:\n%s", out)
		}
	})
	for _, m := range d.Messages() {
		if bytes.Contains(m.Octets, []byte("bank.example")) || !slices.Contains([]string{"alice@example.com",
			"sales@example.com", "bob@example.com"}, m.Reverse) {
			t.Errorf("arrived: %s, %s", m.Reverse, m.Octets)
		}
	}
	world.Violations(t, d)
}

// TestSubmission_Signed: a message without date and id that go-smtp sends gets both, and go-msgauth finds it signed by
// the domain of the user with both covered; what the user wrote is below, octet for octet.
func TestSubmission_Signed(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	u := startForUsers(t, d.Addr(), ", tls: implicit", "", "")
	for i, size := range []int{0, 100 << 10} {
		c, err := smtp.DialTLS(u.Addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Auth(sasl.NewPlainClient("", "alice", theirPassword)); err != nil {
			t.Fatal(err)
		}
		letter := "From: Alice <alice@example.com>\r\nSubject: x\r\n\r\nhi\r\n" +
			strings.Repeat("a line of the text\r\n", size/20)
		if err := c.SendMail("alice@example.com", []string{"b@far.example"}, strings.NewReader(letter)); err != nil {
			t.Fatal(err)
		}
		octets := world.Messages(t, d, i+1)[i].Octets
		if !bytes.HasSuffix(octets, []byte(letter)) || bytes.Count(octets, []byte("\r\nMessage-ID: <")) != 1 ||
			bytes.Count(octets, []byte("\r\nDate: ")) != 1 {
			t.Errorf("arrived %.2000s", octets)
		}
		results, err := msgdkim.VerifyWithOptions(bytes.NewReader(octets), &msgdkim.VerifyOptions{
			LookupTXT: func(name string) ([]string, error) {
				if name != "s._domainkey.example.com" {
					return nil, fmt.Errorf("no %s", name)
				}
				return []string{u.record}, nil
			},
		})
		if err != nil || len(results) != 1 || results[0].Err != nil || results[0].Domain != "example.com" {
			t.Fatalf("%v %+v", err, results)
		}
		for _, name := range []string{"from", "date", "message-id", "subject"} {
			if !slices.ContainsFunc(results[0].HeaderKeys, func(k string) bool { return strings.EqualFold(k, name) }) {
				t.Errorf("%s is not covered: %v", name, results[0].HeaderKeys)
			}
		}
	}
}

// TestSubmission_Fail2ban: each failed login is one line that fail2ban's filter counts against its client, and no
// password stands in the log.
func TestSubmission_Fail2ban(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	u := startForUsers(t, d.Addr(), ", tls: implicit", "", "info, format: postfix")
	for _, mechanism := range []string{"PLAIN", "LOGIN"} {
		for _, user := range []string{"alice", "nemo reject: [192.0.2.1]"} {
			if out, ok := u.swaks(t, "--tls-on-connect", "--auth", mechanism, "--auth-user", user, "--auth-password",
				"not hers at all", "--from", "alice@example.com", "--to", "b@far.example"); ok {
				t.Fatal(out)
			}
		}
	}
	if out, ok := u.swaks(t, "--tls-on-connect", "--from", "alice@example.com", "--to", "b@far.example", "--h-From",
		"<alice@example.com>"); !ok {
		t.Fatal(out)
	}
	u.Stop(t)
	log := u.Log.String()
	file := filepath.Join(t.TempDir(), "mail.log")
	if err := os.WriteFile(file, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	want := slices.Repeat([]string{"127.0.0.1"}, 4)
	if got := extern.Fail2ban(t, file, "auth"); !slices.Equal(got, want) {
		t.Errorf("counts against %v\n%s", got, log)
	}
	if strings.Contains(log, "not hers") || strings.Contains(log, theirPassword) {
		t.Error("a password is in the log")
	}
	if !strings.Contains(log, "sasl_username=alice") {
		t.Errorf("the user is not in the log:\n%s", log)
	}
}
