package auth

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/authres"
	oracle "github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// verified returns the results of all signatures of a message by our own verifier and by go-msgauth, and the status of
// its ARC chain.
func verified(t testing.TB, z zone, message, body string) (ours, theirs, cv string) {
	t.Helper()
	v, err := dkim.NewVerifier(dkim.Config{Resolver: z})
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.Begin(t.Context(), []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	m.Want(dkim.Relaxed)
	m.Want(dkim.Simple)
	m.Write([]byte(body))
	var words []string
	for _, s := range m.Finish() {
		words = append(words, s.Domain+"="+s.Result.String())
	}
	ours = strings.Join(words, " ")
	words = nil
	found, err := oracle.VerifyWithOptions(strings.NewReader(message+body), &oracle.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) { return z.LookupTXT(context.Background(), name) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range found {
		word := "pass"
		if s.Err != nil {
			word = "fail"
		}
		words = append(words, s.Domain+"="+word)
	}
	theirs = strings.Join(words, " ")
	av, err := arc.New(arc.Config{Resolver: z})
	if err != nil {
		t.Fatal(err)
	}
	c, err := av.Begin(t.Context(), []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return ours, theirs, c.Finish(m.BodyHash).CV.String()
}

// without returns the header section as it is sent.
func without(m *Message, header string) string {
	var b strings.Builder
	at := 0
	for _, c := range m.Removals() {
		b.WriteString(header[at:c.From])
		at = c.To
	}
	return b.String() + header[at:]
}

// Which keys sign which message.
func TestFields_Signers(t *testing.T) {
	z := dns()
	const sealedFields = "ARC-Seal ARC-Message-Signature ARC-Authentication-Results "
	all := []string{"example.net", "example.net", "hosted.example"}
	good := signed(t, "none.example", from("none.example"), plainBody, dkim.Relaxed)
	hosted := Envelope{Hosted: "hosted.example"}
	tests := []struct {
		name   string
		s      sending
		signed []string // d= of our DKIM signatures
		cv     string   // of the chain then
	}{
		{
			"no signature is there: relay and hosted domain sign", sending{header: from("none.example"), env: hosted},
			all, "pass",
		},
		{"no hosted domain: the relay signs", sending{header: from("none.example")}, all[:2], "pass"},
		{"an aligned signature passes: nobody signs", sending{header: good, env: hosted}, nil, "pass"},
		{
			"one below the author domain is aligned as well",
			sending{header: signed(t, "none.example", from("sub.none.example"), plainBody, dkim.Relaxed), env: hosted},
			nil, "pass",
		},
		{
			"SPF that is aligned does not last behind us",
			sending{header: from("none.example"), from: "none.example", env: hosted}, all, "pass",
		},
		{
			"an aligned signature fails: they sign",
			sending{header: signed(t, "none.example", from("none.example"), "other", dkim.Relaxed), env: hosted}, all,
			"pass",
		},
		{
			"another domain's passes: they sign",
			sending{header: signed(t, "esp.example", from("none.example"), plainBody, dkim.Relaxed), env: hosted}, all,
			"pass",
		},
		{
			"a forged author of the hosted domain gets no signature of it",
			sending{header: from("hosted.example"), env: hosted}, all[:2], "pass",
		},
		{"nor one below it", sending{header: from("sub.hosted.example"), env: hosted}, all[:2], "pass"},
		{"a true one does", sending{header: from("hosted.example"), from: "hosted.example", env: hosted}, all, "pass"},
		{
			"a forged author of the relay's domain gets none of its",
			sending{header: from("mail.example.net"), env: hosted}, all[2:], "pass",
		},
		{"a chain goes on",
			sending{header: sealedBy(t, z, "sealer.example", from("none.example"), plainBody, "x.example; none"),
				env: hosted}, all, "pass"},
		{"a chain that is broken is sealed as such",
			sending{header: sealedBy(t, z, "sealer.example", from("none.example"), "other", "x.example; none"),
				env: hosted}, all, "fail"},
		{
			"a trusted client's author signs",
			sending{header: from("hosted.example"), env: Envelope{Client: trustedClient}},
			all[2:], "none",
		},
		{"else the relay",
			sending{header: from("none.example"), env: Envelope{Client: trustedClient}}, all[:2], "none"},
		{"not over its own signature", sending{header: good, env: Envelope{Client: trustedClient}}, nil, "none"},
		{"an empty body is one", sending{header: from("none.example"), body: "none", env: hosted}, all, "pass"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthenticator(t, z)
			use(t, a, ring())
			s := tt.s
			s.env.Seal = WantAll
			switch s.body {
			case "":
				s.body = plainBody
			case "none":
				s.body = ""
			}
			fields, v := s.hold(t, a, z)
			want := "Authentication-Results "
			if tt.cv != "none" {
				want = sealedFields + want
			}
			if s.env.Client.Trusted {
				want = ""
			}
			want = strings.TrimSpace(want + strings.Repeat("DKIM-Signature ", len(tt.signed)))
			if got := names(fields); got != want {
				t.Errorf("got %s, want %s (%s)", got, want, v.Auth.String())
			}
			ours, theirs, cv := verified(t, z, fields+s.header+"\r\n", s.body)
			for i, d := range tt.signed {
				if got := strings.Fields(ours)[i]; got != d+"=pass" {
					t.Errorf("signature %d: got %s, want one of %s", i, got, d)
				}
				if got := strings.Fields(theirs)[i]; got != d+"=pass" {
					t.Errorf("the oracle says of signature %d: %s, not of %s", i, got, d)
				}
			}
			if cv != tt.cv {
				t.Errorf("the chain is %s, not %s", cv, tt.cv)
			}
			for f := range dkim.Fields([]byte(fields)) {
				if !f.Is("DKIM-Signature") && !f.Is("ARC-Message-Signature") {
					continue
				}
				tags, err := dkim.ParseTagList(f.Body())
				if err != nil {
					t.Fatal(err)
				}
				h := string(tags.Get("h"))
				if strings.Contains(h, "received") || strings.Contains(h, "authentication-results") ||
					strings.Contains(h, "arc-") {
					t.Errorf("h= has a trace field: %s", h)
				}
			}
		})
	}
}

// A message that is delivered because something overrides its refusal gets no DKIM signature of ours, and our ARC set
// says that it failed.
func TestFields_Overridden(t *testing.T) {
	z := dns()
	forged := from("reject.example")
	refuse := mail.DomainPolicy{Quarantine: mail.QuarantineRefuse}
	for name, s := range map[string]sending{
		"by the allow list": {header: forged, env: Envelope{Client: allowedClient}},
		"by a list":         {header: forged, from: "list.example"},
		"by a trusted sealer": {
			header: sealedBy(t, z, "sealer.example", forged, plainBody, "x.example; dmarc=pass"),
		},
		"by karma": {header: from("quarantine.example"), env: Envelope{Client: knownGoodClient, Policy: refuse}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthenticator(t, z, "sealer.example")
			use(t, a, ring())
			s.env.Seal, s.env.Hosted, s.body = WantAll, "hosted.example", plainBody
			fields, v := s.hold(t, a, z)
			if got := names(fields); got != "ARC-Seal ARC-Message-Signature ARC-Authentication-Results "+
				"Authentication-Results" {
				t.Errorf("fields %s (%s)", got, v.Auth.String())
			}
			if got := field(fields, "ARC-Authentication-Results"); !strings.Contains(got, "dmarc=fail") {
				t.Errorf("the ARC set says %s", got)
			}
		})
	}
}

// The content of our Authentication-Results field.
func TestFields_Results(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z, "sealer.example")
	good := signed(t, "none.example", from("none.example"), plainBody, dkim.Relaxed)
	tests := []struct {
		name string
		s    sending
		want []string
		not  []string
	}{
		{"all that passes", sending{header: good, from: "none.example", helo: "bare.example"}, []string{
			"mx.example.net; spf=pass smtp.mailfrom=u@none.example; spf=pass smtp.helo=bare.example; dkim=pass " +
				"(2048-bit key) header.d=none.example header.s=rsa header.a=rsa-sha256 header.b=",
			"; dmarc=pass (p=none) header.from=none.example; arc=none smtp.remote-ip=192.0.2.1"}, nil},
		{"the null reverse-path is HELO's", sending{header: good, helo: "bare.example"},
			[]string{"mx.example.net; spf=pass smtp.helo=bare.example; dkim="}, []string{"mailfrom"}},
		{"a failure is named and why", sending{header: from("none.example"), from: "none.example", client: badClient},
			[]string{"; dkim=none; dmarc=fail (p=none, ", "header.from=none.example policy.dmarc=none"}, nil},
		{
			"an override is named", sending{header: from("reject.example"), env: Envelope{Client: allowedClient}},
			[]string{
				"dmarc=fail (p=reject, ", "not enforced: allow list) header.from=reject.example policy.dmarc=reject",
			}, nil,
		},
		{
			"an address of IPv6 is quoted", sending{header: from("none.example"), client: "2001:db8::1"},
			[]string{`smtp.remote-ip="2001:db8::1"`}, nil,
		},
		{"a chain is named",
			sending{header: sealedBy(t, z, "sealer.example", from("none.example"), plainBody, "x.example; none")},
			[]string{"arc=pass header.oldest-pass=0 smtp.remote-ip=192.0.2.1"}, nil},
		{"a selector of words is not repeated",
			sending{header: `DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=a(b" c; b=A"(B; bh=x; h=from` + "\r\n" +
				from("none.example")}, []string{"dkim=permerror (signature syntax error) header.d=x.example; dmarc"},
			[]string{"header.s", "header.b"}},
		{
			"signatures beyond the limit are counted",
			sending{header: strings.Repeat(good[:strings.Index(good, "From:")], 7) + from("none.example")},
			[]string{"dkim=policy (2 more signatures not checked)"}, nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.s
			s.body = plainBody
			fields, _ := s.hold(t, a, z)
			got := field(fields, "Authentication-Results")
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(got, not) {
					t.Errorf("%s is in %s", not, got)
				}
			}
			for _, line := range strings.Split(fields, "\r\n") {
				if len(line) > 300 {
					t.Errorf("a line of %d octets", len(line))
				}
			}
			// go-msgauth wants header.oldest-pass to be 1 at least, where RFC 8617 section 5.2 has 0 for "all of them".
			plain := strings.NewReplacer("\r\n\t", " ", " header.oldest-pass=0", "").Replace(strings.TrimSpace(fields))
			id, results, err := authres.Parse(strings.TrimPrefix(plain, "Authentication-Results: "))
			if err != nil || id != "mx.example.net" || len(results) < 3 {
				t.Errorf("go-msgauth reads %q, %d results, %v", id, len(results), err)
			}
		})
	}
}

