package hook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/router/leaf/network"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A receiver is an HTTPS server on loopback, whose certificate is for example.com. Names find it by the zone.
type receiver struct {
	*httptest.Server
	port  string
	roots *x509.CertPool
	dns   *dnstest.Server
	conns atomic.Int32 // that it accepted
}

// start starts a receiver. The zone may use what dnstest takes; example.com is the receiver unless it says otherwise.
func start(t *testing.T, zone string, handle http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{Server: httptest.NewUnstartedServer(handle), roots: x509.NewCertPool()}
	r.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			r.conns.Add(1)
		}
	}
	r.StartTLS()
	t.Cleanup(r.Close)
	r.roots.AddCert(r.Certificate())
	_, r.port, _ = net.SplitHostPort(r.Listener.Addr().String())
	if zone == "" {
		zone = "example.com. 300 IN A 127.0.0.1\n"
	}
	r.dns = dnstest.Start(t, zone)
	return r
}

// client returns a Client of the receiver, which may connect to the networks.
func (r *receiver) client(t *testing.T, networks ...string) *Client {
	t.Helper()
	resolver, err := dns.New(dns.Config{Servers: []string{r.dns.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	c := Config{Resolver: resolver, Roots: r.roots, Own: []netip.Addr{netip.MustParseAddr("8.8.8.8")}}
	for _, n := range networks {
		c.Private = append(c.Private, netip.MustParsePrefix(n))
	}
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// url is the receiver under a name.
func (r *receiver) url(host, rest string) string {
	return "https://" + net.JoinHostPort(host, r.port) + rest
}

func TestClient_Do(t *testing.T) {
	r := start(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s [%s] %s", r.Method, r.URL, r.Header.Get("x"), r.Header.Get("Cookie"), body)
	})
	c := r.client(t, "127.0.0.0/8")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	for range 3 {
		got, err := c.Do(t.Context(), Request{
			Method: http.MethodPost, URL: r.url("example.com", "/a?b=c"), Header: http.Header{"X": {"y"}},
			Body: []byte("text"), Limit: 100,
		})
		if err != nil || got.Status != http.StatusAccepted || got.Header.Get("Retry-After") != "7" ||
			string(got.Body) != "POST /a?b=c y [] text" {
			t.Fatalf("got %d %v %q, %v", got.Status, got.Header, got.Body, err)
		}
	}
	got, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: r.url("127.0.0.1", "/"), Limit: 100})
	if err != nil || string(got.Body) != "GET /  [] " {
		t.Errorf("an address: got %q, %v", got.Body, err)
	}
	if n := r.conns.Load(); n != 2 {
		t.Errorf("%d connections for two hosts, want one each, which is kept", n)
	}
}

// TestClient_Connections: a host has hostConns connections at most, however many requests there are.
func TestClient_Connections(t *testing.T) {
	var mu sync.Mutex
	under, most := 0, 0
	full := make(chan struct{})
	r := start(t, "", func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		if under++; under > most {
			if most = under; most == hostConns {
				close(full)
			}
		}
		mu.Unlock()
		<-full
		mu.Lock()
		under--
		mu.Unlock()
	})
	c := r.client(t, "127.0.0.0/8")
	var all sync.WaitGroup
	for range 5 * hostConns {
		all.Go(func() {
			if _, err := c.Do(t.Context(), Request{Method: "POST", URL: r.url("example.com", "/")}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if most != hostConns {
		t.Errorf("%d requests at once, want %d", most, hostConns)
	}
}

// TestClient_Refuses: what a name leads to is judged by its addresses, and nothing is connected to that may not be.
func TestClient_Refuses(t *testing.T) {
	zone, want := "", map[string]string{}
	for addr, kind := range map[string]string{
		"127.0.0.1": "on loopback", "10.1.2.3": "private (RFC 1918)", "192.168.0.1": "private (RFC 1918)",
		"172.31.0.1": "private (RFC 1918)", "169.254.169.254": "link-local",
		"100.100.100.200": "shared address space (RFC 6598)",
		"0.0.0.0":         "unspecified (RFC 1122 section 3.2.1.3)", "224.0.0.1": "multicast or broadcast",
		"192.0.2.1": network.Documentation, "8.8.8.8": "an address of this machine",
		"::1": "on loopback", "fe80::1": "link-local", "fd00:ec2::254": "unique local (RFC 4193)",
		"::ffff:127.0.0.1": "on loopback", "64:ff9b::10.0.0.1": "private (RFC 1918)", "2002:7f00:1::": "on loopback",
		"64:ff9b:1::1":     "of a translator (RFC 8215)",
		"64:ff9b::8.8.8.8": "an address of this machine", "2002:808:808::1": "an address of this machine",
		"168.63.129.16": "of the platform under a virtual machine (Azure)",
	} {
		name, qtype := fmt.Sprintf("n%d.example", len(want)), "AAAA"
		if a := netip.MustParseAddr(addr); a.Is4() {
			qtype = "A"
		}
		zone += fmt.Sprintf("%s. 300 IN %s %s\n", name, qtype, addr)
		want[name] = kind
		want[netip.MustParseAddr(addr).String()] = kind
	}
	r := start(t, zone, func(http.ResponseWriter, *http.Request) { t.Error("a request came") })
	c := r.client(t, "10.9.0.0/16")
	for host, kind := range want {
		var refused *AddressError
		_, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: r.url(host, "/secret"), Limit: 1})
		if !errors.As(err, &refused) || refused.Kind != kind || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %s", host, err, kind)
		}
	}
	if n := r.conns.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
	for _, host := range []string{"2130706433", "0x7f.1", "127.1", "017700000001", "localhost", "nowhere.example"} {
		if _, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: r.url(host, "/")}); !dns.NotFound(err) {
			t.Errorf("%s is no name of the DNS: got %v", host, err)
		}
	}
}

