package peer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An authority issues certificates for nodes.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert, key}
}

// issue returns certificate and key for a name.
func (a *authority) issue(tb testing.TB, name string, usages ...x509.ExtKeyUsage) (cert, key []byte) {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	if usages == nil {
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	bits, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bits})
}

// A destination is a Beginner with scripted answers. A nil function accepts.
type destination struct {
	begin  func(ctx context.Context, d mail.Delivery) error
	rcpt   func(ctx context.Context, forward mail.Path) error
	stream func(ctx context.Context) error
	data   func(ctx context.Context, form mail.Form) error
	write  func(o mail.Octets) error
	commit func(ctx context.Context, o mail.Octets) []mail.Outcome
	renew  func(ctx context.Context) error
	abort  func()
	lend   bool
	wanted bool
	utf8   bool

	mu        sync.Mutex
	begun     []mail.Delivery
	delivered []string // committed messages, as text
	aborted   int
	writes    int
	streams   int
	open      int // transactions that were neither committed nor aborted
}

func (d *destination) Begin(ctx context.Context, delivery mail.Delivery) (mail.Transaction, error) {
	if d.begin != nil {
		if err := d.begin(ctx, delivery); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun = append(d.begun, delivery)
	d.open++
	return &destinationTx{d: d, delivery: delivery}, nil
}

func (d *destination) count() (delivered, aborted, open int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.delivered), d.aborted, d.open
}

type destinationTx struct {
	d        *destination
	delivery mail.Delivery
	forwards []mail.Path
	form     mail.Form
	body     []byte
	dots     []uint32
}

func (t *destinationTx) Rcpt(ctx context.Context, forward mail.Path) error {
	if t.d.rcpt != nil {
		if err := t.d.rcpt(ctx, forward); err != nil {
			return err
		}
	}
	t.forwards = append(t.forwards, forward)
	return nil
}

func (t *destinationTx) Stream(ctx context.Context) error {
	t.d.mu.Lock()
	t.d.streams++
	t.d.mu.Unlock()
	if t.d.stream != nil {
		return t.d.stream(ctx)
	}
	return nil
}

func (t *destinationTx) Data(ctx context.Context, form mail.Form) error {
	t.form = form
	if t.d.data != nil {
		return t.d.data(ctx, form)
	}
	return nil
}

func (t *destinationTx) take(o mail.Octets) {
	for _, dot := range o.Dots {
		t.dots = append(t.dots, uint32(len(t.body))+dot)
	}
	for _, s := range o.Segments {
		t.body = append(t.body, s...)
	}
}

func (t *destinationTx) Write(o mail.Octets) error {
	t.d.mu.Lock()
	t.d.writes++
	t.d.mu.Unlock()
	if t.d.write != nil {
		if err := t.d.write(o); err != nil {
			return err
		}
	}
	t.take(o)
	return nil
}

func (t *destinationTx) Commit(ctx context.Context, o mail.Octets) (out []mail.Outcome) {
	t.take(o)
	if t.d.commit != nil {
		out = t.d.commit(ctx, o)
	}
	for len(out) < len(t.forwards) {
		out = append(out,
			mail.Outcome{
				Reply: mail.NewReply(250, 0, 0, "queued as 1"), Host: "mx.h.example", TLS: "TLS 1.3", Reused: true,
				Wait: 3 * time.Millisecond,
			})
	}
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	t.d.delivered = append(t.d.delivered, fmt.Sprintf("%v %d %v %x", t.forwards, t.form, t.dots, t.body))
	t.d.open--
	return out
}

func (t *destinationTx) Abort() {
	if t.d.abort != nil {
		t.d.abort()
	}
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	t.d.aborted++
	t.d.open--
}

func (t *destinationTx) Lend() bool { return t.d.lend }
func (t *destinationTx) Renew(ctx context.Context) error {
	if t.d.renew != nil {
		return t.d.renew(ctx)
	}
	return nil
}
func (t *destinationTx) Wanted() bool   { return t.d.wanted }
func (t *destinationTx) SMTPUTF8() bool { return t.d.utf8 }

// A world is node "a", which has a client, and node "b", which serves, with a proxy between them.
type world struct {
	tb     testing.TB
	ca     *authority
	server *Server
	client *Client
	proxy  *proxy
	addr   string        // of the server itself
	served chan struct{} // closed when Serve returned

	unreachable atomic.Int32 // calls of Unreachable with a failure
	events      atomic.Int32
}

// newWorld starts a world. prepare, which may be nil, changes the two configurations.
func newWorld(tb testing.TB, d Beginner, beat time.Duration, prepare func(*ServerConfig, *ClientConfig)) *world {
	tb.Helper()
	return newWorldOn(tb, loopback{}, d, beat, prepare)
}

// newBubble starts a world in a bubble of virtual time.
func newBubble(tb testing.TB, d Beginner, prepare func(*ServerConfig, *ClientConfig)) *world {
	tb.Helper()
	wires := make(pipes)
	return newWorldOn(tb, wires, d, beat, func(sc *ServerConfig, cc *ClientConfig) {
		cc.Dial = wires.dialContext
		if prepare != nil {
			prepare(sc, cc)
		}
	})
}

