package node

import (
	"bytes"
	"context"
	"errors"
	netmail "net/mail"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin/v4"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxSent is the most octets of a message that the API takes.
	maxSent = 10 << 20
	// sendAtOnce bounds the recipients of one request whose destinations are asked at a time.
	sendAtOnce = 4
)

// sending carries messages that come by the API. Each is brought in a dialogue of SMTP by the holder of the token, who
// has logged in: such a message is checked, limited, routed, signed, answered and logged as one that was submitted.
type sending struct {
	*Node
	accounts *submission.Accounts // of tokens alone
	ending   sync.WaitGroup       // servers whose requests were answered
}

// newSending returns what carries messages of the API, as those that hold a token.
func newSending(n *Node) (*sending, error) {
	accounts, err := n.parts.accountsOf("", n.parts.store, nil)
	s := &sending{Node: n, accounts: accounts}
	n.cleanups.add("messages of the API", func(context.Context) error { s.ending.Wait(); return nil })
	return s, err
}

// most is the largest message.
func (s *sending) most() int64 { return min(maxSent, int64(s.cfg.Limits.MessageSize)) }

// send sends a message to each recipient by itself, so that each has the answer of its own destination. The error is an
// *account.Error, and then nothing was sent.
func (s *sending) send(ctx context.Context, p account.Principal, m v4.Outgoing) (v4.Sent, error) {
	if s.drain.begun.Load() {
		return v4.Sent{}, &account.Error{Kind: account.Busy, Code: account.CodeBusy, Message: "this node ends"}
	}
	user := s.accounts.User(p.ID)
	if user == nil {
		return v4.Sent{}, &account.Error{Kind: account.Forbidden, Code: account.CodeForbidden,
			Message: "mail is sent by a token of the role owner or a stronger one, as the domains that it is for"}
	}
	out, err := readOutgoing(&m, func(p mail.Path) error { return user.Owns(p, s.route) })
	if err != nil {
		return v4.Sent{}, err
	}
	server, err := s.serve(p.ID)
	if err != nil {
		return v4.Sent{}, err
	}
	answers := make([]sent, len(out.to))
	places := make(chan struct{}, sendAtOnce)
	var asking sync.WaitGroup
	for i := range out.to {
		asking.Go(func() { // ends with ctx
			places <- struct{}{}
			defer func() { <-places }()
			answers[i] = server.bring(ctx, s.cfg.Hostname, out, out.to[i])
		})
	}
	asking.Wait()
	s.ending.Go(func() { // ends with the last answer that a message in doubt is owed, which the request does not await
		ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayShutdown)
		defer cancel()
		_ = server.server.Shutdown(ended) // what it cuts was answered for
		server.done.Wait()
	})
	result := v4.Sent{MessageID: out.id}
	for i := range answers {
		answers[i].addTo(&result, m.Recipients[i])
	}
	return result, nil
}

// route returns the routes of mail to an address of a sender.
func (s *sending) route(p mail.Path) ([]mail.Route, error) {
	return s.rules.router.Route(mail.Query{Forward: p, At: time.Now()})
}

// serve begins to serve one who holds a token, over connections within the process.
func (s *sending) serve(id string) (*ownMail, error) {
	cfg := s.wireConfig(&config.Listener{Addr: "API", Relay: "trusted"})
	cfg.Abort = nil // which would end what other clients wait for
	cfg.NewSession = func(_ context.Context, c *wire.Client) wire.Session {
		c.Login = &wire.Login{User: id} // the token was the password
		return s.server.NewSubmission(c, s.accounts)
	}
	server, err := wire.NewServer(cfg)
	if err != nil {
		return nil, err
	}
	o := &ownMail{server: server, line: newOwnLine()}
	o.done.Go(func() { _ = server.Serve(o.line) }) // ends with Shutdown
	return o, nil
}