// TestClient_Mixed: of a name with several addresses those that may be connected to are.
func TestClient_Mixed(t *testing.T) {
	r := start(t, "example.com. 300 IN A 10.0.0.1\nexample.com. 300 IN A 127.0.0.1\nexample.com. 300 IN AAAA ::1\n",
		func(http.ResponseWriter, *http.Request) {})
	c := r.client(t, "127.0.0.1/32")
	if addrs, err := c.addrs(t.Context(), "example.com"); fmt.Sprint(addrs) != "[127.0.0.1]" || err != nil {
		t.Errorf("got %v, %v", addrs, err)
	}
	if _, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: r.url("example.com", "/")}); err != nil {
		t.Error(err)
	}
}

// TestClient_Addrs: at most maxAddrs addresses are tried, of both families in turn.
func TestClient_Addrs(t *testing.T) {
	zone := "example.com. 300 IN AAAA 2a00::1\n"
	for i := range 8 {
		zone += fmt.Sprintf("example.com. 300 IN A 9.9.9.%d\n", i+1)
	}
	addrs, err := start(t, zone, nil).client(t).addrs(t.Context(), "example.com")
	if fmt.Sprint(addrs) != "[2a00::1 9.9.9.1 9.9.9.2 9.9.9.3]" || err != nil {
		t.Errorf("got %v, %v", addrs, err)
	}
}

// TestClient_Rebinding: a name is judged anew with each connection.
func TestClient_Rebinding(t *testing.T) {
	r := start(t, "example.com. 0 IN A 127.0.0.1\n", func(http.ResponseWriter, *http.Request) {})
	c := r.client(t, "127.0.0.1/32")
	ask := Request{Method: http.MethodGet, URL: r.url("example.com", "/")}
	if _, err := c.Do(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	if err := r.dns.SetZone("example.com. 0 IN A 127.0.0.2\n"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	var refused *AddressError
	if _, err := c.Do(t.Context(), ask); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

// TestClient_Redirect: a redirect is an answer.
func TestClient_Redirect(t *testing.T) {
	r := start(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			t.Error("the redirect was followed")
		}
		http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
	})
	got, err := r.client(t, "127.0.0.0/8").Do(t.Context(),
		Request{Method: http.MethodGet, URL: r.url("example.com", "/"), Limit: 1000})
	if err != nil || got.Status != http.StatusTemporaryRedirect {
		t.Errorf("got %d, %v", got.Status, err)
	}
}

// TestClient_Bounds: an answer has a size, and no text of it stands in an error.
func TestClient_Bounds(t *testing.T) {
	r := start(t, "", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/exact":
			io.WriteString(w, "12345")
		case "/more":
			io.WriteString(w, "123456")
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		case "/header":
			w.Header().Set("X", strings.Repeat("secret", maxHeader))
		case "/packed":
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "\x1f\x8b")
		default:
			conn, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(conn, "220 secret ESMTP\r\n")
			conn.Close()
		}
	})
	c := r.client(t, "127.0.0.0/8")
	for path, want := range map[string]string{
		"/exact": "12345", "/more": ErrTooLarge.Error(), "/endless": ErrTooLarge.Error(), "/packed": "\x1f\x8b",
		"/header": "no answer of HTTP came", "/other": "no answer of HTTP came",
	} {
		got, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: r.url("example.com", path), Limit: 5})
		if text := string(got.Body); text != want && (err == nil || err.Error() != want) {
			t.Errorf("%s: got %q, %v; want %q", path, text, err, want)
		}
	}
}

