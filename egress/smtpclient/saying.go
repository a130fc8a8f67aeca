package smtpclient

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// An Identity is what this relay is called outside, besides Target.Helo and Target.User.
type Identity struct {
	// Addrs are the addresses that destinations see: behind address translation they are not those of our sockets.
	Addrs []netip.Addr
	// SRS is the domain of the reverse-paths that we write, "" without one.
	SRS string
}

// A saying is a negative reply to a command of a transaction, and the question whom it is about.
type saying struct {
	*transaction
	verb  string
	reply mail.Reply
}

// isAboutUs reports whether the host refuses us and not the message, its sender or its recipient. The
// first rule that holds decides: the code; our SRS domain or account; what X.y.z says of the message; our address or
// EHLO name, by what else stands there; what a provider says of hosts. Everything else is about the message.
//
// What the host only repeats of the envelope is taken out and names none of us: a client that writes our address into a
// recipient's must not be able to turn a refusal of it into one of us.
func (s *saying) isAboutUs() bool {
	text := s.withoutEchoes(normal(s.reply.Text))
	said := words(text)
	if us, decided := s.byCode(said); decided {
		return us
	}
	switch {
	case s.namesSender(text):
		return true
	case isAboutMessage(s.reply.Enhanced):
		return false
	case s.namesHost(text):
		switch {
		case saysAny(said, hostWords):
			return true
		case s.speaksOfMessage(text, said):
			return false
		case !s.namesHost(withoutLabel(text)):
			break // a label says where the message came from and not why it is refused
		default:
			return true
		}
	}
	for _, phrase := range refusals()[s.delivery.Site] {
		if strings.Contains(text, phrase) {
			return true
		}
	}
	return false
}

// isOfSession reports whether the host speaks of this session: of its order of commands, its age, or of how much it has
// carried. What is said of a recipient's address is not.
func (s *saying) isOfSession() bool {
	if s.verb == "RCPT" && s.reply.Enhanced.Subject == 1 {
		return false
	}
	return s.reply.Code == 503 || saysAny(words(s.withoutEchoes(normal(s.reply.Text))), sessionWords)
}

// isOfNumber reports whether a recipient is refused because there are too many, by the code of RFC 821, which is to be
// taken as 452 (RFC 5321 section 4.5.3.1.10).
func (s *saying) isOfNumber() bool {
	return s.verb == "RCPT" && s.reply.Code == 552 && (s.reply.Enhanced == mail.EnhancedCode{Subject: 5, Detail: 3} ||
		s.reply.Enhanced == mail.EnhancedCode{} && strings.Contains(normal(s.reply.Text), "too many recipients"))
}

// byCode decides by the code and the enhanced code alone, as far as they do.
func (s *saying) byCode(said string) (us, decided bool) {
	e := s.reply.Enhanced
	switch {
	case s.verb == "RCPT" && e.Subject == 1 && (e.Detail >= 1 && e.Detail <= 6 || e.Detail == 10):
		return false, true // RFC 3463 section 3.2: the recipient's address, whatever the code
	case s.wrote() && s.refusesReverse(said):
		return true, true
	case s.isOfClient(said):
		return false, true
	case !s.wrote() && s.isSyntaxOfReverse():
		return false, false // a client chose what the host cannot read
	case isCodeAboutUs(s.reply.Code):
		return true, true
	}
	switch e {
	case mail.EnhancedCode{Subject: 7, Detail: 25}: // RFC 7372: our reverse DNS
		return true, true
	case mail.EnhancedCode{Subject: 7, Detail: 28}: // a flood: ours, or of what stands in messages
		return true, !saysAny(said, rateOfMessages)
	case mail.EnhancedCode{Subject: 4, Detail: 5}: // the quota of our account
		return true, s.conn.target.User != ""
	}
	return false, false
}

// isOfClient reports whether the host refuses the client that it was told of by XCLIENT, whose host it is then, and
// whose name in EHLO: what it says of these is not about us.
func (s *saying) isOfClient(said string) bool {
	if s.conn.introduced == (mail.Origin{}) {
		return false
	}
	return s.verb == "XCLIENT" || s.verb == "EHLO" || s.reply.Enhanced == mail.EnhancedCode{Subject: 7, Detail: 25} ||
		saysAny(said, clientWords)
}

