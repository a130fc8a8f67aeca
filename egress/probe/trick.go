package probe

import "strings"

// A Trick is one way in which a stranger may try to have a host send mail elsewhere. In its texts {to} stands for a
// recipient that is not the host's, {local} and {domain} for its parts, {ours} for a domain of the host, {host} for its
// name, {ip} for its address as a literal has it, and {own} for a mailbox of the host that exists.
type Trick struct {
	Name   string
	Before []string // said in front of MAIL, whatever is answered
	From   string   // behind MAIL FROM:; "" for an ordinary sender
	First  []string // recipients in front of the one that counts, as they stand behind RCPT TO:
	To     string   // behind RCPT TO:; "" for <{to}>
	// Own says that the domain is the host's own, so that a host which takes any name there may mean a mailbox.
	Own bool
	// Chunk says that an empty chunk is sent behind the recipient, where that was refused.
	Chunk bool
	Silly bool // without EHLO
}

// Tricks returns all tricks. The first is none: a recipient elsewhere, plainly.
func Tricks() []Trick {
	return append(append(senders(), routes()...), dialogues()...)
}

// senders are the tricks with a sender that a host may trust.
func senders() []Trick {
	return []Trick{
		{Name: "a recipient elsewhere"},
		{Name: "the null sender", From: "<>"},
		{Name: "a sender at the host's own domain", From: "<relay-probe@{ours}>"},
		{Name: "the host's postmaster as sender", From: "<postmaster@{ours}>"},
		{Name: "a sender at the host's own name", From: "<root@{host}>"},
		{Name: "a sender at the host's address", From: "<root@[{ip}]>"},
		{Name: "a sender at localhost", From: "<root@localhost>"},
		{Name: "a sender without a domain", From: "<root>"},
		{Name: "the recipient as sender", From: "<{to}>"},
		{Name: "a BATV sender", From: "<prvs=0123abcdef=relay-probe@{ours}>"},
		{Name: "an SRS sender", From: "<SRS0=abcd=12={domain}={local}@{ours}>"},
		{Name: "a sender said to be authenticated", From: "<relay-probe@{ours}> AUTH=relay-probe@{ours}"},
	}
}

// utf8Sender is an ordinary sender of mail whose recipient is not in ASCII.
const utf8Sender = "<relay-probe@{domain}> SMTPUTF8"

// routes are the tricks in the recipient.
func routes() []Trick {
	return []Trick{
		{Name: "the percent hack", To: "<{local}%{domain}@{ours}>", Own: true},
		{Name: "the percent hack at the host's name", To: "<{local}%{domain}@{host}>", Own: true},
		{Name: "the percent hack at the host's address", To: "<{local}%{domain}@[{ip}]>", Own: true},
		{Name: "the percent hack without a domain", To: "<{local}%{domain}>", Own: true},
		{Name: "two percents", To: "<{local}%{domain}%{ours}@{host}>", Own: true},
		{Name: "the percent hack with a dot at the end", To: "<{local}%{domain}@{ours}.>", Own: true},
		{Name: "a bang path", To: "<{domain}!{local}@{ours}>", Own: true},
		{Name: "a bang path without a domain", To: "<{domain}!{local}>", Own: true},
		{Name: "a bang path by the host", To: "<{ours}!{domain}!{local}>", Own: true},
		{Name: "a bang path and a percent", To: "<{domain}!{local}%{ours}@{host}>", Own: true},
		{Name: "a quoted address", To: `<"{to}"@{ours}>`, Own: true},
		{Name: "a quoted address without a domain", To: `<"{to}">`, Own: true},
		{Name: "a quoted percent", To: `<"{local}%{domain}"@{ours}>`, Own: true},
		{Name: "a quoted bang path", To: `<"{domain}!{local}"@{ours}>`, Own: true},
		{Name: "an at-sign behind a backslash", To: `<"{local}\@{domain}"@{ours}>`, Own: true},
		{Name: "a quoted local part elsewhere", To: `<"{local}"@{domain}>`},
		{Name: "a source route by the domain", To: "<@{ours}:{to}>"},
		{Name: "a source route by the host's name", To: "<@{host}:{to}>"},
		{Name: "a source route by the host's address", To: "<@[{ip}]:{to}>"},
		{Name: "a source route of two hosts", To: "<@{ours},@{host}:{to}>"},
		{Name: "two at-signs", To: "<{to}@{ours}>", Own: true},
		{Name: "two at-signs, the domain first", To: "<{local}@{ours}@{domain}>"},
		{Name: "a doubled at-sign", To: "<{local}@@{domain}>"},
		{Name: "an address literal", To: "<{local}@[192.0.2.1]>"},
		{Name: "an IPv6 literal", To: "<{local}@[IPv6:2001:db8::1]>"},
		{Name: "an address without brackets", To: "<{local}@192.0.2.1>"},
		{Name: "a number as domain", To: "<{local}@3221225985>"},
		{Name: "a dot at the end", To: "<{to}.>"},
		{Name: "mixed case", To: "<{LOCAL}@{DOMAIN}>"},
		{Name: "the host's domain as a prefix", To: "<{local}@{ours}.{domain}>"},
		{Name: "the host's domain in a comment", To: "<{local}@{domain}(@{ours})>"},
		{Name: "a look-alike of the host's domain", From: utf8Sender, To: "<{local}@{lookalike}>"},
		{Name: "a full-width at-sign", From: utf8Sender, To: "<{local}＠{domain}@{ours}>", Own: true},
		{Name: "a full-width percent", From: utf8Sender, To: "<{local}％{domain}@{ours}>", Own: true},
		{Name: "an SRS0 address", To: "<SRS0=abcd=12={domain}={local}@{ours}>", Own: true},
		{Name: "an SRS1 address", To: "<SRS1=abcd={domain}==efgh=12={domain}={local}@{ours}>", Own: true},
		{Name: "a BATV address", To: "<prvs=0123abcdef={local}%{domain}@{ours}>", Own: true},
	}
}

