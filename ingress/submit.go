package ingress

import (
	"context"

	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A submits is what a session of a user has besides: who may log in, and who sends the present message. A nil submits
// is that of a session of a host.
type submits struct {
	*Server
	accounts *submission.Accounts
	user     *submission.User // of the transaction; not nil once begin has returned nil
}

// NewSubmission returns the session of a new client of a listener of users, whose Config has a Login that asks
// accounts. Its users may relay anywhere, as trusted clients may, but in their own names alone.
func (s *Server) NewSubmission(c *wire.Client, accounts *submission.Accounts) wire.Session {
	ss, _ := s.NewSession(c, nil).(*session) // it is one
	ss.trusted = true                        // nothing is asked of it before its client has logged in: see wire.Config
	ss.lookups.questions.Favour()
	ss.submits = &submits{Server: s, accounts: accounts}
	return ss
}

// route returns the routes of mail to an address of a user.
func (s *submits) route(p mail.Path) ([]mail.Route, error) {
	return s.cfg.Router.Route(mail.Query{Forward: p, At: s.cfg.Now()})
}

// owns returns nil if an address is the user's, else the refusal of what is sent in its name.
func (s *submits) owns(p mail.Path) error { return s.user.Owns(p, s.route) }

// begin returns the refusal of a transaction with a reverse-path that is not the user's. The null reverse-path is that
// of notices which mail programs send (RFC 6409 section 3.2): the From field says who is behind it, as in all mail.
func (s *submits) begin(t *transaction) error {
	s.user = s.accounts.User(t.session.conn.LoggedIn())
	switch {
	case s.user == nil:
		return mail.Refuse(530, 7, 0, "Authentication required", "no such user any more", nil)
	case t.reverse.IsNull():
		return nil
	}
	return s.owns(t.reverse)
}

// recipient returns the refusal of a recipient that is too much for its user, or that there was not of late.
func (s *submits) recipient(ctx context.Context, t *transaction, forward mail.Path) error {
	return s.accounts.Recipient(ctx, s.user, forward, t.accepted == 0)
}

// check returns what looks at the header section of a message of the user, nil for a host's.
func (s *submits) check(t *transaction) func(header []byte) ([]byte, error) {
	if s == nil {
		return nil
	}
	return func(header []byte) ([]byte, error) {
		h, err := submission.ReadHeader(header)
		if err == nil {
			err = h.Check(s.owns)
		}
		if err != nil {
			return nil, err
		}
		date := s.cfg.Now().UTC().Format("Mon, 2 Jan 2006 15:04:05 +0000")
		return h.Missing(date, t.report.Event.Trace.String()), nil
	}
}

// signAsUsers makes mail on routes be signed, and on those that are tried in their place, whatever the next hop: what a
// user sends is not forwarded, and the next hop may be a smarthost that does not sign. seal=never of a rule holds.
func signAsUsers(routes []mail.Route) {
	for i := range routes {
		for r := &routes[i]; r != nil; r = r.Else {
			if r.Policy.Seal == mail.SealAuto {
				r.Policy.Seal = mail.SealAlways
			}
		}
	}
}
