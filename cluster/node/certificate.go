package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/mail"
)

// selfSignedFor is how long a certificate made in memory is valid. The certificate lasts as long as the process, so
// only a process of ten years would meet its end.
const selfSignedFor = 10 * 365 * 24 * time.Hour

// A certificate is what the node presents to SMTP clients. A reload swaps it whole.
type certificate struct {
	cfg      *config.TLS // nil: self-signed
	hostname string      // the name in a self-signed certificate
	current  atomic.Pointer[tls.Config]

	tickets atomic.Pointer[secret] // of the cluster, to derive ticket keys from; nil: the process has its own
	day     atomic.Int64           // the day whose ticket keys current has, in days since 1970
	now     func() time.Time       // nil: time.Now
}

// load reads the files, or makes a self-signed certificate, and returns a configuration for use. It changes nothing.
// The error is a *mail.FieldError of tls.cert or tls.key.
func (c *certificate) load(now time.Time) (*tls.Config, error) {
	var pair tls.Certificate
	var err error
	if c.cfg == nil {
		pair, err = selfSigned(c.hostname, now)
	} else {
		pair, err = tls.LoadX509KeyPair(string(c.cfg.Cert), string(c.cfg.Key))
	}
	if err != nil {
		field, file := c.blame()
		return nil, &mail.FieldError{Field: field, Reason: fmt.Sprintf("%s: %s", file, err)}
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// blame returns the field and the file that keep the pair from being loaded: the key's if the certificate can be read.
func (c *certificate) blame() (field, file string) {
	if c.cfg == nil {
		return "tls", "self-signed certificate"
	}
	text, err := os.ReadFile(string(c.cfg.Cert))
	block, _ := pem.Decode(text)
	if err == nil && block != nil && block.Type == "CERTIFICATE" {
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			return "tls.key", string(c.cfg.Key)
		}
	}
	return "tls.cert", string(c.cfg.Cert)
}

// use makes new handshakes use t. Handshakes under way are not changed.
func (c *certificate) use(t *tls.Config) {
	c.setTickets(t, c.today())
	c.current.Store(t)
}

// config returns what a new handshake uses. It replaces the ticket keys when the day has changed.
func (c *certificate) config() *tls.Config {
	t := c.current.Load()
	if day := c.today(); c.tickets.Load() != nil && c.day.Swap(day) != day {
		c.setTickets(t, day)
	}
	return t
}

// today returns the current day in UTC, in days since 1970. Ticket keys change with it.
func (c *certificate) today() int64 {
	now := time.Now
	if c.now != nil {
		now = c.now
	}
	return now().Unix() / (24 * 60 * 60)
}

// setTickets sets the keys of session tickets in t (RFC 8446 section 4.6.1) to those that all nodes of the cluster have
// on that day, so that a client can resume its session on any of them. The keys of the day before and after are
// accepted as well, because clocks differ and tickets outlive midnight. It does nothing if tickets is nil.
func (c *certificate) setTickets(t *tls.Config, day int64) {
	of := c.tickets.Load()
	if of == nil {
		return
	}
	var keys [][32]byte
	for _, d := range []int64{day, day - 1, day + 1} {
		derived, err := of.derive(fmt.Sprint(labelTicket, " ", d))
		if err != nil {
			return // t keeps the keys of this process
		}
		for _, k := range derived {
			keys = append(keys, [32]byte(k))
		}
	}
	t.SetSessionTicketKeys(keys)
}

// selfSigned makes a certificate for a name. With opportunistic STARTTLS, clients do not verify the issuer (RFC 7435).
func selfSigned(hostname string, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: hostname},
		DNSNames:     []string{hostname},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(selfSignedFor),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
