package ingress

import (
	"context"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A Given says which parts of an envelope the question has that a look is for. What it lacks is not looked up.
type Given struct {
	Helo, Reverse, Forward bool
	Accounts               *submission.Accounts // the client is a user of them; nil: it is a host
}

// A Looked is what a look found besides what the client would be answered.
type Looked struct {
	client.Explanation        // zero for a trusted client, and without scores
	Trusted            bool   // the client may relay anywhere
	SPF                string // what SPF says of the reverse-path; "" if it was not checked
	Unsealed           string // why mail on its way gets no signature of ours, whatever the message is; "" if it may
	Refusal            error  // of the client, where the question has no recipient that it would be the answer to
}

// A look is the session of a client that an explanation is of. All that it answers is what a session answers; it adds
// what becomes of a question that lacks a part.
type look struct {
	*session
	given Given
	done  func(Looked)
	ctx   context.Context // of the session
	found Looked
}

// NewLook returns a session as NewSession or NewSubmission does, for an explanation: Config.Client.Look has to be set,
// and the Store should keep nothing. It calls done once, when it is closed.
func (s *Server) NewLook(c *wire.Client, trust *Trust, given Given, done func(Looked)) wire.Session {
	ss, _ := s.NewSession(c, trust).(*session) // it is one
	if given.Accounts != nil {
		ss, _ = s.NewSubmission(c, given.Accounts).(*session)
	}
	return &look{session: ss, given: given, done: done}
}

// Greet keeps the context of the session.
func (l *look) Greet(ctx context.Context) error {
	l.ctx = ctx
	return l.session.Greet(ctx)
}

// Mail leaves out the name that was said in EHLO because something has to be said there.
func (l *look) Mail(ctx context.Context, reverse mail.Path, p mail.Params) error {
	if !l.given.Helo {
		l.conn.Helo = ""
	}
	return l.session.Mail(ctx, reverse, p)
}

// Rcpt is that of a session. What the question lacks is not looked up for it.
func (l *look) Rcpt(ctx context.Context, forward mail.Path) error {
	l.introduce(ctx)
	err := l.session.Rcpt(ctx, forward)
	l.seeSPF(ctx)
	return err
}

// introduce begins the look-ups of the parts that the question has, where it lacks one. Otherwise the session does.
func (l *look) introduce(ctx context.Context) {
	if l.given.Helo && l.given.Reverse || !l.client.IsScored() {
		return
	}
	ctx = l.lookups.within(ctx)
	l.t.named = true
	if l.given.Helo {
		l.client.Introduce(l.conn.Helo)
	}
	if l.given.Reverse {
		l.nameSender(ctx)
	}
}

// seeSPF keeps what SPF says of the reverse-path, if it is checked.
func (l *look) seeSPF(ctx context.Context) {
	if l.t != nil && l.t.spf != nil {
		l.found.SPF, _ = l.t.spf.Wait(ctx)
	}
}

// Body is that of a session, and sees before it whether the message may be signed.
func (l *look) Body(ctx context.Context, b *wire.Body) mail.Reply {
	if t := l.t; t.relayed > 0 {
		l.found.Unsealed = l.messages.WhyUnsealed(&message.FirstRelayed(t.rcpts).Route)
	}
	return l.session.Body(ctx, b)
}

// Close calls done, and ends the session.
func (l *look) Close() {
	out := &l.found
	if l.t != nil && !l.given.Forward {
		l.introduce(l.ctx)
		out.Refusal = l.judgeClient(l.lookups.within(l.ctx), mail.Path{})
		l.seeSPF(l.ctx)
	}
	out.Explanation, out.Trusted = l.client.Explain(l.ctx), l.trusted
	l.done(*out)
	l.session.Close()
}
