package ingress

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// Body passes the message on and gives the reply to its end. A message that ends inside the hold window is judged whole
// and leaves in one write; a larger one streams, and what is thought of it at its end decides whether the end of data
// follows. The transaction is over when it returns.
func (s *session) Body(ctx context.Context, b *wire.Body) mail.Reply {
	t := s.t
	ctx = s.traced(ctx)
	var v verdict
	if t.relayed == 0 {
		v = s.discard(b)
	} else {
		v = s.pass(ctx, b)
	}
	t.abort() // a transaction that Commit has ended is gone already
	reply := v.reply.WithID(t.id)
	s.learnMessage(&v)
	s.tell(v, reply, b.Received())
	s.end()
	return reply
}

// A verdict is how a message ended.
type verdict struct {
	kind    mail.Kind
	reply   mail.Reply
	outcome mail.Outcome // zero if nothing was committed
	err     error        // why it was not relayed
	mode    mail.Mode
}

// discard reads a message that a drop rule wants nowhere.
func (s *session) discard(b *wire.Body) verdict {
	for {
		_, last, err := b.Next(time.Time{})
		if err != nil {
			return s.failed(err, mail.ModeNone)
		}
		if last {
			return verdict{kind: mail.Dropped, reply: mail.NewReply(250, 0, 0, "OK")}
		}
		b.Recycle()
	}
}

// pass relays a message.
func (s *session) pass(ctx context.Context, b *wire.Body) verdict {
	octetsCtx, in := s.enter(ctx, mail.StageOctets)
	last, mode, err := s.octets(octetsCtx, b)
	in.end(err)
	if err == nil {
		err = b.Committing()
	}
	if err != nil {
		return s.failed(err, mode)
	}
	return s.commit(ctx, last, mode)
}

// octets reads the hold window, judges what is in it, and gives the next hop all of the message but its last piece,
// which it returns. What the end of the body decides is decided when it returns.
func (s *session) octets(ctx context.Context, b *wire.Body) (mail.Octets, mail.Mode, error) {
	w := window{form: b.Form(), head: headerScan{stuffed: b.Form() == mail.Stuffed}}
	w.signing = s.signs(&s.t.route)
	w.judged = w.signing || s.asked()
	if err := s.gather(ctx, b, &w); err != nil {
		return mail.Octets{}, w.mode(), err
	}
	mode := w.mode()
	if w.last {
		ctx = s.untilReply(ctx)
	}
	o, mode, err := s.compose(ctx, b, &w, mode)
	if err != nil {
		return o, mode, err
	}
	if err := s.open(ctx, w.form, &w.head); err != nil || w.last {
		return o, mode, err
	}
	o, err = s.stream(ctx, b, &w.head, o)
	return o, mode, err
}

// untilReply bounds ctx by the client's patience, which counts from its last octet.
func (s *session) untilReply(ctx context.Context) context.Context {
	return mail.Until(ctx, s.t.ended.Add(s.cfg.Deadlines.Commit))
}

// stream sends o and what follows as it comes in, and gives the last piece. The message is refused then, at the latest.
func (s *session) stream(ctx context.Context, b *wire.Body, head *headerScan, o mail.Octets) (mail.Octets, error) {
	for last := false; !last; {
		if err := s.t.tx.Write(o); err != nil {
			return o, err
		}
		b.Recycle()
		var err error
		if o, last, err = s.next(b); err != nil {
			return o, err
		}
		if last {
			s.t.ended = time.Now()
		}
		s.t.auth.hash(o, 0)
		if head.done {
			continue
		}
		if err := s.examine(head, o, last); err != nil {
			return o, err
		}
		if err := s.speaks(head); err != nil {
			return o, err
		}
	}
	return o, s.finish(s.untilReply(ctx))
}

// first reads the hold window. While the client is slow with it, the session at the next hop is lent.
func (s *session) first(b *wire.Body) (mail.Octets, bool, error) {
	t := s.t
	var until time.Time
	if !t.lent {
		until = t.last.Add(s.cfg.Deadlines.Lend)
	}
	o, last, err := b.Next(until)
	if errors.Is(err, wire.ErrIdle) {
		t.lend()
		return b.Next(time.Time{})
	}
	return o, last, err
}

