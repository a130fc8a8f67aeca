package dns

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
)

// TestParseTSIG: the files of a key as programs write them.
func TestParseTSIG(t *testing.T) {
	for text, want := range map[string]string{
		"key \"up.example\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IG9mIHRlc3Rz\";\n};\n": "up.example. " +
			"hmac-sha256.",
		"// by tsig-keygen\nkey up { secret c2VjcmV0IG9mIHRlc3Rz; algorithm HMAC-SHA512; };": "up. hmac-sha512.",
		"# a comment\nhmac-sha256:Up.Example.:c2VjcmV0IG9mIHRlc3Rz\n": "up.example. " +
			"hmac-sha256.",
		"hmac-md5:up:c2VjcmV0":               "algorithm",
		"hmac-sha256:up:not base64":          "base64",
		"hmac-sha256:u p:c2VjcmV0":           "name",
		"hmac-sha256:up:":                    "base64",
		"c2VjcmV0":                           "neither",
		"":                                   "neither",
		"key up { algorithm hmac-sha256; };": "base64",
		"key up { include \"/x\"; secret c2Vj; };": "nothing else",
	} {
		k, err := ParseTSIG([]byte(text))
		switch {
		case err != nil && strings.Contains(err.Error(), "c2Vj"):
			t.Errorf("%q: %v repeats the secret", text, err)
		case err != nil && !strings.Contains(err.Error(), want), err == nil && k.name+" "+k.algorithm != want:
			t.Errorf("%q: got %+v, %v, want %s", text, k, err, want)
		}
	}
}

// FuzzParseTSIG checks that a key that is taken is whole.
func FuzzParseTSIG(f *testing.F) {
	f.Add([]byte("key \"up\" { algorithm hmac-sha256; secret \"c2VjcmV0\"; };"))
	f.Add([]byte("hmac-sha256:up:c2VjcmV0"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseTSIG(text)
		if err == nil && (k.secret == "" || k.algorithm == "" || !strings.HasSuffix(k.name, ".")) {
			t.Fatalf("%+v", k)
		}
	})
}

// TestPrimary_Ask: what a server says comes as a zone file has it, with the code and without following an alias.
func TestPrimary_Ask(t *testing.T) {
	names := dnstest.Start(t, `
example.com. 60 IN SOA ns.example.com. h.example.com. 1 2 3 4 5
example.com. 60 IN TXT "a \"b\"" "; c"
example.com. 60 IN MX 10 Mx.Example.com.
`)
	names.SetFault("refused.example.com", "*", dnstest.Fault{Rcode: "REFUSED"})
	p := Primary{Addr: names.Addr()}
	for _, c := range []struct{ name, kind, want string }{
		{"example.com", "TXT", `NOERROR example.com. 60 IN TXT "a \"b\"" "; c"`},
		{"Example.com.", "MX", "NOERROR example.com. 60 IN MX 10 Mx.Example.com."},
		{"example.com", "A", "NOERROR "},
		{"x.example.com", "A", "NXDOMAIN "},
		{"refused.example.com", "A", "REFUSED "},
	} {
		a, err := p.Ask(t.Context(), c.name, c.kind)
		var lines []string
		for _, r := range a.Records {
			lines = append(lines, r.String())
		}
		if got := a.Rcode + " " + strings.Join(lines, " "); err != nil || got != c.want || !a.Authoritative {
			t.Errorf("%s of %s: got %s, %v, want %s", c.kind, c.name, got, err, c.want)
		}
	}
	if a, err := p.Ask(t.Context(), "example.com", "TXT"); err != nil || a.Records[0].Text() != `a "b"; c` {
		t.Errorf("got %+v, %v", a.Records, err)
	}
	if zone, err := p.Zone(t.Context(), "a.b.example.com"); err != nil || zone != "example.com" {
		t.Errorf("got zone %q, %v", zone, err)
	}
	if _, err := p.Ask(t.Context(), "a..b", "A"); err == nil {
		t.Error("no name is asked for")
	}
	p.Key = &TSIG{"up.", "hmac-sha256.", "c2VjcmV0"}
	if _, err := p.Ask(t.Context(), "example.com", "TXT"); err == nil {
		t.Error("an answer without a signature is believed")
	}
}

// TestResolver_LookupData: records of other types come as a zone file has them.
func TestResolver_LookupData(t *testing.T) {
	names := dnstest.Start(t, `
example.com. 60 IN NS ns1.example.com.
example.com. 60 IN NS ns2.example.com.
_25._tcp.mx.example.com. 60 IN TLSA 3 1 1 00AA
`)
	r, err := New(Config{Servers: []string{names.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	hosts, _, err := r.LookupData(t.Context(), "example.com", "NS")
	if hosts = slices.Sorted(slices.Values(hosts)); err != nil || strings.Join(hosts, " ") != "ns1.example.com. "+
		"ns2.example.com." {
		t.Errorf("got %q, %v", hosts, err)
	}
	if data, _, err := r.LookupData(t.Context(), "_25._tcp.mx.example.com", "TLSA"); err != nil || len(data) != 1 ||
		!strings.EqualFold(data[0], "3 1 1 00aa") {
		t.Errorf("got %q, %v", data, err)
	}
	if _, _, err := r.LookupData(t.Context(), "example.com", "DS"); !NotFound(err) {
		t.Errorf("got %v", err)
	}
	if _, _, err := r.LookupData(t.Context(), "example.com", "NONE"); err == nil {
		t.Error("no type is asked for")
	}
}
