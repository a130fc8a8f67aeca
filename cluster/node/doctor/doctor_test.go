package doctor

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A patient is a node whose zone is examined.
type patient struct {
	config *config.Config
	ca     *smtptest.CA
	words  *strings.Replacer // puts the keys of the node in the place of words of a zone
}

// nodeText is the configuration of the node. DIR stands for the folder of its files.
const nodeText = `
hostname: mx1.example.org
postmaster: alice@mailbox.test
routes: DIR/routes.txt
listen: [{addr: "127.0.0.1:0"}]
srs: {domain: srs.example.org, key_file: DIR/srs.key}
arc: {domain: example.org, selector: arc1, key_file: DIR/arc.pem}
dkim:
  domains:
    - {domain: example.org, selector: rsa1, key_file: DIR/rsa.pem}
    - {domain: example.org, selector: ed1, key_file: DIR/ed.pem}
tls: {cert: DIR/cert.pem, key: DIR/cert.key}
score: {lists: [{zone: k3y0nly.list.test, name: list.test, weight: 5}, {zone: other.test, weight: 5}]}
`

func newPatient(t *testing.T) *patient {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &patient{ca: smtptest.NewCA()}
	pairs := []string{}
	for _, name := range []string{"rsa", "arc", "ed", "other"} {
		algorithm := dkim.RSASHA256
		if name == "ed" {
			algorithm = dkim.Ed25519SHA256
		}
		key, err := dkim.GenerateKey(algorithm, 2048)
		if err != nil {
			t.Fatal(err)
		}
		text, err := dkim.MarshalKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".pem", text)
		record, err := dkim.KeyRecord(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if name == "ed" {
			pairs = append(pairs, "$EDTESTING", dkim.ZoneText(strings.Replace(record, "k=", "t=y; k=", 1)))
		}
		pairs = append(pairs, "$"+strings.ToUpper(name), dkim.ZoneText(record))
	}
	write("routes.txt", []byte("@example.org alice@mailbox.test\n"))
	write("srs.key", []byte("0123456789abcdef0123456789abcdef\n"))
	cert := p.ca.Certificate("mx1.example.org")
	write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write("cert.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	p.words = strings.NewReplacer(append(pairs, "$TLSA", hex.EncodeToString(sum[:]))...)
	file := filepath.Join(dir, "millrace.yaml")
	write("millrace.yaml", []byte(strings.ReplaceAll(nodeText, "DIR", dir)))
	if p.config, err = config.Load(file); err != nil {
		t.Fatal(err)
	}
	return p
}

// A sick is a zone file of testdata/zones: what is wrong, and what else its head says.
type sick struct {
	zone     string
	faults   []string // that are to be found
	fix      string   // a part of what is to be done
	servfail []string // name and type
	policy   string
	addrs    []netip.Addr
	sources  []config.Source
	flags    []string // "private", "lame", "untrusted"
}

func readSick(t *testing.T, file string) sick {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := sick{zone: string(text)}
	for line := range strings.Lines(s.zone) {
		word, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "; "), ":")
		rest = strings.TrimSpace(rest)
		switch {
		case !strings.HasPrefix(line, "; "):
			return s
		case word == "fault", word == "also":
			s.faults = append(s.faults, strings.Fields(rest)...)
		case word == "fix":
			s.fix = rest
		case word == "servfail":
			s.servfail = strings.Fields(rest)
		case word == "policy":
			s.policy += rest + "\r\n"
		case word == "source":
			addr, name, _ := strings.Cut(rest, " ")
			s.sources = append(s.sources, config.Source{Addr: netip.MustParseAddr(addr), Helo: name})
		case word == "ip":
			s.addrs = append(s.addrs, netip.MustParseAddr(rest))
		default:
			s.flags = append(s.flags, word)
		}
	}
	return s
}

// examine examines example.org as a zone says it.
func (p *patient) examine(t *testing.T, s sick) []Report {
	t.Helper()
	zone := p.words.Replace(s.zone)
	names := dnstest.Start(t, zone)
	if len(s.servfail) == 2 {
		names.SetFault(s.servfail[0], s.servfail[1], dnstest.Fault{Rcode: "SERVFAIL"})
	}
	_, port, _ := strings.Cut(names.Addr(), ":")
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	node := *p.config
	node.Egress.Source = s.sources
	if slices.Contains(s.flags, "lame") {
		node.Egress.AllowPrivate = true
		other, err := dnstest.Listen("127.0.0.2:"+port, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(other.Close)
		other.SetFault("*", "*", dnstest.Fault{Rcode: "REFUSED"})
	}
	r, err := dns.New(dns.Config{Servers: []string{names.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c := Config{Node: &node, Resolver: r, Addrs: s.addrs, NamePort: uint16(number)}
	web := hook.Config{Resolver: r, Roots: p.ca.Pool()}
	if slices.Contains(s.flags, "untrusted") {
		web.Roots = x509.NewCertPool()
	}
	if slices.Contains(s.flags, "private") {
		web.Private = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.PolicyPort = p.serve(t, s.policy)
	}
	if c.Web, err = hook.New(web); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Web.Close)
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d.All(t.Context(), "example.org")
}

// serve serves a policy at mta-sts.example.org, nothing if it is empty, and returns the port.
func (p *patient) serve(t *testing.T, policy string) uint16 {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if policy == "" || r.URL.Path != "/.well-known/mta-sts.txt" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(policy))
	}))
	server.TLS = p.ca.Server("mta-sts.example.org")
	server.StartTLS()
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
}

