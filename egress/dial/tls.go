package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// ticketCache bounds the hosts whose TLS tickets are kept, per policy.
const ticketCache = 4096

// tlsConfig returns the base for sessions under one policy. Tickets are not shared between policies: a ticket from a
// session whose certificate was not verified must not stand for a verified one.
func tlsConfig(roots *x509.CertPool, policy smtpclient.TLSPolicy) *tls.Config {
	c := &tls.Config{
		RootCAs:            roots,
		ClientSessionCache: tls.NewLRUClientSessionCache(ticketCache),
		MinVersion:         tls.VersionTLS12,
	}
	if policy == smtpclient.Opportunistic {
		c.MinVersion = tls.VersionTLS10 // old TLS is better than the clear that would follow
	}
	return c
}

// fallBack opens a session with one address where the first attempt, which ended in opened and err, failed in the TLS
// handshake; else it returns these as they are. A handshake that breaks off is tried again without post-quantum key
// exchange, whose large first message some boxes in the middle cannot take. Under the opportunistic policy a handshake
// that failed for any reason is followed by one more attempt in clear.
func (d *Dialer) fallBack(ctx context.Context, limits smtpclient.Config, t smtpclient.Target, opened *client,
	err error) (*client, error) {
	if err == nil || !handshakeFailed(err) || mail.IsOver(ctx) {
		return opened, err
	}
	first := err
	if brokeOff(err) {
		t.TLSConfig = d.classic[t.TLS]
		opened, err = smtpclient.Dial(ctx, limits, t)
		if err == nil || !handshakeFailed(err) || mail.IsOver(ctx) {
			return opened, err
		}
	}
	if t.TLS != smtpclient.Opportunistic {
		return nil, first
	}
	t.TLS = smtpclient.None
	if opened, err = smtpclient.Dial(ctx, limits, t); err != nil {
		return nil, Failures{first, err}
	}
	return opened, nil
}

// handshakeFailed reports whether err is of the TLS handshake, after STARTTLS was agreed on.
func handshakeFailed(err error) bool {
	var d *smtpclient.DialError
	return errors.As(err, &d) && d.Stage == smtpclient.StageTLS
}

// brokeOff reports whether a handshake failed without a word from the other side about why, as happens where a box in
// the middle drops the connection.
func brokeOff(err error) bool {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return false
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	return !errors.As(err, &certificate) && !errors.As(err, &record) && !errors.As(err, &unknown) &&
		!errors.As(err, &name)
}
