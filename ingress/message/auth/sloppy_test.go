package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// sloppyAuthors are From fields as scanners, printers, alarm panels, scripts and old mailers write them, all of an
// author at reject.example.
var sloppyAuthors = []string{
	// scanners and printers
	"Scanner <scan@reject.example.>",
	"scan@reject.example.",
	"MFP 2nd floor: <scan@reject.example>",
	"[Xerox] <scan@reject.example>",
	"KM_C258 (2nd floor <scan@reject.example>",
	"Kyocera, TASKalfa <scan@reject.example>",
	"Canon iR-ADV C3530 III, Room 4 <scan@reject.example>",
	"\"Scan to E-Mail <scan@reject.example>",
	"Scan to E-Mail\" <scan@reject.example>",
	"scan@reject.example <scan@reject.example>",
	"<scan@reject.example",
	"scan@reject.example>",
	"< scan@reject.example >",
	"<<scan@reject.example>>",
	"Brother;MFC <scan@reject.example>",
	"HP \\\\server\\scan <scan@reject.example>",
	"scan@reject.example;",
	"scan@reject.example,",
	"SCAN@REJECT.EXAMPLE (no reply",
	"Scanner<scan@reject.example>Scanner",
	"mailto:scan@reject.example",
	"<mailto:scan@reject.example>",
	// alarm panels, UPS, routers, cameras
	"ALARM! Zone 4 @ Hall <panel@reject.example>",
	"Panel @ Home <panel@reject.example>",
	"panel at home panel@reject.example",
	"UPS (APC) Smart-UPS 1500 @ 10.0.0.4 <ups@reject.example>",
	"cam@10.0.0.9 <cam@reject.example>",
	"nas <nas@reject.example>.",
	"nas <nas@reject.example> (nas",
	"NAS: nas@reject.example",
	"root@nas <nas@reject.example>",
	"router@reject.example ; Router",
	"\tdvr@reject.example\t(DVR)",
	"DVR,dvr@reject.example",
	"dvr..1@reject.example",
	".dvr@reject.example",
	"dvr.@reject.example",
	"dvr@.reject.example",
	"dvr@reject..example",
	"dvr @ reject.example",
	"dvr@reject . example",
	"dvr@ reject.example",
	// scripts
	"Sales @ The Shop, Ltd <shop@reject.example>",
	"The Shop, Ltd. <shop@reject.example>",
	"Shop & Co. (est. 1980 <shop@reject.example>",
	"www-data <shop@reject.example> <shop@reject.example>",
	"shop@reject.example shop@reject.example",
	"$name <shop@reject.example>",
	"Array <shop@reject.example>",
	"Your order #1234: <shop@reject.example>",
	"Müller & Söhne, GmbH <shop@reject.example>",
	"M\xfcller <shop@reject.example>",
	"\x1b$B%F%9%H\x1b(B <shop@reject.example>",
	"\x83e\x83X\x83g <shop@reject.example>",
	"\"\x95\\\" <shop@reject.example>",
	"=?utf-8?q?Shop?=<shop@reject.example>",
	"=?utf-8?q?Shop <shop@reject.example>",
	"=?utf-8?B?U2hvcA==?=, Ltd <shop@reject.example>",
	"=?iso-8859-1?Q?Caf=E9_@_Home?= Shop@ <shop@reject.example>",
	"=?utf-8?q?shop=40reject=2Eexample?=",
	"'Shop' <'shop@reject.example'>",
	"Shop <\"shop@reject.example\">",
	"Shop\r\n <shop@reject.example>\r\n via web",
	"Shop\x00 <shop@reject.example>",
	// Exchange, Outlook, Notes, lists
	"'joe@reject.example' <joe@reject.example>",
	"\"'joe@reject.example'\" <joe@reject.example>",
	"“joe@reject.example” <joe@reject.example>",
	"‘joe@reject.example’",
	"`joe@reject.example`",
	"joe@reject.example [mailto:joe@reject.example]",
	"Joe [joe@reject.example]",
	"Joe [SMTP:joe@reject.example]",
	"Joe <joe@reject.example> on behalf of Jane <jane@reject.example>",
	"Joe Doe/EMEA/Example@reject.example",
	"CN=Joe Doe/O=Example@reject.example",
	"Joe Doe joe@reject.example",
	"Joe <joe@reject.example> via x",
	"Joe <@reject.example:joe@reject.example>",
	"Joe (Sales) Doe (joe@reject.example) <joe@reject.example>,",
	"Team: joe@reject.example, jane@reject.example",
	"joe@reject.example\r\nFrom: Joe Doe <joe@reject.example>",
}

