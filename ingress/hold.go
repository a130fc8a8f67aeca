package ingress

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A window holds what is read of a message before its next hop hears of it: one slab when nothing is to be signed, up
// to Config.HoldWindow when something may be, and in any case the header section of a message that is judged.
type window struct {
	form    mail.Form
	judged  bool // authentication looks at the message
	signing bool // and something may be signed
	head    headerScan
	first   mail.Octets   // the first piece, in front of which there is room for fields
	rest    []mail.Octets // the further ones
	octets  int           // of all of them
	last    bool          // they are the whole message
}

// mode is how the message travels as far as its length decides.
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

// gather reads the hold window. Each piece is examined and, once the header section is complete, hashed as it comes.
func (s *session) gather(ctx context.Context, b *wire.Body, w *window) error {
	for {
		o, last, err := s.first(b)
		if err != nil {
			return err
		}
		before := w.octets
		w.add(o, last)
		if last {
			s.t.ended = time.Now()
		}
		if !w.head.done {
			if err := s.examine(&w.head, o, last); err != nil {
				return err
			}
			if before == 0 && s.mustCut(w) {
				w.judged = true
			}
			if before == 0 && w.judged && folded(o) {
				return mail.Refuse(550, 6, 0, "The message begins with a folded line", "folded first line", nil)
			}
			if w.judged {
				err = s.section(ctx, w, o, w.head.octets-before)
			}
		} else {
			s.t.auth.hash(o, 0)
		}
		if err != nil || last {
			return err
		}
		if more, err := s.more(w); err != nil || !more {
			return err
		}
	}
}

// mustCut reports whether a message that nobody asked to be judged is looked at all the same: results that pretend to
// be ours are cut out of it (RFC 8601 section 5), for whoever reads them believes them. Its header section is whole in
// the first piece, or it could hold some.
func (s *session) mustCut(w *window) bool {
	return s.cfg.Auth != nil && !s.trusted && (w.head.results || !w.head.done && !w.last)
}

// folded reports whether a message begins with white space: its first line would continue the last field that we put
// above it (RFC 5322 section 2.2.3), and could make our own results say anything.
func folded(o mail.Octets) bool {
	c, ok := o.First()
	return ok && (c == ' ' || c == '\t')
}

// section takes the first n octets of o into the header section and begins to judge the message when it is complete.
func (s *session) section(ctx context.Context, w *window, o mail.Octets, n int) error {
	a := &s.t.auth
	s.appendHeader(a, o, n)
	if !w.head.done && !w.last {
		return nil
	}
	if err := s.beginMessage(ctx, w.signing); err != nil {
		return err
	}
	a.hash(o, n)
	return nil
}

// maxSection is the most octets of a header section that are gathered, however large the window is: authentication
// looks at no longer one, and it is copied.
const maxSection = 1 << 20

// more reports whether the window is to grow: to have the header section, which must be judged before the next hop
// hears of the message, or to sign over a body that is known. Without memory to spare the window shrinks to one slab,
// so that more messages stream.
//
// A header section that does not fit is refused: forged results could stand in it, and its author cannot be judged.
// That of a trusted client passes, unsigned.
func (s *session) more(w *window) (bool, error) {
	short := s.overBudget()
	full := int64(w.octets) >= s.cfg.HoldWindow || !w.head.done && w.octets >= maxSection
	switch {
	case !w.judged:
		return false, nil
	case w.head.done:
		return w.signing && !full && !short, nil
	case !full && !short:
		return true, nil
	case s.trusted:
		w.judged = false
		return false, nil
	case full:
		return false, mail.Refuse(554, 6, 0, "The header section is too long", "header section", nil)
	}
	return false, outOfBudget()
}

// above puts the fields above what the window holds and takes the cuts, offsets of the header section, out of it.
// Fields that do not fit into the headroom are a segment of their own.
func (w *window) above(b *wire.Body, fields []byte, cuts []mail.Span) mail.Octets {
	head, ok := b.Prepend(w.first, fields)
	if !ok {
		head = mail.Octets{Segments: net.Buffers{slices.Clone(fields)}, Form: w.first.Form}.Join(w.first)
	}
	return head.Join(w.rest...).Without(len(fields), cuts)
}
