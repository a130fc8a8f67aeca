package ingress

import (
	"context"
	"time"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/report"
	"github.com/millrace/millrace/router/mail"
)

// A transaction is one mail transaction of a session, from MAIL to its end.
type transaction struct {
	session *session
	reverse mail.Path
	params  mail.Params
	opened  time.Time
	waited  time.Duration // that the client was waited for before
	last    time.Time     // of the last RCPT or DATA
	report  report.Transaction

	client client.Transaction
	named  bool         // the client's name and the reverse-path are being looked up
	spf    *message.SPF // nil: not begun
	srs    rewritten

	saidSPF string // what SPF says of the reverse-path, for the rules; "" while none depended on it

	hooks int // that were asked

	ends   bool   // the event that ends it was emitted
	record record // of recipients

	rcpts    []message.Recipient // once for each next hop
	accepted int                 // recipients
	relayed  int                 // those that are relayed, the others are dropped
	upstream upstream

	filtering *message.Filtering // nil before a content filter was asked
}

// Mail opens a mail transaction and waits for nothing.
func (s *session) Mail(ctx context.Context, reverse mail.Path, p mail.Params) error {
	s.receipt.settle(false)
	t := &transaction{session: s, reverse: reverse, params: p}
	t.upstream.t = t
	t.report = s.reporter.Begin(report.Beginning{
		Client: s.conn.Addr, Local: s.conn.Local, Connected: s.begun, Secured: s.handshake(), Parent: p.Parent,
	})
	s.begun = time.Time{}
	t.client = s.client.Begin(reverse)
	e := &t.report.Event
	e.Helo, e.TLS, e.Reverse, e.Rules = s.conn.Helo, s.conn.TLSVersion(), reverse, s.cfg.Rules()
	e.User = s.conn.LoggedIn()
	t.opened, t.waited = time.Now(), s.conn.Waited()
	s.t = t
	err := message.Room(s.conn)
	if err == nil && s.submits != nil {
		err = s.submits.begin(t)
	}
	if err != nil {
		err = t.refuse("MAIL", err)
		s.Reset()
		return err
	}
	return nil
}
