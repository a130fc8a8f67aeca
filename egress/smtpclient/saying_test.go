package smtpclient

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// A saidCase is a reply and whom it is about. us is the right answer.
type saidCase struct {
	verb  string
	reply string // "550-5.7.1 one\n550 5.7.1 two", as it comes
	us    bool
}

// The world of the cases: our public address, behind NAT, is 203.0.113.9 and 2001:db8::9, our EHLO name relay.example,
// our SRS domain srs.example. The session's own address is 10.0.0.2.
func testSaid(t *testing.T, site mail.Site, reverse, user string, cases []saidCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.verb+" "+c.reply, func(t *testing.T) {
			s := offline([]netip.Addr{netip.MustParseAddr("10.0.0.2")}, &Client{})
			s.target = Target{Host: "mx.dest.example", Helo: "relay.example", User: user, Us: Identity{
				Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")},
				SRS:   "srs.example",
			}}
			s.delivery = mail.Delivery{Site: site, Reverse: path(reverse)}
			if reverse == "" {
				s.delivery.Reverse = mail.Path{}
			}
			s.forward = path("bob@dest.example")
			p := newParser()
			_, r, done, err := p.feed([]byte(strings.ReplaceAll(c.reply, "\n", "\r\n") + "\r\n"))
			if err != nil || !done {
				t.Fatalf("no reply: %v", err)
			}
			if got := refuses(s, c.verb, r.mail()); got != c.us {
				t.Errorf("about us: %v", got)
			}
		})
	}
}

const theirSender = "alice@sender.example"

// SRS0 paths carry what a client chose in their local part.
const ourSender = "SRS0=abcd=XY=sender.example=alice@srs.example"

// TestSaying_Codes: each code and enhanced code that decides by itself.
func TestSaying_Codes(t *testing.T) {
	var cases []saidCase
	for _, code := range []int{500, 501, 502, 503, 504, 521, 530, 534, 535, 538, 555} {
		for _, verb := range []string{"MAIL", "RCPT", "DATA", "end of data"} {
			ofReverse := verb == "MAIL" && (code == 501 || code == 555)
			cases = append(cases, saidCase{verb, strconv.Itoa(code) + " 5.5.0 No", !ofReverse})
		}
		for _, detail := range []string{"1", "2", "3", "4", "5", "6", "10"} {
			cases = append(cases, saidCase{"RCPT", strconv.Itoa(code) + " 5.1." + detail + " No", false})
		}
	}
	testSaid(t, "mx.dest.example", theirSender, "", append(cases, []saidCase{
		{"RCPT", "550 5.1.1 203.0.113.9: no such user", false},
		{"RCPT", "450 4.1.1 Client host 203.0.113.9 is listed, no such user", false},
		{"RCPT", "553 5.1.2 relay.example: bad destination", false},
		{"RCPT", "556 5.1.10 Recipient address has null MX", false},
		{"MAIL", "501 5.1.7 Bad sender address syntax", false},
		{"MAIL", "555 5.5.4 Unsupported option: BODY", false},
		{"RCPT", "501 5.1.7 Bad sender address syntax", false},
		{"RCPT", "501 5.1.8 Bad sender's domain", false},
		{"MAIL", "501 5.5.2 <relay.example>: Helo command rejected: Invalid name", true},
		{"MAIL", "553 5.1.7 <alice@sender.example>: Sender address rejected", false},
		{"MAIL", "553 5.1.8 sender.example has no MX", false},
		{"MAIL", "450 4.1.8 <alice@sender.example>: Sender address rejected: Domain not found", false},
		{"RCPT", "550 Sender verify failed", false},
		{"DATA", "550 5.7.25 The sender has no reverse DNS", true},
		{"end of data", "450 4.7.25 Client host rejected: cannot find your hostname", true},
		{"end of data", "421 4.7.28 An unusual rate of unsolicited mail originates from your IP address.", true},
		{"end of data", "550 5.7.28 There is an unusual rate. See https://mail.example/domain?url=1", true},
		{
			"end of data", "421 4.7.28 An unusual rate of mail originates from your DKIM domain [sender.example 35]",
			false,
		},
		{"end of data", "421 4.7.28 An unusual rate of mail contains one of your URL domains", false},
		{"end of data", "421 4.7.28 A rate of mail with one of these URLs, from 203.0.113.9", false},
		{"RCPT", "452 4.2.2 Mailbox full (host 203.0.113.9 is listed)", false},
		{"end of data", "552 5.3.4 Too large, client host 203.0.113.9", false},
		{"end of data", "554 5.6.0 Malformed message from IP address 203.0.113.9", false},
		{"end of data", "550 5.6.11 relay.example sent a bare LF", false},
		{"end of data", "550 5.7.20 No passing DKIM signature from IP address 203.0.113.9", false},
		{"end of data", "550 5.7.23 203.0.113.9 may not send for sender.example", false},
		{"end of data", "550 5.7.26 SPF [sender.example] with ip: [203.0.113.9] = Did not pass", false},
		{"end of data", "550 5.7.27 Sender address has null MX", false},
		{"end of data", "550 5.7.29 ARC failed, client host 203.0.113.9", false},
		{"MAIL", "550 5.4.5 Daily user sending limit exceeded", false},
	}...))
}

