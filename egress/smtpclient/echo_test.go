package smtpclient

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// offline connects the parts of a Client that has no socket and these addresses.
func offline(own []netip.Addr, c *Client) *Client {
	c.own, c.transaction.conn, c.stream.tx = own, &c.connection, &c.transaction
	return c
}

// refuses reports whether r, which answers verb, is about us.
func refuses(c *Client, verb string, r mail.Reply) bool {
	return (&saying{transaction: &c.transaction, verb: verb, reply: r}).isAboutUs()
}

// What a host repeats of the envelope does not make a refusal one about us.
func TestSaying_Echoes(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	quoted := `"Low reputation  of the sending IP"@x.test`
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
		{"a phrase without its quotes", path(quoted), "<Low reputation  of the sending IP@x.test>: Unknown", false},
		{"a phrase over two lines", path(quoted), "<\"Low reputation\nof the sending IP\"@x.test>: Unknown", false},
		{"a phrase alone", path(quoted), "Low reputation of the sending IP: unknown user", false},
		{
			"a phrase with escapes that are taken off", path(`"low\ reputation of the sending ip"@x.test`),
			`<"low reputation of the sending ip"@x.test> unknown`, false,
		},
		{"half a phrase", path(`"low reputation"@x.test`), "User low reputation of the sending ip", false},
		{
			"beside an echo, a phrase of the host's own", path("a@x.test"),
			"<a@x.test>: Low reputation of the sending IP", true,
		},
		{"beside an echo, our address", path("192.0.2.7@x.test"), "<192.0.2.7@x.test>: [2001:db8::7] is listed", true},
		{"somebody called as a phrase begins", path("low@x.test"), "low reputation of the sending ip", true},
		{"our own name", path("a@x.test"), "<192.0.2.7>: name refused", true},
	} {
		for _, s := range []*Client{
			{transaction: transaction{forward: tc.path}},
			{transaction: transaction{delivery: mail.Delivery{Reverse: tc.path}}},
			{connection: connection{work: &work{forwards: []mail.Path{path("other@x.test"), tc.path}}}},
		} {
			offline(own, s)
			s.delivery.Site = "google"
			if tc.name == "our own name" {
				s.target.Helo = "192.0.2.7"
			}
			if got := refuses(s, "RCPT", mail.NewReply(550, 7, 1, tc.text)); got != tc.want {
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
		if refuses(s, "RCPT", mail.NewReply(550, 7, 1, "<"+p.String()+">")) {
			t.Errorf("%s is about us", p)
		}
		refuses(s, "RCPT", mail.NewReply(550, 7, 1, text+p.String()+text))
	})
}
