package auth

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

const (
	dmarcRejects     = "550 5.7.26 The DMARC policy of reject.example rejects this message"
	dmarcQuarantines = "550 5.7.26 The DMARC policy of quarantine.example quarantines this message"
	dmarcUnknown     = "451 4.7.0 DMARC cannot be checked now"
	notAuthentic     = "550 5.7.26 This message is not authenticated"
	authUnknown      = "451 4.7.0 Authentication cannot be checked now, try again later"
)

// DMARC is enforced.
func TestFinish_DMARC(t *testing.T) {
	z := dns()
	z.broken["_dmarc.broken.example"] = true
	z.broken["broken._domainkey.reject.example"] = true
	z.broken["broken._domainkey.list.example"] = true
	z.txt["_dmarc.testing.example"] = "v=DMARC1; p=reject; t=y"
	z.txt["_dmarc.pct.example"] = "v=DMARC1; p=reject; pct=0"
	const listID = "List-Id: <l.example>\r\n"
	trusted := func(header, results string) string {
		return sealedBy(t, z, "sealer.example", header, plainBody, results)
	}
	good := func(domain string) string { return signed(t, domain, from(domain), plainBody, dkim.Relaxed) }
	lost := strings.Replace(good("reject.example"), "s=rsa;", "s=broken;", 1)
	forged := from("reject.example")
	tests := []struct {
		name string
		s    sending
		want string // the reply, "" for none
		over string // overrides
		dm   string // the result
	}{
		{"a forged author of a domain that rejects", sending{header: forged}, dmarcRejects, "", "fail"},
		{
			"SPF for another domain helps nothing", sending{header: forged, from: "bare.example"}, dmarcRejects, "",
			"fail",
		},
		{
			"DKIM of another domain helps nothing",
			sending{header: signed(t, "esp.example", forged, plainBody, dkim.Relaxed)}, dmarcRejects, "", "fail",
		},
		{"SPF that is aligned passes", sending{header: forged, from: "reject.example"}, "", "", "pass"},
		{"DKIM that is aligned passes", sending{header: good("reject.example"), client: badClient}, "", "", "pass"},
		{
			"a body that was changed fails",
			sending{header: good("reject.example"), client: badClient, body: "other\r\n"}, dmarcRejects, "", "fail",
		},
		{"a domain that asks for nothing", sending{header: from("none.example")}, "", "", "fail"},
		{"a domain without a policy", sending{header: from("bare.example")}, "", "", "none"},
		{"a domain in testing is one step milder", sending{header: from("testing.example")}, "", "", "fail"},
		{
			"pct spares nothing", sending{header: from("pct.example")},
			"550 5.7.26 The DMARC policy of pct.example rejects this message", "", "fail",
		},
		{"quarantine is forwarded", sending{header: from("quarantine.example")}, "", "", "fail"},
		{"quarantine is refused where the domain wants it", sending{header: from("quarantine.example"),
			env: Envelope{Policy: mail.DomainPolicy{Quarantine: mail.QuarantineRefuse}}}, dmarcQuarantines, "", "fail"},
		{
			"report refuses nothing",
			sending{header: forged, env: Envelope{Policy: mail.DomainPolicy{DMARC: mail.DMARCReport}}}, "", "", "fail",
		},
		{
			"off is not looked at",
			sending{header: forged, env: Envelope{Policy: mail.DomainPolicy{DMARC: mail.DMARCOff}}}, "", "", "",
		},
		{"a trusted client is not judged", sending{header: forged, env: Envelope{Client: trustedClient}}, "", "", ""},
		{"postmaster gets everything", sending{header: forged, env: Envelope{Exempt: true}}, "", "", "fail"},

		{"the allow list overrides",
			sending{header: forged, env: Envelope{Client: allowedClient}}, "", "allow list", "fail"},
		{
			"a known good client does not",
			sending{header: forged, env: Envelope{Client: knownGoodClient}}, dmarcRejects, "", "fail",
		},
		{"but from quarantine", sending{header: from("quarantine.example"),
			env: Envelope{Client: knownGoodClient, Policy: mail.DomainPolicy{Quarantine: mail.QuarantineRefuse}}}, "",
			"known good", "fail"},
		{
			"List-Id and SPF of any domain prove nothing",
			sending{
				header: from("reject.example", listID, "List-Post: <mailto:l@bare.example>\r\n", "Precedence: list\r\n",
					"Mailing-List: x\r\n"),
				from: "bare.example",
			}, dmarcRejects, "", "fail",
		},
		{
			"List-Id of a list that is named proves nothing",
			sending{header: from("reject.example", "List-Id: <list.example>\r\n"), from: "bare.example"}, dmarcRejects,
			"",
			"fail",
		},
		{"a list that is named, with SPF", sending{header: forged, from: "list.example"}, "", "list", "fail"},
		{
			"a list that is named, without SPF",
			sending{header: forged, from: "list.example", client: badClient}, dmarcRejects, "", "fail",
		},
		{
			"a list that is named, with SPF for HELO alone", sending{header: forged, helo: "list.example"},
			dmarcRejects,
			"", "fail",
		},
		{
			"a list that is named, with DKIM",
			sending{header: signed(t, "list.example", forged, plainBody, dkim.Relaxed), client: badClient}, "", "list",
			"fail",
		},
		{
			"a list that is named, with DKIM over another body",
			sending{header: signed(t, "list.example", forged, "other", dkim.Relaxed), client: badClient}, dmarcRejects,
			"",
			"fail",
		},
		{
			"a list whose key cannot be had",
			sending{header: strings.Replace(signed(t, "list.example", forged, plainBody, dkim.Relaxed), "s=rsa;",
				"s=broken;", 1), client: badClient},
			"451 4.7.0 The list's domain cannot be checked now, try again later", "",
			"fail",
		},
		{
			"all that speaks is recorded",
			sending{
				header: from("quarantine.example"), from: "list.example",
				env: Envelope{Client: Client{Allowed: true, KnownGood: true},
					Policy: mail.DomainPolicy{Quarantine: mail.QuarantineRefuse}},
			}, "", "allow list, known good, list", "fail",
		},
		{"overrides save from quarantine as well", sending{header: from("quarantine.example"),
			env: Envelope{Client: allowedClient, Policy: mail.DomainPolicy{Quarantine: mail.QuarantineRefuse}}}, "",
			"allow list", "fail"},
		{
			"what would not be refused is not overridden",
			sending{header: from("none.example"), env: Envelope{Client: allowedClient}}, "", "", "fail",
		},

		{"a trusted sealer that saw it pass overrides",
			sending{header: trusted(forged, "mx.sealer.example; dmarc=pass header.from=reject.example")}, "",
			"trusted ARC sealer", "fail"},
		{"one that saw it fail does not",
			sending{header: trusted(forged, "mx.sealer.example; dmarc=fail header.from=reject.example")}, dmarcRejects,
			"", "fail"},
		{"nor one that saw another author",
			sending{header: trusted(forged, "mx.sealer.example; dmarc=pass header.from=bare.example")}, dmarcRejects,
			"", "fail"},
		{"nor one that says so in a comment",
			sending{header: trusted(forged, "mx.sealer.example; dmarc=fail (dmarc=pass) header.from=reject.example")},
			dmarcRejects, "", "fail"},
		{"a stranger's seal does not",
			sending{header: sealedBy(t, z, "esp.example", forged, plainBody, "x.example; dmarc=pass")}, dmarcRejects,
			"", "fail"},
		{"a trusted seal on a changed body does not",
			sending{header: trusted(forged, "x.example; dmarc=pass"), body: "other\r\n"}, dmarcRejects, "", "fail"},
		{"a trusted sealer behind a trusted one is asked",
			sending{header: trusted(trusted(forged, "x.example; dmarc=pass"), "x.example; dmarc=fail")}, "",
			"trusted ARC sealer", "fail"},
		{"one behind a stranger is not",
			sending{header: sealedBy(t, z, "esp.example", trusted(forged, "x.example; dmarc=pass"), plainBody,
				"x.example; dmarc=pass")}, dmarcRejects, "", "fail"},

		{
			"a policy that cannot be had is asked for later", sending{header: from("broken.example")}, dmarcUnknown, "",
			"temperror",
		},
		{
			"but not where nothing is enforced",
			sending{header: from("broken.example"), env: Envelope{Policy: mail.DomainPolicy{DMARC: mail.DMARCReport}}},
			"", "", "temperror",
		},
		{
			"nor for an allowed client",
			sending{header: from("broken.example"), env: Envelope{Client: allowedClient}}, "",
			"allow list", "temperror",
		},
		{
			"nor for postmaster", sending{header: from("broken.example"), env: Envelope{Exempt: true}}, "", "",
			"temperror",
		},
		{
			"a key that cannot be had may have passed", sending{header: lost, client: badClient}, dmarcUnknown, "",
			"temperror",
		},
		{"which does not matter if SPF passes", sending{header: lost, from: "reject.example"}, "", "", "pass"},

		{
			"two From fields are no way round",
			sending{header: from("bare.example") + "From: x@reject.example\r\n", from: "bare.example"}, dmarcRejects,
			"",
			"fail",
		},
		{
			"nobody is forged where there is no author", sending{header: "Subject: s\r\n", from: "bare.example"}, "",
			"", "permerror",
		},
		{
			"nor where the author is no address", sending{header: "From: MAILER-DAEMON <>\r\n", from: "bare.example"},
			"", "", "permerror",
		},
		{
			"an address literal has no policy", sending{header: "From: Scanner <scan@[192.0.2.7]>\r\n"}, "", "", "none",
		},
		{
			"of authors of two domains the stricter counts",
			sending{header: "From: a@bare.example, b@reject.example\r\n", from: "bare.example"}, dmarcRejects, "",
			"fail",
		},
		{
			"each of them has to be authenticated",
			sending{header: "From: a@none.example, b@reject.example\r\n", from: "reject.example"}, "", "", "fail",
		},
		{
			"an address in a display name is not the author",
			sending{header: "From: \"x@reject.example\" <a@bare.example> (y@reject.example)\r\n", from: "bare.example"},
			"",
			"", "none",
		},
		{
			"but where the field can be read otherwise",
			sending{header: "From: \"x@reject.example\" a@bare.example\r\n", from: "bare.example"}, dmarcRejects, "",
			"fail",
		},
		{
			"a hosted domain in a display name counts",
			sending{header: "From: \"ceo@ours.example\" <a@bare.example>\r\n", from: "bare.example"},
			"550 5.7.26 The DMARC policy of ours.example rejects this message", "", "fail",
		},
		{
			"in a comment and in an encoded word too",
			sending{header: "From: =?utf-8?q?ceo=40ours.example?= <a@[192.0.2.7]>\r\n", from: "bare.example"},
			"550 5.7.26 The DMARC policy of ours.example rejects this message", "", "fail",
		},
		{
			"unless the author passes",
			sending{header: "From: \"ceo@ours.example\" <a@none.example>\r\n", from: "none.example"}, "", "", "pass",
		},
		{
			"a domain that is veiled",
			sending{header: "From: =?utf-8?q?ceo?= <x@>\r\n", from: "bare.example"},
			"550 5.7.26 DMARC finds no author domain in this message", "", "permerror",
		},
		{
			"more domains than are judged",
			sending{header: "From: a@a.example b@b.example a@c.example a@d.example a@e.example a@f.example " +
				"a@g.example " +
				"a@h.example a@i.example\r\n", from: "bare.example"}, "550 5.6.0 This message cannot be judged", "",
			"permerror",
		},
		{
			"which postmaster gets",
			sending{header: "From: a@a.example b@b.example a@c.example a@d.example a@e.example a@f.example " +
				"a@g.example " +
				"a@h.example a@i.example\r\n", env: Envelope{Exempt: true}}, "", "", "permerror",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthenticator(t, z, "sealer.example")
			for _, mode := range []mail.Mode{mail.ModeHold, mail.ModeStream} {
				s := tt.s
				s.env.Policy.RequireAuth = mail.RequireAuthNo
				if s.body == "" {
					s.body = plainBody
				}
				var v *Decision
				if mode == mail.ModeHold {
					_, v = s.hold(t, a, z)
				} else {
					_, _, v = s.stream(t, a, z)
				}
				if got := reply(v); got != tt.want {
					t.Errorf("%v: got %q, want %q (%s)", mode, got, tt.want, v.Auth.String())
				}
				if v.IgnoredPercent != strings.Contains(tt.s.header, "@pct.example") {
					t.Errorf("%v: ignored pct: %v", mode, v.IgnoredPercent)
				}
				if got := strings.Join(v.Overrides, ", "); got != tt.over || v.DMARC != tt.dm {
					t.Errorf("%v: got %q and dmarc=%s, want %q and %s", mode, got, v.DMARC, tt.over, tt.dm)
				}
			}
		})
	}
}

