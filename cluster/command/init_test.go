package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/smtp"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
)

// initialised runs init for example.org and returns the folder and the records as a zone.
func initialised(t *testing.T) (dir, zone string) {
	t.Helper()
	dir = t.TempDir()
	var out bytes.Buffer
	args := []string{"init", dir, "--domain", "example.org", "--to", "alice@mailbox.test", "--json"}
	args = append(args, "--ip", "127.0.0.1")
	if code := Main(args, nil, &out, os.Stderr); code != exitOK {
		t.Fatalf("init: exit code %d", code)
	}
	var got struct{ Records []doctor.Record }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range got.Records {
		r := &got.Records[i]
		b.WriteString(r.Name + ". 60 IN " + r.Type + " " + r.ZoneValue() + "\n")
	}
	return dir, b.String()
}

// edit replaces text of a file that has to be there.
func edit(t *testing.T, file string, pairs ...string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !bytes.Contains(text, []byte(pairs[i])) {
			t.Fatalf("%s has no %q", file, pairs[i])
		}
		text = bytes.ReplaceAll(text, []byte(pairs[i]), []byte(pairs[i+1]))
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestInit_Served: a node on the files of init, with what init says in DNS, forwards mail whose reverse-path passes SPF
// and whose signatures verify, where the rule has all made.
func TestInit_Served(t *testing.T) {
	dir, zone := initialised(t)
	destination := smtptest.Start(t, smtptest.Behaviour{})
	host, port, _ := strings.Cut(destination.Addr(), ":")
	names := dnstest.Start(t, zone+"mailbox.test. 60 IN MX 10 mx.mailbox.test.\nmx.mailbox.test. 60 IN A "+host+"\n"+
		"sender.test. 60 IN A 127.0.0.1\nsender.test. 60 IN TXT \"v=spf1 ip4:127.0.0.1 -all\"\n")
	file := filepath.Join(dir, configName)
	edit(t, filepath.Join(dir, "routes.txt"), "alice@mailbox.test ", "alice@mailbox.test seal=always ")
	edit(t, file, `":25"`, `"127.0.0.1:0"`, "127.0.0.1:8025", "127.0.0.1:0", `# dns: {servers: ["127.0.0.1:53"]}`,
		`dns: {servers: ["`+names.Addr()+"\"]}\negress: {port: "+port+", allow_private: true}")
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(cfg, node.Options{Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	mail := "From: bob@sender.test\r\nTo: info@example.org\r\nSubject: first\r\nMessage-ID: <1@sender.test>\r\n" +
		"Date: Mon, 30 Nov 2026 12:00:00 +0000\r\n\r\nHello.\r\n"
	send(t, n.Addrs()[0].String(), filepath.Join(dir, "cert.pem"), mail)
	got := destination.Messages()
	if len(got) != 1 {
		t.Fatalf("%d messages arrived, want 1", len(got))
	}
	if !strings.HasSuffix(got[0].Reverse, "@srs.example.org") || got[0].Forwards[0] != "alice@mailbox.test" ||
		got[0].Helo != "mx1.example.org" {
		t.Errorf("it arrived from %s for %s by %s", got[0].Reverse, got[0].Forwards[0], got[0].Helo)
	}
	if !bytes.HasSuffix(got[0].Octets, []byte(mail)) {
		t.Errorf("what was sent was changed: %s", got[0].Octets)
	}
	judge(t, names, got[0].Octets)
}

// send sends a message for info@example.org to a node that has the certificate of a file.
func send(t *testing.T, addr, certificate, message string) {
	t.Helper()
	text, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(text) {
		t.Fatal("no certificate in ", certificate)
	}
	c, err := smtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = errors.Join(c.StartTLS(&tls.Config{ServerName: "mx1.example.org", RootCAs: trusted}),
		c.Mail("bob@sender.test"), c.Rcpt("info@example.org"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.WriteString(w, message); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), c.Quit()); err != nil {
		t.Fatal(err)
	}
}

// judge verifies the signatures of what arrived as its receiver would.
func judge(t *testing.T, names *dnstest.Server, octets []byte) {
	t.Helper()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, names.Addr())
	}}
	verifications, err := msgauth.VerifyWithOptions(bytes.NewReader(octets), &msgauth.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) { return resolver.LookupTXT(t.Context(), name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(verifications) != 2 {
		t.Errorf("%d DKIM signatures, want one of RSA and one of Ed25519", len(verifications))
	}
	for _, v := range verifications {
		if v.Err != nil || v.Domain != "example.org" {
			t.Errorf("the signature of %s: %v", v.Domain, v.Err)
		}
	}
	if !bytes.Contains(octets, []byte("ARC-Seal: i=1;")) {
		t.Error("it has no ARC set")
	}
}

// TestInit_Group: a group that may read the secrets exists, and others may not.
func TestInit_Group(t *testing.T) {
	own, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"init", dir, "--domain", "example.org", "--to", "alice@mailbox.test", "--group", own.Name}
	if code := Main(args, nil, io.Discard, os.Stderr); code != exitOK {
		t.Fatalf("init: exit code %d", code)
	}
	for name, want := range map[string]os.FileMode{
		"millrace.yaml": 0o644, "routes.txt": 0o644, "secret": 0o640, "srs.key": 0o640, "admin.token": 0o640,
		"arc.pem": 0o640, "dkim-rsa.pem": 0o640, "dkim-ed25519.pem": 0o640, "cert.key": 0o640, "cert.pem": 0o640,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if info.Mode().Perm() != want || !ok || int(stat.Gid) != os.Getgid() {
			t.Errorf("%s has mode %v, want %v, in group %d", name, info.Mode(), want, os.Getgid())
		}
	}
}