// TestSaying_Hosts: refusals that name us and are about us, in the style of providers and of common programs. Each
// names what destinations see and no socket of ours has.
func TestSaying_Hosts(t *testing.T) {
	var cases []saidCase
	for verb, texts := range map[string][]string{
		"MAIL": {
			"550 5.7.1 Unfortunately, messages from [203.0.113.9] weren't sent. part of their network is on our " +
				"block " +
				"list (S3150).",
			"550 5.7.511 Access denied, banned sender[203.0.113.9]. To request removal see the portal",
			"550 5.7.606 Access denied, banned sending IP [203.0.113.9].",
			"421 4.7.0 [TSS04] Messages from 203.0.113.9 temporarily deferred due to unexpected volume",
			"554 5.7.1 Your access to this mail system has been rejected: 203.0.113.9 has a poor reputation",
			"554-mx.dest.example\n554 A problem occurred. (Ask your postmaster for help. IP=203.0.113.9)",
			"451 4.7.650 The mail server [203.0.113.9] has been temporarily rate limited due to IP reputation.",
			"550 5.7.1 relay.example: your name does not match",
			"550 Blocked - see https://ipcheck.filter.example/?ip=203.0.113.9",
			"554 203.0.113.9 blocked, see https://mail.example/bulk/attachment/size",
		},
		"RCPT": {
			"554 5.7.1 Service unavailable; Client host [203.0.113.9] blocked using bl.listing.example; see " +
				"http://listing.example",
			"554 5.7.1 Service unavailable; Client host [203.0.113.9] blocked using b.barracudacentral.example",
			"550 5.7.1 <[203.0.113.9]>: Client host rejected: cannot find your hostname",
			"550-5.7.1 JunkMail rejected - relay.example [203.0.113.9] is in an RBL\n550 5.7.1 see listing.example",
			"550 Rejected because 203.0.113.9 is in a black list at listing.example",
			"553 5.7.1 [BL21] Connections will not be accepted from 203.0.113.9, because the ip is in a list",
			"550 5.7.1 Mail from 203.0.113.9 is not welcome here, ask postmaster@dest.example",
			"571 5.7.1 Message refused: your address 203.0.113.9 is blocked by our policy",
			"550 5.7.1 <relay.example>: Helo command rejected: Access denied",
			"450 4.7.1 <relay.example>: Helo command rejected: Host not found",
			"550 5.7.1 IPv6 2001:0DB8:0:0::0009 is listed",
			"550 5.7.1 <[IPv6:2001:db8::9]> refused",
			"550 5.7.1 [203.0.113.9] is on our list",
			"550 5.7.1 [relay.example 203.0.113.9] has sent too much",
			"550 5.7.1 ip:203.0.113.9 is refused",
			"550 5.7.1 203.0.113.9:25 is refused",
			"450 4.7.1 Too much from 203.0.113.9.",
			"550 5.7.1 The session's address 10.0.0.2 is refused",
			"550 5.7.0 RELAY.EXAMPLE. is on the deny-list",
		},
		"end of data": {
			"550 5.7.1 [203.0.113.9] mail from an address without a PTR record is not taken",
			"554 5.7.1 Message from 203.0.113.9 refused, sender reputation too low",
			"550-5.7.1 [203.0.113.9      19] Our system has detected that this message is likely suspicious due to\n" +
				"550 5.7.1 the very low reputation of the sending IP address.",
			"550-5.7.1 [203.0.113.9] The IP address sending this message does not have a\n550 5.7.1 PTR record setup.",
			"554 5.7.1 Spam content from 203.0.113.9 is refused",
			"550 5.7.1 The content of messages from 203.0.113.9 is spam",
			"554 5.7.1 [x] blocked 203.0.113.9",
			"550 SPF check failed: 203.0.113.9 is not allowed to send mail from srs.example",
			"550 5.7.26 SPF [srs.example] with ip: [203.0.113.9] = Did not pass",
			"550 5.7.26 Unauthenticated email from srs.example is not accepted due to domain's DMARC policy",
			"550 5.7.1 The domain srs.example has a bad reputation",
		},
	} {
		for _, text := range texts {
			cases = append(cases, saidCase{verb, text, true})
		}
	}
	testSaid(t, "mx.dest.example", theirSender, "", cases)
}

