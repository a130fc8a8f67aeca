package probe_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/probe"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// certificate returns a server's configuration with a certificate that signs itself, and what trusts it.
func certificate(t *testing.T, from, until time.Time) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dated"}, NotBefore: from, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

// TestHost_Words: each thing that goes wrong with a host has its step, its kind and its words.
func TestHost_Words(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	now := time.Now()
	ended, endedPool := certificate(t, now.Add(-48*time.Hour), now.Add(-24*time.Hour))
	early, earlyPool := certificate(t, now.Add(24*time.Hour), now.Add(48*time.Hour))
	login := smtptest.Behaviour{TLS: ca.Server("127.0.0.1"), Users: map[string]string{"relay": "right"}}
	greets := func(a smtptest.Answer) smtptest.Behaviour {
		return smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Greeting: a}}
	}
	refuses := func(verb, reply string) smtptest.Behaviour {
		return smtptest.Behaviour{Answers: map[string]smtptest.Answer{verb: {Reply: reply}}}
	}
	for _, tt := range []struct {
		name     string
		host     smtptest.Behaviour
		policy   smtpclient.TLSPolicy
		roots    *x509.CertPool
		password string
		open     bool
		takes    bool
		step     string // the last one that is not OK; "": none
		fault    probe.Fault
		says     string
	}{
		{name: "all is well", open: true, takes: true},
		{
			name: "TLS with a certificate that is valid", host: smtptest.Behaviour{TLS: ca.Server("127.0.0.1")},
			policy: smtpclient.Required, roots: ca.Pool(), open: true, takes: true,
		},
		{
			name: "a password that is right", host: login, policy: smtpclient.Required, roots: ca.Pool(),
			password: "right", open: true, takes: true,
		},
		{
			name: "a password that is wrong", host: login, policy: smtpclient.Required, roots: ca.Pool(),
			password: "wrong", step: "AUTH", says: "the user or the password is wrong",
		},
		{
			name: "no login offered", host: smtptest.Behaviour{TLS: ca.Server("127.0.0.1")},
			policy: smtpclient.Required, roots: ca.Pool(), password: "right", step: "AUTH", fault: probe.OtherFault,
			says: "not offered",
		},
		{
			name: "a certificate for another name", host: smtptest.Behaviour{TLS: ca.Server("mx.example.org")},
			policy: smtpclient.Required, roots: ca.Pool(), step: probe.StepCertificate, fault: probe.BadCertificate,
			says: "the certificate is for mx.example.org and not for 127.0.0.1",
		},
		{
			name: "a certificate that has ended", host: smtptest.Behaviour{TLS: ended}, policy: smtpclient.Required,
			roots: endedPool, step: probe.StepCertificate, fault: probe.BadCertificate, says: "has ended on",
		},
		{
			name: "a certificate that is not valid yet", host: smtptest.Behaviour{TLS: early},
			policy: smtpclient.Required, roots: earlyPool, step: probe.StepCertificate, fault: probe.BadCertificate,
			says: "not yet",
		},
		{
			name: "a certificate of an unknown authority", host: smtptest.Behaviour{TLS: ca.Server("127.0.0.1")},
			policy: smtpclient.Required, roots: other.Pool(), step: probe.StepCertificate, fault: probe.BadCertificate,
			says: "an authority that this machine does not know",
		},
		{
			name: "a certificate that is not demanded", host: smtptest.Behaviour{TLS: ca.Server("mx.example.org")},
			policy: smtpclient.Opportunistic, roots: ca.Pool(), open: true, takes: true, step: probe.StepCertificate,
			fault: probe.BadCertificate, says: "mail goes there all the same",
		},
		{
			name: "no STARTTLS where it is demanded", policy: smtpclient.Required, roots: ca.Pool(), step: "STARTTLS",
			fault: probe.OtherFault, says: "does not offer the TLS",
		},
		{
			name: "no TLS at a port of TLS", policy: smtpclient.Implicit, roots: ca.Pool(), step: probe.StepTLS,
			fault: probe.NoTLS, says: "no TLS is spoken at this port",
		},
		{
			name: "a greeting that refuses us", host: greets(smtptest.Answer{Reply: "554 5.7.1 Go away", Close: true}),
			step: probe.StepGreeting, says: "refuses us before any mail",
		},
		{
			name: "a greeting that puts us off", host: greets(smtptest.Answer{Reply: "421 4.7.0 Later", Close: true}),
			step: probe.StepGreeting, says: "may later",
		},
		{
			name: "a greeting that does not come", host: greets(smtptest.Answer{After: time.Hour}),
			step: probe.StepGreeting, fault: probe.NoAnswer, says: "connected, and no greeting in time",
		},
		{
			name: "no greeting, and the end", host: greets(smtptest.Answer{Close: true}), step: probe.StepGreeting,
			fault: probe.ClosedByHost, says: "closed the connection at greeting",
		},
		{
			name: "EHLO refused", host: smtptest.Behaviour{Answers: map[string]smtptest.Answer{
				"EHLO": {Reply: "550 5.7.1 No"}, "HELO": {Reply: "550 5.7.1 No"},
			}}, step: "HELO", says: "refuses us before any mail",
		},
		{
			name: "the sender refused", host: refuses("MAIL", "550 5.7.1 No"), open: true, step: "RCPT",
			says: "the host refuses the sender",
		},
		{
			name: "an unknown recipient", host: refuses("RCPT", "550 5.1.1 No such user"), open: true, step: "RCPT",
			says: "the path is open; the host does not know this recipient",
		},
		{
			name: "greylisting", host: refuses("RCPT", "450 4.7.1 Greylisted"), open: true, step: "RCPT",
			says: "the path is open; the host puts this recipient off",
		},
		{
			name: "relaying denied", host: refuses("RCPT", "554 5.7.1 Relay access denied"), open: true, step: "RCPT",
			says: "does not take mail for this recipient from us",
		},
		{
			name: "the end at RCPT", open: true, host: smtptest.Behaviour{
				Answers: map[string]smtptest.Answer{"RCPT": {Close: true}},
			}, step: "RCPT", fault: probe.ClosedByHost, says: "closed the connection at RCPT",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			host := smtptest.Start(t, tt.host)
			call := probe.Call{
				Target: smtpclient.Target{
					Network: "tcp", Addr: host.Addr(), Host: "127.0.0.1", Helo: "probe.example", TLS: tt.policy,
					TLSConfig: &tls.Config{RootCAs: tt.roots},
				},
				To: &mail.Path{Local: "b", Domain: "x.example"},
			}
			if tt.password != "" {
				call.Target.User, call.Target.Password = "relay", tt.password
			}
			ctx := t.Context()
			if tt.fault == probe.NoAnswer {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 900*time.Millisecond)
				defer cancel()
			}
			found := probe.Host(ctx, call)
			failed := probe.Step{OK: true}
			for _, s := range found.Steps {
				if !s.OK {
					failed = s
				}
			}
			if found.Open != tt.open || found.Takes != tt.takes || failed.OK != (tt.step == "") {
				t.Fatalf("%+v", found)
			}
			if tt.step != "" && (failed.Name != tt.step && !(tt.step == "RCPT" && failed.Name == "MAIL") ||
				failed.Fault != tt.fault || !strings.Contains(failed.Says, tt.says)) {
				t.Errorf("%+v, want %s, %s: %s", failed, tt.step, tt.fault, tt.says)
			}
			nothingLeft(t, host)
		})
	}
}

