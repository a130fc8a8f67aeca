package ingress

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// cases is the folder of messages from the field, which is not part of the module.
func cases(t testing.TB) string {
	t.Helper()
	return ingresstest.Shared(t, "cases", "messages")
}

// casesZone reads the records of the cases.
func casesZone(t testing.TB, dir string) ingresstest.Zone {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "zone.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string][]map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	z := ingresstest.Zone{}
	for name, records := range all {
		for _, record := range records {
			switch txt := record["TXT"].(type) {
			case string:
				z[name] = append(z[name], txt)
			case []any:
				parts := ""
				for _, part := range txt {
					parts += part.(string)
				}
				z[name] = append(z[name], parts)
			}
		}
	}
	return z
}

// serveCases serves a session that judges and takes XCLIENT.
func serveCases(t *testing.T, z ingresstest.Zone) (*fixture, *ingresstest.Relay) {
	t.Helper()
	a, err := auth.New(auth.Config{AuthservID: "mx.relay.example", Resolver: z})
	if err != nil {
		t.Fatal(err)
	}
	checker, err := spf.New(spf.Config{Resolver: z})
	if err != nil {
		t.Fatal(err)
	}
	relay := &ingresstest.Relay{UTF8: true}
	w := serve(t, info, relay, func(cfg *Config, wc *wire.Config) {
		cfg.Message.Auth, cfg.Message.SPF = a, checker
		wc.Xclient = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	return w, relay
}

// TestCases has the messages from the field with the answer that is right.
func TestCases(t *testing.T) {
	const (
		rejected = "550 5.7.26"
		dkimPass = "spf=fail dkim=pass dmarc=pass"
		spfPass  = "spf=pass dkim=none dmarc=pass"
	)
	dir := cases(t)
	// What stands below our fields, where that is not the message as it was sent.
	below := map[string]func(text string) string{
		"a04-folded-first-line.eml": func(text string) string { return "\r\n" + text },
		"a04-mbox-line.eml":         func(text string) string { return text[strings.Index(text, "\n")+1:] },
	}
	tests := map[string]struct{ want, auth string }{
		"a04-folded-first-line.eml":           {"250", "spf=pass dkim=none dmarc=permerror"},
		"a04-mbox-line.eml":                   {"250", spfPass},
		"a02-aligned-signature-fifth.eml":     {"250", dkimPass},
		"a02-aligned-signature-sixth.eml":     {"250", dkimPass},
		"a02-five-unreadable-above.eml":       {"250", dkimPass},
		"a03-d-a-label.eml":                   {"250", dkimPass},
		"a03-d-u-label.eml":                   {"250", dkimPass},
		"a03-i-u-label.eml":                   {"250", dkimPass},
		"a03-s-a-label.eml":                   {"250", dkimPass},
		"a05-from-at-and-comma-in-name.eml":   {"250", spfPass},
		"a05-from-cfws-in-domain.eml":         {"250", spfPass},
		"a05-from-iso2022jp.eml":              {"250", spfPass},
		"a05-from-literal-v4.eml":             {"250", "spf=pass dkim=none dmarc=none"},
		"a05-from-no-angles.eml":              {"250", spfPass},
		"a05-from-period-after-angle.eml":     {"250", spfPass},
		"a05-from-route.eml":                  {"250", "spf=pass dkim=none dmarc=none"},
		"a05-from-text-after-angle.eml":       {"250", spfPass},
		"a05-from-trailing-dot-domain.eml":    {"250", spfPass},
		"a08-l-covers-whole-body.eml":         {"250", dkimPass},
		"a10-empty-tag.eml":                   {"250", dkimPass},
		"a10-h-trailing-colon.eml":            {"250", dkimPass},
		"a10-key-record-double-semicolon.eml": {"250", dkimPass},
		"a10-lower-hex-in-i.eml":              {"250", dkimPass},
		"a10-unknown-tag-with-hyphen.eml":     {"250", dkimPass},
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d messages, %v", len(files), err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			tt, ok := tests[name]
			if !ok {
				t.Fatal("not in the table")
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w, relay := serveCases(t, casesZone(t, dir))
			addr, reverse, params := "192.0.2.7", "a@sender.example", ""
			switch name[:3] { // SPF fails, so that DKIM alone decides
			case "a02", "a03", "a08", "a10":
				addr, reverse = "203.0.113.50", "x@nodmarc.example"
			}
			if name[:3] == "a03" {
				params = " SMTPUTF8"
			}
			w.say("XCLIENT ADDR="+addr+" NAME=client.sender.example", "220")
			w.say("EHLO client.sender.example", "250")
			w.say("MAIL FROM:<"+reverse+">"+params, "250")
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			w.say(stuff(string(text))+".", tt.want)
			if tt.want != "250" {
				return
			}
			got, want := relay.Got[len(relay.Got)-1].Octets, string(text)
			if change := below[name]; change != nil {
				want = change(want)
			}
			if !strings.HasSuffix(got, "\r\n"+stuff(want)) || strings.Contains(got, "\r\nFrom a@") {
				t.Errorf("the message was changed:\n%s", got)
			}
			if e := w.last(mail.Relayed); e.Auth.String() != tt.auth {
				t.Errorf("got %s, want %s", e.Auth.String(), tt.auth)
			}
		})
	}
}

// TestCases_Envelope has the commands from the field, on a listener of trusted clients and on one of strangers.
func TestCases_Envelope(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(cases(t), "a06-a11-a14-envelope.txt"))
	if err != nil {
		t.Fatal(err)
	}
	// What a stranger gets, where that is not what a trusted client gets.
	strangers := map[string]string{
		"MAIL FROM:a@sender.example": "501", "MAIL FROM:< a@sender.example >": "501",
		"RCPT TO:info@relay.example": "501",
	}
	for _, trusted := range []bool{true, false} {
		n := 0
		for line := range strings.Lines(string(text)) {
			command, right, ok := strings.Cut(strings.TrimSpace(line), "|")
			if !ok || strings.HasPrefix(line, "#") {
				continue
			}
			n++
			w := serve(t, rules{"info": ingresstest.To("far.example"), "Postmaster": ingresstest.To("far.example")},
				&ingresstest.Relay{UTF8: true}, func(_ *Config, wc *wire.Config) { wc.LoosePaths = trusted })
			if strings.HasPrefix(command, "RCPT") {
				w.say("MAIL FROM:<a@sender.example>", "250")
			}
			reply := w.say(strings.Replace(command, "OUR.ADDRESS", "127.0.0.1", 1), "")
			want := right[:3]
			if other := strangers[command]; other != "" && !trusted {
				want = other
			}
			if want != "any" && !strings.HasPrefix(reply, want) &&
				!(strings.HasPrefix(right, "250 or 501") && strings.HasPrefix(reply, "501")) {
				t.Errorf("trusted %t, %s: got %q, want %s", trusted, command, reply, right)
			}
		}
		if n < 11 {
			t.Errorf("only %d commands", n)
		}
	}
}

