package egress

import (
	"errors"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A recipient is a forward-path at a Site.
type recipient struct {
	site    mail.Site
	forward mail.Path
}

// An unknownRecipient is what a Site said of a recipient that it does not have.
type unknownRecipient struct {
	refusal *mail.Refusal // shared and not to be changed
	until   time.Time
}

// isNoSuchUser reports whether r says that the mailbox does not exist (RFC 3463 section 3.2, X.1.1).
func isNoSuchUser(r mail.Reply) bool {
	return r.Class() == 5 && r.Enhanced == mail.EnhancedCode{Subject: 1, Detail: 1}
}

// isUnknown gives the Refusal that a Site gave lately to a recipient, which is asked again only when some time has passed:
// who sends to made-up names must not make us ask for each of them.
func (l *Local) isUnknown(site mail.Site, forward mail.Path) *mail.Refusal {
	u, ok := l.unknown.Get(recipient{site, forward})
	if !ok || !l.cfg.Now().Before(u.until) {
		return nil
	}
	return u.refusal
}

// setUnknown remembers that a Site does not have a recipient.
func (l *Local) setUnknown(site mail.Site, forward mail.Path, err error) {
	var r *mail.Refusal
	if errors.As(err, &r) {
		l.unknown.Put(recipient{site, forward}, unknownRecipient{r, l.cfg.Now().Add(unknownFor)}, 1)
	}
}
