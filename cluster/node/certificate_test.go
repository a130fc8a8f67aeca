package node

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// handshake lets a client with a cache of sessions meet a node and reports whether it resumed one.
func handshake(t *testing.T, server *tls.Config, sessions tls.ClientSessionCache) bool {
	t.Helper()
	client, node := net.Pipe()
	defer client.Close()
	done := make(chan error, 1)
	go func() { // ends with the connection
		s := tls.Server(node, server)
		_, err := s.Write([]byte("x")) // behind the handshake and the ticket
		done <- err
	}()
	c := tls.Client(client,
		&tls.Config{ServerName: "mx.example", InsecureSkipVerify: true, ClientSessionCache: sessions})
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().DidResume
}

// TestCertificate_Tickets: a client resumes its TLS session on another node of the cluster and on the next day.
func TestCertificate_Tickets(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	shared := secret{bytes.Repeat([]byte{1}, 32)}
	node := func(s secret) *certificate {
		c := &certificate{hostname: "mx.example", now: func() time.Time { return now }}
		c.tickets.Store(&s)
		cfg, err := c.load(now)
		if err != nil {
			t.Fatal(err)
		}
		c.use(cfg)
		return c
	}
	a, b, stranger := node(shared), node(shared), node(secret{bytes.Repeat([]byte{2}, 32)})
	sessions := tls.NewLRUClientSessionCache(8)
	if handshake(t, a.trusted(), sessions) {
		t.Fatal("resumed a session that never was")
	}
	if !handshake(t, b.trusted(), sessions) {
		t.Error("not resumed on another node")
	}
	now = now.Add(24 * time.Hour)
	if !handshake(t, a.trusted(), sessions) {
		t.Error("not resumed on the next day")
	}
	if handshake(t, stranger.trusted(), sessions) {
		t.Error("resumed on a node of another cluster")
	}
}

// A flight is a connection that keeps what was written until the first read behind that, and lets a client's first
// write through alone.
type flight struct {
	net.Conn
	wrote []byte
	whole chan struct{} // closed at the second read
	reads int
}

func (f *flight) Write(p []byte) (int, error) {
	f.wrote = append(f.wrote, p...)
	return f.Conn.Write(p)
}

func (f *flight) Read(p []byte) (int, error) {
	if len(f.wrote) > 0 && f.reads == 0 {
		f.reads++
		close(f.whole)
	}
	return f.Conn.Read(p)
}

// A hello is a client's connection on which nothing but the first write goes out.
type hello struct {
	net.Conn
	said bool
}

func (h *hello) Write(p []byte) (int, error) {
	if h.said {
		return len(p), nil
	}
	h.said = true
	return h.Conn.Write(p)
}

// records returns the types of the TLS records in octets.
func records(octets []byte) (types []byte) {
	for len(octets) >= 5 {
		types = append(types, octets[0])
		n := 5 + int(octets[3])<<8 + int(octets[4])
		octets = octets[min(n, len(octets)):]
	}
	return types
}

// loadedCertificate is a self-made one, in use.
func loadedCertificate(t *testing.T) *certificate {
	t.Helper()
	c := &certificate{hostname: "mx.example"}
	h, err := c.load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.use(h)
	return c
}

// TestCertificate_FirstFlight: a stranger's ClientHello is answered by four encrypted records: EncryptedExtensions,
// Certificate, CertificateVerify and Finished. A session ticket would be a fifth one.
func TestCertificate_FirstFlight(t *testing.T) {
	c := loadedCertificate(t)
	for name, tt := range map[string]struct {
		server *tls.Config
		want   int
	}{"a stranger": {c.public(), 4}, "a trusted client": {c.trusted(), 5}} {
		client, node := net.Pipe()
		f := &flight{Conn: node, whole: make(chan struct{})}
		done := make(chan struct{}, 2)
		go func() { // ends with the connection
			_ = tls.Server(f, tt.server).Handshake()
			done <- struct{}{}
		}()
		go func() {
			conn := tls.Client(&hello{Conn: client}, &tls.Config{
				InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1), // it takes tickets
			})
			_, _ = conn.Read(make([]byte, 1))
			done <- struct{}{}
		}()
		<-f.whole
		client.Close()
		node.Close()
		<-done
		<-done
		if got := bytes.Count(records(f.wrote), []byte{23}); got != tt.want {
			t.Errorf("%s gets %d encrypted records, want %d", name, got, tt.want)
		}
	}
}