// unnamedAuthors are such fields without a domain.
var unnamedAuthors = []string{
	"", "root", "Scanner", "<>", "MAILER-DAEMON <>", "Scanner <scan>", "scan@", "@", "<@>", "Scanner @ Home", "a@b@",
	"scan@[192.0.2.7]", "Scanner <scan@[192.0.2.7]>", "scan@[192.0.2.7", "scan@[IPv6:2001:db8::1]", "scan@(none)",
	"undisclosed-recipients:;", "nobody <nobody@localhost", "scan@%domain%", "root@$HOSTNAME", "www-data@?", "(scan)",
	"=?utf-8?q?Scanner?=",
}

// judgedFrom is what becomes of a message with a From field under enforce.
func judgedFrom(t *testing.T, a *Authenticator, z zone, field, client string) *Decision {
	s := sending{
		header: "From: " + field + "\r\nTo: b@hosted.example\r\nSubject: s\r\n" + messageID, body: plainBody,
		client: client, from: "reject.example",
		env: Envelope{Policy: mail.DomainPolicy{RequireAuth: mail.RequireAuthNo}},
	}
	_, v := s.hold(t, a, z)
	return v
}

// No message is refused for the form of its From field: if its author is authenticated, it passes, and else it is
// refused for the policy of its author.
func TestFinish_SloppyFrom(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	for _, field := range sloppyAuthors {
		if v := judgedFrom(t, a, z, field, goodClient); v.Refusal != nil || v.DMARC != "pass" && v.DMARC != "none" {
			t.Errorf("%q: %q, dmarc=%s", field, reply(v), v.DMARC)
		}
		if v := judgedFrom(t, a, z, field, badClient); reply(v) != dmarcRejects {
			t.Errorf("%q, forged: %q, dmarc=%s", field, reply(v), v.DMARC)
		}
	}
	for _, field := range unnamedAuthors {
		if v := judgedFrom(t, a, z, field, badClient); v.Refusal != nil {
			t.Errorf("%q: %q", field, reply(v))
		}
	}
	if len(sloppyAuthors) < 50 {
		t.Errorf("only %d fields", len(sloppyAuthors))
	}
}