// TestSaying_Messages: refusals of a message, its sender or its recipient, in the style of providers and of common
// programs, some of which name us.
func TestSaying_Messages(t *testing.T) {
	var cases []saidCase
	for verb, texts := range map[string][]string{
		"MAIL": {
			"554 5.7.1 <alice@sender.example>: Sender address rejected: Access denied",
			"550 5.7.1 sender.example has a bad reputation",
			"554 5.7.1 Service unavailable; Sender address [alice@sender.example] blocked using dbl.listing.example",
			"552 Message size exceeds fixed maximum message size",
			"550 5.1.8 sender.example does not exist",
		},
		"RCPT": {
			"550 5.7.1 Client host rejected: poor reputation", // names no host
			"554 5.7.1 <alice@sender.example>: Sender address is blocked using dbl.listing.example",
			"550 5.7.1 The recipient takes no messages from sender.example",
			"550 5.7.1 203.0.113.99 is listed",
			"550 5.7.1 203.0.113.9.rev.example is listed",
			"550 5.7.1 relay.example.net is listed",
			"550 5.7.1 notrelay.example is listed",
			"450 4.7.1 <bob@dest.example>: Recipient address rejected: Greylisted",
			"554 5.7.1 <bob@dest.example>: Relay access denied",
			"450 4.2.1 The user you are trying to contact is receiving mail too quickly",
			"421 4.7.0 Too many connections",
		},
		"end of data": {
			"550-5.7.1 [203.0.113.9      19] This message looks like bulk mail that nobody\n550 5.7.1 asked for.",
			"550-5.7.1 [203.0.113.9      19] Our system has detected that this message is\n550-5.7.1 likely " +
				"unsolicited " +
				"mail. To reduce the amount of spam sent,\n550 5.7.1 this message has been blocked.",
			"550-5.7.1 [203.0.113.9] Our system has detected that this message is likely suspicious\n550 5.7.1 due " +
				"to " +
				"the very low reputation of the sending domain.",
			"550 5.7.1 [203.0.113.9] not taken",
			"550 5.7.1 [relay.example] bulk, and was not taken",
			"552-5.7.0 [203.0.113.9] This message was blocked because its content presents a potential\n552 5.7.0 " +
				"security issue.",
			"554 5.7.1 Virus found in mail from 203.0.113.9: Eicar-Test-Signature",
			"554 5.7.1 relay.example sent an attachment of a type that is not taken",
			"550 5.7.1 A URL in what 203.0.113.9 sent is on the list of phish",
			"550 5.7.1 A link of 203.0.113.9 leads to a bad place",
			"554 5.7.1 Header of mail of 203.0.113.9 is not RFC conformant",
			"552 203.0.113.9: size is over 10 MB",
			"550 5.7.1 SPF check failed: 203.0.113.9 is not allowed to send mail from sender.example",
			"550 DMARC policy of sender.example refuses 203.0.113.9",
			"550 5.7.1 SPF fails for 203.0.113.9",
			"554 5.7.1 Message contains a URL of a domain that is blocked using multi.listing.example",
			"554 5.7.1 This message is blocked using a list of URLs with poor reputation",
			"550 5.7.1 Message rejected due to poor reputation of a link's domain",
			"554 5.7.1 The message was rejected: its sender's domain has a bad reputation",
			"550 High probability of spam",
			"554 Message contains a virus",
			"552 5.2.3 Message length exceeds administrative limit",
			"554 5.7.1 Spam message rejected",
			"550 5.7.0 Message size exceeds the fixed limit",
			"554 5.7.1 Rejected by content filter: too many connections in the text",
			"550 5.7.1 Content is blocked using the local rules",
			"554 rejected due to spam URL in content, see https://listing.example/203.0.113.77",
			"550 5.7.1 The attachment invoice.exe from alice@sender.example is banned",
		},
	} {
		for _, text := range texts {
			cases = append(cases, saidCase{verb, text, false})
		}
	}
	testSaid(t, "mx.dest.example", theirSender, "", cases)
}