// Mail for postmaster at an address literal of ours is for <Postmaster>, and no other mail for a literal is ours.
func TestRcpt_PostmasterAtLiteral(t *testing.T) {
	relay := &ingresstest.Relay{}
	w := serve(t, rules{"Postmaster": ingresstest.To("far.example")}, relay, func(cfg *Config, wc *wire.Config) {
		cfg.Addresses = []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")}
		wc.Xclient = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for forward, want := range map[string]string{
		"Postmaster@[127.0.0.1]": "250", "postmaster@[127.0.0.1]": "250", "POSTMASTER@[203.0.113.9]": "250",
		"Postmaster@[IPv6:2001:db8::9]": "250", `"postmaster"@[203.0.113.9]`: "250",
		"postmaster@[IPv6:2001:db8:0::9]":      "250",
		"Postmaster@[IPv6:::ffff:203.0.113.9]": "250",
		"postmaster@[203.0.113.10]":            "550", "postmaster@[127.0.0.2]": "550", "info@[127.0.0.1]": "550",
		"abuse@[127.0.0.1]": "550", "postmaster@127.0.0.1": "550", "postmaster@[IPv6:2001:db8::8]": "550",
	} {
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<"+forward+">", want)
		w.say("RSET", "250")
	}
	w.say("XCLIENT DESTADDR=198.51.100.4", "220")
	w.say("EHLO client.example", "250")
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<Postmaster@[198.51.100.4]>", "250")
	w.say("DATA", "354")
	w.say("a: b\r\n\r\n.", "250")
	if got := relay.Got[0].Forwards; len(got) != 1 || got[0] != "Postmaster" {
		t.Errorf("to %q", got)
	}
}
