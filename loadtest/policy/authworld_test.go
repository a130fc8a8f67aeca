package policy_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
)

// Where the clients of these tests come from. The first may send for all domains that publish SPF, the second for none;
// the third is in a trusted network.
const (
	authClient    = "127.0.0.1"
	authStranger  = "127.0.0.66"
	authTrusted   = "127.0.0.9"
	authservID    = "mx.relay.example"
	authSelector  = "s"
	authReplyID   = `id=([0-9a-f]{32})$`
	authMessageID = "<1@m.example>"
)

// authKeys are made once: making them takes longer than most tests.
var authKeys = sync.OnceValue(func() (made struct{ rsa, ed crypto.Signer }) {
	made.rsa, _ = dkim.GenerateKey(dkim.RSASHA256, 2048) // an error shows in the first signature
	made.ed, _ = dkim.GenerateKey(dkim.Ed25519SHA256, 0)
	return made
})

// authRecords are TXT records by name, as a DNS server has them and as a verifier without one finds them.
type authRecords map[string]string

// LookupTXT returns the record of a name.
func (r authRecords) LookupTXT(_ context.Context, name string) ([]string, error) {
	if text, ok := r[strings.ToLower(strings.TrimSuffix(name, "."))]; ok {
		return []string{text}, nil
	}
	return nil, nil
}