// An outgoing is a message that may be sent.
type outgoing struct {
	from    mail.Path
	to      []mail.Path
	message []byte
	stuffed []byte // message as DATA has it
	id      string // its Message-ID
}

// readOutgoing reads a message, and completes it once for all recipients. owns returns the refusal of what is sent in
// the name of another one. The error is an *account.Error.
func readOutgoing(m *v4.Outgoing, owns func(mail.Path) error) (*outgoing, error) {
	out := &outgoing{message: []byte(m.Message)}
	var err error
	if out.from, err = mail.ParsePath(m.From, true); err != nil || out.from.Domain == "" {
		return nil, wrongSending("from", "is no address")
	}
	for _, text := range m.Recipients {
		to, err := mail.ParsePath(text, true)
		if err != nil || to.Domain == "" {
			return nil, wrongSending("recipients", strconv.Quote(printable.Text(text))+" is no address")
		}
		out.to = append(out.to, to)
	}
	if !bytes.Contains(out.message, []byte("\r\n")) { // lines as a file has them
		out.message = bytes.ReplaceAll(out.message, []byte("\n"), []byte("\r\n"))
	}
	err = owns(out.from)
	var header submission.Header
	if err == nil {
		header, err = submission.ReadHeader(out.message)
	}
	if err == nil {
		err = header.Check(owns)
	}
	if err != nil {
		reply := mail.ReplyFor(err)
		kind := account.Forbidden
		if reply.Class() == 4 {
			kind = account.Busy
		}
		return nil, &account.Error{Kind: kind, Code: account.CodeForbidden, Message: reply.Text}
	}
	date := time.Now().UTC().Format("Mon, 2 Jan 2006 15:04:05 +0000")
	out.message = append(header.Missing(date, account.NewID()), out.message...)
	out.stuffed = stuffed(out.message)
	if read, err := netmail.ReadMessage(bytes.NewReader(out.message)); err == nil {
		out.id = printable.Text(strings.Trim(read.Header.Get("Message-Id"), " \t<>"))
	}
	return out, nil
}

func wrongSending(field, why string) error {
	return &account.Error{Kind: account.Refused, Code: account.CodeRefused, Field: field, Message: why}
}

// A sent is what was answered of a message to one recipient.
type sent struct {
	code    int // 0: nothing
	text    string
	brought bool // all of the message was sent
}

// bring brings a message to one recipient.
func (o *ownMail) bring(ctx context.Context, helo string, m *outgoing, to mail.Path) sent {
	conn, err := o.line.connect(ctx)
	if err != nil {
		return sent{text: err.Error()}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	d := &dialogue{text: textproto.NewConn(conn), stuffed: m.stuffed}
	defer d.text.Close()
	if err := d.speak(&Question{Helo: &helo, From: &m.from, To: &to, Message: m.message}); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errors.New("the destination did not answer in time")
		}
		return sent{text: err.Error(), brought: d.brought}
	}
	last := d.answer
	_ = d.say("QUIT") // the session may have ended
	text := strconv.Itoa(last.code) + " " + strings.ReplaceAll(last.text, "\n", " / ")
	return sent{last.code, text, d.brought}
}

// addTo adds an answer to a result. What was put off is not queued, and is not delivered later.
func (a *sent) addTo(out *v4.Sent, to string) {
	reply := printable.Text(a.text)
	switch {
	case a.code/100 == 2 && a.brought:
		out.Delivered = append(out.Delivered, to)
	case a.code/100 == 5 && strings.Contains(a.text, submission.Suppressed):
		out.Suppressed = append(out.Suppressed, to)
	case a.code/100 == 5:
		out.Bounces = append(out.Bounces, to)
		out.Replies = append(out.Replies, v4.Answered{Recipient: to, Reply: reply})
	default:
		answered := v4.Answered{Recipient: to, Reply: reply, InDoubt: a.code == 0 && a.brought}
		out.PutOff = append(out.PutOff, answered)
	}
}