// require_auth is enforced.
func TestFinish_RequireAuth(t *testing.T) {
	z := dns()
	z.broken["lost.example"] = true
	z.broken["broken._domainkey.bare.example"] = true
	header := from("bare.example")
	with := func(domain, body string) string { return signed(t, domain, header, body, dkim.Relaxed) }
	tests := []struct {
		name string
		s    sending
		want string
		bare bool // Unauthenticated
	}{
		{"nothing at all", sending{header: header, from: "bare.example", client: badClient}, notAuthentic, true},
		{"SPF of the reverse-path is enough", sending{header: header, from: "bare.example"}, "", false},
		{"SPF of HELO is enough", sending{header: header, from: "nowhere.example", helo: "bare.example"}, "", false},
		{
			"any DKIM is enough",
			sending{header: with("esp.example", plainBody), from: "bare.example", client: badClient}, "", false,
		},
		{
			"but one for this body",
			sending{header: with("esp.example", "other"), from: "bare.example", client: badClient}, notAuthentic, true,
		},
		{"a trusted sealer is enough",
			sending{header: sealedBy(t, z, "sealer.example", header, plainBody, "x.example; spf=fail"),
				from: "bare.example", client: badClient}, "", false},
		{"a stranger's seal is not",
			sending{header: sealedBy(t, z, "esp.example", header, plainBody, "x.example; spf=pass"),
				from: "bare.example", client: badClient}, notAuthentic, true},
		{"the null reverse-path needs nothing", sending{header: header, client: badClient}, "", false},
		{
			"nor does postmaster",
			sending{header: header, from: "bare.example", client: badClient, env: Envelope{Exempt: true}}, "", false,
		},
		{
			"nor a trusted client",
			sending{header: header, from: "bare.example", client: badClient, env: Envelope{Client: trustedClient}},
			"", false,
		},
		{
			"nor an allowed one",
			sending{header: header, from: "bare.example", client: badClient, env: Envelope{Client: allowedClient}},
			"", false,
		},
		{
			"a known good one does",
			sending{header: header, from: "bare.example", client: badClient, env: Envelope{Client: knownGoodClient}},
			notAuthentic, true,
		},
		{"SPF that cannot be had is asked for later", sending{header: header, from: "lost.example"}, authUnknown, true},
		{"and so is a key",
			sending{header: strings.Replace(with("bare.example", plainBody), "s=rsa;", "s=broken;", 1),
				from: "bare.example", client: badClient}, authUnknown, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthenticator(t, z, "sealer.example")
			for _, p := range []mail.RequireAuth{mail.RequireAuthYes, mail.RequireAuthReport, mail.RequireAuthNo} {
				s := tt.s
				s.body = plainBody
				s.env.Policy.RequireAuth = p
				_, v := s.hold(t, a, z)
				want, bare := tt.want, tt.bare && p != mail.RequireAuthNo
				if p != mail.RequireAuthYes {
					want = ""
				}
				if got := reply(v); got != want || v.Unauthenticated != bare {
					t.Errorf("%d: got %q and %v, want %q and %v (%s)", p, got, v.Unauthenticated, want, bare,
						v.Auth.String())
				}
			}
		})
	}
	t.Run("the refusal names what failed", func(t *testing.T) {
		s := sending{header: with("esp.example", "other"), from: "bare.example", client: badClient, body: plainBody,
			env: Envelope{Policy: mail.DomainPolicy{RequireAuth: mail.RequireAuthYes}}}
		_, v := s.hold(t, newAuthenticator(t, z), z)
		const want = "550 5.7.26 This message is not authenticated: SPF of the reverse-path is fail, SPF of HELO " +
			"is none, DKIM is fail"
		if got := v.Refusal.Reply.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A refusal that no body can avert is known before the body.
func TestRefusal(t *testing.T) {
	z := dns()
	tests := []struct {
		name, header, from string
		want               string
	}{
		{"a forged author without a signature", from("reject.example"), "", dmarcRejects},
		{
			"one with another domain's signature",
			signed(t, "esp.example", from("reject.example"), plainBody, dkim.Relaxed), "", dmarcRejects,
		},
		{
			"one with the domain's signature waits for the body",
			signed(t, "reject.example", from("reject.example"), plainBody, dkim.Relaxed), "", "",
		},
		{"one with a trusted seal waits for the body",
			sealedBy(t, z, "sealer.example", from("reject.example"), plainBody, "x.example; dmarc=pass"), "", ""},
		{"one with a stranger's does not",
			sealedBy(t, z, "esp.example", from("reject.example"), plainBody, "x.example; dmarc=pass"), "",
			dmarcRejects},
		{"one that SPF speaks for is none", from("reject.example"), "reject.example", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthenticator(t, z, "sealer.example")
			s := sending{header: tt.header, from: tt.from}
			m := s.begin(t, a, z)
			r := m.Refusal(t.Context())
			if got := reply(&Decision{Refusal: r}); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if r == nil {
				return
			}
			if m.NeedsBody() {
				t.Error("the body is needed")
			}
			write(m, "anything")
			if v := m.Finish(t.Context()); v.Refusal != r {
				t.Errorf("Finish says %v", v.Refusal)
			}
		})
	}
}

// The body is needed where it decides.
func TestNeedsBody(t *testing.T) {
	z := dns()
	own := signed(t, "reject.example", from("reject.example"), plainBody, dkim.Relaxed)
	others := signed(t, "esp.example", from("none.example"), plainBody, dkim.Relaxed)
	tests := []struct {
		name         string
		s            sending
		held, stream bool
	}{
		{"no signature", sending{header: from("reject.example"), from: "reject.example"}, false, false},
		{
			"a signature that decides about DMARC", sending{header: own, client: badClient, from: "reject.example"},
			true, true,
		},
		{"SPF has decided", sending{header: own, from: "reject.example"}, true, false},
		{"a signature that decides about nothing", sending{header: others, from: "none.example"}, true, false},
		{
			"a signature that decides what is reported",
			sending{header: others, from: "none.example", client: badClient}, true, true,
		},
		{
			"something to sign",
			sending{header: from("none.example"), from: "none.example", env: Envelope{Seal: WantAll}},
			true, false,
		},
		{"a trusted client's", sending{header: own, env: Envelope{Client: trustedClient}}, false, false},
		{"a trusted client's to sign",
			sending{header: own, env: Envelope{Client: trustedClient, Seal: WantAll}}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthenticator(t, z)
			use(t, a, ring())
			s := tt.s
			m := s.begin(t, a, z)
			m.Header(t.Context())
			if got := m.NeedsBody(); got != tt.held {
				t.Errorf("held: got %v", got)
			}
			s = tt.s
			s.body = plainBody
			fields, needed, v := s.stream(t, a, z)
			if needed != tt.stream {
				t.Errorf("streaming: got %v", needed)
			}
			if v.Refusal != nil {
				t.Errorf("got %v", v.Refusal)
			}
			for _, word := range []string{"dkim=", "dmarc=", "arc="} {
				if strings.Contains(fields, word) {
					t.Errorf("the fields of a stream say %s: %q", word, fields)
				}
			}
		})
	}
}