// newAuthRecords has the domains of these tests. Each domain of senders publishes SPF and a key, and the policy that
// its name says; bare.example has a policy for nothing, and nothing.example has nothing at all.
func newAuthRecords(t testing.TB) authRecords {
	t.Helper()
	rsa, err := dkim.KeyRecord(authKeys().rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	ed, err := dkim.KeyRecord(authKeys().ed.Public())
	if err != nil {
		t.Fatal(err)
	}
	r := authRecords{}
	for domain, policy := range map[string]string{
		"reject.example":     "p=reject",
		"quarantine.example": "p=quarantine",
		"none.example":       "p=none",
		"tested.example":     "p=reject; t=y",
		"testedq.example":    "p=quarantine; t=y",
		"pct.example":        "p=reject; pct=0",
		"pctq.example":       "p=quarantine; pct=0",
		"strict.example":     "p=reject; adkim=s; aspf=s",
		"parent.example":     "p=none; sp=reject; np=reject",
		"sub.parent.example": "",
		"esp.example":        "",
		"sealer.example":     "",
		"list.example":       "", // that of a list, which the node's configuration names
		"other.example":      "", // a sealer that no domain trusts
		"relay.example":      "",
		"x.example":          "",
	} {
		r[domain] = "v=spf1 ip4:" + authClient + " -all"
		r[dkim.KeyName(authSelector, domain)] = rsa
		r[dkim.KeyName("ed", domain)] = ed
		if policy != "" {
			r["_dmarc."+domain] = "v=DMARC1; " + policy
		}
	}
	return r
}

// zone returns the records as text of a zone, with the MX host of every destination.
func (r authRecords) zone() string {
	return dnstest.TXT(r) + "y.example. 60 IN MX 10 mx.y.example.\nelsewhere.example. 60 IN MX 10 " +
		"mx.y.example.\nmx.y.example. 60 IN A 127.0.0.1\n"
}

// authRoutes has a hosted domain for each policy. All mail goes to the MX host of y.example, of
// which no use of ARC is known.
const authRoutes = `info@x.example              c@y.example   seal=always
info@report.example         c@y.example   dmarc=report   seal=always
info@off.example            c@y.example   dmarc=off   seal=always
info@refuse.example         c@y.example   quarantine=refuse   seal=always
info@yes.example            c@y.example   require_auth=yes   seal=always
info@no.example             c@y.example   require_auth=no   seal=always
never@x.example             c@y.example   seal=never
@fixed.example              smtp://DESTINATION
`

// An authNode is a node that authenticates, the destination behind it and the names around it.
type authNode struct {
	*world.Relay
	dest    *smtptest.Server
	dns     *dnstest.Server
	records authRecords

	mu     sync.Mutex
	events []mail.Event
}

// An authSetup says what is particular about an authNode. dest and dns may be shared by several.
type authSetup struct {
	config string // more lines of the configuration
	seal   bool   // with keys for ARC, the relay and x.example
	log    string // the level; "error" when empty
	dest   *smtptest.Server
	dns    *dnstest.Server
}

// keyFiles are the lines of a configuration that signs; its keys are in dir.
func keyFiles(t testing.TB, dir string) string {
	t.Helper()
	for name, key := range map[string]crypto.Signer{"rsa.pem": authKeys().rsa, "ed.pem": authKeys().ed} {
		text, err := dkim.MarshalKey(key)
		if err != nil {
			t.Fatal(err)
		}
		world.Save(t, filepath.Join(dir, name), string(text))
	}
	return "arc: {domain: relay.example, selector: s, key_file: rsa.pem, trust: [sealer.example]}\n" +
		"dkim: {relay: [{domain: relay.example, selector: s, key_file: rsa.pem}, {domain: relay.example, selector: " +
		"ed, key_file: ed.pem}], " +
		"domains: [{domain: x.example, selector: s, key_file: rsa.pem}]}\n"
}

// authWorld is the world of an authNode whose files are in dir.
func authWorld(t testing.TB, dir string, s authSetup) world.World {
	t.Helper()
	_, port, err := net.SplitHostPort(s.dest.Addr())
	if err != nil {
		t.Fatal(err)
	}
	w := world.World{
		Routes: strings.ReplaceAll(authRoutes, "DESTINATION", s.dest.Addr()),
		Judged: true,
		Listen: "relay: trusted, networks: [" + authTrusted + "/32]",
		Config: "authserv_id: " + authservID + "\negress: {port: " + port +
			", allow_private: true, tls: none}\nsecret_file: srs.key\ndmarc: {lists: [list.example]}\n" + s.config +
			"\n",
		DNS: s.dns,
		Log: s.log,
	}
	if s.seal {
		w.Config += keyFiles(t, dir)
	} else {
		w.Config += "arc: {trust: [sealer.example]}\n"
	}
	return w
}

// startAuthNode runs an authNode until the test ends.
func startAuthNode(t testing.TB, s authSetup) *authNode {
	t.Helper()
	n := &authNode{records: newAuthRecords(t)}
	if s.dest == nil {
		s.dest = smtptest.Start(t, smtptest.Behaviour{})
	}
	if s.dns == nil {
		s.dns = dnstest.Start(t, n.records.zone())
	}
	n.dest, n.dns = s.dest, s.dns
	dir := t.TempDir()
	cfg, err := config.Load(authWorld(t, dir, s).Write(t, dir, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	n.Relay = &world.Relay{Log: new(logtest.Log)}
	n.Node, err = node.New(cfg, node.Options{Stderr: n.Log, Observe: func(e *mail.Event) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.events = append(n.events, *e)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Stop(t)
		if log := n.Log.String(); t.Failed() && log != "" {
			t.Logf("log of the node:\n%.4000s", log)
		}
	})
	n.Addr = n.Node.Addrs()[0].String()
	return n
}

// event waits for the event that tells how the message ended that a reply is about, and returns it with the reasons of
// the anomalies on its way.
func (n *authNode) event(t testing.TB, reply source.Reply) (end mail.Event, anomalies []string) {
	t.Helper()
	id := regexp.MustCompile(authReplyID).FindStringSubmatch(reply.Text)
	if id == nil {
		t.Fatalf("no trace id in %s", reply)
	}
	world.Await(t, "the event of "+id[1], func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		anomalies = nil
		for i := range n.events {
			e := &n.events[i]
			switch {
			case e.Trace.String() != id[1]:
			case e.Kind == mail.Anomaly && e.Cause != nil:
				anomalies = append(anomalies, e.Reason+": "+e.Cause.Error())
			case e.Kind == mail.Anomaly:
				anomalies = append(anomalies, e.Reason)
			case e.Verb == "DATA":
				end = *e
				return true
			}
		}
		return false
	})
	return end, anomalies
}

// An authMail is one message on its way to an authNode.
type authMail struct {
	client  string // authClient when empty
	helo    string
	reverse string
	to      string // info@x.example when empty
	octets  string
	how     carriage
}

// A carriage is how octets are carried to the node.
type carriage struct {
	name     string
	bdat     int // octets of a chunk, 0 for DATA
	starttls bool
}

var carriages = []carriage{
	{name: "DATA"}, {name: "BDAT", bdat: 70_001}, {name: "BDAT in small chunks", bdat: 1009},
	{name: "DATA through STARTTLS", starttls: true},
}

// send sends an authMail and returns the reply to it, or to what was refused of it before.
func (n *authNode) send(t testing.TB, p authMail) source.Reply {
	t.Helper()
	return sendAuthMail(t, n.Addr, p)
}

func sendAuthMail(t testing.TB, addr string, p authMail) source.Reply {
	t.Helper()
	if p.client == "" {
		p.client = authClient
	}
	if p.to == "" {
		p.to = "info@x.example"
	}
	cfg := source.Config{
		Addr: addr, Local: netip.MustParseAddr(p.client), Helo: p.helo, Chunking: p.how.bdat > 0, Chunk: p.how.bdat,
		Pipeline: true,
	}
	if p.how.starttls {
		cfg.TLS = &tls.Config{InsecureSkipVerify: true}
	}
	ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
	defer cancel()
	s, err := source.Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abort(false)
	r, err := s.Send(source.Message{Reverse: p.reverse, Forward: []string{p.to}, Octets: []byte(p.octets)})
	if err != nil {
		t.Fatal(err)
	}
	return r.End
}

// authHeader is a header section by an author of a domain, with other fields above it and no empty line.
func authHeader(domain string, fields ...string) string {
	return strings.Join(fields, "") + "From: An Author <a@" + domain + ">\r\nTo: info@x.example\r\nSubject: s\r\n" +
		"Date: Mon, 2 Jan 2006 15:04:05 +0000\r\nMessage-ID: " + authMessageID + "\r\n"
}

// authBody is a body of about n octets, in which lines open with dots.
func authBody(n int) string {
	const line = "The quick brown fox  jumps over the lazy dog, again and again.\r\n.dot\r\n"
	return strings.Repeat(line, n/len(line)+1)
}

// signedBy puts a signature of a domain above a header section. The domain may be one that has no such key.
func signedBy(t testing.TB, domain, header, body string, c dkim.Canonicalization) string {
	t.Helper()
	s, err := dkim.NewSigner(dkim.SignConfig{Keys: []dkim.SigningKey{{
		Domain: domain, Selector: authSelector, Key: authKeys().rsa,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	field, err := s.Sign(nil, []byte(header), c, bodyHash(c, body))
	if err != nil {
		t.Fatal(err)
	}
	return string(field) + header
}

func bodyHash(c dkim.Canonicalization, body string) [32]byte {
	h := dkim.NewBodyHash(c)
	_, _ = h.Write([]byte(body)) // has no error to give
	return h.Sum()
}

// chainedBy puts an ARC set of a domain above a header section.
func chainedBy(t testing.TB, r authRecords, domain, header, body, results string) string {
	t.Helper()
	s, err := arc.NewSealer(arc.SealConfig{Key: dkim.SigningKey{
		Domain: domain, Selector: authSelector, Key: authKeys().rsa,
	}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := s.Seal(nil, []byte(header), results, dkim.Relaxed, bodyHash(dkim.Relaxed, body),
		chainOf(t, r, header, body))
	if err != nil {
		t.Fatal(err)
	}
	return string(set) + header
}

// chainOf validates the ARC chain of a message.
func chainOf(t testing.TB, keys authRecords, header, body string) arc.Result {
	t.Helper()
	v, err := arc.New(arc.Config{Resolver: ingresstest.TXT(keys.LookupTXT)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Begin(t.Context(), []byte(header))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Finish(func(form dkim.Canonicalization) ([32]byte, bool) { return bodyHash(form, body), true })
}

// ourFields cuts what arrived into our fields and what stands below them, which must be want.
func ourFields(t testing.TB, octets []byte, want string) []dkim.Field {
	t.Helper()
	fields, ok := bytes.CutSuffix(octets, []byte(want))
	if !ok {
		i := max(0, len(octets)-len(want))
		t.Fatalf("what stands below our fields is not what was sent: %s", world.Differ(octets[i:], []byte(want)))
	}
	if world.OwnField.Find(fields) == nil {
		t.Fatalf("does not begin with our Received field: %.300q", fields)
	}
	return slices.Collect(dkim.Fields(fields))
}

// fieldNames returns the names of fields.
func fieldNames(fields []dkim.Field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = string(f.Name())
	}
	return strings.Join(names, " ")
}

// fieldBody returns the body of the first field of a name, without folding, "" when there is none.
func fieldBody(fields []dkim.Field, name string) string {
	for _, f := range fields {
		if f.Is(name) {
			return strings.Join(strings.Fields(string(f.Body())), " ")
		}
	}
	return ""
}

// A judgement is what verifiers say of a message.
type judgement struct {
	dkim map[string]bool // by signing domain: all of its signatures pass
	arc  arc.Result
}

// judgeArrived verifies what arrived with our own verifiers and with go-msgauth, which have to agree.
func judgeArrived(t testing.TB, keys authRecords, octets []byte) judgement {
	t.Helper()
	at := bytes.Index(octets, []byte("\r\n\r\n")) + 2
	header, body := string(octets[:at]), string(octets[at+2:])
	v, err := dkim.NewVerifier(dkim.Config{Resolver: ingresstest.TXT(keys.LookupTXT)})
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.Begin(t.Context(), []byte(header))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	_, _ = m.Write([]byte(body)) // has no error to give
	j := judgement{dkim: map[string]bool{}, arc: chainOf(t, keys, header, body)}
	var ours []string
	for _, s := range m.Finish() {
		ours = append(ours, fmt.Sprintf("%s %v", s.Domain, s.Result == dkim.Pass))
		before, seen := j.dkim[s.Domain]
		j.dkim[s.Domain] = s.Result == dkim.Pass && (before || !seen)
	}
	var theirs []string
	verifications, err := msgauth.VerifyWithOptions(bytes.NewReader(octets), &msgauth.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) { return keys.LookupTXT(t.Context(), name) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range verifications {
		theirs = append(theirs, fmt.Sprintf("%s %v", v.Domain, v.Err == nil))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	if !slices.Equal(ours, theirs) {
		t.Errorf("we find %v, go-msgauth %v", ours, theirs)
	}
	return j
}
