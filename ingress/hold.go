package ingress

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/message/auth"
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
			if before == 0 && w.judged && folded(o, w.form) {
				return mail.Refuse(550, 6, 0, "The message begins with a folded line", "folded first line", nil)
			}
			if w.judged {
				err = s.section(ctx, w, o, w.head.octets-before)
			}
		} else {
			s.t.auth.hash(o, w.form, 0)
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
func folded(o mail.Octets, form mail.Form) bool {
	at := 0
	if form == mail.Stuffed && len(o.Dots) > 0 && o.Dots[0] == 0 {
		at = 1
	}
	for _, s := range o.Segments {
		if at < len(s) {
			return s[at] == ' ' || s[at] == '\t'
		}
		at -= len(s)
	}
	return false
}

// section takes the first n octets of o into the header section and begins to judge the message when it is complete.
func (s *session) section(ctx context.Context, w *window, o mail.Octets, n int) error {
	a := &s.t.auth
	s.appendHeader(a, o, w.form, n)
	if !w.head.done && !w.last {
		return nil
	}
	if err := s.beginMessage(ctx, w.signing); err != nil {
		return err
	}
	a.hash(o, w.form, n)
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
func (w *window) above(b *wire.Body, fields []byte, cuts []auth.Span) mail.Octets {
	head, ok := b.Prepend(w.first, fields)
	if !ok {
		head = join(mail.Octets{Segments: net.Buffers{slices.Clone(fields)}}, w.first)
	}
	return without(join(head, w.rest...), w.form, len(fields), cuts)
}

// join puts pieces behind each other.
func join(first mail.Octets, rest ...mail.Octets) mail.Octets {
	if len(rest) == 0 {
		return first
	}
	segments, dots := len(first.Segments), len(first.Dots)
	for _, o := range rest {
		segments += len(o.Segments)
		dots += len(o.Dots)
	}
	all := mail.Octets{Segments: slices.Grow(first.Segments[:len(first.Segments):len(first.Segments)],
		segments-len(first.Segments))}
	all.Dots = slices.Grow(first.Dots[:len(first.Dots):len(first.Dots)], dots-len(first.Dots))
	at := first.Len()
	for _, o := range rest {
		all.Segments = append(all.Segments, o.Segments...)
		for _, d := range o.Dots {
			all.Dots = append(all.Dots, d+uint32(at))
		}
		at += o.Len()
	}
	return all
}

// without gives o without the cuts, whose offsets count from the octet at from on and without added dots. Nothing is
// copied but the slices.
func without(o mail.Octets, form mail.Form, from int, cuts []auth.Span) mail.Octets {
	if len(cuts) == 0 {
		return o
	}
	cuts = onTheWire(o.Dots, form, from, cuts)
	var kept mail.Octets
	at := 0
	left := cuts
	for _, s := range o.Segments {
		end := at + len(s)
		for at < end {
			for len(left) > 0 && left[0].To <= at {
				left = left[1:]
			}
			stop, skip := end, false
			if len(left) > 0 {
				if skip = left[0].From <= at; skip {
					stop = min(end, left[0].To)
				} else {
					stop = min(end, left[0].From)
				}
			}
			if !skip {
				// The capacity stays: behind the last segment the end of data may have been read.
				kept.Segments = append(kept.Segments, s[len(s)-(end-at):len(s)-(end-stop)])
			}
			at = stop
		}
	}
	gone := 0
	for _, d := range o.Dots {
		for len(cuts) > 0 && cuts[0].To <= int(d) {
			gone += cuts[0].To - cuts[0].From
			cuts = cuts[1:]
		}
		if len(cuts) > 0 && cuts[0].From <= int(d) {
			continue
		}
		kept.Dots = append(kept.Dots, d-uint32(gone))
	}
	return kept
}

// onTheWire gives the cuts as offsets of octets as they stand. A dot that was added before the first octet of a cut
// belongs to it, one before the first octet behind it does not.
func onTheWire(dots []uint32, form mail.Form, from int, cuts []auth.Span) []auth.Span {
	out := make([]auth.Span, len(cuts))
	added := 0 // dots before the offset
	wire := func(offset int) int {
		for form == mail.Stuffed && added < len(dots) && int(dots[added])-added-from < offset {
			added++
		}
		return offset + from + added
	}
	for i, c := range cuts {
		out[i].From = wire(c.From)
		out[i].To = wire(c.To)
	}
	return out
}
