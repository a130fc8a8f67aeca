package auth

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// A zone is a DNS in memory: TXT records by name. The names in broken cannot be had.
type zone struct {
	txt    map[string]string
	broken map[string]bool
	asked  *sync.Map
	ingresstest.Zone
}

var errBroken = errors.New("the server is down")

func (z zone) LookupTXT(_ context.Context, name string) ([]string, error) {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if z.asked != nil {
		z.asked.Store(name, true)
	}
	if z.broken[name] {
		return nil, errBroken
	}
	if r, ok := z.txt[name]; ok {
		return []string{r}, nil
	}
	return nil, nil
}

// keys are made once for all tests; making them is most of what tests would do.
var keys = sync.OnceValue(func() (made struct{ rsa, ed crypto.Signer }) {
	made.rsa, _ = dkim.GenerateKey(dkim.RSASHA256, 2048)
	made.ed, _ = dkim.GenerateKey(dkim.Ed25519SHA256, 0)
	return made
})

// The clients of an Envelope.
var (
	trustedClient   = Client{Trusted: true}
	allowedClient   = Client{Allowed: true}
	knownGoodClient = Client{KnownGood: true}
)

const (
	goodClient = "192.0.2.1"  // may use the domains that publish SPF
	badClient  = "192.0.2.66" // may not
	messageID  = "Message-ID: <1@x>\r\n"
	plainBody  = "Hello,\r\n\r\nworld.\r\n"
)

// dns is the zone of most tests: reject.example, quarantine.example, none.example and example.net publish SPF, keys and
// a policy; bare.example publishes SPF only, list.example is the list that is named, and ours.example is hosted here
// and rejects.
func dns() zone {
	record := func(k crypto.Signer) string {
		text, _ := dkim.KeyRecord(k.Public())
		return text
	}
	z := zone{txt: map[string]string{}, broken: map[string]bool{}}
	for _, d := range []string{
		"reject.example", "quarantine.example", "none.example", "example.net", "hosted.example", "sealer.example",
		"bare.example", "esp.example", "list.example",
	} {
		z.txt[d] = "v=spf1 ip4:" + goodClient + " -all"
		z.txt["rsa._domainkey."+d] = record(keys().rsa)
		z.txt["ed._domainkey."+d] = record(keys().ed)
	}
	for _, p := range []string{"reject", "quarantine", "none"} {
		z.txt["_dmarc."+p+".example"] = "v=DMARC1; p=" + p
	}
	z.txt["_dmarc.hosted.example"] = "v=DMARC1; p=none"
	z.txt["_dmarc.ours.example"] = "v=DMARC1; p=reject"
	return z
}

