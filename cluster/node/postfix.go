package node

import (
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// A postfixForm writes events as Postfix's daemons would write them, for programs that read its log. What programs
// count is the outcome of each recipient: a delivery (smtp: status=sent) for each one that a next hop took, a deferral
// (status=deferred) for each 4yz, and a reject for each 5yz. A message that was taken has the lines of its way through
// a queue, which there is not, because such programs take its size and its sender from them. It is used by one
// goroutine.
type postfixForm struct {
	*postfixLines // of one event, written at once so that they are kept or dropped together
}

func newPostfixForm(j *journal, host string) *postfixForm {
	return &postfixForm{newPostfixLines(j, host)}
}

// write writes the lines of an event.
func (p *postfixForm) write(e *entry, level slog.Level) {
	p.b, p.more = p.b[:0], false
	switch e.Kind {
	case mail.Connected:
		p.from(e, "smtpd", "connect from ").end(e)
	case mail.Disconnected:
		p.from(e, "smtpd", "disconnect from ").end(e)
	case mail.Routed:
		p.traced(e, "smtpd").text("accepted: RCPT from ").client(e).text(": <").address(e.Forward).text(">").end(e)
	case mail.Relayed, mail.Dropped:
		p.taken(e)
	case mail.Deferred, mail.Refused:
		p.refused(e)
	case mail.Aborted:
		p.aborted(e)
	case mail.Unread:
		p.from(e, "smtpd", "lost connection after END-OF-MESSAGE from ").trace(e).end(e)
	default:
		p.anomaly(e, level)
	}
	p.journal.out.Write(p.b)
}

// taken writes the lines of a message that was taken: as it came, each recipient, and its end.
func (p *postfixForm) taken(e *entry) {
	p.traced(e, "smtpd").text("client=").client(e)
	if e.User != "" {
		p.text(", sasl_username=").user(e)
	}
	p.end(e)
	p.traced(e, "cleanup").text("message-id=<")
	if e.MessageID != 0 {
		p.b = hex.AppendEncode(p.b, binary.BigEndian.AppendUint64(nil, e.MessageID))
	}
	p.text(">").end(e)
	p.traced(e, "qmgr").text("from=<").address(e.Reverse).text(">, size=").number(e.Octets).
		text(", nrcpt=").number(int64(e.Recipients)).text(" (queue active)").end(e)
	for i := range e.To {
		to := &e.To[i]
		if to.Outcome != mail.Relayed && to.Outcome != mail.Dropped { // it had a line when it was refused
			continue
		}
		if to.Drop {
			p.traced(e, "smtpd").text("discard: RCPT from ").client(e).text(": <").address(to.Forward).
				text(">: Recipient address triggers DISCARD action; ")
			p.envelope(e, to).end(e)
			continue
		}
		for k := range to.Targets {
			p.delivered(e, to, &to.Targets[k])
		}
	}
	p.traced(e, "qmgr").text("removed").end(e)
}

// delivered writes the line of one address that a recipient became. One that its next hop did not take, though the
// recipient was accepted for the sake of others, has bounced as far as such programs are concerned.
func (p *postfixForm) delivered(e *entry, to *mail.To, t *mail.Target) {
	leg := legTo(e, t.NextHop)
	reply := t.Reply
	if reply.Code == 0 {
		reply = to.Reply
	}
	if t.Refused || reply.Class() != 2 {
		if reply.Class() == 2 {
			reply = mail.NewReply(550, 0, 0, "refused by the next hop")
		}
		p.delivery(e, to.Forward, t, leg).dsn(reply).text(", status=bounced (").reply(reply).text(")").end(e)
		return
	}
	p.delivery(e, to.Forward, t, leg).dsn(reply).text(", status=sent (").reply(reply).text(")").end(e)
}

// legTo returns the way to a next hop; nil if nothing is said of it.
func legTo(e *entry, nextHop mail.NextHop) *mail.Leg {
	for i := range e.Legs {
		if e.Legs[i].NextHop == nextHop {
			return &e.Legs[i]
		}
	}
	if len(e.Legs) == 1 { // of a list of next hops
		return &e.Legs[0]
	}
	return nil
}

// delivery begins the line of a delivery, up to its enhanced code.
func (p *postfixForm) delivery(e *entry, given mail.Path, t *mail.Target, leg *mail.Leg) *postfixLines {
	daemon := "smtp"
	if t.NextHop.Transport == mail.LMTP || t.NextHop.Transport == mail.LMTPUnix {
		daemon = "lmtp"
	}
	p.traced(e, daemon).text("to=<").address(t.Forward).text(">, ")
	if t.Forward != given {
		p.text("orig_to=<").address(given).text(">, ")
	}
	p.text("relay=")
	if leg != nil && leg.Session.Host != "" {
		p.server(leg.Session.Host, leg.Session.Addr)
	} else {
		p.text("none")
	}
	all := e.All
	for _, took := range e.Took {
		if e.All == 0 {
			all += took
		}
	}
	return p.text(", delay=").seconds(all).text(", delays=").seconds(e.Waited).text("/").
		seconds(e.Took[mail.StageScore] + e.Took[mail.StageRoute]).text("/").seconds(e.Took[mail.StageBegin]).
		text("/").seconds(e.Took[mail.StageRcpt] + e.Took[mail.StageData] + e.Took[mail.StageCommit]).text(", dsn=")
}

// refused writes the line of each recipient that a reply of 4yz or 5yz is about, or the one of a command that is about
// none. In the event that ends a transaction those that were refused before had theirs.
func (p *postfixForm) refused(e *entry) {
	for i := range e.To {
		to := &e.To[i]
		switch {
		case e.Ends && to.Verb == "RCPT":
		case to.Outcome == mail.Deferred:
			p.deferred(e, to)
		case to.Outcome == mail.Refused && e.Ends:
			p.refusedMessage(e, to)
		case to.Outcome == mail.Refused:
			p.refusedRecipient(e, to)
		}
	}
	if len(p.b) == 0 {
		p.refusedCommand(e)
	}
}

// deferred writes the line of a recipient that was put off, as that of a delivery that is deferred.
func (p *postfixForm) deferred(e *entry, to *mail.To) {
	t := mail.Target{Forward: to.Forward, NextHop: e.NextHop}
	if len(to.Targets) == 1 {
		t = to.Targets[0]
	}
	leg := legTo(e, t.NextHop)
	p.delivery(e, to.Forward, &t, leg).dsn(to.Reply).text(", status=deferred (")
	p.why(e, to, leg)
	p.text(")").end(e)
}

// reasonUpstream is the reason of what a next hop said.
const reasonUpstream = "upstream"

// why appends why a recipient was put off: what the next hop said, what could not be reached, or our own reason.
func (p *postfixForm) why(e *entry, to *mail.To, leg *mail.Leg) {
	reason := to.Reason
	if reason == "" {
		reason = e.Reason
	}
	cause := p.cause(e)
	switch {
	case reason == reasonUpstream:
		p.said(e, to, leg)
	case leg != nil && leg.Session.Host == "" && len(leg.Tried) > 0:
		last := &leg.Tried[len(leg.Tried)-1]
		p.text("connect to ").server(last.Host, last.Addr).text(": ").outside(last.Cause)
	case cause != "":
		p.outside(reason).text(": ").outside(cause)
	default:
		p.outside(reason)
	}
}

// said appends what a next hop said.
func (p *postfixForm) said(e *entry, to *mail.To, leg *mail.Leg) {
	host, at := e.Host, netip.AddrPort{}
	if leg != nil && leg.Session.Host != "" {
		host, at = leg.Session.Host, leg.Session.Addr
	}
	p.text("host ").server(host, at).text(" said: ")
	words := strings.TrimPrefix(p.cause(e), e.Host+": ")
	verb, reply, _ := strings.Cut(words, ": ")
	switch {
	case verb == "MAIL" || verb == "RCPT" || verb == "DATA":
		p.outside(reply).text(" (in reply to ").text(verb).text(" command)")
	case words != "":
		p.outside(words)
	case e.Ends:
		p.reply(to.Reply).text(" (in reply to end of DATA command)")
	default:
		p.reply(to.Reply)
	}
}

// cause returns the cause of an event. Where addresses are hashed, what a client sent in place of a path is left out.
func (p *postfixForm) cause(e *entry) string {
	if p.journal.hashKey != nil && e.Reason == "protocol" {
		return ""
	}
	return InnermostCause(&e.Event)
}

// refusedRecipient writes the line of a recipient that was refused for good at RCPT. The words in front of our reason
// are Postfix's where it means the same, because fail2ban counts these and no others: a client that we do not relay
// for, an address that there is not, and a client that the score refuses.
func (p *postfixForm) refusedRecipient(e *entry, to *mail.To) {
	p.begin(e, "smtpd").text("NOQUEUE: reject: RCPT from ").client(e).text(": ").status(to.Reply).text(" ")
	switch unknown := to.Reply.Enhanced == (mail.EnhancedCode{Subject: 1, Detail: 1}); {
	case isScore(e):
		p.blocked(e)
	case to.Reason == rules.ReasonRelaying:
		p.text("<").address(to.Forward).text(">: Relay access denied; ")
	case unknown && to.Reason == reasonUpstream:
		p.text("<").address(to.Forward).text(">: Recipient address rejected: undeliverable address: ")
		p.said(e, to, legTo(e, e.NextHop))
		p.text("; ")
	case unknown:
		p.text("<").address(to.Forward).
			text(">: Recipient address rejected: User unknown in relay recipient table; ")
	default:
		p.text("<").address(to.Forward).text(">: Recipient address rejected: ").outside(to.Reason).text("; ").
			outside(to.Reply.Text).text("; ")
	}
	p.envelope(e, to).end(e)
}

// isScore reports whether the score of the client is why it is refused for good: the reason is its heaviest signal.
func isScore(e *entry) bool {
	return e.Reply.Code == 554 && (e.Reason == "score" || strings.HasPrefix(e.Signals, e.Reason+" ")) && e.Reason != ""
}

// blocked appends what Postfix says of a client that a list names.
func (p *postfixForm) blocked(e *entry) {
	p.text("Service unavailable; Client host [").addr(e.Client).text("] blocked using ").outside(e.Reason).text("; ").
		outside(e.Reply.Text).text("; ")
}

// envelope appends the end of a line about a recipient.
func (p *postfixForm) envelope(e *entry, to *mail.To) *postfixLines {
	return p.text("from=<").address(e.Reverse).text("> to=<").address(to.Forward).text("> proto=ESMTP helo=<").
		name(e.Helo).text(">").trace(e)
}

// refusedMessage writes the line of a recipient of a message that was refused for good, in the form of Postfix's checks
// of a message's content. The reason stands in front, where programs count by it.
func (p *postfixForm) refusedMessage(e *entry, to *mail.To) {
	p.traced(e, "cleanup").text("reject: END-OF-MESSAGE ").outside(to.Reason).text(" from ").client(e).text("; ")
	p.text("from=<").address(e.Reverse).text("> to=<").address(to.Forward).text("> proto=ESMTP helo=<").name(e.Helo).
		text(">: ").reply(to.Reply).end(e)
}

// refusedCommand writes the line of a client or a command that was refused. An idle client that was told to go is
// refused nothing, nor is DATA behind recipients that were refused. A login that was put off did not fail: no password
// was compared, and fail2ban is not to count it against a user.
func (p *postfixForm) refusedCommand(e *entry) {
	verb := e.Verb
	if mechanism, isLogin := strings.CutPrefix(verb, "AUTH "); isLogin && e.Reply.Class() == 5 {
		p.begin(e, "smtpd").text("warning: ").client(e).text(": SASL ").text(mechanism).
			text(" authentication failed: ").outside(e.Reason).text(", sasl_username=").user(e).trace(e).end(e)
		return
	}
	if verb, _, _ = strings.Cut(verb, " "); verb == "" {
		verb = "CONNECT"
	}
	switch e.Reason {
	case "idle":
		p.begin(e, "smtpd").text("timeout after ").name(verb).text(" from ").client(e).trace(e).end(e)
		return
	case "error budget", "junk commands":
		p.from(e, "smtpd", "too many errors after UNKNOWN from ").text("\n")
	case "refused recipients":
		p.from(e, "smtpd", "too many errors after RCPT from ").text("\n")
	}
	p.begin(e, "smtpd").text("NOQUEUE: ")
	if e.Reason != "no recipient" {
		p.text("reject: ")
	}
	p.name(verb).text(" from ").client(e).text(": ").status(e.Reply).text(" ")
	switch {
	case isScore(e):
		p.blocked(e)
	case verb == "CONNECT":
		p.text("<").client(e).text(">: Client host rejected: ").outside(e.Reason).text("; ").outside(e.Reply.Text).
			text("; ")
	default:
		p.outside(e.Reason).text("; ").outside(e.Reply.Text).text("; ")
	}
	if !e.Reverse.IsNull() {
		p.text("from=<").address(e.Reverse).text("> ")
	}
	p.text("proto=ESMTP helo=<").name(e.Helo).text(">").trace(e).end(e)
}

// aborted writes the line of a transaction that ended without an answer to a message. Only what ended in the middle of
// a message is a lost connection.
func (p *postfixForm) aborted(e *entry) {
	if e.Verb == "DATA" {
		p.from(e, "smtpd", "lost connection after DATA from ").trace(e).end(e)
		return
	}
	p.traced(e, "smtpd").text("ended without a message from ").client(e).end(e)
}

// anomaly writes the line of something that an administrator should see although mail went on. The client's address, or
// our own name, stands in brackets in front of what came from outside.
func (p *postfixForm) anomaly(e *entry, level slog.Level) {
	daemon := "smtpd"
	if !e.Client.IsValid() {
		daemon = "smtp"
	}
	if level >= slog.LevelWarn {
		p.begin(e, daemon).text("warning: ")
	} else {
		p.begin(e, daemon).text("note: ")
	}
	p.client(e).text(": ").outside(e.Reason)
	if e.Host != "" {
		p.text(": host ").server(e.Host, netip.AddrPort{})
	}
	if cause := p.cause(e); cause != "" {
		p.text(": ").outside(cause)
	}
	p.trace(e).end(e)
}
