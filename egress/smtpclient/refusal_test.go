package smtpclient

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// The embedded table of phrases parses, and errors name the line.
func TestParsePhrases(t *testing.T) {
	list, err := parsePhrases(refusalsText)
	if err != nil || len(list) < 10 {
		t.Errorf("got %d phrases, %v", len(list), err)
	}
	for _, tc := range []struct{ name, table, want string }{
		{"a line without a colon", "# x\n\nblocked for ever", "line 3: want a provider, a colon and a phrase"},
		{"a provider of two words", "a b: blocked for ever", "line 1: want a provider, a colon and a phrase"},
		{"a phrase that matches by chance", "a: blocked for ever\na: blocked", `line 2: phrase too short: "blocked"`},
	} {
		if _, err := parsePhrases(tc.table); err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

// Refusals about us are told from those about the message.
func TestAboutUs(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	for _, tc := range []struct {
		name string
		verb string
		r    mail.Reply
		want bool
	}{
		{"no such user", "RCPT", mail.NewReply(550, 1, 1, "no such user"), false},
		{"spam", "DATA", mail.NewReply(554, 7, 1, "spam message rejected"), false},
		{"too large", "MAIL", mail.NewReply(552, 3, 4, "too large"), false},
		{"a syntax error", "MAIL", mail.NewReply(501, 5, 4, "bad parameter"), true},
		{"a syntax error in the recipient's address", "RCPT", mail.NewReply(501, 1, 3, "bad address"), false},
		{"a syntax error in something else at RCPT", "RCPT", mail.NewReply(501, 5, 4, "bad parameter"), true},
		{"authentication required", "MAIL", mail.NewReply(530, 7, 0, "log in first"), true},
		{"MAIL parameters not known", "MAIL", mail.NewReply(555, 5, 4, "BODY?"), true},
		{"the host takes no mail", "MAIL", mail.NewReply(521, 0, 0, "no"), true},
		{"our address", "RCPT", mail.NewReply(550, 7, 1, "Client [192.0.2.7] refused"), true},
		{"our address in a refusal of an address", "RCPT", mail.NewReply(550, 1, 1, "192.0.2.7: no such user"), false},
		{"our address at the end of a sentence", "RCPT", mail.NewReply(450, 7, 1, "Too much from 192.0.2.7."), true},
		{
			"our address in another spelling", "RCPT", mail.NewReply(550, 7, 1, "IPv6 2001:0DB8:0:0::0007 is listed"),
			true,
		},
		{"a longer address", "RCPT", mail.NewReply(550, 7, 1, "192.0.2.77 is listed"), false},
		{
			"a name that begins like our address", "RCPT", mail.NewReply(550, 7, 1, "192.0.2.7.example.net is unknown"),
			false,
		},
		{
			"a provider's phrase, over two lines and in any case", "DATA",
			mail.NewReply(421, 7, 28, "Our system has DETECTED an\nunusual rate  of unsolicited mail"), true,
		},
		{"a list's phrase", "RCPT", mail.NewReply(554, 7, 1, "Service unavailable; host is blocked using zen.example"),
			true},
		{
			"SPF that fails for our address", "DATA", mail.NewReply(550, 7, 23, "192.0.2.7 may not send for x.example"),
			false,
		},
		{
			"DMARC that fails, with our address", "DATA",
			mail.NewReply(550, 7, 26, "SPF [x.example] with ip: [192.0.2.7] = did not pass"), false,
		},
		{"ARC that fails", "DATA", mail.NewReply(550, 7, 29, "from 192.0.2.7: ARC failed"), false},
		{
			"our reverse DNS", "DATA",
			mail.NewReply(550, 7, 25, "[192.0.2.7] The IP address sending this message does not have a PTR record"),
			true,
		},
	} {
		s := offline(own, &Client{})
		if got := s.aboutUs(tc.verb, tc.r); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

// offline connects the parts of a Client that has no socket and these addresses.
func offline(own []netip.Addr, c *Client) *Client {
	c.own, c.transaction.conn, c.stream.tx = own, &c.connection, &c.transaction
	return c
}

// What a host repeats of the envelope does not make a refusal one about us.
func TestAboutUs_Echoes(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	quoted := `"Your IP  is blacklisted"@x.test`
	for _, tc := range []struct {
		name string
		path mail.Path
		text string
		want bool
	}{
		{"our address as a local part", path("192.0.2.7@x.test"), "<192.0.2.7@x.test>: Unknown", false},
		{"in upper case and without brackets", path("192.0.2.7@x.test"), "192.0.2.7@X.TEST... Unknown", false},
		{"at the end of a sentence", path("192.0.2.7@x.test"), "I do not know 192.0.2.7@x.test.", false},
		{"the local part alone", path("192.0.2.7@x.test"), "No user 192.0.2.7.", false},
		{
			"the local part alone, and our address again", path("192.0.2.7@x.test"),
			"No user 192.0.2.7 for 2001:db8::7", true,
		},
		{"our address as a domain", path("a@192.0.2.7"), "Relaying to 192.0.2.7 denied", false},
		{"our address as a literal", path("a@[192.0.2.7]"), "Relaying to [192.0.2.7] denied", false},
		{"the address in the literal alone", path("a@[IPv6:2001:DB8::7]"), "Relaying to 2001:db8::7 denied", false},
		{"the literal, echoed whole", path("a@[IPv6:2001:db8::7]"), "<a@[IPv6:2001:db8::7]>: Relaying denied", false},
		{"a phrase in quotes", path(quoted), "<" + quoted + ">: Unknown", false},
		{"a phrase without its quotes", path(quoted), "<Your IP  is blacklisted@x.test>: Unknown", false},
		{"a phrase over two lines", path(quoted), "<\"Your IP\nis blacklisted\"@x.test>: Unknown", false},
		{"a phrase alone", path(quoted), "Your IP is blacklisted: unknown user", false},
		{
			"a phrase with escapes that are taken off", path(`"your\ ip is blacklisted"@x.test`),
			`<"your ip is blacklisted"@x.test> unknown`, false,
		},
		{"half a phrase", path(`"client host"@x.test`), "User client host rejected", false},
		{"beside an echo, a phrase of the host's own", path("a@x.test"), "<a@x.test>: Client host rejected", true},
		{"beside an echo, our address", path("192.0.2.7@x.test"), "<192.0.2.7@x.test>: [2001:db8::7] is listed", true},
		{"somebody called as a phrase begins", path("client@x.test"), "client host rejected", true},
		{"our own name", path("a@x.test"), "<192.0.2.7>: name refused", false},
	} {
		for _, s := range []*Client{
			{transaction: transaction{forward: tc.path}},
			{transaction: transaction{delivery: mail.Delivery{Reverse: tc.path}}},
			{connection: connection{work: &work{forwards: []mail.Path{path("other@x.test"), tc.path}}}},
		} {
			offline(own, s)
			if tc.name == "our own name" {
				s.target.Helo = "192.0.2.7"
			}
			if got := s.aboutUs("RCPT", mail.NewReply(550, 7, 1, tc.text)); got != tc.want {
				t.Errorf("%s: got %v, left is %q", tc.name, got, s.withoutEchoes(normal(tc.text)))
			}
		}
	}
}

// FuzzEchoes: a text that is nothing but a path, as it was sent, is never about us, and taking it out ends.
func FuzzEchoes(f *testing.F) {
	for _, p := range []string{
		"192.0.2.7@x.test", "a@[192.0.2.7]", "a@[IPv6:2001:db8::7]", `"your ip is blacklisted"@x.test`, "a@192.0.2.7",
		"<>@x", `"\"<>"@x`,
	} {
		f.Add(p, "is unknown")
	}
	own := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	f.Fuzz(func(t *testing.T, from, text string) {
		p, err := mail.ParsePath(from, true)
		if err != nil {
			return
		}
		s := offline(own, &Client{transaction: transaction{forward: p}})
		if s.aboutUs("RCPT", mail.NewReply(550, 7, 1, "<"+p.String()+">")) {
			t.Errorf("%s is about us", p)
		}
		s.aboutUs("RCPT", mail.NewReply(550, 7, 1, text+p.String()+text))
	})
}

// A negative limit is refused.
func TestConfig_Validate(t *testing.T) {
	c := Config{Stall: -1}
	if err := c.Validate(); err == nil || err.Error() != "stall: is negative" {
		t.Errorf("got %v", err)
	}
	if _, err := Dial(t.Context(), c, Target{}); err == nil {
		t.Error("Dial took it")
	}
}
