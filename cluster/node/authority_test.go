package node

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/smtptest"
)

// certified sends a message to a domain of others by STARTTLS with a certificate, or without one, and returns the code
// of the answer to RCPT. lower is a command behind the handshake, or "".
func (r *relaying) certified(t *testing.T, lower string, certificates ...tls.Certificate) int {
	t.Helper()
	c := r.dial(t)
	c.say("EHLO client.example", 250)
	c.say("STARTTLS", 220)
	secure := tls.Client(c.raw, &tls.Config{InsecureSkipVerify: true, Certificates: certificates})
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	c = &talk{t: t, Conn: textproto.NewConn(secure), raw: secure}
	c.say("EHLO client.example", 250)
	if lower != "" {
		c.say(lower, 220)
		c.say("EHLO client.example", 250)
	}
	c.say("MAIL FROM:<me@example.com>", 250)
	if err := c.PrintfLine("RCPT TO:<x@far.example>"); err != nil {
		t.Fatal(err)
	}
	code, _, err := c.ReadResponse(0)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// TestNode_ClientCA: a certificate of an authority of the listener makes a client trusted, from any address; another
// one, none, and one of an authority that a reload took away do not, and are no reason to refuse the handshake.
func TestNode_ClientCA(t *testing.T) {
	own, other := smtptest.NewCA(), smtptest.NewCA()
	file := filepath.Join(t.TempDir(), "clients.pem")
	use := func(ca *smtptest.CA) {
		t.Helper()
		if err := os.WriteFile(file, ca.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	use(own)
	smart := smtptest.Start(t, smtptest.Behaviour{})
	r := &relaying{bench: startNode(t, fmt.Sprintf("listen: [{addr: \"127.0.0.1:0\", relay: trusted, client_ca: %q, "+
		"relay_via: \"smtp://%s\", xclient: [127.0.0.0/8]}]\n", file, smart.Addr()), nil)}
	mine, theirs := own.Certificate("home.example"), other.Certificate("home.example")
	for _, tt := range []struct {
		name, lower  string
		certificates []tls.Certificate
		want         int
	}{
		{"without one", "", nil, 550},
		{"of the authority", "", []tls.Certificate{mine}, 250},
		{"of another one", "", []tls.Certificate{theirs}, 550},
		{"of the authority, lowered", "XCLIENT ADDR=192.0.2.7", []tls.Certificate{mine}, 550},
	} {
		if got := r.certified(t, tt.lower, tt.certificates...); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	if got := r.mail(t, 0, "", "", "x@far.example"); got != 550 {
		t.Errorf("in clear: %d", got)
	}
	if got := r.mail(t, 0, "", "", "x@example.com"); got != 250 {
		t.Errorf("in clear, to a hosted domain: %d", got)
	}
	use(other)
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.certified(t, "", mine); got != 550 {
		t.Errorf("of the authority before: %d", got)
	}
	if got := r.certified(t, "", theirs); got != 250 {
		t.Errorf("of the new authority: %d", got)
	}
	if err := os.WriteFile(file, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "listen[0].client_ca: ") {
		t.Errorf("a file that is none: %v", err)
	}
	if got := r.certified(t, "", theirs); got != 250 {
		t.Errorf("after a reload that failed: %d", got)
	}
}

// TestNode_ClientCAScore: a client that a list names, as an address of a home is, is not turned away before it has
// shown its certificate.
func TestNode_ClientCAScore(t *testing.T) {
	own := smtptest.NewCA()
	file := filepath.Join(t.TempDir(), "clients.pem")
	if err := os.WriteFile(file, own.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	smart := smtptest.Start(t, smtptest.Behaviour{})
	r := &relaying{bench: startNode(t, fmt.Sprintf("listen: [{addr: \"127.0.0.1:0\", relay: trusted, client_ca: %q, "+
		"relay_via: \"smtp://%s\"}]\nscore: {block: [127.0.0.1], reject_at: connect}\n", file, smart.Addr()), nil)}
	if got := r.certified(t, "", own.Certificate("home.example")); got != 250 {
		t.Errorf("with a certificate: %d", got)
	}
	if got := r.certified(t, ""); got != 554 {
		t.Errorf("without one: %d", got)
	}
}

// TestCheck_Certificates: a certificate that we are to show is read with its key, and one for a host that no line names
// is doubted.
func TestCheck_Certificates(t *testing.T) {
	dir, ca := t.TempDir(), smtptest.NewCA()
	pair := ca.Certificate("me.example")
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	save := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	save("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	check := func(entry, routes string) string {
		t.Helper()
		save("routes.txt", []byte(routes+"relay * smtp://Smart.example\n"))
		save("millrace.yaml", []byte("hostname: mx1.example.net\npostmaster: o@p.example\n"+
			"routes: routes.txt\nlisten: [{addr: \"127.0.0.1:0\", relay: trusted, networks: [10.0.0.0/8]}]\n"+
			"egress:\n  certificates: ["+entry+"]\n"))
		c, err := config.Load(filepath.Join(dir, "millrace.yaml"))
		if err != nil {
			return err.Error()
		}
		warnings, err := Check(c, nil)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(warnings)
	}
	for _, tt := range []struct{ entry, want, not string }{
		{"{host: SMART.example, cert: cert.pem, key: key.pem}", "", "certificates"},
		{"{host: other.example, cert: cert.pem, key: key.pem}", "6:25: egress.certificates[0].host: no rule", ""},
		{"{host: smart.example, cert: cert.pem, key: cert.pem}", "egress.certificates[0].key: ", ""},
		{"{host: smart.example, cert: cert.pem}", "egress.certificates[0].key: is required", ""},
		{"{host: smart.example, ca: cert.pem}", "", "certificates"},
		{"{host: smart.example, ca: key.pem}", "egress.certificates[0].ca: ", ""},
		{"{host: smart.example, ca: cert.pem, cert: cert.pem}", "egress.certificates[0].key: is required", ""},
		{"{cert: cert.pem, key: key.pem}", "egress.certificates[0].host: is required", ""},
		{"{host: a/b, cert: cert.pem, key: key.pem}", "egress.certificates[0].host: \"a/b\" is neither", ""},
	} {
		got := check(tt.entry, "")
		if !strings.Contains(got, tt.want) || tt.not != "" && strings.Contains(got, tt.not) {
			t.Errorf("%s: got %s", tt.entry, got)
		}
	}
	const shared = "6:25: egress.certificates[0].host: mail of trusted clients is sent by it (smtp://smart.example), " +
		"and mail of strangers as well, by the rule with smtp://smart.example"
	for _, tt := range []struct{ routes, host, want string }{
		{"domain a.example\n@a.example smtp://smart.example:26\n", "smart.example", shared + ":26"},
		{"domain a.example\n@a.example smtp://smart.example\n", "smart.example", shared},
		{"domain a.example\n@a.example smtp://home.example\n", "smart.example", ""},
		{"domain a.example\n@a.example smtp://home.example\n", "home.example", ""},
	} {
		got := check("{host: "+tt.host+", cert: cert.pem, key: key.pem}", tt.routes)
		if !strings.Contains(got, tt.want) || tt.want == "" && strings.Contains(got, "certificates") {
			t.Errorf("%s with %q: got %s", tt.host, tt.routes, got)
		}
	}
}
