package message

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A window holds what is read of a message before its next hop hears of it: one slab when nothing is to be signed, up
// to Config.HoldWindow when something may be, and in any case the header section of a message that is judged.
type window struct {
	judged  bool      // authentication looks at the message
	signing bool      // and something may be signed
	most    auth.Want // the most that a next hop wants of signatures
	last    bool      // first and rest are the whole message
	gap     bool      // the message has no header section: an empty line stands between our fields and it
	head    headerScan
	first   mail.Octets   // the first piece, in front of which there is room for fields
	rest    []mail.Octets // the further ones
	octets  int           // of all of them
	lacked  int           // octets of the fields above it that count as of its header section
}

// mode returns how the message travels as far as its length decides.
func (w *window) mode() mail.Mode {
	switch {
	case w.octets == 0 && !w.last:
		return mail.ModeNone
	case w.last:
		return mail.ModeHold
	}
	return mail.ModeStream
}

func (w *window) add(o mail.Octets, last bool) {
	if w.octets == 0 {
		w.first = o
	} else {
		w.rest = append(w.rest, o)
	}
	w.octets += o.Len()
	w.last = last
}

// readWindow reads the window. Each piece is examined and, once the header section is complete, hashed as it comes.
// While the client is slow with it, the session at the next hop is lent.
func (m *Message) readWindow(ctx context.Context) error {
	w := &m.window
	w.head.form = m.body.Form()
	w.head.media.wanted = m.Route.Reports
	w.head.id.key = m.cfg.MessageIDKey
	w.most = m.mostWanted(m.Recipients, m.Reputation.Trusted)
	w.signing = w.most > auth.WantNone
	judgeable := m.cfg.Auth != nil && !m.Reputation.Trusted
	w.judged = w.signing || judgeable && someWantAuth(m.Recipients) || m.Submit != nil
	for {
		var until time.Time
		if !m.lent {
			until = m.Asked.Add(m.cfg.Lend)
		}
		o, last, err := m.body.Next(until)
		if errors.Is(err, wire.ErrIdle) {
			m.lent = m.up.Lend()
			o, last, err = m.body.Next(time.Time{})
		}
		if err != nil {
			return err
		}
		if isTooBig(m.body, m.most) {
			return TooBig()
		}
		before := w.octets
		if before == 0 && !w.head.done {
			o = m.begin(o)
		}
		if m.digest != nil {
			m.digest.Write(o)
		}
		m.abuse.Write(o)
		w.add(o, last)
		m.mode = w.mode()
		if last {
			m.ended = time.Now()
		}
		if !w.head.done {
			err = m.readHeader(ctx, o, before)
		} else if m.auth != nil {
			m.auth.WriteOctets(o, 0)
		}
		if err != nil || last {
			return err
		}
		if more, err := m.wantsMore(); err != nil || !more {
			return err
		}
	}
}

// readHeader reads on in the header section, in a piece behind the first before octets of the message. It refuses a
// loop and begins to judge the message when the section is complete.
func (m *Message) readHeader(ctx context.Context, o mail.Octets, before int) error {
	w := &m.window
	w.head.done = w.gap
	ended := w.head.feed(o) || w.last
	if err := m.loops.refuseLoop(&w.head, ended, m.Recipients); err != nil {
		return err
	}
	if err := w.head.media.check(ended); err != nil {
		return err
	}
	judgeable := m.cfg.Auth != nil && !m.Reputation.Trusted
	if before == 0 && judgeable && w.mayHoldResults() {
		w.judged = true
	}
	if !w.judged {
		return nil
	}
	if m.buffer == nil {
		m.buffer = m.buffers.take(m.body)
	}
	n, size := w.head.octets-before, m.buffer.size()
	m.buffer.appendHeader(o, n)
	m.body.Count(m.buffer.size() - size)
	if !ended {
		return nil
	}
	if m.Submit != nil {
		if err := m.submit(); err != nil || m.cfg.Auth == nil {
			return err
		}
	}
	var err error
	if m.auth, err = m.cfg.Auth.Begin(ctx, m.authEnvelope(), m.buffer.header); err != nil {
		return err
	}
	m.auth.WriteOctets(o, n)
	return nil
}