// next reads on in a message that streams. A client that takes long to fill a slab loses its session at the next hop if
// its network holds more than its share there and another one waits: it tries again, and the other one need not.
func (s *session) next(b *wire.Body) (mail.Octets, bool, error) {
	for {
		o, last, err := b.Next(time.Now().Add(s.cfg.Deadlines.Lend))
		if !errors.Is(err, wire.ErrIdle) {
			return o, last, err
		}
		if s.t.tx.Wanted() {
			return o, false,
				mail.Refuse(451, 4, 5, "Too slow while others wait for this destination", "slow client", nil)
		}
	}
}

// examine reads on in the header section and, when it has ended, looks for a loop.
func (s *session) examine(h *headerScan, o mail.Octets, last bool) error {
	ended := h.feed(o) || last
	if h.received > maxReceived {
		return mail.Refuse(554, 4, 6, "Too many Received fields, this message loops", "loop", nil)
	}
	if !ended {
		return nil
	}
	if h.marked > maxMarks || len(h.marks) > maxRead {
		return mail.Refuse(554, 4, 6, "This message passed here too often", "loop", nil)
	}
	for i := range s.t.rcpts {
		if s.hops.looped(h.marks, s.t.rcpts[i].forward) {
			return mail.Refuse(554, 4, 6, "This message passed here before for the same recipient", "loop", nil)
		}
	}
	return nil
}

// compose judges what the window holds, puts our fields above it and cuts from it what pretends to be ours. It gives
// the mode as well: a message that is not held is foretold if that can be.
func (s *session) compose(ctx context.Context, b *wire.Body, w *window,
	mode mail.Mode) (mail.Octets, mail.Mode, error) {
	m := s.t.auth.message
	if m == nil {
		var buf [1024]byte // enough for most; append takes more where it must
		fields := s.appendReceived(buf[:0], s.client, s.t, s.cfg.Now())
		return w.above(b, fields, nil), mode, nil
	}
	var err error
	if w.last {
		err = s.finish(ctx)
	} else {
		err = s.hopeless(ctx)
	}
	if err != nil {
		return mail.Octets{}, mode, err
	}
	if !w.last && w.signing && s.predicts(ctx) {
		mode = mail.ModePredict
	}
	sheet := s.t.auth.sheet
	size := sheet.size()
	fields := s.appendReceived(sheet.fields[:0], s.client, s.t, s.cfg.Now())
	fields, err = m.Fields(fields, mode)
	if err != nil {
		return mail.Octets{}, mode, err
	}
	sheet.fields = fields
	s.sheets.grown(sheet, size)
	return w.above(b, fields, m.Removals()), mode, nil
}

// open begins the message at the next hop, whose session is fetched back first if it was lent.
func (s *session) open(ctx context.Context, form mail.Form, h *headerScan) error {
	if err := s.renew(ctx); err != nil {
		return err
	}
	if err := s.speaks(h); err != nil {
		return err
	}
	ctx, in := s.enter(mail.Until(ctx, time.Now().Add(s.cfg.Deadlines.Data)), mail.StageData)
	err := s.t.tx.Data(ctx, form)
	in.end(err)
	return err
}

// speaks refuses a message that needs SMTPUTF8 for its header section where the next hop has none (RFC 6531 section
// 3.5). One that was declared so and needs it not is relayed without the parameter.
func (s *session) speaks(h *headerScan) error {
	if !s.t.params.SMTPUTF8 || !h.eightBit {
		return nil
	}
	if !s.t.tx.SMTPUTF8() {
		return mail.Refuse(550, 6, 7, "The destination does not support SMTPUTF8", "smtputf8", nil)
	}
	return nil
}

