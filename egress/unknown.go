package egress

import (
	"errors"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A recipient is a forward-path at a Site.
type recipient struct {
	site    mail.Site
	forward mail.Path
}

// An unknownRecipient is what a Site said of a recipient that it does not have, as far as it is worth its room.
type unknownRecipient struct {
	reply mail.Reply // one line of at most mail.MaxReplyLine octets
	host  string
	until time.Time
}

// unknownRoom is about what one of them takes in the cache besides its texts.
const unknownRoom = 320

// isNoSuchUser reports whether r says that the mailbox does not exist (RFC 3463 section 3.2, X.1.1).
func isNoSuchUser(r mail.Reply) bool {
	return r.Class() == 5 && r.Enhanced == mail.EnhancedCode{Subject: 1, Detail: 1}
}

// isUnknown gives the Refusal that a Site gave lately to a recipient, which is asked again only when some time has
// passed: who sends to made-up names must not make us ask for each of them. It is nil for any other one.
func (l *Local) isUnknown(site mail.Site, forward mail.Path) *mail.Refusal {
	key := recipient{site, forward}
	u, ok := l.unknown.Get(key)
	if !ok {
		return nil
	}
	if !l.cfg.Now().Before(u.until) {
		l.unknown.Delete(key)
		return nil
	}
	return &mail.Refusal{Reply: u.reply, Reason: "upstream", Host: u.host}
}

// setUnknown remembers that a Site does not have a recipient. Of the reply it keeps the first line, cut, and nothing
// that holds on to more than it shows: both the names and the length of the reply are a stranger's to choose.
func (l *Local) setUnknown(site mail.Site, forward mail.Path, err error) {
	var r *mail.Refusal
	if !errors.As(err, &r) {
		return
	}
	line, _, _ := strings.Cut(r.Reply.Text, "\n")
	reply := r.Reply
	reply.Text = strings.Clone(line[:min(len(line), mail.MaxReplyLine)])
	forward = mail.Path{Local: strings.Clone(forward.Local), Domain: strings.Clone(forward.Domain)}
	room := unknownRoom + len(reply.Text) + len(forward.Local) + len(forward.Domain)
	l.unknown.Put(recipient{site, forward}, unknownRecipient{reply, r.Host, l.cfg.Now().Add(unknownFor)}, room)
}
