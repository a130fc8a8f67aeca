package extern

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// accounts are the users that programs expect where they are installed, each with a group of its own.
var accounts = []string{
	"postfix", "postdrop", "Debian-exim", "opensmtpd", "opensmtpq", "opendkim", "opendmarc", "policyd-spf", "postsrsd",
}

// firstAccount is the number of the first of them, above those of a system and below those of people.
const firstAccount = 64000

// Account returns the number of a user, and of its group, in what Accounts returns.
func Account(name string) int { return firstAccount + slices.Index(accounts, name) }

// Accounts returns the content of /etc/passwd and /etc/group with all users that programs expect.
func Accounts() (passwd, group string) {
	passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
	group = "root:x:0:\nnogroup:x:65534:\n"
	for _, name := range accounts {
		passwd += fmt.Sprintf("%s:x:%d:%[2]d::/nonexistent:/usr/sbin/nologin\n", name, Account(name))
		group += fmt.Sprintf("%s:x:%d:\n", name, Account(name))
	}
	return passwd, group
}

// PreparePostfix makes the folders of a Postfix whose main.cf and master.cf are in dir: queue and data, as main.cf is
// to name them. It needs the right to hand folders to other users.
func PreparePostfix(dir string) error {
	own := Account("postfix")
	queues := strings.Fields("active bounce corrupt defer deferred flush hold incoming maildrop private public saved " +
		"trace")
	for _, sub := range append([]string{"../data"}, queues...) {
		path := filepath.Join(dir, "queue", sub)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := os.Chown(path, own, own); err != nil {
			return fmt.Errorf("a folder of Postfix: %w", err)
		}
	}
	return os.MkdirAll(filepath.Join(dir, "queue", "pid"), 0o755)
}

// postfixConfig takes mail for every address from everyone, offers STARTTLS, and delivers by TRANSPORT.
const postfixConfig = `
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
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
local_header_rewrite_clients =
smtpd_tls_security_level = may
smtpd_tls_cert_file = DIR/cert.pem
smtpd_tls_key_file = DIR/cert.pem
smtp_dns_support_level = disabled
smtp_tls_security_level = may
default_transport = TRANSPORT
virtual_mailbox_domains =
virtual_mailbox_base = DIR/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
`

const postfixServices = `
HOST:PORT inet  n - n - - smtpd
pickup    unix  n - n 60  1 pickup
cleanup   unix  n - n -   0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n -   - trivial-rewrite
bounce    unix  - - n -   0 bounce
defer     unix  - - n -   0 bounce
trace     unix  - - n -   0 bounce
proxymap  unix  - - n -   - proxymap
smtp      unix  - - n -   - smtp
virtual   unix  - n n -   - virtual
local     unix  - n n -   - local
relay     unix  - - n -   - smtp
lmtp      unix  - - n -   - lmtp
discard   unix  - - n -   - discard
error     unix  - - n -   - error
retry     unix  - - n -   - error
anvil     unix  - - n -   1 anvil
postlog   unix-dgram n - n - 1 postlogd
tlsmgr    unix  - - n 1000? 1 tlsmgr
`

// StartPostfix runs a Postfix until the test ends, which takes mail for every address with STARTTLS, and returns its
// address and a function that reads what it has delivered so far, in no order, one Message per recipient; Content lacks
// the four fields that Postfix put on top. With next it sends all mail on to that address, with STARTTLS where that is
// offered, and delivers none. It has several users, which takes root.
func StartPostfix(t testing.TB, next string) (addr string, messages func() []Message) {
	t.Helper()
	transport := "virtual"
	if next != "" {
		host, port := split(t, next)
		transport = "smtp:[" + host + "]:" + port
	}
	addr, dir := StartPostfixOn(t, strings.ReplaceAll(postfixConfig, "TRANSPORT", transport), nil)
	return addr, func() []Message { return postfixMessages(t, filepath.Join(dir, "mail", "box", "new")) }
}