// isCodeAboutUs reports whether a code is by itself about us.
func isCodeAboutUs(code int) bool {
	switch code {
	case 500, 501, 502, 503, 504, 521, 530, 534, 535, 538, 555:
		return true
	}
	return false
}

// isAboutMessage reports whether e is by itself about the message: X.2 (a mailbox), X.3.4 (its size), X.6 (its form),
// and what X.7.20 to X.7.29 say of its authentication (RFC 7372, RFC 7505, RFC 8617), as far as byCode does not
// decide. The latter often name the address that SPF was checked for, which is ours in a forged message too.
func isAboutMessage(e mail.EnhancedCode) bool {
	switch e.Subject {
	case 2, 6:
		return true
	case 3:
		return e.Detail == 4
	case 7:
		return e.Detail >= 20 && e.Detail <= 29
	}
	return false
}

// wrote reports whether the reverse-path is one that we wrote.
func (s *saying) wrote() bool {
	p := s.delivery.Reverse
	return !p.IsNull() && isName(p.Domain, s.conn.target.Us.SRS)
}

// refusesReverse reports whether the host refuses the reverse-path.
func (s *saying) refusesReverse(said string) bool {
	switch s.reply.Enhanced {
	case mail.EnhancedCode{Subject: 1, Detail: 7}, mail.EnhancedCode{Subject: 1, Detail: 8},
		mail.EnhancedCode{Subject: 7, Detail: 23}:
		return true
	}
	return s.is553(said) || saysAny(said, verification)
}

// isOfOurReverse reports whether the host refuses for good a reverse-path that we wrote, for its syntax or its length.
// A sender that it cannot verify is none.
func (s *saying) isOfOurReverse() bool {
	e := s.reply.Enhanced
	said := words(s.withoutEchoes(normal(s.reply.Text)))
	switch {
	case !s.wrote() || s.reply.Class() != 5 || saysAny(said, existence):
		return false
	case e.Subject == 1 && e.Detail == 8 || e.Subject == 7 && e.Detail >= 20 && e.Detail <= 29:
		return false
	}
	return s.isSyntaxOfReverse() || s.is553(said) || e.Subject == 1 && e.Detail == 7 ||
		s.verb == "MAIL" && saysAny(said, []string{"too long", "local part", "localpart", "malformed"})
}

// is553 reports whether the code refuses the reverse-path.
func (s *saying) is553(said string) bool {
	return s.reply.Code == 553 && (s.verb == "MAIL" || saysAny(said, senderWords))
}

// isOfOwn reports whether the host refuses for good the sender's own path, which stands in place of the one that we
// wrote: what authorizes us to send from it is for ours alone.
func (s *saying) isOfOwn() bool {
	if s.reply.Class() != 5 || !s.delivery.UsesOwn() {
		return false
	}
	said := words(s.withoutEchoes(normal(s.reply.Text)))
	e := s.reply.Enhanced
	return s.refusesReverse(said) || e.Subject == 7 && e.Detail >= 20 && e.Detail <= 29 ||
		saysAny(said, []string{"spf", "dmarc", "sender policy framework"})
}

// isSyntaxOfReverse reports whether the host cannot read the reverse-path or its parameters.
func (s *saying) isSyntaxOfReverse() bool {
	if s.reply.Code != 501 && s.reply.Code != 555 {
		return false
	}
	e := s.reply.Enhanced
	return s.verb == "MAIL" || e.Subject == 1 && (e.Detail == 7 || e.Detail == 8)
}

// namesSender reports whether text names our SRS domain, or the account that we are logged in with.
func (s *saying) namesSender(text string) bool {
	target := &s.conn.target
	if srs := target.Us.SRS; srs != "" && !s.chose(srs) && hasName(text, srs) {
		return true
	}
	user := normal(target.User)
	if user == "" || s.chose(user) {
		return false
	}
	if strings.Contains(user, "@") {
		return withoutWord(text, user) != text
	}
	for _, before := range [...]string{"user ", "account ", "username ", "login "} { // a user may be called as any word
		if withoutWord(text, before+user) != text {
			return true
		}
	}
	return false
}