// TestDoctor_Zones: each zone of testdata has the faults that its head says, and no other; each has its fix.
func TestDoctor_Zones(t *testing.T) {
	p := newPatient(t)
	files, err := filepath.Glob("testdata/zones/*.zone")
	if err != nil || len(files) < 40 {
		t.Fatal(files, err)
	}
	named, good := 0, 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".zone"), func(t *testing.T) {
			s := readSick(t, file)
			fix := p.words.Replace(s.fix)
			var faults, fixes []string
			for _, r := range p.examine(t, s) {
				for _, f := range r.Findings {
					if strings.Contains(fmt.Sprint(f), "k3y0nly") {
						t.Errorf("%+v tells the key of a list", f)
					}
					if f.Fault == "" {
						if f.State != Ready {
							t.Errorf("%s of %s is %s without a fault", f.Check, f.Name, f.State)
						}
						continue
					}
					faults = append(faults, f.Fault)
					fixes = append(fixes, f.Fix)
					if f.State == Ready || f.Fix == "" || f.Reason == "" {
						t.Errorf("%+v says too little", f)
					}
					t.Logf("%s %s: %s | %s | %s", f.Check, f.Name, f.Found, f.Reason, f.Fix)
				}
			}
			slices.Sort(faults)
			slices.Sort(s.faults)
			if !slices.Equal(slices.Compact(faults), slices.Compact(slices.Clone(s.faults))) {
				t.Errorf("found %q, want %q", faults, s.faults)
			}
			if !slices.ContainsFunc(append(fixes, ""), func(f string) bool { return strings.Contains(f, fix) }) {
				t.Errorf("the fixes are %q, want %q", fixes, fix)
			}
			if len(s.faults) == 0 {
				good++
			} else {
				named++
			}
		})
	}
	t.Logf("%d zones with a fault, %d good ones", named, good)
}

// FuzzParsePolicy checks that a policy that is taken can be obeyed.
// TestTLSARecord: the record of the key of our certificate is made where it counts, and has a form in each format.
func TestTLSARecord(t *testing.T) {
	p := newPatient(t)
	without := *p.config
	without.TLS = nil
	for _, tt := range []struct {
		zone string
		node *config.Config
		want string
	}{
		{"good-signed", p.config, "3 1 1 " + p.words.Replace("$TLSA")},
		{"good-signed", &without, "tls.cert names no certificate"},
		{"tlsa-unsigned", p.config, "example.org is not signed"},
	} {
		names := dnstest.Start(t, p.words.Replace(readSick(t, "testdata/zones/"+tt.zone+".zone").zone))
		r, err := dns.New(dns.Config{Servers: []string{names.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		record, err := TLSARecord(t.Context(), tt.node, r)
		if err != nil {
			record.Value = err.Error()
		}
		if !strings.Contains(record.Value, tt.want) {
			t.Errorf("%s: got %s, want %s", tt.zone, record.Value, tt.want)
		}
		for format, want := range map[string]string{
			"nsupdate":   "update add _25._tcp.mx1.example.org. 300 TLSA " + tt.want,
			"cloudflare": "\"usage\": 3,", "route53": "\"Value\": \"" + tt.want, "terraform": "\"" + tt.want + "\"",
		} {
			var out strings.Builder
			if err := Write(&out, format, []Record{record}, 300); record.Type != "" && (err != nil ||
				!strings.Contains(out.String(), want)) {
				t.Errorf("%s: %v, %s", format, err, out.String())
			}
		}
	}
}

// TestRecords_Sources: what is said from an address of its own has its records, and passes SPF.
func TestRecords_Sources(t *testing.T) {
	node := *newPatient(t).config
	node.Egress.Source = []config.Source{
		{Addr: netip.MustParseAddr("192.0.2.25")}, {Addr: netip.MustParseAddr("192.0.2.26"), Helo: "out2.example.org"},
	}
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.25"), netip.MustParseAddr("192.0.2.26")}
	records, err := Records(&node, []string{"example.org"}, addrs)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range records {
		all = append(all, r.Name+" "+r.Type+" "+r.Value)
	}
	for want, has := range map[string]bool{
		"mx1.example.org A 192.0.2.25": true, "out2.example.org A 192.0.2.26": true,
		"mx1.example.org A 192.0.2.26":                  false,
		"26.2.0.192.in-addr.arpa PTR out2.example.org.": true, "26.2.0.192.in-addr.arpa PTR mx1.example.org.": false,
		"out2.example.org TXT v=spf1 a -all":                                   true,
		"srs.example.org TXT v=spf1 a:mx1.example.org a:out2.example.org -all": true,
	} {
		if slices.Contains(all, want) != has {
			t.Errorf("%s: %v in\n%s", want, !has, strings.Join(all, "\n"))
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("version: STSv1\r\nmode: enforce\r\nmax_age: 604800\r\nmx: *.example.org\r\nmx: a.example\r\n"))
	f.Add([]byte("version: STSv1\nmode: none\nmax_age: 0\n"))
	f.Add([]byte("version: STSv1\nmode: testing\nmax_age: 1\nmx: *.*.a\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := ParsePolicy(body)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("%q reaches a terminal", err)
			}
			return
		}
		if p.Mode != "none" && len(p.MX) == 0 || p.MaxAge < 0 || p.MaxAge > maxAge {
			t.Fatalf("%+v", p)
		}
		for _, m := range p.MX {
			if wild, ok := strings.CutPrefix(m, "*."); ok && !p.Allows("x."+wild) || !ok && !p.Allows(m) {
				t.Fatalf("%q is not allowed by itself", m)
			}
		}
	})
}