// StartPostfixQueue runs such a Postfix that sends all mail on to the first address of next where it can, else to the
// second if there is one, and leaves a host that does not answer the end of a message within a second. What it keeps
// in its queue it tries again each second.
func StartPostfixQueue(t testing.TB, next ...string) (addr string) {
	t.Helper()
	host, port := split(t, next[0])
	config := strings.ReplaceAll(postfixConfig, "TRANSPORT", "smtp:["+host+"]:"+port) +
		"smtp_data_done_timeout = 1s\nminimal_backoff_time = 1s\nmaximal_backoff_time = 1s\nqueue_run_delay = 1s\n"
	if len(next) > 1 {
		host, port := split(t, next[1])
		config += "smtp_fallback_relay = [" + host + "]:" + port + "\n"
	}
	addr, _ = StartPostfixOn(t, config, nil)
	return addr
}

// PostfixIdle reports whether a Postfix of StartPostfixOn has no mail that is yet to be delivered.
func PostfixIdle(t testing.TB, dir string) bool {
	t.Helper()
	for _, queue := range []string{"maildrop", "incoming", "active", "deferred"} {
		idle := true
		err := filepath.WalkDir(filepath.Join(dir, "queue", queue), func(_ string, d fs.DirEntry, err error) error {
			idle = idle && (err != nil || d.IsDir())
			return nil // a file that is gone by now
		})
		if err != nil || !idle {
			return false
		}
	}
	return true
}

// StartPostfixOn runs a Postfix on a main.cf and the tables that it names until the test ends, and returns its address
// and the folder of all of them, which the text names as DIR, as it does its host and port as HOST and PORT. It has
// several users, which takes root.
func StartPostfixOn(t testing.TB, config string, tables map[string]string) (addr, dir string) {
	t.Helper()
	return StartPostfixAt(t, "127.0.0.1", config, tables)
}

// StartPostfixAt is StartPostfixOn with an address of a host, in a network of the test's own.
func StartPostfixAt(t testing.TB, host, config string, tables map[string]string) (addr, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("Postfix has users of its own, which only root can become")
	}
	Find(t, "postconf")
	dir, err := os.MkdirTemp("", "postfix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	mail := filepath.Join(dir, "mail")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(mail, 0o755), os.Chown(mail, 65534, 65534),
		PreparePostfix(dir)); err != nil {
		t.Fatal(err)
	}
	passwd, group := Accounts()
	writeFile(t, filepath.Join(dir, "passwd"), passwd)
	writeFile(t, filepath.Join(dir, "group"), group)
	writeFile(t, filepath.Join(dir, "cert.pem"), selfSigned(t, "postfix.test"))
	for name, text := range tables {
		writeFile(t, filepath.Join(dir, name), text)
	}
	const script = `set -e
if [ -n "$1" ]; then cd "$1"; mount -t overlay overlay -o lowerdir=usr:/usr /usr; cd /; fi
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/group" /etc/group
exec /usr/lib/postfix/sbin/master -d -c "$2"`
	unshare := Find(t, "unshare")
	addr = serveAt(t, host, func(addr string) *exec.Cmd {
		_, port := split(t, addr)
		fill := strings.NewReplacer("DIR", dir, "HOST", host, "PORT", port)
		writeFile(t, filepath.Join(dir, "main.cf"), fill.Replace(config))
		writeFile(t, filepath.Join(dir, "master.cf"), fill.Replace(postfixServices))
		return exec.Command(unshare.path, "--mount", "sh", "-c", script, "sh", cacheRoot(), dir)
	})
	return addr, dir
}

// postfixMessages reads a Maildir.
func postfixMessages(t testing.TB, dir string) []Message {
	t.Helper()
	var got []Message
	for _, file := range readFolder(t, dir) {
		var m Message
		for range 3 { // Return-Path, X-Original-To, Delivered-To
			line, rest, _ := strings.Cut(file, "\n")
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "Return-Path":
				m.Reverse = path(value)
			case "X-Original-To":
				m.Forward = []string{value}
			}
			file = rest
		}
		m.Content = crlf(withoutField(file))
		got = append(got, m)
	}
	return got
}

// selfSigned makes a key and a certificate for it, both as PEM.
func selfSigned(t testing.TB, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
}
