package dial

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// endsAtEHLO notes a candidate that ended the connection at EHLO, and may take HELO on another one. It is none where
// HELO hides what is demanded: TLS, AUTH, LMTP, an extension that the message cannot do without; nor where TLS ever
// worked, so that a host which breaks off by chance gets nothing in clear.
func (t *attempt) endsAtEHLO(err error) {
	of := t.walk.target
	policy := of.policyOf(&t.demand)
	if t.hello == old {
		t.memory.forget(t.Spot)
		return
	}
	if policy != smtpclient.Opportunistic && policy != smtpclient.None || of.EHLO || t.target.LMTP || t.fellBack ||
		!isEnd(err) || t.memory.hadTLS(t.Spot) {
		return
	}
	t.walk.ended = append(t.walk.ended, t.candidate)
}

// isEnd reports whether the host ended the connection where it was greeted, without a word or with half of one. Silence
// is none: the next address needs the time.
func isEnd(err error) bool {
	var d *smtpclient.DialError
	var lost *smtpclient.ConnError
	var slow interface{ Timeout() bool }
	return errors.As(err, &d) && d.Stage == smtpclient.StageHelo && errors.As(err, &lost) &&
		!errors.Is(err, context.Canceled) && (!errors.As(err, &slow) || !slow.Timeout())
}

// tryOld says HELO to the addresses that ended the connection at EHLO, until one takes us. It comes behind all other
// addresses, because extensions and TLS are lost by it. The Conn has no Client if none does.
func (w *walk) tryOld(ctx context.Context) Conn {
	for i, c := range w.ended {
		if mail.IsOver(ctx) {
			break
		}
		part := share(ctx, len(w.ended)-i)
		t := &attempt{
			walk: w, candidate: c, begun: time.Now(), hello: old, fellBack: true, demand: w.target.Demands.Of(c.Host),
		}
		t.target = w.clientTarget(w.target, c.Spot, old, &t.demand)
		begun := time.Now()
		var opened *smtpclient.Client
		socket, err := w.cfg.Connect(part, t.target)
		if err == nil {
			opened, err = smtpclient.Open(part, w.cfg.Client, t.target, socket)
		}
		if err == nil {
			return t.took(opened)
		}
		w.note(c.Spot, err, time.Since(begun))
	}
	return Conn{}
}
