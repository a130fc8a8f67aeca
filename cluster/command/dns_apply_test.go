package command

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/loadtest/extern"
)

// ownersZone is a zone whose owner has records of his own.
const ownersZone = `$ORIGIN example.org.
$TTL 300
@ SOA ns1 hostmaster 1 3600 600 864000 60
@ NS ns1
ns1 A 192.0.2.53
@ TXT "google-site-verification=abc"
_dmarc TXT "v=DMARC1; p=reject"
mx1 TXT "a note"
`

// An owner is a zone at a Knot DNS, and the command line that is to change it.
type owner struct {
	t       *testing.T
	server  dns.Primary
	config  string
	keyFile string
}

func newOwner(t *testing.T, zone string) *owner {
	t.Helper()
	dir, _ := initialised(t)
	o := &owner{
		t: t, server: dns.Primary{Addr: extern.StartKnot(t, "example.org", zone)},
		config: filepath.Join(dir, configName), keyFile: filepath.Join(dir, "tsig.key"),
	}
	if err := os.WriteFile(o.keyFile, []byte(extern.KnotKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

// apply runs dns apply and returns what it printed, and its exit code.
func (o *owner) apply(flags ...string) (code int, out string) {
	var text bytes.Buffer
	args := []string{"dns", "apply", "example.org", "-c", o.config, "--server", o.server.Addr, "--ip", "192.0.2.25"}
	code = Main(append(args, flags...), nil, &text, &text)
	return code, text.String()
}

// has returns the data of the records of a name and type.
func (o *owner) has(name, kind string) string {
	o.t.Helper()
	a, err := o.server.Ask(context.Background(), name, kind)
	if err != nil {
		o.t.Fatal(err)
	}
	var out []string
	for _, r := range a.Records {
		out = append(out, r.Data)
	}
	return strings.Join(out, " | ")
}

// TestDNSApply_Knot: what a zone lacks is shown, then added all at once; what its owner has stays.
func TestDNSApply_Knot(t *testing.T) {
	o := newOwner(t, ownersZone)
	code, out := o.apply("--key", o.keyFile)
	for _, want := range []string{
		"; zone example.org at ", "+ example.org. 300 IN MX 10 mx1.example.org.",
		"+ mx1.example.org. 300 IN A 192.0.2.25",
		`  mx1.example.org. 300 IN TXT "a note"  ; is there and kept`,
		`  _dmarc.example.org. 300 IN TXT "v=DMARC1; p=reject"  ; is there and kept`,
		"! 25.2.0.192.in-addr.arpa. 300 IN PTR mx1.example.org.  ; is not in this zone", "; nothing was changed",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("without %q:\n%s", want, out)
		}
	}
	if code != exitOK || strings.Contains(out, "+ _dmarc") || o.has("example.org", "MX") != "" {
		t.Fatalf("exit code %d, MX %s:\n%s", code, o.has("example.org", "MX"), out)
	}
	if code, out = o.apply("--key", o.keyFile, "--yes"); code != exitOK || !strings.Contains(out, "; done") {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	for question, want := range map[[2]string]string{
		{"example.org", "MX"}:         "10 mx1.example.org.",
		{"mx1.example.org", "A"}:      "192.0.2.25",
		{"example.org", "TXT"}:        `"google-site-verification=abc"`,
		{"_dmarc.example.org", "TXT"}: `"v=DMARC1; p=reject"`,
		{"srs.example.org", "TXT"}:    `"v=spf1 a:mx1.example.org -all"`,
	} {
		if got := o.has(question[0], question[1]); got != want {
			t.Errorf("%v: got %s, want %s", question, got, want)
		}
	}
	for _, want := range []string{`"v=spf1 a -all"`, `"a note"`} {
		if got := o.has("mx1.example.org", "TXT"); !strings.Contains(got, want) {
			t.Errorf("mx1.example.org has %s, want %s", got, want)
		}
	}
	if code, out = o.apply("--key", o.keyFile, "--yes"); code != exitOK || !strings.Contains(out, "; nothing is to "+
		"be changed") {
		t.Errorf("again: exit code %d:\n%s", code, out)
	}
}

// TestDNSApply_Foreign: what leads elsewhere is replaced only when that is asked for, and nothing is changed before.
func TestDNSApply_Foreign(t *testing.T) {
	o := newOwner(t, ownersZone+`@ MX 1 aspmx.provider.test.
mx1 TXT "v=spf1 include:provider.test ~all"
`)
	code, out := o.apply("--key", o.keyFile, "--yes")
	if code != exitError || !strings.Contains(out, "! example.org. 300 IN MX 1 aspmx.provider.test.  ; in the way "+
		"of ours") ||
		!strings.Contains(out, "2 records of others are in the way") || o.has("mx1.example.org", "A") != "" {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	code, out = o.apply("--key", o.keyFile, "--yes", "--replace")
	if code != exitOK || !strings.Contains(out, "- example.org. 300 IN MX 1 aspmx.provider.test.") {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	if got := o.has("example.org", "MX"); got != "10 mx1.example.org." {
		t.Errorf("MX is %s", got)
	}
	if got := o.has("mx1.example.org", "TXT"); strings.Contains(got, "provider") || !strings.Contains(got, `"a note"`) {
		t.Errorf("TXT is %s", got)
	}
}

// TestDNSApply_Refused: a server that does not know us changes nothing, and the message says so without the secret.
func TestDNSApply_Refused(t *testing.T) {
	o := newOwner(t, ownersZone)
	if code, out := o.apply("--yes"); code != exitError || !strings.Contains(out, "the server refuses it with ") {
		t.Errorf("without a key: exit code %d:\n%s", code, out)
	}
	wrong := "hmac-sha256:update.key:d3JvbmcgLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4="
	if err := os.WriteFile(o.keyFile, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := o.apply("--key", o.keyFile, "--yes"); code != exitError || strings.Contains(out, "d3Jv") {
		t.Errorf("with a wrong key: exit code %d:\n%s", code, out)
	}
	if got := o.has("example.org", "MX"); got != "" {
		t.Errorf("MX is %s", got)
	}
}

// TestPrimary_Changed: a set that was changed since it was read is left alone, and so is all the rest.
func TestPrimary_Changed(t *testing.T) {
	o := newOwner(t, ownersZone)
	key, err := dns.ParseTSIG([]byte(extern.KnotKey))
	if err != nil {
		t.Fatal(err)
	}
	o.server.Key = key
	record := func(name, data string) dns.Record { return dns.Record{Name: name, Type: "MX", TTL: 300, Data: data} }
	err = o.server.Update(t.Context(), "example.org", []dns.Change{
		{Name: "new.example.org", Type: "MX", Add: []dns.Record{record("new.example.org", "10 a.test.")}},
		{Name: "example.org", Type: "MX", Seen: []dns.Record{record("example.org", "1 b.test.")},
			Add: []dns.Record{record("example.org", "10 a.test.")}},
	})
	if err == nil || !strings.Contains(err.Error(), "changed meanwhile") || o.has("new.example.org", "MX") != "" {
		t.Errorf("got %v, MX %s", err, o.has("new.example.org", "MX"))
	}
}

// TestDNSRecords_Nsupdate: knsupdate sends what is printed for nsupdate, and the zone has it.
func TestDNSRecords_Nsupdate(t *testing.T) {
	o := newOwner(t, ownersZone)
	knsupdate := extern.Find(t, "knsupdate")
	var records, said bytes.Buffer
	args := []string{"dns", "records", "example.org", "-c", o.config, "--ip", "192.0.2.25", "--format", "nsupdate"}
	if code := Main(args, nil, &records, &said); code != exitOK {
		t.Fatalf("exit code %d: %s", code, said.String())
	}
	host, port, _ := strings.Cut(o.server.Addr, ":")
	cmd := knsupdate.Command(t.Context(), "-y", extern.KnotKey)
	cmd.Stdin = strings.NewReader("server " + host + " " + port + "\nzone example.org.\n" + records.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := o.has("example.org", "MX"); got != "10 mx1.example.org." {
		t.Errorf("MX is %s", got)
	}
	if got := o.has("rsa1._domainkey.example.org", "TXT"); !strings.HasPrefix(got, `"v=DKIM1; k=rsa; p=`) {
		t.Errorf("the key is %s", got)
	}
}