// TestClient_Silence: a request ends with its context.
func TestClient_Silence(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := start(t, "", func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	})
	_, err := r.client(t, "127.0.0.0/8").Do(ctx, Request{Method: "POST", URL: r.url("example.com", "/")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestClient_Certificates: a certificate is verified, for the name that was asked.
func TestClient_Certificates(t *testing.T) {
	r := start(t, "example.com. 300 IN A 127.0.0.1\nother.test. 300 IN A 127.0.0.1\n",
		func(http.ResponseWriter, *http.Request) { t.Error("a request came") })
	r.Config.ErrorLog = nil
	known := r.client(t, "127.0.0.0/8")
	r.roots = x509.NewCertPool()
	unknown := r.client(t, "127.0.0.0/8")
	for name, c := range map[string]*Client{"other.test": known, "example.com": unknown} {
		var wrong *tls.CertificateVerificationError
		_, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: r.url(name, "/")})
		if !errors.As(err, &wrong) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCheckURL(t *testing.T) {
	private := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for text, want := range map[string]string{
		"https://hooks.example.net":              "",
		"https://hooks.example.net:8443/a/b?c=d": "",
		"https://192.0.2.1/":                     "",
		"https://[2001:db8::1]:9/":               "",
		"http://10.1.2.3:8080/x":                 "",
		"http://[fd00::1]/":                      "",
		"HTTPS://hooks.example.net/":             "",
		"":                                       "https://",
		"hooks.example.net/a":                    "https://",
		"ftp://hooks.example.net/":               "https://",
		"file:///etc/passwd":                     "https://",
		"https:hooks.example.net":                "names no host",
		"https://":                               "names no host",
		"https://:443/":                          "names no host",
		"https://u:secret@hooks.example.net/":    "user name",
		"https://hooks.example.net/#x":           "fragment",
		"https://hooks.example.net:0/":           "port",
		"https://hooks.example.net:65536/":       "port",
		"https://hooks_.example..net/":           "neither",
		"https://[fe80::1%25eth0]/":              "zone",
		"https://bücher.example/":                "ASCII",
		"https://hooks.example.net/\x7f":         "ASCII",
		"http://hooks.example.net/":              "http://",
		"http://192.0.2.1/":                      "http://",
		"http://127.0.0.1/":                      "http://",
		"http://[::ffff:10.1.2.3]/":              "",
		"http://[::ffff:127.0.0.1]/":             "http://",
	} {
		err := CheckURL(text, private)
		switch {
		case (err == nil) != (want == ""), err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%s: got %v, want %s", text, err, want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: %v repeats it", text, err)
		}
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a client without a resolver")
	}
}

// FuzzCheckURL checks that a URL that is taken names a host that dial is called with, and nothing in front of it.
func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{
		"https://hooks.example.net/a", "http://10.0.0.1", "https://[::1]:1/", "https://a@b/", "https://a\\@b/",
		"https://a#@b/", "https:///a", "https://a:b/",
	} {
		f.Add(s)
	}
	private := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, text string) {
		if CheckURL(text, private) != nil {
			return
		}
		r, err := http.NewRequest(http.MethodGet, text, nil)
		if err != nil {
			return // Do says so
		}
		if r.URL.User != nil || r.URL.Hostname() == "" || strings.ContainsAny(r.URL.Host, "@/\\?# ") {
			t.Fatalf("%q is taken with the host %q", text, r.URL.Host)
		}
		if r.URL.Scheme == "http" {
			if a, err := netip.ParseAddr(r.URL.Hostname()); err != nil || !listed(a, private) {
				t.Fatalf("%q is taken", text)
			}
		}
	})
}
