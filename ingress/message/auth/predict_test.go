package auth

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// Which messages have their body predicted.
func TestPredict(t *testing.T) {
	z := dns()
	z.broken["broken._domainkey.none.example"] = true
	good := func(fields ...string) string {
		return signed(t, "none.example", from("none.example", fields...), plainBody, dkim.Relaxed)
	}
	onTop := func(fields string) string { return fields + good() }
	topmost := func(header string) string { return header[:strings.Index(header, "From:")] }
	seal := Envelope{Seal: WantAll, Hosted: "hosted.example"}
	tests := []struct {
		name string
		s    sending
		ring Keyring
		want bool
	}{
		{"a good signature", sending{header: good(), env: seal}, ring(), true},
		{"nothing is to be sealed", sending{header: good()}, ring(), false},
		{"there is no key", sending{header: good(), env: seal}, Keyring{}, false},
		{
			"nothing would be signed over an aligned signature", sending{header: good(), env: seal},
			Keyring{Relay: ring().Relay}, false,
		},
		{
			"over another domain's it would",
			sending{header: signed(t, "esp.example", from("none.example"), plainBody, dkim.Relaxed), env: seal},
			Keyring{Relay: ring().Relay}, true,
		},
		{"no signature", sending{header: from("none.example"), env: seal}, ring(), false},
		{
			"a signature that is wrong",
			sending{header: strings.Replace(good(), "Subject: s", "Subject: t", 1), env: seal}, ring(), false,
		},
		{"a key that cannot be had", sending{header: strings.Replace(good(), "s=rsa;", "s=broken;", 1), env: seal},
			ring(), false},
		{"a signature of a part of the body",
			sending{header: strings.Replace(good(), "v=1;", "v=1; l=5;", 1), env: seal}, ring(), false},
		{"a list", sending{header: onTop("List-Id: <l.example>\r\n"), env: seal}, ring(), false},
		{"a list of the old kind", sending{header: onTop("precedence: bulk\r\n"), env: seal}, ring(), false},
		{"a filter that wraps messages", sending{header: onTop("X-Spam-Flag: YES\r\n"), env: seal}, ring(), false},
		{
			"a converted body",
			sending{header: onTop("X-MIME-Autoconverted: from 8bit to quoted-printable by x\r\n"), env: seal}, ring(),
			false,
		},
		{"a newsletter", sending{header: good("List-Unsubscribe: <https://x>\r\n"), env: seal}, ring(), true},
		{
			"two signatures that agree",
			sending{
				header: topmost(signed(t, "esp.example", from("none.example"), plainBody, dkim.Relaxed)) + good(),
				env:    seal,
			}, ring(), true,
		},
		{
			"two that do not",
			sending{
				header: topmost(signed(t, "esp.example", from("none.example"), "other", dkim.Relaxed)) + good(),
				env:    seal,
			}, ring(), false,
		},
		{
			"a message that would be refused",
			sending{header: signed(t, "esp.example", from("reject.example"), plainBody, dkim.Relaxed), env: seal},
			ring(), false,
		},
		{"a chain", sending{header: sealedBy(t, z, "sealer.example", good(), plainBody, "x.example; none"), env: seal},
			ring(), true},
		{"a chain that needs the body in another form",
			sending{header: sealedBy(t, z, "sealer.example",
				signed(t, "none.example", from("none.example"), plainBody, dkim.Simple), plainBody, "x.example; none"),
				env: seal}, ring(), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthenticator(t, z)
			use(t, a, tt.ring)
			s := tt.s
			m := s.begin(t, a, z)
			got := m.Predict(t.Context())
			if got != tt.want {
				t.Fatalf("got %v", got)
			}
			if !got {
				if key, domain := m.PredictKey(); key != "" || domain != "" {
					t.Errorf("a key for nothing: %q %q", key, domain)
				}
				return
			}
			fields, err := m.Fields(nil, mail.ModePredict)
			if err != nil {
				t.Fatal(err)
			}
			if !m.NeedsBody() {
				t.Error("the body is not needed")
			}
			write(m, plainBody)
			if v := m.Finish(t.Context()); v.Refusal != nil || v.Mismatch {
				t.Errorf("got %+v", v)
			}
			ours, _, cv := verified(t, z, string(fields)+s.header+"\r\n", plainBody)
			if strings.Contains(ours, "fail") || cv != "pass" && tt.ring.ARC != nil {
				t.Errorf("behind us: %s, arc=%s", ours, cv)
			}
			// What is said in advance is what is said of the message when it is held.
			h := tt.s
			h.body = plainBody
			held, _ := h.hold(t, a, z)
			if got, want := field(string(fields), "Authentication-Results"), field(held,
				"Authentication-Results"); got != want {
				t.Errorf("foretold %s\nheld     %s", got, want)
			}
		})
	}
}