func newWorldOn(tb testing.TB, wires wiring, d Beginner, beat time.Duration,
	prepare func(*ServerConfig, *ClientConfig)) *world {
	tb.Helper()
	w := &world{tb: tb, ca: newAuthority(tb), served: make(chan struct{})}
	cert, key := w.ca.issue(tb, "b")
	server, _, _, err := Certificates("b", w.ca.pem, cert, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, key = w.ca.issue(tb, "a")
	_, client, _, err := Certificates("a", w.ca.pem, cert, key)
	if err != nil {
		tb.Fatal(err)
	}
	l := wires.listen(tb)
	w.addr = l.Addr().String()
	w.proxy = newProxy(wires.listen(tb), wires.dial, w.addr)
	sc := ServerConfig{TLS: server, Name: "b", Beginner: d, Emit: func(mail.Event) { w.events.Add(1) }}
	cc := ClientConfig{
		TLS: client, Name: "a", Addr: func(string) (string, bool) { return w.proxy.addr, true },
		Unreachable: func(_ string, until time.Time) {
			if !until.IsZero() {
				w.unreachable.Add(1)
			}
		},
	}
	sc.tune.beat, cc.tune.beat = beat, beat
	if prepare != nil {
		prepare(&sc, &cc)
	}
	if w.server, err = NewServer(sc); err != nil {
		tb.Fatal(err)
	}
	if w.client, err = NewClient(cc); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(w.served)
		if err := w.server.Serve(l); err != nil {
			tb.Error(err)
		}
	}()
	tb.Cleanup(w.close)
	return w
}

// close ends the world. Transactions under way are aborted.
func (w *world) close() {
	w.client.Abort()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = w.server.Shutdown(over)
	<-w.served
	w.proxy.close()
	w.client.Close()
}

// count returns the number of open connections to a node and how many of them are idle.
func (c *Client) count(node string) (open, idle int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.links {
		if l.node == node {
			open++
		}
	}
	if p := c.peers[node]; p != nil {
		idle = len(p.idle)
	}
	return open, idle
}

// begin begins a transaction at b with one recipient.
func (w *world) begin(d mail.Delivery) mail.Transaction {
	w.tb.Helper()
	tx, err := w.client.Begin(w.tb.Context(), "b", d)
	if err != nil {
		w.tb.Fatal(err)
	}
	if err := tx.Rcpt(w.tb.Context(), to("x")); err != nil {
		w.tb.Fatal(err)
	}
	return tx
}

// deliver sends one small message and returns its outcome.
func (w *world) deliver() mail.Outcome {
	w.tb.Helper()
	tx := w.begin(delivery())
	if err := tx.Data(w.tb.Context(), mail.Stuffed); err != nil {
		w.tb.Fatal(err)
	}
	return tx.Commit(w.tb.Context(), octets("Subject: x\r\n\r\nhello\r\n"))[0]
}

// until waits for a condition.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !ok() {
		select {
		case <-late:
			tb.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}

func delivery() mail.Delivery {
	return mail.Delivery{
		NextHop: mail.NextHop{Host: "h.example"}, Reverse: mail.Path{Local: "s", Domain: "c.example"},
		RecipientDomain: "h.example",
	}
}

func to(local string) mail.Path { return mail.Path{Local: local, Domain: "h.example"} }

func octets(segments ...string) (o mail.Octets) {
	from := 0
	for _, s := range segments {
		o.Segments = append(o.Segments, []byte(s))
	}
	all := strings.Join(segments, "")
	for {
		i := strings.Index(all[from:], "\r\n..")
		if i < 0 {
			return o
		}
		from += i + 2
		o.Dots = append(o.Dots, uint32(from))
	}
}

// peerError returns the *PeerError in an error.
func peerError(tb testing.TB, err error) *PeerError {
	tb.Helper()
	var e *PeerError
	if !errors.As(err, &e) {
		tb.Fatalf("%v is no *PeerError", err)
	}
	return e
}

// transcript records the answers of a transaction that have to be the same on every node.
type transcript struct{ bytes.Buffer }

func (t *transcript) err(what string, err error) {
	var r *mail.Refusal
	switch {
	case err == nil:
		fmt.Fprintf(t, "%s: ok\n", what)
	case errors.As(err, &r):
		fmt.Fprintf(t, "%s: %#v %q %q %v cause %v\n", what, r.Reply, r.Reason, r.Host, r.AboutUs, r.Cause)
	default:
		fmt.Fprintf(t, "%s: %#v %q %q %v cause %v\n", what, mail.ReplyFor(err), "", "", false, err)
	}
}

func (t *transcript) outcomes(all []mail.Outcome) {
	for _, o := range all {
		cause := ""
		if o.Cause != nil {
			cause = o.Cause.Error()
		}
		o.Cause, o.Via = nil, ""
		fmt.Fprintf(t, "outcome: %#v cause %s\n", o, cause)
	}
}

// descriptors counts the open files of this process.
func descriptors(tb testing.TB) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Skip(err)
	}
	return len(all)
}