// namesHost reports whether text names our EHLO name or one of our addresses. Addresses are compared, not spellings.
func (s *saying) namesHost(text string) bool {
	if helo := s.conn.target.Helo; mail.IsDomain(helo) && !s.chose(helo) && hasName(text, helo) {
		return true
	}
	for word := range wordsOfAddress(text) {
		if a, ok := readAddr(word); ok && s.isOurs(a) && !s.choseAddr(a) {
			return true
		}
	}
	return false
}

// namesOurIPv6 reports whether text names an address of ours that is of IPv6, which the connection comes from.
func (s *saying) namesOurIPv6(text string) bool {
	if len(s.conn.own) == 0 || !s.conn.own[0].Is6() {
		return false
	}
	for word := range wordsOfAddress(text) {
		if a, ok := readAddr(word); ok && a.Is6() && s.isOurs(a) && !s.choseAddr(a) {
			return true
		}
	}
	return false
}

// isOurs reports whether a is an address of ours.
func (s *saying) isOurs(a netip.Addr) bool {
	target := &s.conn.target
	if literal, ok := mail.LiteralAddr(target.Helo); ok && literal.Unmap() == a {
		return true
	}
	return slices.Contains(s.conn.own, a) || slices.Contains(target.Us.Addrs, a)
}

// chose reports whether name stands in a part of the envelope that a client chose.
func (s *saying) chose(name string) bool {
	for part := range s.chosen {
		if hasName(part, name) || strings.Contains(part, normal(name)) && strings.Contains(name, "@") {
			return true
		}
	}
	return false
}

// choseAddr is chose for an address.
func (s *saying) choseAddr(a netip.Addr) bool {
	for part := range s.chosen {
		for word := range wordsOfAddress(part) {
			if b, ok := readAddr(word); ok && a == b {
				return true
			}
		}
	}
	return false
}

// chosen yields the parts of the envelope that a client chose, in normal form: all but the domain of a reverse-path
// that we wrote.
func (s *saying) chosen(yield func(string) bool) {
	first := true
	for p := range s.paths {
		isOurs := first && s.wrote()
		first = false
		if p.IsNull() {
			continue
		}
		if !yield(normal(p.LocalPart())) || !isOurs && !yield(normal(p.LocalPart()+"@"+p.Domain)) {
			return
		}
	}
}

// speaksOfMessage reports whether a text that names us names a thing of the message as well. That a domain's SPF fails
// is the message's affair unless the domain is ours, which it is for a reverse-path that we wrote, and for a null one:
// there SPF is checked for our EHLO name (RFC 7208 section 2.4).
func (s *saying) speaksOfMessage(text, said string) bool {
	if saysAny(said, messageWords) {
		return true
	}
	if !saysAny(said, []string{"spf"}) {
		return false
	}
	target := &s.conn.target
	foreign, ours := false, s.wrote() || s.delivery.Reverse.IsNull()
	for word := range wordsOfAddress(withoutURLs(text)) {
		switch {
		case isName(word, target.Helo):
			ours = true
		case isName(word, target.Host):
		case strings.Contains(word, ".") && mail.IsDomain(word):
			if _, isAddr := readAddr(word); !isAddr {
				foreign = true
			}
		}
	}
	return foreign || !ours
}

// hasName reports whether the domain name stands in text, in normal form, as a word of its own.
func hasName(text, name string) bool {
	for word := range wordsOfAddress(text) {
		if isName(word, name) || isName(word[strings.LastIndexByte(word, ':')+1:], name) {
			return true
		}
	}
	return false
}

// isName reports whether two domain names are equal, in any case and with or without the last dot.
func isName(a, b string) bool {
	a, b = strings.TrimSuffix(a, "."), strings.TrimSuffix(b, ".")
	return a != "" && ascii.EqualFold(a, b)
}

// wordsOfAddress yields the words of text that may be addresses or names, without what ends a sentence.
func wordsOfAddress(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !isAddressRune(r) }) {
			if word = strings.TrimRight(word, ".:-_"); word != "" && !yield(word) {
				return
			}
		}
	}
}

