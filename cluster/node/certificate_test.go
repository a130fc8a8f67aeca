package node

import (
	"bytes"
	"crypto/tls"
	"net"
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
	if handshake(t, a.config(), sessions) {
		t.Fatal("resumed a session that never was")
	}
	if !handshake(t, b.config(), sessions) {
		t.Error("not resumed on another node")
	}
	now = now.Add(24 * time.Hour)
	if !handshake(t, a.config(), sessions) {
		t.Error("not resumed on the next day")
	}
	if handshake(t, stranger.config(), sessions) {
		t.Error("resumed on a node of another cluster")
	}
}