// commit releases the dot and gives the next hop's answer. From here on the client's fate does not matter.
func (s *session) commit(ctx context.Context, o mail.Octets, mode mail.Mode) verdict {
	t := s.t
	ctx = context.WithoutCancel(ctx)
	ctx, in := s.enter(mail.Until(ctx, t.ended.Add(s.cfg.Deadlines.Commit)), mail.StageCommit)
	outcomes := t.tx.Commit(ctx, o)
	t.tx = nil
	out := worst(outcomes)
	if out.Reply.Class() == 2 {
		in.end(nil)
	} else {
		in.end(&mail.Refusal{Reply: out.Reply, Host: out.Host, Cause: out.Cause})
	}
	v := verdict{outcome: out, mode: mode, err: out.Cause}
	switch out.Reply.Class() {
	case 2:
		v.kind = mail.Relayed
	case 5:
		v.kind = mail.Refused
	default:
		v.kind = mail.Deferred
	}
	v.reply = t.publicReply(out.Reply, out.Host, nil)
	if v.kind == mail.Relayed {
		v.reply.Code = 250 // whatever 2yz the next hop chose: to our client a 221 would mean that we close
	}
	return v
}

// worst gives the one answer to the dot. Outcomes that differ in class cannot be told in one reply, so they are a 451.
func worst(outcomes []mail.Outcome) mail.Outcome {
	if len(outcomes) == 0 {
		return mail.Outcome{
			Reply: mail.NewReply(451, 3, 0, "Local error, try again later"), Cause: errors.New("no outcome"),
		}
	}
	out := outcomes[0]
	for _, o := range outcomes[1:] {
		if o.Reply.Class() != out.Reply.Class() {
			out.Cause = errors.New("outcomes differ: " + out.Reply.String() + "; " + o.Reply.String())
			out.Reply = mail.NewReply(451, 3, 0, "Delivered to some recipients only, try again")
			return out
		}
	}
	return out
}

// failed is the verdict on a message that ended before the dot.
func (s *session) failed(err error, mode mail.Mode) verdict {
	v := verdict{err: err, mode: mode, kind: mail.Aborted, reply: mail.ReplyFor(err)}
	if errors.Is(err, wire.ErrClientGone) || errors.Is(err, wire.ErrInterrupted) || errors.Is(err, wire.ErrTooSlow) {
		return v
	}
	if r := s.t.auth.refusal; r != nil && errors.Is(err, r) {
		v.reply = r.Reply // in our own words, with nothing of the next hop in them
	} else {
		v.reply = s.t.publicRefusal(err, nil).Reply
	}
	v.kind = mail.Deferred
	if v.reply.Class() == 5 {
		v.kind = mail.Refused
	}
	return v
}

// tell emits the wide event of the transaction.
func (s *session) tell(v verdict, reply mail.Reply, octets int64) {
	e := s.t.event
	e.Kind, e.Time, e.Mode, e.Recipients, e.Octets = v.kind, s.cfg.Now(), v.mode, len(s.t.rcpts), octets
	e.Verb, e.Reply, e.Cause = "DATA", reply, v.err
	e.Host, e.HostTLS, e.Reused, e.InDoubt = v.outcome.Host, v.outcome.TLS, v.outcome.Reused, v.outcome.InDoubt
	var r *mail.Refusal
	if errors.As(v.err, &r) {
		e.Reason = r.Reason
		if e.Host == "" {
			e.Host = r.Host
		}
	}
	if v.outcome.InDoubt {
		e.Reason = "in doubt"
	}
	s.cfg.Emit(e)
	if sp := s.t.span; sp != nil && sp.IsRecording() {
		sp.SetAttributes(
			attribute.String("client.address", s.client.Addr.Addr().String()),
			attribute.String("smtp.mode", v.mode.String()),
			attribute.Int64("smtp.octets", octets),
			attribute.Int("smtp.recipients", e.Recipients),
			attribute.Int("smtp.code", reply.Code),
			attribute.String("smtp.outcome", v.kind.String()),
			attribute.String("smtp.auth", e.Auth),
			attribute.String("server.address", e.Host),
			// its pattern is somebody's address
			attribute.String("smtp.rule", e.Rule.File+":"+strconv.Itoa(e.Rule.Line)),
		)
	}
}
