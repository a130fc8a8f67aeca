package feedback

import (
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// unknownCache bounds the octets that are kept of unknown recipients: some 100,000 of them, or 25,000 with the
	// longest names and texts.
	unknownCache = 32 << 20
	// unknownFor is how long a recipient is known not to exist.
	unknownFor = 5 * time.Minute
	// unknownSize is about what one unknown recipient takes in the cache besides its texts, in octets.
	unknownSize = 384
)

// A recipient is a forward-path at a Site, as a client asked for it: a host may say to one sender alone, or to one
// client's mail, that there is no such mailbox.
type recipient struct {
	site    mail.Site
	forward mail.Path
	client  netip.Prefix
	reverse mail.Path
}

// An unknownRecipient is what a Site said of a recipient that it does not have, as far as it is worth its memory.
type unknownRecipient struct {
	reply mail.Reply // one line of at most mail.MaxReplyLine octets
	host  string
	until time.Time
}

// IsNoSuchUser reports whether r says that the mailbox does not exist (RFC 3463 section 3.2, X.1.1).
func IsNoSuchUser(r mail.Reply) bool {
	return r.Class() == 5 && r.Enhanced == mail.EnhancedCode{Subject: 1, Detail: 1}
}

// Unknown returns the Refusal that a Site answered to a recipient of this sender within the last five minutes, nil if
// there was no such answer. A client that sends to made-up names must not make us ask the Site for each of them.
func (o *Observer) Unknown(s *Sender, forward mail.Path) *mail.Refusal {
	key := recipient{s.Site, forward, wide(s.Client), s.Reverse}
	u, ok := o.unknown.Get(key)
	if !ok {
		return nil
	}
	if !o.now().Before(u.until) {
		o.unknown.Delete(key)
		return nil
	}
	return &mail.Refusal{Reply: u.reply, Reason: "upstream", Host: u.host}
}

// SetUnknown remembers that a Site does not have a recipient, as it said to this sender in r. Of the reply it keeps the
// first line, at most mail.MaxReplyLine octets of it, and nothing that holds on to more than it shows: a client chooses
// the names, and the Site the length of the reply.
func (o *Observer) SetUnknown(s *Sender, forward mail.Path, r *mail.Refusal) {
	line, _, _ := strings.Cut(r.Reply.Text, "\n")
	reply := r.Reply
	reply.Text = strings.Clone(line[:min(len(line), mail.MaxReplyLine)])
	key := recipient{s.Site, owned(forward), wide(s.Client), owned(s.Reverse)}
	size := unknownSize + len(reply.Text) + len(forward.Local) + len(forward.Domain) + len(s.Reverse.Local) +
		len(s.Reverse.Domain)
	o.unknown.Put(key, unknownRecipient{reply, r.Host, o.now().Add(unknownFor)}, size)
}

// owned returns p with memory of its own.
func owned(p mail.Path) mail.Path {
	return mail.Path{Local: strings.Clone(p.Local), Domain: strings.Clone(p.Domain)}
}
