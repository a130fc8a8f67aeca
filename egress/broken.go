package egress

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// withoutFor is how long sessions with a host do without an extension that it offers and that failed.
	withoutFor = 24 * time.Hour
	// unansweredFor is how long a command must have been waited for, so that its silence is one of the extension and no
	// short deadline of ours.
	unansweredFor = 20 * time.Second
	// brokenCache bounds what is remembered of that.
	brokenCache = 4096
)

// A brokenExtension is one that a host offers, and that does not work there.
type brokenExtension struct {
	host    string
	keyword smtpclient.Keyword
}

// A withoutIt says for how long sessions do without an extension, and whose.
type withoutIt struct {
	until time.Time
	// only is the client network whose sessions do; the zero Prefix stands for all. A lost connection or silence may be
	// the doing of what a client sent: it counts for others when clients of two networks met it.
	only netip.Prefix
}

// keywords are the names of extensions in a file of Sites.
var keywords = map[string]smtpclient.Keyword{
	"CHUNKING": smtpclient.Chunking, "PIPELINING": smtpclient.Pipelining, "8BITMIME": smtpclient.EightBitMIME,
	"SMTPUTF8": smtpclient.SMTPUTF8, "SIZE": smtpclient.Size,
}

// without returns the extensions that a session with a host does without: those that the administrator names, and those
// that failed.
func (l *lease) without(host string) (list smtpclient.Keyword) {
	for name := range strings.SplitSeq(l.finder.Limits(l.at.site).Without, ",") {
		list |= keywords[name]
	}
	for _, k := range [...]smtpclient.Keyword{smtpclient.Chunking, smtpclient.Pipelining} {
		if w, ok := l.broken.Get(brokenExtension{host, k}); ok && l.cfg.Now().Before(w.until) &&
			(!w.only.IsValid() || w.only == network.Widest(l.d.Client.Addr())) {
			list |= k
		}
	}
	return list
}

// learnBroken learns from the error of RCPT, a piece or the end of a message that an extension of the host does not
// work: on a session that has carried no message before (used tells) it was refused as a command, ended the connection,
// or was not answered, as where a filter drops what stands behind a command. The next sessions with the host do
// without, and this one and those that idle there serve no other message. It reports whether a RCPT that was refused
// behind MAIL is to be said again, alone.
func (l *lease) learnBroken(err error, used bool) (again bool) {
	if err == nil || used {
		return false
	}
	reply, said := replyOf(err)
	silence := cmp.Or(l.cfg.tune.unanswered, unansweredFor)
	if code := reply.Reply.Code; said && (code < 500 || code > 504) ||
		!said && !isLost(err) && !isUnanswered(err, silence) {
		return false
	}
	b := brokenExtension{host: l.conn.Host()}
	extensions := l.conn.Extensions()
	switch verb := smtpclient.Verb(err); {
	case extensions.Has(smtpclient.Chunking) && (verb == "BDAT" || verb == "BDAT LAST"):
		b.keyword = smtpclient.Chunking
		l.tellBroken("CHUNKING", verb, err)
	case l.conn.Pipelined() && verb == "RCPT" && !isOfRecipient(&reply):
		b.keyword = smtpclient.Pipelining
		l.tellBroken("PIPELINING", verb, err)
	default:
		return false
	}
	l.conn.Retire()
	w := withoutIt{until: l.cfg.Now().Add(withoutFor)}
	if client := network.Widest(l.d.Client.Addr()); !said {
		if first, ok := l.broken.Get(b); !ok || !l.cfg.Now().Before(first.until) || first.only == client {
			w.only = client
		}
	}
	l.broken.Put(b, w, 1)
	if !w.only.IsValid() {
		l.slot.CloseIdle(func(k pool.Key) bool { return k.Host == b.host })
	}
	return said && b.keyword == smtpclient.Pipelining
}

// isLost reports whether err says that the host ended the connection.
func isLost(err error) bool {
	var lost *smtpclient.ConnError
	return errors.As(err, &lost) && !errors.Is(err, os.ErrDeadlineExceeded) &&
		!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// isUnanswered reports whether err says that the host was silent for a time or longer.
func isUnanswered(err error, atLeast time.Duration) bool {
	lost, ok := errors.AsType[*smtpclient.ConnError](err)
	return ok && errors.Is(err, os.ErrDeadlineExceeded) && lost.Waited >= atLeast
}

// isOfRecipient reports whether a refusal of RCPT may be of what a client wrote: 501, 504, and what X.1 says of an
// address.
func isOfRecipient(r *smtpclient.ReplyError) bool {
	return r.Reply.Code == 501 || r.Reply.Code == 504 || r.Reply.Enhanced.Subject == 1
}

// isOutOfOrder reports whether RCPT was refused as out of order (503) behind a MAIL that was accepted. A host that
// wants its commands one by one may say so although they came so, and takes the same command a moment later.
func isOutOfOrder(err error) bool {
	reply, _ := replyOf(err)
	return reply.Verb == "RCPT" && reply.Reply.Code == 503
}

// tellBroken tells the operator that an extension of the host does not work.
func (l *lease) tellBroken(name, verb string, err error) {
	reply, _ := replyOf(err)
	l.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: l.cfg.Now(), Trace: l.d.Trace, Client: l.d.Client.Addr(), NextHop: l.d.NextHop,
		Site: l.d.Site, Host: l.conn.Host(), Verb: verb, Reply: reply.Reply,
		Reason: name + " is offered and fails, a day without", Cause: err,
	})
}