// dialogues are the tricks in what is said around the recipient.
func dialogues() []Trick {
	return []Trick{
		{Name: "a second recipient", First: []string{"<{own}>"}},
		{Name: "two addresses in one RCPT", To: "<{own}>,<{to}>"},
		{Name: "two addresses in one pair of brackets", To: "<{own},{to}>"},
		{Name: "no brackets", To: "{to}"},
		{Name: "a zero octet behind the address", To: "<{to}\x00@{ours}>", Own: true},
		{Name: "XCLIENT as localhost", Before: []string{"XCLIENT NAME=localhost ADDR=127.0.0.1", "EHLO localhost"}},
		{Name: "XCLIENT as a user", Before: []string{"XCLIENT LOGIN=postmaster", "EHLO localhost"}},
		{Name: "XFORWARD from localhost", Before: []string{"XFORWARD NAME=localhost ADDR=127.0.0.1 SOURCE=LOCAL"}},
		{Name: "EHLO as localhost", Before: []string{"EHLO localhost"}},
		{Name: "EHLO as the host itself", Before: []string{"EHLO {host}"}},
		{Name: "EHLO as loopback", Before: []string{"EHLO [127.0.0.1]"}},
		{Name: "no EHLO", Silly: true},
		{Name: "an empty chunk behind a refused recipient", Chunk: true},
	}
}

// A scene is what the texts of tricks are filled with.
type scene struct {
	to, ours, host, ip, own string
}

// fill returns a text of a trick with what its words stand for.
func (s *scene) fill(text string) string {
	local, domain, _ := strings.Cut(s.to, "@")
	return strings.NewReplacer(
		"{to}", s.to, "{local}", local, "{domain}", domain, "{ours}", s.ours, "{host}", s.host, "{ip}", s.ip,
		"{own}", s.own, "{LOCAL}", mixed(local), "{DOMAIN}", mixed(domain), "{lookalike}", lookalike(s.ours),
	).Replace(text)
}

// mixed returns a text with every second letter in upper case.
func mixed(s string) string {
	b := []byte(s)
	for i := 0; i < len(b); i += 2 {
		b[i] = strings.ToUpper(string(b[i]))[0]
	}
	return string(b)
}

// lookalike returns a domain in which a letter is replaced by one of another script that looks the same, or by one that
// nearly does.
func lookalike(domain string) string {
	for _, pair := range [...][2]string{{"e", "е"}, {"a", "а"}, {"o", "о"}, {"i", "і"}, {"c", "с"}, {"p", "р"}} {
		if strings.Contains(domain, pair[0]) {
			return strings.Replace(domain, pair[0], pair[1], 1)
		}
	}
	return "ｘ" + domain
}
