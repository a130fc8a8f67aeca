package message

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/complaint"
	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/report"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// An Envelope is what is known of a message before its first octet.
type Envelope struct {
	Client     *wire.Client
	Reputation Reputation
	Reverse    mail.Path // as the client wrote it
	Params     mail.Params
	Recipients []Recipient // at least one of them is relayed
	Route      *mail.Route // of the first that is relayed
	SPF        *SPF        // nil: not checked
	Asked      time.Time   // when the client asked for the 354
	Previous   *Receipt    // of the client's last message, while it is not known that the client has read its answer
	// Submit looks at the header section of a message that a user submits, which is whole and without dots, and returns
	// the fields that it lacks, or the *mail.Refusal of the message. nil for all other messages.
	Submit func(header []byte) (fields []byte, err error)

	Filtering *Filtering // what content filters have of the transaction; nil if they were not asked about recipients
}

// An Upstream is the transaction at the next hop, or at several, with all relayed recipients of the Envelope.
type Upstream interface {
	// Renew returns the transaction, ready for Data: it begins again what was handed back or has become stale. The
	// error is a *mail.Refusal.
	Renew(ctx context.Context) (mail.Transaction, error)
	// Lend hands the session at the next hop back while the client is silent. It reports whether it did.
	Lend() bool
	// Sealed notes what the message is signed with that goes to the next hop of a member.
	Sealed(member int, s mail.Sealed)
}

// An Ending is how a message ended.
type Ending struct {
	Mode      mail.Mode       // how the message travelled, as far as it did
	Committed bool            // the end of data was released: Outcome is what came of it
	Outcome   mail.Outcome    // zero unless Committed
	Outcomes  []mail.Outcome  // one for each accepted forward-path of the recipients, in order; nil unless Committed
	Err       error           // why the message was not relayed
	Ours      bool            // Err is a decision about the message, in our own words: they need no redaction
	Discarded bool            // a content filter wants it accepted and delivered nowhere: Err says which
	Receipt   Receipt         // what the ledger remembers of it; zero unless the next hop took it
	Complaint *mail.Complaint // nil unless the next hop took it and it is a report of abuse that a recipient wants told

	filtered *filter.Decision // what content filters came to; nil where they said nothing, or are to report alone
}

// A Message is one message on its way from its client to its next hop. It is made by Messages.Begin for one call of
// Run, and ended by Close. Its methods are called by one goroutine.
type Message struct {
	*Messages
	Envelope
	body   *wire.Body
	up     Upstream
	report *report.Transaction

	window window
	mode   mail.Mode
	ended  time.Time         // when the client's last octet was read
	lent   bool              // the session at the next hop was handed back while the window was read
	tx     mail.Transaction  // nil before it is opened; a *Fan at several next hops
	auth   *auth.Message     // nil before the header section is complete, and if the message is not judged
	buffer *headerBuffer     // auth keeps octets of it; nil like auth
	ours   *mail.Refusal     // what auth refused the message with
	digest *once.Digest      // what stays the same when it comes again; nil without the ledger
	abuse  *complaint.Reader // nil unless a recipient wants to be told of reports of abuse
	others variants          // the first piece for the next hops that get less of our signatures than others
	lacked []byte            // the fields that a submitted message lacked; they stand above it, below ours
	most   int64             // the most octets that its recipients take; 0 for as many as the listener takes
}

// Begin returns the message that comes in by body. Nothing is read yet.
func (m *Messages) Begin(e Envelope, body *wire.Body, up Upstream, r *report.Transaction) Message {
	out := Message{Messages: m, Envelope: e, body: body, up: up, report: r}
	switch {
	case m.cfg.Filters == nil || e.Route.Policy.Filter == mail.FilterOff:
		out.Filtering = nil // also where another recipient wanted one and was refused
	case e.Filtering == nil:
		out.Filtering = new(Filtering)
	}
	if m.cfg.Once != nil {
		out.digest = m.cfg.Once.Begin(e.Reverse)
		body.Count(out.digest.Size())
	}
	for i := range e.Recipients {
		route := &e.Recipients[i].Route
		if most := int64(route.Policy.MessageSize); route.Action != mail.Drop && most > 0 {
			out.most = min(most, cmp.Or(out.most, most))
		}
		if out.abuse == nil && e.Recipients[i].Route.Policy.Complaints {
			out.abuse = new(complaint.Reader)
			body.Count(complaint.Size)
		}
	}
	return out
}