// A body that was not predicted is taken back.
func TestPredict_Mismatch(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	use(t, a, ring())
	tests := []struct {
		name, author, from string
		body               string
		want               string
		mismatch           bool
	}{
		{"the body comes", "none.example", "", plainBody, "", false},
		{"it comes with other white space", "none.example", "", "Hello, \r\n\r\nworld.\r\n\r\n", "", false},
		{
			"another body comes", "none.example", "", plainBody + "footer\r\n",
			"451 4.7.0 The body is not the one that its DKIM signature tells of, try again", true,
		},
		{
			"none comes", "none.example", "", "",
			"451 4.7.0 The body is not the one that its DKIM signature tells of, try again", true,
		},
		{"another body of a forged author comes", "reject.example", "", "forged\r\n", dmarcRejects, true},
		{
			"another body of an author that SPF speaks for", "reject.example", "reject.example", "other\r\n",
			"451 4.7.0 The body is not the one that its DKIM signature tells of, try again", true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sending{
				header: signed(t, tt.author, from(tt.author), plainBody, dkim.Relaxed), from: tt.from,
				env: Envelope{Seal: WantAll},
			}
			m := s.begin(t, a, z)
			if !m.Predict(t.Context()) {
				t.Fatal("not predicted")
			}
			key, sender := m.PredictKey()
			if want := strings.TrimSpace(tt.author + " " + tt.from); len(key) != 32 || sender != want {
				t.Errorf("marked by %q and %q, want %q", key, sender, want)
			}
			if _, err := m.Fields(nil, mail.ModePredict); err != nil {
				t.Fatal(err)
			}
			write(m, tt.body)
			v := m.Finish(t.Context())
			if got := reply(v); got != tt.want || v.Mismatch != tt.mismatch {
				t.Errorf("got %q and %v, want %q and %v", got, v.Mismatch, tt.want, tt.mismatch)
			}
			// The second attempt is held.
			s.body = tt.body
			if tt.author == "none.example" {
				if _, v := s.hold(t, a, z); v.Refusal != nil {
					t.Errorf("held: %v", v.Refusal)
				}
			}
			again := sending{header: s.header, from: tt.from, env: Envelope{Seal: WantAll}}
			m = again.begin(t, a, z)
			m.Predict(t.Context())
			if k, _ := m.PredictKey(); k != key {
				t.Error("the second attempt has another key")
			}
		})
	}
}

// A neighbour who replays a header section marks another sender than the one that passes SPF.
func TestPredictKey_Neighbour(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	use(t, a, ring())
	header := signed(t, "none.example", from("none.example"), plainBody, dkim.Relaxed)
	marked := func(client, from string) string {
		s := sending{header: header, from: from, client: client, env: Envelope{Seal: WantAll}}
		m := s.begin(t, a, z)
		if !m.Predict(t.Context()) {
			t.Fatal("not predicted")
		}
		_, sender := m.PredictKey()
		return sender
	}
	for name, got := range map[string]string{
		"the sender":                        marked(goodClient, "none.example"),
		"its bounces":                       marked(goodClient, ""),
		"a neighbour":                       marked(badClient, "none.example"),
		"a neighbour by a domain of his":    marked(goodClient, "bare.example"),
		"a neighbour by a domain of no use": marked(badClient, "bare.example"),
	} {
		want := map[string]string{
			"the sender": "none.example none.example", "a neighbour by a domain of his": "none.example bare.example",
		}[name]
		if want == "" {
			want = "none.example"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// What is written before the mode is known is hashed.
func TestWriteOctets_BeforeFields(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	use(t, a, ring())
	s := sending{
		header: signed(t, "none.example", from("none.example"), plainBody, dkim.Simple), env: Envelope{Seal: WantAll},
	}
	m := s.begin(t, a, z)
	write(m, plainBody[:5])
	if !m.Predict(t.Context()) {
		t.Fatal("not predicted")
	}
	if _, err := m.Fields(nil, mail.ModePredict); err != nil {
		t.Fatal(err)
	}
	write(m, plainBody[5:])
	if v := m.Finish(t.Context()); v.Refusal != nil || v.DKIM != "pass" {
		t.Errorf("got %+v", v)
	}
}