// submit has a submitted message looked at, and adds the fields that it lacks to its header section, so that they are
// signed as well.
func (m *Message) submit() error {
	fields, err := m.Submit(m.buffer.header)
	if err != nil {
		m.ours, _ = errors.AsType[*mail.Refusal](err)
		return err
	}
	size := m.buffer.size()
	m.buffer.header = slices.Insert(m.buffer.header, 0, fields...)
	m.body.Count(m.buffer.size() - size)
	m.lacked, m.window.lacked = fields, len(fields)
	for line := range bytes.Lines(fields) {
		m.window.head.id.line(line)
	}
	return nil
}

// someWantAuth reports whether the policy of one of the recipients wants the message to be judged.
func someWantAuth(rcpts []Recipient) bool {
	for i := range rcpts {
		if policyWantsAuth(rcpts[i].Route.Policy) {
			return true
		}
	}
	return false
}

// authEnvelope returns what authentication has to know beside the message. All recipients have the same terms, so the
// first one stands for them.
func (m *Message) authEnvelope() auth.Envelope {
	r := FirstRelayed(m.Recipients)
	var client netip.Addr
	if !m.Client.Unknown {
		client = m.Client.Addr.Addr().Unmap()
	}
	return auth.Envelope{
		Client: auth.Client{
			Addr: client, Trusted: m.Reputation.Trusted, Allowed: m.Reputation.Allowed,
			KnownGood: m.Reputation.KnownGood,
		},
		Reverse: m.Reverse,
		SPF:     m.SPF,
		Exempt:  m.terms(r, m.Reputation.Trusted).exempt,
		Hosted:  hosted(m.Recipients),
		Policy:  r.Route.Policy,
		Seal:    m.window.most,
	}
}

// mayHoldResults reports whether a message that no policy wants to be judged is looked at all the same: results that
// pretend to be ours are removed (RFC 8601 section 5), because their readers believe them. Its header section is whole
// in the first piece, or it could hold some.
func (w *window) mayHoldResults() bool { return w.head.results || !w.head.done && !w.last }

// maxSection is the most octets of a header section that are gathered, however large the window is: authentication
// looks at no longer one, and it is copied.
const maxSection = 1 << 20

// wantsMore reports whether the window is to grow: to have the header section, which must be judged before the next hop
// hears of the message, or to sign over a body that is known. Without memory to spare the window shrinks to one slab,
// so that more messages stream.
//
// A header section that does not fit is refused: forged results could stand in it, and its author cannot be judged.
// That of a trusted client passes, unsigned, but for a user's: its author could be another one.
func (m *Message) wantsMore() (bool, error) {
	w := &m.window
	short := !m.Client.Room()
	full := int64(w.octets) >= m.holdWindow() || !w.head.done && w.octets >= maxSection
	switch {
	case !w.judged:
		return m.Filtering != nil && !full && !short, nil
	case w.head.done:
		return (w.signing || m.Filtering != nil) && !full && !short, nil
	case !full && !short:
		return true, nil
	case m.Reputation.Trusted && m.Submit == nil:
		w.judged = false
		return false, nil
	case full:
		return false, mail.Refuse(554, 6, 0, "The header section is too long", "header section", nil)
	}
	return false, outOfBudget()
}

// submitWindow is how much of a message that a user submits is held back: all that most nodes take, so that it is
// signed. The rates of users bound how many such messages there are, and without memory to spare it streams.
const submitWindow = 64 << 20

// holdWindow returns how many octets of the message are held back when it may be signed.
func (m *Message) holdWindow() int64 {
	if m.Submit != nil {
		return max(m.cfg.HoldWindow, submitWindow)
	}
	return m.cfg.HoldWindow
}

// above returns what the window holds of body below fields, without the removed spans, which are offsets of the header
// section. Fields that do not fit into the headroom are a segment of their own. fields may be appended to.
func (w *window) above(body *wire.Body, fields []byte, removed []mail.Span) mail.Octets {
	fields = w.parted(fields)
	head, ok := body.Prepend(w.first, fields)
	if !ok {
		return w.beside(slices.Clone(fields), removed)
	}
	return head.Join(w.rest...).Without(len(fields)-w.lacked, removed)
}

// beside returns the same with fields, which are kept, as a segment of their own.
func (w *window) beside(fields []byte, removed []mail.Span) mail.Octets {
	head := mail.Octets{Segments: net.Buffers{fields}, Form: w.first.Form}
	return head.Join(w.first).Join(w.rest...).Without(len(fields)-w.lacked, removed)
}

// parted returns fields with an empty line behind them where the message has no header section. fields may be appended
// to.
func (w *window) parted(fields []byte) []byte {
	if w.gap {
		fields = append(fields, "\r\n"...)
	}
	return fields
}