// readAddr returns the address that a word is, with a tag before it or a port behind it ("ipv6:2001:db8::7",
// "ip:192.0.2.7", "192.0.2.7:25").
func readAddr(word string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(word); err == nil {
		return a.Unmap(), true
	}
	if p, err := netip.ParseAddrPort(word); err == nil {
		return p.Addr().Unmap(), true
	}
	if _, rest, ok := strings.Cut(word, ":"); ok {
		if a, err := netip.ParseAddr(strings.TrimLeft(rest, ".-_")); err == nil {
			return a.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// withoutLabel takes off what stands in brackets at the very start of a text, unless the text says of it what it is or
// has.
func withoutLabel(text string) string {
	if !strings.HasPrefix(text, "[") {
		return text
	}
	_, rest, ok := strings.Cut(text, "]")
	if !ok || strings.HasPrefix(rest, " is ") || strings.HasPrefix(rest, " has ") {
		return text
	}
	return rest
}

// withoutURLs takes out the URLs of a text: a page's address may hold any word.
func withoutURLs(text string) string {
	for {
		at := strings.Index(text, "://")
		if at < 0 {
			return text
		}
		from := strings.LastIndexFunc(text[:at], func(r rune) bool { return r < 'a' || r > 'z' }) + 1
		to := strings.IndexAny(text[at:], " <>\")")
		if to < 0 {
			return text[:from]
		}
		text = text[:from] + text[at+to:]
	}
}

// words returns the words of a text in normal form, without its URLs, each between single blanks.
func words(text string) string {
	var b strings.Builder
	b.WriteByte(' ')
	for word := range strings.FieldsFuncSeq(withoutURLs(text), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r < 0x80
	}) {
		b.WriteString(word)
		b.WriteByte(' ')
	}
	return b.String()
}

// saysAny reports whether one of the phrases stands in said, which words returned.
func saysAny(said string, phrases []string) bool {
	return slices.ContainsFunc(phrases, func(p string) bool { return strings.Contains(said, " "+p+" ") })
}

// The words that tell whom a text is about, by whole words. "message", "spam" and "content" alone tell nothing: hosts
// write them in refusals of both kinds.
var (
	hostWords = []string{
		"sending ip", "ip address", "ip addresses", "your ip", "source ip", "client ip", "connecting ip", "remote ip",
		"server ip", "client host", "hostname", "host name", "ptr", "reverse dns", "rdns", "reverse lookup", "listed",
		"block list", "blocklist", "blocklisted", "black list", "blacklist", "blacklisted", "deny list", "denylist",
		"rbl", "dnsbl", "messages from", "connections from", "connection from", "helo", "ehlo",
	}
	messageWords = []string{
		"this message", "this mail has", "this mail is", "this mail was", "this email has", "this email is",
		"this email was", "virus", "viruses", "malware", "attachment",
		"attachments", "url", "urls", "link", "links", "header", "headers", "size", "too large", "too big", "dmarc",
		"sender domain", "sender s domain", "sending domain",
	}
	clientWords    = []string{"client host", "helo", "ehlo"}
	rateOfMessages = []string{"domain", "domains", "url", "urls"}
	verification   = []string{
		"sender verify", "sender verification", "verify sender", "verify the sender", "sender address verification",
		"verification failed for", "callout", "callback", "unverified address", "sender address rejected",
		"domain of sender", "sender domain must", "envelope sender",
	}
	// existence tells a sender that the host cannot verify or find from one that it cannot read.
	existence = []string{
		"spf", "dmarc", "sender policy framework", "verify", "verification", "verified", "unverified", "callout",
		"callback", "not found", "not exist", "doesn t exist", "no such", "unknown", "undeliverable", "unrouteable",
		"unroutable", "domain of sender", "sender domain must", "dns", "mx", "resolve", "resolved", "not allowed",
		"not permitted", "not authorized",
	}
	sessionWords = []string{
		"this session", "the session", "same session", "one session", "per session", "current session", "session limit",
		"this connection", "the connection", "same connection", "one connection", "per connection", "too many errors",
		"too many commands", "too many bad commands", "bad sequence", "out of sequence",
	}
	senderWords = []string{"sender", "reverse path", "return path", "mail from", "mailfrom", "badmailfrom"}
)
