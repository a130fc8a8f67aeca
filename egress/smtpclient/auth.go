package smtpclient

import (
	"context"
	"encoding/base64"
	"errors"
)

// auth speaks PLAIN (RFC 4616, with the initial response of RFC 4954), and LOGIN where PLAIN is not offered or, though
// offered, not taken as a mechanism. A wrong password is not tried twice.
func (o opening) auth(ctx context.Context) error {
	plain, login := o.ext.Has(AuthPlain), o.ext.Has(AuthLogin)
	if !plain && !login {
		r := o.ownRefusal(451, 7, 0, "Destination does not take mail from here at the moment, try again later",
			"upstream refused us")
		r.AboutUs, r.Cause = true, errors.New("AUTH PLAIN or LOGIN not offered")
		return r
	}
	if plain {
		r, err := o.plain(ctx)
		if err != nil || !login || !refusesMechanism(r.code) {
			return o.authenticated(r, err)
		}
	}
	return o.authenticated(o.login(ctx))
}

// plain returns the reply to AUTH PLAIN. A server that asks for what came as the initial response is told again.
func (o opening) plain(ctx context.Context) (reply, error) {
	response := encode("\x00" + o.target.User + "\x00" + o.target.Password)
	r, err := o.ask(ctx, "AUTH", "AUTH PLAIN ", response)
	if err == nil && r.class() == 3 && !o.unread() {
		return o.ask(ctx, "AUTH", response)
	}
	return r, err
}

// login returns the reply that ends AUTH LOGIN.
func (o opening) login(ctx context.Context) (r reply, err error) {
	for i, line := range [...]string{"AUTH LOGIN", encode(o.target.User), encode(o.target.Password)} {
		if i > 0 && (r.class() != 3 || o.unread()) {
			break
		}
		if r, err = o.ask(ctx, "AUTH", line); err != nil {
			break
		}
	}
	return r, err
}

// authenticated returns the error for the reply that ended AUTH, or for err. The first digit decides.
func (o opening) authenticated(r reply, err error) error {
	switch {
	case err != nil:
		return err
	case r.class() >= 4:
		return o.refused("AUTH", r)
	case r.class() != 2, o.unread():
		return o.protocol("AUTH", errUnexpected)
	}
	return nil
}

// refusesMechanism reports whether a code refuses the mechanism, or its form, and not the password.
func refusesMechanism(code int) bool { return code >= 500 && code <= 504 || code == 534 }

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