// An address that needs quotes is named by its domain.
func TestFields_QuotedAddress(t *testing.T) {
	for _, tt := range []struct {
		path mail.Path
		want string
	}{
		{mail.Path{Local: "a.b+c", Domain: "x.example"}, " smtp.mailfrom=a.b+c@x.example"},
		{mail.Path{Local: `"a b"`, Domain: "x.example"}, " smtp.mailfrom=x.example"},
		{mail.Path{Local: "a..b", Domain: "x.example"}, " smtp.mailfrom=x.example"},
		{mail.Path{Local: "a;dkim=pass", Domain: "x.example"}, " smtp.mailfrom=x.example"},
		{mail.Path{Local: "ä", Domain: "x.example"}, " smtp.mailfrom=x.example"},
	} {
		w := resultsWriter{}
		w.mailbox("smtp.mailfrom", tt.path, "x.example")
		if got := string(w.dst); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.path, got, tt.want)
		}
	}
}

// A second signature with a wrong body hash never passes.
func TestFields_SecondSignature(t *testing.T) {
	z := dns()
	header := signed(t, "none.example", from("none.example"), plainBody, dkim.Relaxed)
	wrong := signed(t, "esp.example", from("none.example"), "other", dkim.Simple)
	simple := signed(t, "esp.example", from("none.example"), "other", dkim.Relaxed)
	for _, second := range []string{wrong, simple} {
		field := second[:strings.Index(second, "From:")]
		for _, h := range []string{field + header, strings.Replace(header, "From:", field+"From:", 1)} {
			a := newAuthenticator(t, z)
			use(t, a, ring())
			s := sending{header: h, body: plainBody, env: Envelope{Seal: WantAll}}
			fields, _ := s.hold(t, a, z)
			predicted := ""
			if m := s.begin(t, a, z); m.Predict(t.Context()) {
				f, err := m.Fields(nil, mail.ModePredict)
				if err != nil {
					t.Fatal(err)
				}
				predicted = string(f)
			}
			streamed, _, _ := s.stream(t, a, z)
			for _, f := range []string{fields, predicted, streamed} {
				for part := range strings.SplitSeq(f, ";") {
					if strings.Contains(part, "dkim=pass") && strings.Contains(part, "esp.example") {
						t.Errorf("says %s", part)
					}
				}
			}
			if !strings.Contains(fields, "dkim=pass") {
				t.Errorf("the good one does not pass: %s", fields)
			}
		}
	}
}