// Run relays the message and returns how it ended, from top to bottom. A message that ends inside the window is judged
// whole and leaves in one write. A larger one streams: what is decided at its end decides whether the end of data
// follows.
func (m *Message) Run(ctx context.Context) Ending {
	walk, octets := ctx, m.report.Enter(mail.StageOctets)

	// Read the window, and refuse a loop: all of a small message, the header section of one that is judged.
	if err := m.readWindow(walk); err != nil {
		return m.failed(walk, octets, err)
	}
	if m.window.last {
		walk = m.untilReply(walk)
	}
	// Judge it: decide about a whole message, and about one that is refused whatever its body is.
	if err := m.judge(walk); err != nil {
		return m.failed(walk, octets, err)
	}
	// Ask the content filters: about a whole message, or show them the begin of one that streams.
	if err := m.consult(walk); err != nil {
		return m.failed(walk, octets, err)
	}
	// Compose: our fields come above it, and results that pretend to be ours are removed.
	piece, err := m.compose()
	if err != nil {
		return m.failed(walk, octets, err)
	}
	// Open upstream: the transaction, and DATA.
	if err := m.open(walk); err != nil {
		return m.failed(walk, octets, err)
	}
	// Stream the rest but for the last piece, and decide.
	if !m.window.last {
		if piece, err = m.stream(walk, piece); err == nil {
			walk = m.untilReply(walk)
			err = m.finish(walk)
		}
		if err == nil {
			err = m.askFilters(walk)
		}
		if err != nil {
			return m.failed(walk, octets, err)
		}
	}
	octets.End(nil)

	// Commit: release the end of data. From here on the client's fate does not matter.
	if err := m.body.Committing(); err != nil {
		return m.failed(walk, report.Stage{}, err)
	}
	commit := m.report.Enter(mail.StageCommit)
	ctx = m.untilReply(context.WithoutCancel(ctx))
	ctx, attempt := m.attempt(ctx)
	tally := tally{m.Recipients, m.report}
	outcomes := tally.complete(m.tx.Commit(ctx, piece))
	m.reportOnce(outcomes)

	// Report.
	each := tally.perRecipient(outcomes)
	m.markSplit(ctx, each)
	out := worst(each)
	if out.Reply.Class() == 2 {
		commit.End(nil)
	} else {
		commit.End(&mail.Refusal{Reply: out.Reply, Host: out.Host, Cause: out.Cause})
	}
	e := Ending{Mode: m.mode, Committed: true, Outcome: out, Outcomes: outcomes, Err: out.Cause}
	e.filtered = m.Filtering.decision()
	if out.Reply.Class() == 2 {
		e.Receipt = receiptOf(attempt, outcomes)
		e.Complaint = m.abuse.Report()
	} else if attempt != nil && out.Reply.Class() == 4 {
		m.cfg.Once.Keep(ctx, attempt, outcomes)
	}
	return e
}

// Close ends what is under way for the message and awaits it. It may be called again.
func (m *Message) Close() {
	m.Filtering.Close()
	if m.auth != nil {
		m.auth.Close()
	}
	if m.buffer != nil {
		m.buffers.giveBack(m.buffer, m.body)
	}
	if m.digest != nil {
		m.digest.Close()
	}
	m.auth, m.buffer, m.digest = nil, nil, nil
}

// failed ends a stage, which may be zero, and the message with err.
func (m *Message) failed(ctx context.Context, stage report.Stage, err error) Ending {
	stage.End(err)
	if f, ok := m.tx.(*Fan); ok && f.left() != nil {
		err = m.together(context.WithoutCancel(ctx), f)
	}
	return Ending{
		Mode: m.mode, Err: err, Ours: m.ours != nil && errors.Is(err, m.ours), Discarded: errors.Is(err, errDiscarded),
		filtered: m.Filtering.decision(),
	}
}

// untilReply bounds ctx by the client's patience, which counts from its last octet.
func (m *Message) untilReply(ctx context.Context) context.Context {
	return mail.Until(ctx, m.ended.Add(m.cfg.Commit))
}

// judge decides what the window allows to decide, and the mode of a message that is not held: it is predicted if that
// can be.
func (m *Message) judge(ctx context.Context) error {
	switch {
	case m.auth == nil:
		return nil
	case m.window.last:
		return m.finish(ctx)
	case m.auth.Refusal(ctx) != nil: // whatever its body is, so that the next hop need not see it
		return m.finish(ctx)
	case m.window.signing && m.predictions.allow(ctx, m.auth, m.Client.Addr.Addr()):
		m.mode = mail.ModePredict
	}
	return nil
}

