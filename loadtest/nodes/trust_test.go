package nodes_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestTrust: REQUIRETLS and TLS-Required, through one node, and through either of two of which one owns the Site. The
// host of good.example shows what its TLSA records name, and that of bad.example something else.
func TestTrust(t *testing.T) {
	shown := smtptest.NewCA().Certificate("any.example")
	d := smtptest.Start(t, smtptest.Behaviour{
		TLS:        &tls.Config{Certificates: []tls.Certificate{shown}},
		Extensions: append(smtptest.DefaultExtensions(), "REQUIRETLS"),
	})
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(shown.Leaf.RawSubjectPublicKeyInfo)
	zone := ""
	for name, digest := range map[string]string{
		"good": hex.EncodeToString(sum[:]), "bad": strings.Repeat("ab", 32),
	} {
		zone += fmt.Sprintf("%[1]s.example. 60 IN MX 10 mx.%[1]s.example.\nmx.%[1]s.example. 60 IN A 127.0.0.1\n"+
			"_%[2]s._tcp.mx.%[1]s.example. 60 IN TLSA 3 1 1 %[3]s\n", name, port, digest)
	}
	zone += "plain.example. 60 IN MX 10 mx.plain.example.\nmx.plain.example. 60 IN A 127.0.0.1\n"
	w := world.World{
		Listen: "relay: trusted, networks: [127.0.0.0/8]", DNS: dnstest.Start(t, zone), TrustAD: true,
		Config: "egress: {port: " + port + ", allow_private: true}",
	}
	w.DNS.SetAD(true)
	var nodes []*world.Relay
	nodes = append(nodes, world.Start(t, w))
	nodes = append(nodes, startCluster(t, 2, w).nodes...)
	small := "Subject: x\r\n\r\nhi\r\n"
	large := small + string(bytes.Repeat([]byte("a line of the message\r\n"), 20000))
	for i, n := range nodes {
		for _, c := range []struct {
			name, domain string
			secure       bool
			params, head string
			body         string
			rcpt, end    int
		}{
			{"as ever", "good", true, "", "", small, 250, 250},
			{"REQUIRETLS", "good", true, "REQUIRETLS", "", small, 250, 250},
			{"REQUIRETLS, large", "good", true, "REQUIRETLS", "", large, 250, 250},
			{"REQUIRETLS, to another host", "bad", true, "REQUIRETLS", "", small, 550, 550},
			{"REQUIRETLS, a certificate that no authority signed", "plain", true, "REQUIRETLS", "", small, 550, 550},
			{"REQUIRETLS and its opposite", "bad", true, "REQUIRETLS", "TLS-Required: No\r\n", small, 550, 550},
			{"to another host", "bad", false, "", "", small, 250, 451},
			{"to another host, large", "bad", false, "", "", large, 250, 451},
			{"TLS-Required: No", "bad", false, "", "TLS-Required: No\r\n", small, 250, 250},
			{"TLS-Required: No, large", "bad", false, "", "TLS-Required: No\r\n", large, 250, 250},
			{"and to another host again", "bad", false, "", "", small, 250, 451},
		} {
			cfg := source.Config{Addr: n.Addr}
			if c.secure {
				cfg.TLS = world.AnyCertificate()
			}
			before := len(d.Messages())
			got, err := world.Dial(t, cfg).Send(source.Message{
				Reverse: "me@client.example", Forward: []string{"you@" + c.domain + ".example"}, Mail: c.params,
				Octets: []byte(c.head + c.body),
			})
			if err != nil || len(got.Rcpt) != 1 || got.Rcpt[0].Code != c.rcpt || got.End.Code != c.end {
				t.Errorf("node %d, %s: %+v, %v", i, c.name, got, err)
				continue
			}
			if c.end != 250 {
				continue
			}
			came := world.Messages(t, d, before+1)[before]
			if strings.Contains(came.Mail, "REQUIRETLS") != (c.params != "") || came.TLS == 0 {
				t.Errorf("node %d, %s: came as %s", i, c.name, came.Mail)
			}
		}
		s := world.Dial(t, source.Config{Addr: n.Addr})
		got, err := s.Send(source.Message{
			Reverse: "me@client.example", Forward: []string{"you@good.example"}, Mail: "REQUIRETLS",
			Octets: []byte(small),
		})
		if err != nil || got.Mail.Code != 555 {
			t.Errorf("node %d, REQUIRETLS in clear: %+v, %v", i, got, err)
		}
	}
}