// Fields that pretend to be ours are removed.
func TestMessage_Removals(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	const forged, other = "Authentication-Results: mx.example.net; dmarc=pass\r\n", "Authentication-Results: " +
		"mx.other.example; dmarc=pass\r\n"
	header := forged + forged + other + from("none.example",
		"AUTHENTICATION-results : (c) \"MX.example\\.net\" 1;\r\n spf=pass\r\n") + forged
	s := sending{header: header}
	m := s.begin(t, a, z)
	if got, want := without(m, header), other+from("none.example"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	many := strings.Repeat(forged+"X: y\r\n", 1000)
	s = sending{header: many + from("none.example")}
	if m = s.begin(t, a, z); len(m.Removals()) != 1000 ||
		without(m, s.header) != strings.Repeat("X: y\r\n", 1000)+from("none.example") {
		t.Errorf("%d removals", len(m.Removals()))
	}
}

// A key that does not sign is a fault of our own.
func TestFields_BrokenKey(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	use(t, a, Keyring{Relay: []dkim.SigningKey{{Domain: "example.net", Selector: "rsa", Key: brokenKey{keys().rsa}}}})
	s := sending{header: from("none.example"), body: plainBody, env: Envelope{Seal: WantAll}}
	m := s.begin(t, a, z)
	write(m, s.body)
	m.Finish(t.Context())
	dst, err := m.Fields([]byte("kept"), mail.ModeHold)
	var r *mail.Refusal
	if !errors.As(err, &r) || r.Reply.Code != 451 || !bytes.Equal(dst, []byte("kept")) {
		t.Errorf("got %q, %v", dst, err)
	}
}