// TestHost_Steps: a session with a login has all its steps in order, and ends in RSET and QUIT.
func TestHost_Steps(t *testing.T) {
	ca := smtptest.NewCA()
	host := smtptest.Start(t, smtptest.Behaviour{
		TLS: ca.Server("127.0.0.1"), Users: map[string]string{"relay": "right"},
	})
	found := probe.Host(t.Context(), probe.Call{
		Target: smtpclient.Target{
			Network: "tcp", Addr: host.Addr(), Host: "127.0.0.1", Helo: "probe.example", TLS: smtpclient.Required,
			TLSConfig: ca.Client(), User: "relay", Password: "right",
		},
		From: mail.Path{Local: "a", Domain: "probe.example"}, To: &mail.Path{Local: "b", Domain: "x.example"},
	})
	var names []string
	for _, s := range found.Steps {
		names = append(names, s.Name)
	}
	want := "TCP greeting EHLO STARTTLS TLS certificate EHLO in TLS AUTH MAIL RCPT RSET"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if says := found.Steps[5].Says; !strings.Contains(says, "for 127.0.0.1, by smtptest, until ") {
		t.Errorf("the certificate is %s", says)
	}
	if commands := host.Commands(); commands[len(commands)-1] != "1 QUIT" {
		t.Errorf("%q", commands)
	}
}

// TestHost_ClosedPort: where nothing listens the connection is refused, and where there is no socket it is said.
func TestHost_ClosedPort(t *testing.T) {
	for _, tt := range []struct {
		network, addr string
		fault         probe.Fault
	}{{"tcp", extern.FreeAddr(t), probe.RefusedConnection}, {"unix", t.TempDir() + "/none", probe.NoSocket}} {
		found := probe.Host(t.Context(), probe.Call{
			Target: smtpclient.Target{Network: tt.network, Addr: tt.addr, Host: "h", Helo: "probe.example"},
		})
		if len(found.Steps) != 1 || found.Steps[0].Name != probe.StepTCP || found.Steps[0].Fault != tt.fault {
			t.Errorf("%+v", found)
		}
	}
}

// TestHost_SlowGreeting: a host that lets its clients wait is open, and the step says for how long it did.
func TestHost_SlowGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := smtptest.NewLine()
		host := smtptest.Serve(wire, smtptest.Behaviour{Answers: map[string]smtptest.Answer{
			smtptest.Greeting: {After: 12 * time.Second},
		}})
		defer host.Close()
		found := probe.Host(t.Context(), probe.Call{
			Target: smtpclient.Target{Network: "tcp", Addr: "192.0.2.1:25", Host: "h", Helo: "probe.example"},
			Connect: func(ctx context.Context, _ smtpclient.Target) (net.Conn, error) {
				return wire.Dial(ctx)
			},
		})
		if greeting := found.Steps[1]; !found.Open || greeting.Milliseconds != 12000 ||
			!strings.Contains(greeting.Says, "let us wait 12s") {
			t.Errorf("%+v", found)
		}
	})
}

// TestHost_Terminal: what a host says cannot control a terminal, and is no longer than a line.
func TestHost_Terminal(t *testing.T) {
	host := smtptest.Start(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{
		smtptest.Greeting: {Reply: "554 \x1b[2Jgone \u202e" + strings.Repeat("x", 900)},
	}})
	found := probe.Host(t.Context(), probe.Call{
		Target: smtpclient.Target{Network: "tcp", Addr: host.Addr(), Host: "h", Helo: "probe.example"},
	})
	for _, s := range found.Steps {
		if strings.ContainsAny(s.Reply+s.Says, "\x1b\u202e") || len(s.Reply) > 600 {
			t.Errorf("%q", s.Reply+s.Says)
		}
	}
}
