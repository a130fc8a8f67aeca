package smtpclient

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// Attributes are those that a server takes in XFORWARD or XCLIENT.
type Attributes uint8

// The attributes.
const (
	AttrName Attributes = 1 << iota
	AttrAddr
	AttrPort
	AttrProto
	AttrHelo
	AttrIdent
)

// attributeNames are the attributes in the order in which they are sent.
var attributeNames = [...]string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT"}

// parseAttributes reads the parameters of XFORWARD or XCLIENT in the reply to EHLO. Others are skipped.
func parseAttributes(params string) (a Attributes) {
	for p := range strings.FieldsSeq(params) {
		for i, name := range attributeNames {
			if strings.EqualFold(p, name) {
				a |= 1 << i
			}
		}
	}
	return a
}

var (
	errOthers  = errors.New("the session is another client's, and the server takes no other name")
	errClosing = errors.New("the server ends the session")
)

// unavailable stands for what is not known.
const unavailable = "[UNAVAILABLE]"

// appendOrigin appends XFORWARD or XCLIENT with the attributes of a client that the server takes. Both are those of
// Postfix (XFORWARD_README, XCLIENT_README), with values in xtext (RFC 3461 section 4). ident names the message.
func appendOrigin(b []byte, o *mail.Origin, a Attributes, ident string) []byte {
	verb := "XFORWARD"
	if o.By == mail.ClientXclient {
		verb = "XCLIENT"
	}
	b = append(b, verb...)
	addr, port, proto := "", "", "SMTP"
	if o.Addr.IsValid() {
		addr, port = o.Addr.Addr().String(), strconv.Itoa(int(o.Addr.Port()))
		if o.Addr.Addr().Is6() {
			addr = "IPV6:" + addr
		}
		if o.Addr.Port() == 0 { // it came from another relay, which says the address alone
			port = ""
		}
	}
	if o.ESMTP {
		proto = "ESMTP"
	}
	for i, value := range [...]string{o.Name, addr, port, proto, o.Helo, ident} {
		if a&(1<<i) == 0 {
			continue
		}
		b = append(append(append(b, ' '), attributeNames[i]...), '=')
		if value == "" || len(value) > mail.MaxDomain {
			b = append(b, unavailable...)
			continue
		}
		b = appendXtext(b, value)
	}
	return append(b, crlf...)
}

// appendXtext appends a value in xtext: all octets but those from "!" to "~" other than "+" and "=" are written in
// hexadecimal.
func appendXtext(b []byte, value string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(value) {
		if c := value[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			b = append(b, '+', digits[c>>4], digits[c&15])
			continue
		}
		b = append(b, value[i])
	}
	return b
}

// forwards reports whether XFORWARD goes out in front of MAIL.
func (t *transaction) forwards() bool {
	o := t.delivery.Origin
	return o != nil && o.By == mail.ClientXforward && t.conn.ext.Forward&AttrAddr != 0
}

// appendForward appends XFORWARD.
func (t *transaction) appendForward(b []byte) []byte {
	return appendOrigin(b, t.delivery.Origin, t.conn.ext.Forward, t.delivery.Trace.String())
}

// forwardAlone sends XFORWARD to a server that takes one command at a time.
func (t *transaction) forwardAlone(ctx context.Context) error {
	c := t.conn
	w := c.buffers()
	w.out = t.appendForward(w.out[:0])
	if err := t.send(ctx, "XFORWARD", c.cfg.tune.mail); err != nil {
		return err
	}
	if err := c.wake("XFORWARD"); err != nil {
		return err
	}
	return t.forwardReply()
}

// forwardReply reads the reply to XFORWARD. A server that refuses it is not told again on this session, and gets the
// message all the same: its log has our address.
func (t *transaction) forwardReply() error {
	r, err := t.conn.read("XFORWARD")
	switch {
	case err != nil:
		return err
	case r.code == 421:
		return t.conn.connError("XFORWARD", errClosing)
	case r.class() >= 4:
		t.conn.ext.Forward = 0
	}
	return nil
}

// introduce makes the session that of the client of the delivery, by XCLIENT, where the server offers it. A session
// that is another client's already and cannot be changed is of no use: what the server thinks of one would be thought
// of the other.
func (t *transaction) introduce(ctx context.Context) error {
	c, o := t.conn, t.delivery.Origin
	first := c.introduced == (mail.Origin{})
	switch {
	case o == nil || o.By != mail.ClientXclient || c.introduced == *o:
		return nil
	case c.ext.Client&AttrAddr == 0 && first:
		return nil
	case c.ext.Client&AttrAddr == 0:
		return c.connError("XCLIENT", errOthers)
	}
	w := c.buffers()
	w.out = appendOrigin(w.out[:0], o, c.ext.Client&^AttrIdent, "")
	if err := t.send(ctx, "XCLIENT", c.cfg.tune.mail); err != nil {
		return err
	}
	if err := c.wake("XCLIENT"); err != nil {
		return err
	}
	r, err := c.read("XCLIENT")
	switch {
	case err != nil:
		return err
	case r.code == 421:
		return c.connError("XCLIENT", errClosing)
	case r.class() >= 4 && !refusesXclient(r.code):
		return t.refusedClient("XCLIENT", r.mail())
	case r.class() >= 4 && first:
		c.ext.Client = 0
		return nil
	case r.class() >= 4:
		return c.connError("XCLIENT", errOthers)
	case c.unread():
		return c.protocol("XCLIENT", errUnasked)
	}
	own := c.own // the server greets the client now, by an address that is not ours
	err = (opening{c}).hello(ctx, helloOf(o, c.target.Helo))
	c.own, c.introduced, c.mustReset = own, *o, false
	if said, ok := errors.AsType[*ReplyError](err); ok && said.Reply.Code != 421 {
		return t.refusedClient("EHLO", said.Reply)
	}
	return err
}

// refusesXclient reports whether a code, in reply to XCLIENT, refuses the command. Any other one stands in place of the
// greeting of the client, which the server does not serve.
func refusesXclient(code int) bool { return code >= 500 && code <= 504 || code == 550 }

// refusedClient returns the refusal of the client that the server was told of. It is that of the message, as if the
// client had come by itself, and the session serves no other.
func (t *transaction) refusedClient(verb string, came mail.Reply) error {
	t.conn.introduced = *t.delivery.Origin
	t.conn.spend()
	t.phase, t.mailErr = mailRefused, t.refusedBy(verb, came)
	return t.mailErr
}

// helloOf returns the name that a client says in EHLO: the server judges it by that one, and what ours has in the DNS
// is not about its address. Where that is no word the client's address stands for it, and where there is none our name.
func helloOf(o *mail.Origin, own string) string {
	odd := func(c rune) bool { return c < '!' || c > '~' }
	a := o.Addr.Addr()
	switch {
	case o.Helo != "" && len(o.Helo) <= mail.MaxDomain && !strings.ContainsFunc(o.Helo, odd):
		return o.Helo
	case !a.IsValid():
		return own
	case a.Is6():
		return "[IPv6:" + a.String() + "]"
	}
	return "[" + a.String() + "]"
}
