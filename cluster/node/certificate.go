package node

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"sync"
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
	current  atomic.Pointer[handshakes]
	spare    spare

	tickets atomic.Pointer[secret] // of the cluster, to derive ticket keys from; nil: the process has its own
	day     atomic.Int64           // the day whose ticket keys current has, in days since 1970
	now     func() time.Time       // nil: time.Now
}

// handshakes are how clients are met with one certificate. There are no session tickets for strangers: the library
// sends those of TLS 1.3 before the client has ended its part of the handshake, and some senders break off there and do
// not come back in clear.
type handshakes struct {
	trusted, public, users *tls.Config
	asking                 *tls.Config // as public, and asks for a certificate of the client
	pages                  *tls.Config // of the public pages
	ends                   time.Time   // of the certificate
}

// load reads the files, or makes a self-signed certificate, and returns configurations for use. It changes nothing. The
// error is a *mail.FieldError of tls.cert or tls.key.
func (c *certificate) load(now time.Time) (*handshakes, error) {
	var pair tls.Certificate
	var err error
	if c.cfg == nil {
		pair, err = selfSigned(c.hostname, now, nil)
	} else {
		pair, err = tls.LoadX509KeyPair(string(c.cfg.Cert), string(c.cfg.Key))
	}
	switch {
	case err != nil && c.cfg == nil:
		return nil, &mail.FieldError{Field: "tls", Reason: err.Error()}
	case err != nil:
		return nil, pairMistake("tls.cert", string(c.cfg.Cert), "tls.key", string(c.cfg.Key), err)
	}
	h := &handshakes{ends: pair.Leaf.NotAfter, trusted: &tls.Config{
		GetCertificate: c.choose(&pair), MinVersion: tls.VersionTLS12, CipherSuites: suites(),
	}}
	h.users = h.trusted.Clone()
	h.users.CipherSuites = nil // those of the library alone: in clear there is no login that this could lead to
	h.pages = h.users.Clone()
	h.pages.NextProtos = []string{"http/1.1"}
	h.public = h.trusted.Clone()
	h.public.SessionTicketsDisabled = true
	// A client may show any certificate, or none: what one is worth is seen afterwards, so that mail of strangers comes
	// in. A resumed session would have that of another listener, or of an authority that is none any more.
	h.asking = h.public.Clone()
	h.asking.ClientAuth = tls.RequestClientCert
	return h, nil
}

// suites returns the cipher suites of TLS 1.2 that clients may use, which the library orders by their strength. With
// opportunistic STARTTLS the choice is between an old suite and clear text (RFC 7435 section 3), and no client that
// has a better one is led to an old one. Those with RC4 are left out (RFC 7465).
func suites() []uint16 {
	var all []uint16
	for _, s := range tls.CipherSuites() {
		all = append(all, s.ID)
	}
	for _, s := range tls.InsecureCipherSuites() {
		if !strings.Contains(s.Name, "RC4") {
			all = append(all, s.ID)
		}
	}
	return all
}

// A spare is a self-signed RSA certificate, for clients that know no other kind. It is made when the first of them
// comes, because its key takes a while.
type spare struct {
	once sync.Once
	pair tls.Certificate
	err  error
}

// choose returns what chooses the certificate for a client: own, or where the client has no use for its key the spare
// one. A client that takes the spare one could not have verified own.
func (c *certificate) choose(own *tls.Certificate) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	_, isRSA := own.PrivateKey.(*rsa.PrivateKey)
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if isRSA || supports(hello, own) {
			return own, nil
		}
		s := &c.spare
		s.once.Do(func() {
			var key *rsa.PrivateKey
			if key, s.err = rsa.GenerateKey(rand.Reader, 2048); s.err == nil {
				s.pair, s.err = selfSigned(c.hostname, time.Now(), key)
			}
		})
		if s.err != nil || !supports(hello, &s.pair) {
			return own, nil // and the handshake fails
		}
		return &s.pair, nil
	}
}

// supports reports whether a client can use the key of a certificate. Names do not matter: one of another name is still
// the one that we have.
func supports(hello *tls.ClientHelloInfo, pair *tls.Certificate) bool {
	nameless := *hello
	nameless.ServerName = ""
	return nameless.SupportsCertificate(pair) == nil
}

// use makes new handshakes use h. Handshakes under way are not changed.
func (c *certificate) use(h *handshakes) {
	c.setTickets(h.trusted, c.today())
	c.current.Store(h)
}

// public returns what a new handshake with a stranger uses.
func (c *certificate) public() *tls.Config { return c.current.Load().public }

// users returns what a new handshake with a client of a user uses.
func (c *certificate) users() *tls.Config { return c.current.Load().users }

// pages returns what a new handshake at the public pages uses.
func (c *certificate) pages() *tls.Config { return c.current.Load().pages }

// asking returns what a new handshake uses in which a client may show who it is.
func (c *certificate) asking() *tls.Config { return c.current.Load().asking }

// trusted returns what a new handshake with a trusted client uses. It replaces the ticket keys when the day has
// changed.
func (c *certificate) trusted() *tls.Config {
	t := c.current.Load().trusted
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

// selfSigned makes a certificate for a name, with an ECDSA key of its own if key is nil. With opportunistic STARTTLS,
// clients do not verify the issuer (RFC 7435).
func selfSigned(hostname string, now time.Time, key crypto.Signer) (tls.Certificate, error) {
	usage := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	if key == nil {
		usage = x509.KeyUsageDigitalSignature
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return tls.Certificate{}, err
		}
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
		KeyUsage:     usage,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
