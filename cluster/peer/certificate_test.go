package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Two nodes speak a version that both know. Without one the connection is refused. Unknown fields are ignored.
func TestLink_Versions(t *testing.T) {
	w := newWorld(t, &destination{}, beat, nil)
	for _, c := range []struct {
		name            string
		lowest, highest int64
		ok              bool
	}{
		{"the same", 1, 2, true}, {"newer, and still speaks ours", 1, 7, true},
		{"newer only", versionMax + 1, versionMax + 2, false},
		{"the one before", 1, 1, true},
		{"older only", -1, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := w.client.cfg.TLS.Clone()
			cfg.ServerName = "b"
			conn, err := tls.Dial("tcp", w.proxy.addr, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			hi := frame(nil, hello, func(f fields) fields {
				return f.number(fVersionMin, c.lowest).number(fVersionMax, c.highest).text(fNode, "a").text(200,
					"from a later version")
			})
			b := frame(hi, open, func(f fields) fields {
				o := opening{d: delivery(), forward: to("x")}
				return o.append(f.text(201, "a field that is not known"))
			})
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			l := &link{conn: conn, raw: &slowConn{Conn: conn}}
			if k, n, err := l.next(); err != nil || k != hello || l.fill(make([]byte, n)) != nil {
				t.Fatal(k, err)
			}
			k, _, err := l.next()
			if ok := err == nil && k == done; ok != c.ok {
				t.Errorf("%d %v", k, err)
			}
		})
	}
	if w.events.Load() != 1 { // of two refusals of one address within a minute
		t.Errorf("%d events", w.events.Load())
	}
	newer := fields(nil).number(fVersionMin, versionMax+1).number(fVersionMax, versionMax+2)
	if _, err := parseGreeting(newer); err == nil ||
		!strings.Contains(err.Error(), fmt.Sprintf("%d to %d", versionMax+1, versionMax+2)) {
		t.Error(err)
	}
}

// A node of another cluster gets no further than the greeting, on either side.
func TestLink_Strangers(t *testing.T) {
	d := &destination{}
	other := newAuthority(t)
	for _, c := range []struct {
		name    string
		prepare func(w *world) // of the client
	}{
		{"our certificate is of another authority", func(w *world) {
			cert, key := other.issue(t, "a")
			pair, _ := tls.X509KeyPair(cert, key)
			w.client.cfg.TLS.Certificates = []tls.Certificate{pair}
		}},
		{"we have no certificate", func(w *world) { w.client.cfg.TLS.Certificates = nil }},
		{"our certificate is for a server alone", func(w *world) {
			cert, key := w.ca.issue(t, "a", 1)
			pair, _ := tls.X509KeyPair(cert, key)
			w.client.cfg.TLS.Certificates = []tls.Certificate{pair}
		}},
		{"we say another name than our certificate", func(w *world) { w.client.cfg.Name = "c" }},
		{"the peer's certificate is of another authority", func(w *world) {
			_, client, _, err := Certificates("a", other.pem, first(other.issue(t, "a")), nil)
			if err == nil {
				t.Error("a certificate without its key is taken", client)
			}
			cert, key := other.issue(t, "a")
			if _, client, _, err = Certificates("a", other.pem, cert, key); err != nil {
				t.Fatal(err)
			}
			if err := w.client.UseTLS(client); err != nil {
				t.Fatal(err)
			}
		}},
		{"TLS 1.2", func(w *world) {
			w.client.cfg.TLS.MinVersion, w.client.cfg.TLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, d, beat, nil)
			c.prepare(w)
			tx, err := w.client.Begin(t.Context(), "b", delivery())
			if err == nil { // with TLS 1.3 a client learns later that it is refused
				err = tx.Rcpt(t.Context(), to("x"))
			}
			if peerError(t, err).Sent() {
				t.Error(err)
			}
			if w.client.Reachable("b") {
				t.Error("the node is not left alone")
			}
		})
	}
	t.Run("the peer is another node", func(t *testing.T) {
		w := newWorld(t, d, beat, nil)
		_, err := w.client.Begin(t.Context(), "c", delivery())
		if peerError(t, err).Sent() || !strings.Contains(err.Error(), "not c") {
			t.Error(err)
		}
	})
	if delivered, _, _ := d.count(); delivered != 0 || len(d.begun) != 0 {
		t.Error("something was begun")
	}
}

func first(a, _ []byte) []byte { return a }

func TestCertificates(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.issue(t, "a")
	_, foreign := ca.issue(t, "a")
	serverOnly, serverKey := ca.issue(t, "a", 1)
	for _, c := range []struct {
		name          string
		node          string
		ca, cert, key []byte
		field         string
	}{
		{"all is well", "a", ca.pem, cert, key, ""},
		{"another node's", "b", ca.pem, cert, key, "cert"},
		{"another authority's", "a", other.pem, cert, key, "cert"},
		{"another key", "a", ca.pem, cert, foreign, "key"},
		{"no authority", "a", nil, cert, key, "ca"},
		{"for a server alone", "a", ca.pem, serverOnly, serverKey, "cert"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, _, err := Certificates(c.node, c.ca, c.cert, c.key)
			var f *mail.FieldError
			if got := errors.As(err, &f); got != (c.field != "") || got && f.Field != c.field {
				t.Error(err)
			}
		})
	}
}

// TestCertificates_Ended: a certificate that has ended does not prevent a reload, and no handshake accepts it.
func TestCertificates_Ended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		cert, key := ca.issue(t, "a")
		time.Sleep(2 * time.Hour)
		server, client, ends, err := Certificates("a", ca.pem, cert, key)
		if err != nil || time.Since(ends).Round(time.Minute) != time.Hour {
			t.Fatal(ends, err)
		}
		_, _, _, err = Certificates("a", newAuthority(t).pem, cert, key)
		var f *mail.FieldError
		if !errors.As(err, &f) || f.Field != "cert" {
			t.Error("another authority's:", err)
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", server)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		refused := make(chan error, 1)
		go func() { // ends with the handshake
			client := client.Clone()
			client.ServerName = "a"
			_, err := tls.Dial("tcp", l.Addr().String(), client)
			refused <- err
		}()
		theirs, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		if err := theirs.(*tls.Conn).Handshake(); err == nil {
			t.Error("the server took it")
		}
		var invalid x509.CertificateInvalidError
		if err := <-refused; !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
			t.Error("the client:", err)
		}
	})
}

func TestConfig_Validate(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, "a")
	server, client, _, err := Certificates("a", ca.pem, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(string) (string, bool) { return "", false }
	loose := server.Clone()
	loose.ClientAuth = tls.RequestClientCert
	for want, c := range map[string]interface{ Validate() error }{
		"tls: is required":      ClientConfig{},
		"name: is required":     ClientConfig{TLS: client},
		"addr: is required":     ClientConfig{TLS: client, Name: "a"},
		"beginner: is required": ServerConfig{TLS: server, Name: "a"},
		"tls: has to demand a certificate of the cluster, by TLS 1.3": ServerConfig{
			TLS: loose, Name: "a", Beginner: &destination{},
		},
		"tls: has to verify by the cluster's authority": ClientConfig{TLS: server, Name: "a", Addr: addr},
	} {
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