// A forged author is refused in whatever way it is written: the author is at bare.example, whose SPF passes, and a
// reader could take reject.example.
func TestFinish_ForgedFrom(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	for _, field := range []string{
		"ceo@reject.example <x@bare.example>", "ceo@reject.example, x@bare.example",
		"<ceo@reject.example> <x@bare.example>",
		"x@bare.example, \"ceo@reject.example\" y@bare.example", "\"ceo@reject.example\" <x@bare.example> via y",
		"(ceo@reject.example <x@bare.example>", "x@bare.example\r\nFrom: ceo@reject.example",
		"\"a\" <x@bare.example>\r\nFrom: =?utf-8?q?ceo=40reject=2Eexample?=", "<@reject.example:x@bare.example>",
		"x@bare.example(a).reject.example", "ceo@reject.example(a).bare.example", "x@bare . reject.example",
		"ceo@reject.example@bare.example", "ceo＠reject.example x@bare.example", "ceo﹫reject.example, x@bare.example y",
		"=?utf-8?b?Y2VvQHJlamVjdC5leGFtcGxl?=@bare.example", "<=?utf-8?q?ceo=40reject.example=00?=@bare.example>",
		"=?utf-8?q?ceo=40reject.example=0a?= =?utf-8?q?=00?=@bare.example",
		"=?utf-8?q?ceo=40re?=\r\n =?utf-8?q?ject.example?= x@bare.example y",
		"ceo@'reject.example' <x@bare.example>", "ceo@reject.example. <x@bare.example>",
		"ceo@reject.example/x <x@bare.example>",
		"ceo@reject.example\x00 <x@bare.example>", "ceo@reject.example\x00@bare.example",
		"ceo@reject..example <x@bare.example>",
		"\"ceo@reject.example\"\r\n \r\n <x@bare.example>", "ceo@REJECT.EXAMPLE x@bare.example",
		"ceo@rej\u00adect.example <x@bare.example>",
		"ceo@ⓡeject.example <x@bare.example>", "ceo@reject。example <x@bare.example>",
		"ceo@reject.example\xff <x@bare.example>",
		"ceo@reject.example: x@bare.example;", "x@bare.example\r\nFrom : ceo@reject.example",
		"ceo@sub.reject.example <x@bare.example>",
	} {
		s := sending{
			header: "From: " + field + "\r\nTo: b@hosted.example\r\n" + messageID, body: plainBody,
			from: "bare.example",
		}
		if _, v := s.hold(t, a, z); v.Refusal == nil || v.Refusal.Reply.Code != 550 ||
			!strings.Contains(v.Refusal.Reply.String(), " 5.7.26 ") {
			t.Errorf("%q: %q, %s", field, reply(v), v.Auth.String())
		}
	}
}

// A From field that only some readers see is refused, whatever the policy.
func TestBegin_HiddenFrom(t *testing.T) {
	z := dns()
	a := newAuthenticator(t, z)
	const good, forged = "From: x@bare.example\r\n", "From: ceo@reject.example\r\n"
	for header, refused := range map[string]bool{
		"To: a@b.example\r\n \r\n" + forged:                        true,
		good + "Subject: s\r\n\t \r\n" + forged:                    true,
		good + "Subject: s\x00From: ceo@reject.example\r\n":        true,
		good + "Subject: s\x00from : ceo@reject.example\r\n":       true,
		"Subject: s\x00Authentication-Results: x; none\r\n" + good: true,
		"\x00" + forged + good:                                     true,
		"\ufeff" + good:                                            false,
		"To: x@y.example\r\n\ufeff" + forged:                       true,
		"\ufeffFrom: a\x00From: " + forged:                         true,
		good + "Subject: s\r\n \r\n":                               false,
		"From: x\r\n \r\n <x@bare.example>\r\nTo: y\r\n":           false,
		good + "Subject: a \x00 From the boss: hello\r\n":          false,
		good + "Subject: s\r\n From: y\r\n":                        false,
	} {
		m, err := a.Begin(t.Context(), Envelope{Policy: mail.DomainPolicy{DMARC: mail.DMARCOff}}, []byte(header+"\r\n"))
		if err == nil {
			m.Close()
		}
		if (err != nil) != refused || err != nil && mail.ReplyFor(err).Code != 550 {
			t.Errorf("%q: %v", header, err)
		}
	}
}

// TestFinish_CorpusFrom: of real messages none is refused for its From field. No domain has a policy here.
func TestFinish_CorpusFrom(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(ingresstest.Shared(t, "corpus", "eml"), "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	z := zone{txt: map[string]string{}}
	a := newAuthenticator(t, z)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.ReplaceAll(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n", "\r\n")
		header := dkim.Section([]byte(lines))
		if lines[0] == ' ' {
			continue // a folded first line: the message is a text without a header section
		}
		m, err := a.Begin(t.Context(), Envelope{}, append(header[:len(header):len(header)], "\r\n"...))
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(file), err)
			continue
		}
		if v := m.Finish(t.Context()); v.Refusal != nil {
			t.Errorf("%s: %s", filepath.Base(file), v.Refusal.Reply)
		}
		m.Close()
	}
	t.Log(len(files), "messages")
}
