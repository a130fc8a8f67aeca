package arc

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// records are key records by name.
type records = ingresstest.Zone

// clock is a Now that stands still.
func clock(unix int64) func() time.Time { return func() time.Time { return time.Unix(unix, 0) } }

func newVerifier(t testing.TB, cfg Config) *Verifier {
	t.Helper()
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// split cuts a message into header section and body.
func split(message []byte) (header, body []byte) {
	header = dkim.Section(message)
	return header, bytes.TrimPrefix(message[len(header):], []byte("\r\n"))
}

// crlf returns text with CRLF at the end of each line, whatever it had.
func crlf(text []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// hashes returns the hashes of a body.
func hashes(body []byte) func(dkim.Canonicalization) ([sha256.Size]byte, bool) {
	return func(c dkim.Canonicalization) ([sha256.Size]byte, bool) {
		h := dkim.NewBodyHash(c)
		h.Write(body)
		return h.Sum(), true
	}
}

// validate validates the chain of a whole message.
func validate(t testing.TB, v *Verifier, message []byte) Result {
	t.Helper()
	header, body := split(message)
	c, err := v.Begin(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Finish(hashes(body))
}

// A scenario is a document of the suites of ValiMail.
type scenario struct {
	Description string
	Tests       yaml.Node         // a mapping of names to example; some names come twice
	Records     map[string]string `yaml:"txt-records"`
	Domain, Sel string
	Key         string `yaml:"privatekey"`
}

// An example is one test of a scenario.
type example struct {
	Description, Message string
	CV                   string
	T                    int64
	Headers              string `yaml:"sig-headers"`
	ID                   string `yaml:"srv-id"`
	AS                   string `yaml:"AS"`
	AMS                  string `yaml:"AMS"`
	AAR                  string `yaml:"AAR"`
}

// each runs f for all tests of the scenario, and returns how many there are.
func (s scenario) each(t *testing.T, f func(t *testing.T, name string, e example)) int {
	t.Helper()
	pairs := s.Tests.Content
	for i := 0; i+1 < len(pairs); i += 2 {
		t.Run(s.Description+"/"+pairs[i].Value, func(t *testing.T) {
			var e example
			if err := pairs[i+1].Decode(&e); err != nil {
				t.Fatal(err)
			}
			f(t, pairs[i].Value, e)
		})
	}
	return len(pairs) / 2
}

func scenarios(t testing.TB, file string) []scenario {
	t.Helper()
	var all []scenario
	text := ingresstest.Read(t, ingresstest.Shared(t, "suites", "arc", "valimail", file))
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var s scenario
		if err := d.Decode(&s); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
}

// published returns the records of a scenario, whose lines are strings of one.
func published(text map[string]string) records {
	keys := records{}
	for name, record := range text {
		keys[strings.ToLower(name)] = []string{strings.ReplaceAll(record, "\n", "")}
	}
	return keys
}

// TestVerifier_ValiMail has the whole suite. Exceptions say why.
func TestVerifier_ValiMail(t *testing.T) {
	exceptions := map[string]string{
		// Signed relaxed/relaxed without saying so. ARC-Message-Signature has its tags from DKIM-Signature (RFC 8617
		// section 4.1.2), where no c= means simple/simple (RFC 6376 section 3.5).
		"ams_fields_c_na": "fail",
		// An empty h= is no list of names, and From must be among them (RFC 6376 section 3.5).
		"ams_fields_h_empty": "fail",
	}
	tests := 0
	for _, s := range scenarios(t, "arc-draft-validation-tests.yml") {
		v := newVerifier(t, Config{Resolver: published(s.Records)})
		tests += s.each(t, func(t *testing.T, name string, e example) {
			want := strings.ToLower(e.CV)
			if want == "" {
				want = "fail" // the suite has no answer where the newest seal says cv=fail; RFC 8617 section 5.2 has
			}
			if w, ok := exceptions[name]; ok {
				want = w
			}
			got := validate(t, v, crlf([]byte(e.Message)))
			if got.CV.String() != want {
				t.Errorf("%s: got %v (%s), want %s", e.Description, got.CV, got.Reason, want)
			}
		})
	}
	// Four names come twice.
	if tests != 171+4 {
		t.Errorf("%d tests, want 175", tests)
	}
}

// TestVerifier_Samples has real chains and those of other programs.
func TestVerifier_Samples(t *testing.T) {
	google := ingresstest.Records(ingresstest.Read(t, ingresstest.Shared(t, "suites", "arc"), "mail-auth", "001.txt"))
	both := ingresstest.Records(ingresstest.Read(t, ingresstest.Shared(t, "suites", "arc"), "mail-auth", "002.txt"))
	nobody := records{"arc-20160816._domainkey.google.com": {ingresstest.ServFail}}
	const sealed = "google.com google.com"
	tests := []struct {
		name, folder, file string
		keys               records
		want, sealers      string
		oldest             int
	}{
		{"two sets of Google", "mailauth", "arc-pass.eml", google, "pass", sealed, 0},
		{"two more sets of Google", "mailauth", "arc-pass2.eml", google, "pass", sealed, 0},
		{
			"a changed seal", "mailauth", "arc-fail.eml", google, "fail: i=2 ARC-Seal: signature did not verify",
			sealed, 0,
		},
		{
			"a changed seal again", "mailauth", "arc-fail2.eml", google, "fail: i=2 ARC-Seal: signature did not verify",
			sealed, 0,
		},
		{"sealed as failed", "mailauth", "arc-fail3.eml", google, "fail: sealed as failed", "", 0},
		{
			"no answer of DNS", "mailauth", "arc-pass.eml", nobody,
			"temperror: i=2 ARC-Message-Signature: key unavailable", sealed, 0,
		},
		{"one set of Google above a mailing list", "mail-auth", "001.eml", google, "pass", "google.com", 0},
		{"Ed25519 below RSA", "mail-auth", "002.eml", both, "pass", "manchego.org scamorza.org", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			message := ingresstest.Read(t, ingresstest.Shared(t, "suites", "arc"), tt.folder, tt.file)
			got := validate(t, newVerifier(t, Config{Resolver: tt.keys}), crlf(message))
			if explain(got) != tt.want || strings.Join(got.Domains, " ") != tt.sealers || got.OldestPass != tt.oldest {
				t.Errorf("got %s by %v since %d, want %s by %s since %d", explain(got), got.Domains, got.OldestPass,
					tt.want, tt.sealers, tt.oldest)
			}
			if got.CV == Pass &&
				(len(got.Results) != got.Instances || got.Results[0] == "" || got.Domains[0] != got.Sealer) {
				t.Errorf("%d sets of %q say %q", got.Instances, got.Sealer, got.Results)
			}
		})
	}
}

func explain(r Result) string {
	if r.Reason == "" {
		return r.CV.String()
	}
	return r.CV.String() + ": " + r.Reason
}

// TestSeal_ValiMail has the whole suite. Each of its sets has to come out of what we hash, to the last octet, when
// our fields are written in the order of tags that it fixes; ours, in our order, have to say the same and to pass.
func TestSeal_ValiMail(t *testing.T) {
	tests := 0
	for _, s := range scenarios(t, "arc-draft-sign-tests.yml") {
		key, err := dkim.ParseKey([]byte(s.Key))
		if err != nil {
			t.Fatal(err)
		}
		v := newVerifier(t, Config{Resolver: published(s.Records)})
		tests += s.each(t, func(t *testing.T, name string, e example) {
			message := crlf([]byte(e.Message))
			header, body := split(message)
			prior := validate(t, v, message)
			names := strings.Split(e.Headers, ":")
			sealer, err := NewSealer(SealConfig{
				Key: dkim.SigningKey{Domain: s.Domain, Selector: s.Sel, Key: key}, headers: names, oversign: []string{},
				Now: clock(e.T),
			})
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(e.AS) == "" {
				got, err := sealer.Seal(nil, header, e.ID+"; none", dkim.Relaxed, [32]byte{}, prior)
				if len(got) > 0 || err != nil || prior.Sealable() != ErrEnded {
					t.Fatalf("got %q, %v on a chain that is %s, %v", got, err, explain(prior), prior.Sealable())
				}
				return
			}
			// The fields of the suite, its white space removed as it asks for.
			aar := strings.TrimSpace(e.AAR)
			want := tagged(e.AMS)
			instance := want["i"]
			bh, _ := hashes(body)(dkim.Relaxed)
			h, cv, err := sealer.begin(header, prior)
			if err != nil {
				t.Fatal(err)
			}
			if wantCV := tagged(e.AS)["cv"]; cv != wantCV {
				t.Errorf("the chain is %s, want cv=%s", explain(prior), wantCV)
			}
			tags := "; bh=" + base64.StdEncoding.EncodeToString(bh[:]) + "; c=relaxed/relaxed; d=" + s.Domain + "; h=" +
				e.Headers +
				"; i=" + instance + "; s=" + s.Sel + "; t=" + want["t"]
			own := messageName + ": a=rsa-sha256; b="
			var picker dkim.Picker
			digest := dkim.Digest(dkim.NewHeaderHash(), &picker, header, names, dkim.Relaxed,
				dkim.Field(own+tags+"\r\n"), -1, dkim.Tag{})
			signature, err := sealer.sign(digest)
			if err != nil {
				t.Fatal(err)
			}
			b := base64.StdEncoding.EncodeToString(signature)
			if b != want["b"] {
				t.Errorf("ARC-Message-Signature: got b=%s, want %s", b, want["b"])
			}
			h.add(dkim.Field(resultsName + ": " + strings.ReplaceAll(aar, "\n", "\r\n ") + "\r\n"))
			h.add(dkim.Field(own + b + tags + "\r\n"))
			own = " a=rsa-sha256; b="
			digest = h.seal(dkim.Field(sealName+":"+own+"; cv="+cv+"; d="+s.Domain+"; i="+instance+"; s="+s.Sel+"; t="+
				want["t"]), len(own), len(own))
			if signature, err = sealer.sign(digest); err != nil {
				t.Fatal(err)
			}
			if got, want := base64.StdEncoding.EncodeToString(signature), tagged(e.AS)["b"]; got != want {
				t.Errorf("ARC-Seal: got b=%s, want %s", got, want)
			}

			// Our own fields say the same.
			_, payload, _ := strings.Cut(aar, ";")
			payload = strings.ReplaceAll(strings.TrimSpace(payload), "\n", "\r\n  ")
			fields, err := sealer.Seal(nil, header, payload, dkim.Relaxed, bh, prior)
			if err != nil {
				t.Fatal(err)
			}
			var ours []string
			for f := range dkim.Fields(fields) {
				ours = append(ours, string(f.Body()))
			}
			compare(t, tagged(ours[0]), tagged(e.AS))
			compare(t, tagged(ours[1]), tagged(e.AMS))
			if got, want := strings.Join(strings.Fields(ours[2]), " "), strings.Join(strings.Fields(aar),
				" "); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if after := validate(t, v, append(fields, message...)); (after.CV == Pass) != (cv != "fail") {
				t.Errorf("after sealing with cv=%s: %s", cv, explain(after))
			}
		})
	}
	if tests != 17 {
		t.Errorf("%d tests, want 17", tests)
	}
}

// tagged returns the tags of a field without white space in their values.
func tagged(text string) map[string]string {
	tags := map[string]string{}
	for tag := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(strings.Join(strings.Fields(tag), ""), "=")
		if name != "" {
			tags[name] = value
		}
	}
	return tags
}

// compare compares all tags but the signature.
func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	got, want = maps.Clone(got), maps.Clone(want)
	delete(got, "b")
	delete(want, "b")
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
