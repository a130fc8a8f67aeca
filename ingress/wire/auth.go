package wire

import (
	"encoding/base64"
	"errors"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A Login is what a client has said of who it is (RFC 4954). The connection owns it, as it does the Client.
//
// Invariant: User is not "" if and only if the Config's Login has taken the user and the password that came under TLS,
// or NewSession says who is behind a connection within the process.
type Login struct {
	User string

	mechanism string
	claimed   string    // the user of LOGIN, while the password is awaited
	awaits    loginLine // what the next line is
}

// A loginLine says what the next line of a client is.
type loginLine uint8

const (
	aCommand      loginLine = iota
	plainResponse           // the whole of PLAIN
	loginUser               // the user of LOGIN
	loginPassword           // its password
)

// The challenges, which LOGIN's clients know by heart.
var (
	askUser     = mail.NewReply(334, 0, 0, "VXNlcm5hbWU6") // Username:
	askPassword = mail.NewReply(334, 0, 0, "UGFzc3dvcmQ6") // Password:
)

// loginWeight is how many bad commands a failed login counts for: with the third one a connection ends.
const loginWeight = 4

// maxCredential bounds a user and a password in octets.
const maxCredential = 255

// LoggedIn returns the user that the client has logged in as, "" before that.
func (c *Client) LoggedIn() string {
	if c.Login == nil {
		return ""
	}
	return c.Login.User
}

// An authentication is the part of a connection that deals with logins.
type authentication struct{ *conn }

// begin carries out AUTH.
func (c authentication) begin(arg []byte) {
	mechanism, initial, given := strings.Cut(string(arg), " ")
	clear(arg) // it may hold a password
	mechanism = strings.ToUpper(mechanism)
	switch {
	case c.srv.cfg.Login == nil:
		c.mistake(notImplemented)
		return
	case c.tx.phase().open():
		c.mistake(authInside)
		return
	case c.client.TLS == nil:
		c.mistake(tlsFirst)
		return
	case c.client.Helo == "" || !c.client.ESMTP:
		c.mistake(helloFirst)
		return
	case c.client.LoggedIn() != "":
		c.mistake(loggedIn)
		return
	case mechanism != "PLAIN" && mechanism != "LOGIN":
		c.mistake(noMechanism)
		return
	}
	l := &Login{mechanism: mechanism}
	c.client.Login = l
	switch {
	case mechanism == "PLAIN" && given:
		c.plain(initial)
	case mechanism == "PLAIN":
		l.awaits = plainResponse
		c.out.append(func(b []byte) []byte { return append(b, "334 \r\n"...) })
	case given:
		c.user(initial)
	default:
		l.awaits = loginUser
		c.out.reply(askUser)
	}
}

// line takes the line that a login awaits in place of a command, or answers the fault of one that is none.
func (c authentication) line(line []byte, fault *mail.Reply) {
	l := c.client.Login
	awaited := l.awaits
	l.awaits = aCommand
	text := string(line)
	clear(line)
	switch {
	case fault != nil:
		c.mistake(*fault)
	case text == "*":
		c.mistake(loginCancelled)
	case awaited == plainResponse:
		c.plain(text)
	case awaited == loginUser:
		c.user(text)
	default:
		password, ok := decodeCredential(text)
		if !ok {
			c.mistake(loginSyntax)
			return
		}
		c.try(l.claimed, password)
	}
}

// plain takes the response of PLAIN.
func (c authentication) plain(text string) {
	user, password, ok := parsePlain(text)
	if !ok {
		c.mistake(loginSyntax)
		return
	}
	c.try(user, password)
}

// parsePlain reads the response of PLAIN (RFC 4616): an identity to act as, which is that of the user or missing, the
// user and the password.
func parsePlain(text string) (user, password string, ok bool) {
	response, isBase64 := decodeResponse(text)
	as, rest, first := strings.Cut(response, "\x00")
	user, password, second := strings.Cut(rest, "\x00")
	return user, password, isBase64 && first && second && isCredential(user) && isCredential(password) &&
		(as == "" || as == user)
}

// user takes the user of LOGIN, and asks for the password.
func (c authentication) user(text string) {
	user, ok := decodeCredential(text)
	if !ok {
		c.mistake(loginSyntax)
		return
	}
	c.client.Login.claimed, c.client.Login.awaits = user, loginPassword
	c.out.reply(askPassword)
}

// try has the Config take a user and a password, and replies.
func (c authentication) try(user, password string) {
	c.out.beforeWait()
	err := c.srv.cfg.Login(c.srv.ctx, &c.client, user, password)
	if err == nil {
		c.client.Login.User = user
		c.out.reply(welcome)
		return
	}
	e := mail.Event{Verb: "AUTH " + c.client.Login.mechanism, User: user, Reply: mail.ReplyFor(err), Cause: err}
	if r, ok := errors.AsType[*mail.Refusal](err); ok {
		e.Reason = r.Reason
	}
	c.spent.bad += loginWeight
	c.refuse(c.tell(e))
}

// decodeResponse decodes a line of base64, or "=", which stands for nothing (RFC 4954 section 4).
func decodeResponse(text string) (string, bool) {
	if text == "=" {
		return "", true
	}
	out, err := base64.StdEncoding.Strict().DecodeString(text)
	return string(out), err == nil
}

// decodeCredential decodes a line that is a user or a password.
func decodeCredential(text string) (string, bool) {
	s, ok := decodeResponse(text)
	return s, ok && isCredential(s)
}

// isCredential reports whether s can be a user or a password.
func isCredential(s string) bool {
	return s != "" && len(s) <= maxCredential && strings.IndexByte(s, 0) < 0
}
