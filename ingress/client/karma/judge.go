package karma

import (
	"net/netip"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// An Outcome is what a destination answered to mail of a client, or what content filters of ours said of a message. Our
// own refusals are not Outcomes.
type Outcome struct {
	Client     netip.Addr
	Domain     string     // the destination's, of a filter that of the recipient; without one nothing is learnt
	Mailbox    string     // of a filter: the recipient's local part
	Reply      mail.Reply // the destination's own, or the filter's
	Answer     Answer
	AboutUs    bool   // see mail.Refusal
	Sender     string // the domain for which SPF passes, "" for none
	KnownGood  bool   // the client's network was known good for mail of it when it connected
	Allowed    bool   // the client is on the allow list
	NullSender bool   // the reverse-path is null
	// Address and Network are the karma that the store had when the client connected. That of the network is of what
	// Sender sends from it.
	Address mail.Karma
	Network mail.Karma
}

// An Answer is what the destination did by its Reply, or the filters.
type Answer uint8

// The answers. An accepted RCPT is not an Outcome.
const (
	MessageRefused  Answer = iota // refused or deferred the message, by the reply to DATA or to the dot
	RcptRefused                   // refused or deferred MAIL or RCPT, before it saw the message
	MessageTaken                  // took the message: 2yz to the dot
	FilterRefused                 // content filters refuse the message
	FilterDiscarded               // they want it accepted and delivered nowhere
	FilterTook                    // they have nothing against it
)

// A Lesson is what an Outcome says of the client.
type Lesson uint8

// The lessons, the better ones first.
const (
	Nothing  Lesson = iota
	Accepted        // the destination took the message
	Unknown         // it does not know the recipient
	Policy          // it refused the message by its policy and does not say which
	Spam            // it refused the message as spam or malware
)

// String returns the name of the lesson.
func (l Lesson) String() string {
	return [...]string{"nothing", "accepted", "unknown", "policy", "spam"}[l]
}

// Judge returns what an Outcome says of the client:
//
//   - a reply about us, a 4yz and a reply about authentication (X.7.20 to X.7.24, X.7.26, X.7.27 and X.7.29, and a
//     5.7.x that names SPF, DKIM or DMARC): Nothing;
//   - a null reverse-path whose message is taken, or whose recipient is unknown: Nothing, because a bounce says nothing
//     of the client;
//   - 5yz with a code and a phrase of spam.txt: Spam;
//   - 5.1.1 before the message was seen: Unknown;
//   - 5.7.0, 5.7.1 and 5.7.2 after it was seen, without a phrase: Policy.
func Judge(o *Outcome) Lesson {
	switch {
	case o.AboutUs:
		return Nothing
	case o.Answer == MessageTaken, o.Answer == FilterTook:
		return unlessNull(o, Accepted)
	case o.Answer == FilterDiscarded:
		return Policy
	case o.Reply.Class() != 5 || isAboutAuthentication(o.Reply.Enhanced):
		return Nothing
	}
	text := normal(o.Reply.Text)
	for i := range spam() {
		if spam()[i].matches(&o.Reply, text) {
			return Spam
		}
	}
	switch e := o.Reply.Enhanced; {
	case o.Answer == RcptRefused && e == mail.EnhancedCode{Subject: 1, Detail: 1}:
		return unlessNull(o, Unknown)
	case o.Answer != RcptRefused && e.Subject == 7 && e.Detail <= 2 && !namesAuthentication(text):
		return Policy
	}
	return Nothing
}

// unlessNull returns l, but Nothing for a null reverse-path.
func unlessNull(o *Outcome, l Lesson) Lesson {
	if o.NullSender {
		return Nothing
	}
	return l
}

// isAboutAuthentication reports whether e says that a message is not authenticated well enough, or that its author
// takes no mail: X.7.20 to X.7.24 and X.7.26 of RFC 7372, X.7.27 of RFC 7505 and X.7.29 of RFC 8617.
func isAboutAuthentication(e mail.EnhancedCode) bool {
	return e.Subject == 7 && e.Detail >= 20 && e.Detail <= 29 && e.Detail != 25 && e.Detail != 28
}

// namesAuthentication reports whether a text in normal form is about authentication, for replies whose code is not.
func namesAuthentication(text string) bool {
	for _, word := range [...]string{"spf", "dkim", "dmarc", "authenticat"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}