// TestCertificate_OldClients: a client that has TLS 1.2 finds a suite, whatever kind of key it takes.
func TestCertificate_OldClients(t *testing.T) {
	c := loadedCertificate(t)
	all := append(tls.CipherSuites(), tls.InsecureCipherSuites()...)
	for _, suite := range all {
		if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		for name, server := range map[string]*tls.Config{"a stranger": c.public(), "trusted": c.trusted()} {
			client, node := net.Pipe()
			done := make(chan error, 1)
			go func() {
				done <- tls.Server(node, server).Handshake()
				node.Close()
			}()
			conn := tls.Client(client, &tls.Config{
				ServerName: "another.example", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
				CipherSuites: []uint16{suite.ID},
			})
			err := conn.Handshake()
			client.Close()
			<-done
			if wants := !strings.Contains(suite.Name, "RC4"); (err == nil) != wants {
				t.Errorf("%s, %s: %v", name, suite.Name, err)
			}
			if err != nil {
				continue
			}
			_, isRSA := conn.ConnectionState().PeerCertificates[0].PublicKey.(*rsa.PublicKey)
			if isRSA != strings.Contains(suite.Name, "RSA_WITH") || conn.ConnectionState().CipherSuite != suite.ID {
				t.Errorf("%s, %s: RSA %t, suite %x", name, suite.Name, isRSA, conn.ConnectionState().CipherSuite)
			}
		}
	}
}

// TestCertificate_Strength: a client that has both gets the best of what it has, and the certificate that is meant.
func TestCertificate_Strength(t *testing.T) {
	c := loadedCertificate(t)
	for _, tt := range []struct {
		name   string
		suites []uint16
		max    uint16
		want   uint16 // 0: of TLS 1.3
	}{
		{"TLS 1.3", nil, 0, 0},
		{"an old suite first", []uint16{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		{"RSA key exchange first", []uint16{
			tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		}, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	} {
		client, node := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(node, c.public()).Handshake() }()
		conn := tls.Client(client, &tls.Config{
			InsecureSkipVerify: true, MaxVersion: tt.max, CipherSuites: tt.suites,
		})
		if err := conn.Handshake(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		client.Close()
		<-done
		s := conn.ConnectionState()
		if tt.want == 0 && s.Version != tls.VersionTLS13 || tt.want != 0 && s.CipherSuite != tt.want {
			t.Errorf("%s: version %x, suite %x", tt.name, s.Version, s.CipherSuite)
		}
	}
}

// A ticketCounter is a cache of sessions that counts the tickets that come.
type ticketCounter struct{ tickets int }

func (*ticketCounter) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (c *ticketCounter) Put(string, *tls.ClientSessionState) { c.tickets++ }

// TestNode_SessionTickets: strangers get no tickets, and trusted clients do.
func TestNode_SessionTickets(t *testing.T) {
	for listener, want := range map[string]int{
		`{addr: "127.0.0.1:0"}`: 0,
		`{addr: "127.0.0.1:0", relay: trusted, networks: ["127.0.0.0/8"]}`: 1,
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			c := startNode(t, "listen: ["+listener+"]\n", nil).dial(t)
			c.say("EHLO client.example", 250)
			c.say("STARTTLS", 220)
			cache := &ticketCounter{}
			conn := tls.Client(c.raw, &tls.Config{
				ServerName: "mx1.example.net", InsecureSkipVerify: true, ClientSessionCache: cache, MaxVersion: version,
			})
			if _, err := conn.Write([]byte("NOOP\r\n")); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			if cache.tickets != want {
				t.Errorf("%s, TLS %x: %d tickets, want %d", listener, version, cache.tickets, want)
			}
		}
	}
}
