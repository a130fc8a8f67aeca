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

	"github.com/millrace/millrace/router/mail"
)

// selfSignedFor is how long a certificate made in memory is valid. It dies with the process, so only a very long run
// would notice.
const selfSignedFor = 10 * 365 * 24 * time.Hour

// A certificate is what clients are shown, swapped whole on reload.
type certificate struct {
	cfg      *TLS   // nil: self-signed
	hostname string // whose
	current  atomic.Pointer[tls.Config]

	tickets atomic.Pointer[secret] // of the cluster, what ticket keys are made of; nil: each process has its own
	day     atomic.Int64           // for which current has keys
	now     func() time.Time       // nil: time.Now
}

// load reads the files, or makes a certificate, and gives what use takes. It changes nothing.
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

// blame gives which file is why they cannot be loaded: the key's if the certificate's can be read.
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

// use makes later handshakes take t. Those under way keep what they began with.
func (c *certificate) use(t *tls.Config) {
	c.setTickets(t, c.today())
	c.current.Store(t)
}

// config gives what a handshake takes now.
func (c *certificate) config() *tls.Config {
	t := c.current.Load()
	if day := c.today(); c.tickets.Load() != nil && c.day.Swap(day) != day {
		c.setTickets(t, day)
	}
	return t
}

// today is the day by which ticket keys change, in UTC.
func (c *certificate) today() int64 {
	now := time.Now
	if c.now != nil {
		now = c.now
	}
	return now().Unix() / (24 * 60 * 60)
}

// setTickets gives t the keys of session tickets (RFC 8446 section 4.6.1) that all nodes have on that day, so that a
// client resumes its session on whichever node it meets. Those of the days beside it are understood as well: clocks
// differ, and tickets are good for a while.
func (c *certificate) setTickets(t *tls.Config, day int64) {
	of := c.tickets.Load()
	if of == nil {
		return
	}
	var keys [][32]byte
	for _, d := range []int64{day, day - 1, day + 1} {
		derived, err := of.derive(fmt.Sprint(labelTicket, " ", d))
		if err != nil {
			return // the process's own keys do
		}
		for _, k := range derived {
			keys = append(keys, [32]byte(k))
		}
	}
	t.SetSessionTicketKeys(keys)
}

// selfSigned makes a certificate that says nothing but the name: with STARTTLS nobody checks more (RFC 7435).
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
