package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/smtptest"
)

// TestClusterFiles_Ending: the end of the certificates is told from 30 days before it.
func TestClusterFiles_Ending(t *testing.T) {
	end := time.Date(2027, 3, 31, 12, 0, 0, 0, time.UTC)
	f := &clusterFiles{ends: end}
	if got := f.ending(end.Add(-31 * 24 * time.Hour)); got != "" {
		t.Error(got)
	}
	if got := f.ending(end.Add(-30 * 24 * time.Hour)); !strings.Contains(got, "2027-03-31") {
		t.Error(got)
	}
	if got := f.ending(end.Add(time.Second)); !strings.HasPrefix(got, "ended on 2027-03-31") {
		t.Error(got)
	}
	if got := (*clusterFiles)(nil).ending(end); got != "" {
		t.Error("without a cluster:", got)
	}
}

// TestCheck_OwnAuthority: a node whose own certificate stands for the authority is warned of, for it believes no other.
func TestCheck_OwnAuthority(t *testing.T) {
	file := configFile(t)
	dir, ca := filepath.Dir(file), smtptest.NewCA()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"a"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	own := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	const section = "cluster: {name: a, bind: \"10.0.0.1:7946\", peer: \"10.0.0.1:7947\", key_file: gossip, " +
		"tls: {ca: ca.pem, cert: cert.pem, key: key.pem}}\n"
	for _, tt := range []struct {
		name string
		pair tls.Certificate
		own  bool
	}{{"signed by an authority", ca.Certificate("a"), false}, {"signed by itself", own, true}} {
		writePair(t, dir, tt.pair)
		authority := ca.PEM()
		if tt.own {
			if authority, err = os.ReadFile(filepath.Join(dir, "cert.pem")); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string][]byte{
			"ca.pem": authority, "gossip": []byte(strings.Repeat("ab", 16) + "\n"),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := config.Parse(file, []byte(smallest+"postmaster: o@p.example\n"+section), "")
		if err != nil {
			t.Fatal(err)
		}
		warnings, err := Check(c, nil)
		said := config.Problems(warnings).Error()
		if err != nil || strings.Contains(said, "cluster.tls.ca: ") != tt.own {
			t.Errorf("%s: %v, %s", tt.name, err, said)
		}
	}
}