// finish ends the body and returns the refusal of a message that is not to be passed on.
func (m *Message) finish(ctx context.Context) error {
	if m.auth == nil {
		return nil
	}
	step := m.report.Part(mail.StepAuth)
	decision := m.auth.Finish(ctx)
	event := &m.report.Event
	event.Auth = &decision.Auth
	for _, o := range decision.Overrides {
		m.report.Anomaly("authentication overridden: "+o, nil)
	}
	if decision.IgnoredPercent {
		m.report.Anomaly("DMARC pct ignored", nil)
	}
	if decision.Mismatch {
		m.report.Anomaly("body hash foretold wrongly", m.predictions.recordWrong(ctx, m.auth, m.Client.Addr.Addr()))
	}
	if decision.Refusal == nil {
		m.report.EndPart(step, nil)
		return nil
	}
	m.ours = decision.Refusal
	m.report.EndPart(step, decision.Refusal)
	return decision.Refusal
}

// compose returns what the window holds below our fields, without the results that pretend to be ours.
func (m *Message) compose() (mail.Octets, error) {
	m.report.Event.MessageID = m.window.head.id.hash
	if m.auth == nil {
		var buf [1024]byte // enough for most; append takes more where it must
		return m.window.above(m.body, append(m.appendTop(buf[:0]), m.lacked...), nil), nil
	}
	size := m.buffer.size()
	fields, err := m.auth.Fields(m.appendTop(m.buffer.fields[:0]), m.mode)
	if err != nil {
		return mail.Octets{}, err
	}
	m.report.Event.Signed, m.report.Event.Unsigned = m.auth.Signed()
	noteSigned(m, m.window.most)
	fields = append(fields, m.lacked...)
	m.buffer.fields = fields
	m.body.Count(m.buffer.size() - size)
	if err := composeOthers(m); err != nil {
		return mail.Octets{}, err
	}
	return m.window.above(m.body, fields, m.auth.Removals()), nil
}

// open begins the message at the next hop, whose session is fetched back first if it was lent.
func (m *Message) open(ctx context.Context) error {
	ctx = m.waiving(ctx)
	err := m.body.Await(ctx, func(ctx context.Context) (err error) {
		if m.tx, err = m.up.Renew(ctx); err != nil {
			return err
		}
		if f, ok := m.tx.(*Fan); ok {
			f.others = m.others
		}
		if err = m.checkUTF8(); err != nil || m.window.last {
			return err
		}
		return m.tx.Stream(ctx)
	})
	if err != nil {
		return err
	}
	stage := m.report.Enter(mail.StageData)
	err = m.tx.Data(mail.Until(ctx, time.Now().Add(m.cfg.Data)), m.body.Form())
	stage.End(err)
	return err
}

// checkUTF8 refuses a message that needs SMTPUTF8 for its header section where the next hop has no SMTPUTF8 (RFC 6531
// section 3.5). One that was declared so and does not need it is relayed without the parameter.
func (m *Message) checkUTF8() error {
	if !m.Params.SMTPUTF8 || !m.window.head.eightBit {
		return nil
	}
	if !m.tx.SMTPUTF8() {
		return errNoUTF8()
	}
	return nil
}

// askEvery is how often the next hop is asked whether a message is to give way while its client is waited for.
const askEvery = time.Second

// stream sends o and what follows as it comes in, and returns the last piece.
//
// A client that is slow to fill a slab may have to give way, if another client waits for the session at the next hop:
// the slow one tries again, and the other one need not. What is not slow has to in Write.
func (m *Message) stream(ctx context.Context, o mail.Octets) (mail.Octets, error) {
	head := &m.window.head
	for last := false; !last; {
		if err := m.tx.Write(o); err != nil {
			return o, err
		}
		m.body.Recycle()
		var err error
		every := min(m.cfg.Lend, askEvery)
		o, last, err = m.body.Next(time.Now().Add(every))
		for errors.Is(err, wire.ErrIdle) {
			if m.tx.Wanted() {
				return o, errGaveWay()
			}
			if m.Filtering.wanted() {
				return o, m.filterGaveWay()
			}
			o, last, err = m.body.Next(time.Now().Add(every))
		}
		if err != nil {
			return o, err
		}
		if isTooBig(m.body, m.most) {
			return o, TooBig()
		}
		if last {
			m.ended = time.Now()
		}
		if m.auth != nil {
			m.auth.WriteOctets(o, 0)
		}
		if m.digest != nil {
			m.digest.Write(o)
		}
		m.abuse.Write(o)
		if err := m.showFilters(ctx, o); err != nil {
			return o, err
		}
		if head.done {
			continue
		}
		ended := head.feed(o) || last
		if err := m.loops.refuseLoop(head, ended, m.Recipients); err != nil {
			return o, err
		}
		if err := head.media.check(ended); err != nil {
			return o, err
		}
		if err := m.checkUTF8(); err != nil {
			return o, err
		}
	}
	return o, nil
}