// TestSaying_ReverseWeWrote: a refusal of a reverse-path that we wrote is about us, one of what it carries is not.
func TestSaying_ReverseWeWrote(t *testing.T) {
	testSaid(t, "mx.dest.example", ourSender, "", []saidCase{
		{"MAIL", "553 5.7.1 Sender refused", true},
		{"MAIL", "553 5.5.4 Local part too long", true},
		{"MAIL", "501 5.1.7 Bad sender address syntax", true},
		{"MAIL", "555 5.5.2 Syntax error", true},
		{"MAIL", "550 5.1.7 No such sender", true},
		{"MAIL", "450 4.1.8 <" + ourSender + ">: Sender address rejected: Domain not found", true},
		{"RCPT", "450 4.1.8 <" + ourSender + ">: Sender address rejected: Domain not found", true},
		{"RCPT", "550-Verification failed for <" + ourSender + ">\n550 Sender verify failed", true},
		{"RCPT", "450 4.7.1 <" + ourSender + ">: Sender address rejected: unverified address", true},
		{"RCPT", "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)", true},
		{"RCPT", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", false},
		{"RCPT", "550 5.1.1 <bob@dest.example>: Recipient address rejected: User unknown", false},
		{"end of data", "550 5.7.23 SPF validation failed", true},
		{"end of data", "550 SPF check failed for 203.0.113.9", true},
		{"end of data", "550 5.7.26 DMARC of the author refuses it", false},
		{"end of data", "550 5.7.1 A virus in what " + ourSender + " sent", false},
		{"end of data", "550 5.7.1 <" + ourSender + ">: content refused", false},
	})
	testSaid(t, "mx.dest.example", "", "", []saidCase{
		{"end of data", "550 SPF check failed for 203.0.113.9", true},
		{"MAIL", "553 5.1.7 Bounces are not taken", false},
		{"MAIL", "501 5.1.7 <>", false},
	})
}

// TestSaying_Account: the quota of our account is ours, and so is what names it.
func TestSaying_Account(t *testing.T) {
	testSaid(t, "smtp.dest.example", theirSender, "relay@hosted.example", []saidCase{
		{"MAIL", "550 5.4.5 Daily user sending limit exceeded", true},
		{
			"MAIL", "553 5.7.1 <alice@sender.example>: Sender address rejected: not owned by user relay@hosted.example",
			true,
		},
		{"end of data", "554 5.7.0 Account relay@hosted.example is suspended", true},
		{"end of data", "554 5.7.0 Not for norelay@hosted.example", false},
		{"end of data", "554 Message rejected: Email address is not verified: alice@sender.example", false},
	})
	testSaid(t, "smtp.dest.example", theirSender, "message", []saidCase{
		{"end of data", "554 5.7.0 The message is spam", false},
		{"end of data", "554 5.7.0 Not owned by user message", true},
	})
}

// TestSaying_Providers: a provider's phrases count at its own Site.
func TestSaying_Providers(t *testing.T) {
	const phrase = "550 5.7.1 The mail was refused due to the very low reputation of the sending IP"
	testSaid(t, "google", theirSender, "", []saidCase{
		{"end of data", phrase, true},
		{"end of data", "550 5.7.1 Our system has DETECTED an\n550 5.7.1 x", false},
		{"end of data", "421 4.7.0 An unusual rate  of unsolicited mail originating from your IP address", true},
	})
	testSaid(t, "mx.dest.example", theirSender, "", []saidCase{{"end of data", phrase, false}})
	testSaid(t, "yahoo", theirSender, "", []saidCase{{"end of data", phrase, false}})
}

// TestSaying_Chosen: what a client chose, and the host repeats, names none of us.
func TestSaying_Chosen(t *testing.T) {
	testSaid(t, "mx.dest.example", "x+203.0.113.9@relay.example", "", []saidCase{
		{"RCPT", "550 5.7.1 <x+203.0.113.9@relay.example>: refused", false},
		{"RCPT", "550 5.7.1 x+203.0.113.9 is listed", false},
		{"RCPT", "550 5.7.1 Domain relay.example is listed", false},
		{"RCPT", "550 5.7.1 [2001:db8::9] is listed", true},
	})
	testSaid(t, "mx.dest.example", "SRS0=abcd=XY=relay.example=203.0.113.9@srs.example", "", []saidCase{
		{"RCPT", "550 5.7.1 relay.example 203.0.113.9 is listed", false},
		{"RCPT", "550 5.7.1 srs.example is listed", true},
	})
	testSaid(t, "mx.dest.example", "srs.example@sender.example", "", []saidCase{
		{"RCPT", "550 5.7.1 No user srs.example", false},
	})
}

// FuzzSaying: no text makes reading it fail, and a text that names none of us is not about us.
func FuzzSaying(f *testing.F) {
	f.Add("MAIL", 550, "[203.0.113.9 19] this message", theirSender)
	f.Add("RCPT", 554, "see https://x.example/?ip=203.0.113.9 listed", ourSender)
	f.Add("DATA", 450, "://", `"a b"@c.example`)
	f.Fuzz(func(t *testing.T, verb string, code int, text, reverse string) {
		p, err := mail.ParsePath(reverse, true)
		if err != nil || code < 400 || code > 599 {
			return
		}
		s := offline(nil, &Client{transaction: transaction{delivery: mail.Delivery{Reverse: p}}})
		if refuses(s, verb, mail.NewReply(code, 7, 1, text)) && !isCodeAboutUs(code) {
			t.Errorf("about us, who have no name: %q", text)
		}
		s.target.Helo, s.target.Us = "relay.example", Identity{
			Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.9")}, SRS: "srs.example",
		}
		refuses(s, verb, mail.NewReply(code, 7, 1, text))
	})
}