func newAuthenticator(t testing.TB, z zone, sealers ...string) *Authenticator {
	t.Helper()
	a, err := New(Config{
		AuthservID: "mx.example.net", Resolver: z, Sealers: sealers, Lists: []string{"list.example"},
		Hosted: func(d string) bool { return d == "ours.example" },
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func rsaKey(domain string) dkim.SigningKey {
	return dkim.SigningKey{Domain: domain, Selector: "rsa", Key: keys().rsa}
}

func edKey(domain string) dkim.SigningKey {
	return dkim.SigningKey{Domain: domain, Selector: "ed", Key: keys().ed}
}

func use(t testing.TB, a *Authenticator, k Keyring) {
	t.Helper()
	if err := a.Use(k); err != nil {
		t.Fatal(err)
	}
}

// ring has all keys that a relay may have.
func ring() Keyring {
	k := rsaKey("example.net")
	return Keyring{ARC: &k, Relay: []dkim.SigningKey{k, edKey("example.net")},
		Domains: map[string][]dkim.SigningKey{"hosted.example": {rsaKey("hosted.example")}}}
}

// from is a header section with an author of a domain, and what else is given above it.
func from(domain string, fields ...string) string {
	return strings.Join(fields, "") + "From: A <a@" + domain +
		">\r\nTo: b@hosted.example\r\nSubject: s\r\nDate: Mon, 2 Jan 2006 15:04:05 +0000\r\n" + messageID
}

// signed puts a signature of a domain on top of a header section.
func signed(t testing.TB, domain, header, body string, c dkim.Canonicalization) string {
	t.Helper()
	s, err := dkim.NewSigner(dkim.SignConfig{Keys: []dkim.SigningKey{rsaKey(domain)}})
	if err != nil {
		t.Fatal(err)
	}
	h := dkim.NewBodyHash(c)
	h.Write([]byte(body))
	field, err := s.Sign(nil, []byte(header), c, h.Sum())
	if err != nil {
		t.Fatal(err)
	}
	return string(field) + header
}

// sealedBy puts an ARC set of a domain on top of a header section.
func sealedBy(t testing.TB, z zone, domain, header, body, results string) string {
	t.Helper()
	s, err := arc.NewSealer(arc.SealConfig{Key: rsaKey(domain)})
	if err != nil {
		t.Fatal(err)
	}
	v, err := arc.New(arc.Config{Resolver: z})
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Begin(t.Context(), []byte(header))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hash := func(c dkim.Canonicalization) ([32]byte, bool) {
		h := dkim.NewBodyHash(c)
		h.Write([]byte(body))
		return h.Sum(), true
	}
	sum, _ := hash(dkim.Relaxed)
	set, err := s.Seal(nil, []byte(header), results, dkim.Relaxed, sum, c.Finish(hash))
	if err != nil {
		t.Fatal(err)
	}
	return string(set) + header
}

// A sending is a message on its way through.
type sending struct {
	env    Envelope
	client string // "" is goodClient
	helo   string
	from   string // the domain of the reverse-path, "" is the null one
	header string
	body   string
}

// begin begins SPF and the message.
func (s *sending) begin(t testing.TB, a *Authenticator, z zone) *Message {
	t.Helper()
	if s.client == "" {
		s.client = goodClient
	}
	s.env.Client.Addr = netip.MustParseAddr(s.client)
	if s.from != "" {
		s.env.Reverse = mail.Path{Local: "u", Domain: s.from}
	}
	if !s.env.Client.Trusted {
		checker, err := spf.New(spf.Config{Resolver: z})
		if err != nil {
			t.Fatal(err)
		}
		s.env.SPF = checker.Begin(t.Context(), s.env.Client.Addr, s.helo, s.env.Reverse)
		t.Cleanup(s.env.SPF.Close)
	}
	m, err := a.Begin(t.Context(), s.env, []byte(s.header+"\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func write(m *Message, body string) {
	if body == "" {
		return
	}
	for half := range 2 {
		part := body[:len(body)/2]
		if half == 1 {
			part = body[len(body)/2:]
		}
		m.WriteOctets(mail.Octets{Segments: net.Buffers{[]byte(part)}, Form: mail.Plain}, 0)
	}
}

// hold sends the message whole and returns its fields, unless it is refused.
func (s *sending) hold(t testing.TB, a *Authenticator, z zone) (string, *Decision) {
	t.Helper()
	m := s.begin(t, a, z)
	write(m, s.body)
	v := m.Finish(t.Context())
	if v.Refusal != nil {
		return "", v
	}
	fields, err := m.Fields(nil, mail.ModeHold)
	if err != nil {
		t.Fatal(err)
	}
	return string(fields), v
}

// stream sends the message while it comes in.
func (s *sending) stream(t testing.TB, a *Authenticator, z zone) (fields string, needed bool, v *Decision) {
	t.Helper()
	m := s.begin(t, a, z)
	f, err := m.Fields(nil, mail.ModeStream)
	if err != nil {
		t.Fatal(err)
	}
	needed = m.NeedsBody()
	write(m, s.body)
	return string(f), needed, m.Finish(t.Context())
}

// names returns the names of the fields, from the top.
func names(fields string) string {
	var out []string
	for f := range dkim.Fields([]byte(fields)) {
		out = append(out, string(f.Name()))
	}
	return strings.Join(out, " ")
}

// field returns the unfolded body of the first field with a name.
func field(fields, name string) string {
	for f := range dkim.Fields([]byte(fields)) {
		if f.Is(name) {
			return strings.Join(strings.Fields(string(f.Body())), " ")
		}
	}
	return ""
}

func reply(v *Decision) string {
	if v.Refusal == nil {
		return ""
	}
	text, _, _ := strings.Cut(v.Refusal.Reply.String(), ":")
	return text
}

// Validate names each field.
func TestConfig_Validate(t *testing.T) {
	err := Config{AuthservID: "a b", Sealers: []string{"ok.example", "no no"}}.Validate()
	for _, want := range []string{"AuthservID", "Resolver", "Sealers[1]"} {
		if !strings.Contains(fmt.Sprint(err), want+":") {
			t.Errorf("%s is not named in %v", want, err)
		}
	}
	if err := (Config{AuthservID: "mx.example.net", Resolver: zone{}}).Validate(); err != nil {
		t.Error(err)
	}
}

// A keyring is taken whole or not at all.
func TestUse(t *testing.T) {
	a := newAuthenticator(t, dns())
	if a.MaySign() {
		t.Error("seals without a key")
	}
	use(t, a, Keyring{Relay: []dkim.SigningKey{edKey("example.net")}})
	if !a.MaySign() {
		t.Error("does not seal with a key")
	}
	bad := ring()
	bad.Relay = append(bad.Relay, dkim.SigningKey{Domain: "no domain", Selector: "x"})
	bad.Domains["not a domain"] = nil
	err := a.Use(bad)
	var f *mail.FieldError
	if !errors.As(err, &f) || !strings.Contains(err.Error(), "Relay.Keys[2].Domain") ||
		!strings.Contains(err.Error(), "Domains[not a domain]") {
		t.Errorf("got %v", err)
	}
	if a.keys.Load().arc != nil {
		t.Error("half a keyring was taken")
	}
	use(t, a, Keyring{})
	if a.MaySign() {
		t.Error("the keys are still there")
	}
}

// Nothing is looked up where no result is needed.
func TestBegin_NoLookups(t *testing.T) {
	z := dns()
	z.asked = &sync.Map{}
	a := newAuthenticator(t, z)
	s := sending{header: signed(t, "reject.example", from("reject.example"), plainBody, dkim.Relaxed),
		from: "reject.example", client: badClient, body: plainBody,
		env: Envelope{Policy: mail.DomainPolicy{DMARC: mail.DMARCOff, RequireAuth: mail.RequireAuthNo}, Seal: WantAll}}
	m := s.begin(t, a, z)
	if m.NeedsBody() {
		t.Error("the body is needed")
	}
	v := m.Finish(t.Context())
	if v.Refusal != nil || v.Auth.String() != "spf=fail" {
		t.Errorf("got %+v", v)
	}
	for _, name := range []string{"rsa._domainkey.reject.example", "_dmarc.reject.example"} {
		if _, ok := z.asked.Load(name); ok {
			t.Errorf("%s was asked for", name)
		}
	}
	fields, err := m.Fields(nil, mail.ModeHold)
	if got, want := string(fields), "Authentication-Results: mx.example.net;\r\n\tspf=fail ("; err != nil ||
		!strings.HasPrefix(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

// A long header section is no way round a policy.
func TestBegin_LongHeader(t *testing.T) {
	z := dns()
	a, err := New(Config{AuthservID: "mx.example.net", Resolver: z, tune: tuning{header: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	header := []byte(from("reject.example", "X: "+strings.Repeat("a", 2000)+"\r\n") + "\r\n")
	_, err = a.Begin(t.Context(), Envelope{}, header)
	if got := mail.ReplyFor(err); got.Code != 552 {
		t.Errorf("got %v", err)
	}
	for _, env := range []Envelope{
		{Exempt: true}, {Client: trustedClient}, {Policy: mail.DomainPolicy{DMARC: mail.DMARCReport}},
	} {
		m, err := a.Begin(t.Context(), env, header)
		if err != nil {
			t.Fatalf("%+v: %v", env, err)
		}
		if v := m.Finish(t.Context()); v.Refusal != nil || m.NeedsBody() {
			t.Errorf("%+v: %+v", env, v)
		}
		m.Close()
	}
}

// Close ends look-ups that hang.
func TestClose(t *testing.T) {
	asked := make(chan struct{})
	a, err := New(Config{
		AuthservID: "mx.example.net", Resolver: ingresstest.Blocked{Asked: asked}, tune: tuning{timeout: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	header := signed(t, "reject.example", from("reject.example"), plainBody, dkim.Relaxed)
	header = sealedBy(t, dns(), "sealer.example", header, plainBody, "x; none")
	m, err := a.Begin(t.Context(), Envelope{}, []byte(header+"\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	m.Close()
	m.Close()
}
