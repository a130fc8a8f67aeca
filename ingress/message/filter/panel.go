package filter

import (
	"context"
	"time"

	"github.com/millrace/millrace/router/leaf/abreast"
	"github.com/millrace/millrace/router/mail"
)

// A Panel is one message under way at all filters, side by side. It is used by one goroutine. Make one with Set.Begin
// and end it with Close.
type Panel struct {
	envelope Envelope
	asked    []asked
	slices   [][]byte // of the present piece
	scratch  []byte   // the octets of a piece with many dots
}

// asked is a message under way at one filter.
type asked struct {
	opinion
	scan    Scan // nil before the first octet, and once it is over
	begun   bool
	over    bool // it has answered or failed
	decided bool // it needs no more octets
}

// Begin returns the Panel of a message. Nothing is said to a filter yet.
func (s *Set) Begin(e Envelope) *Panel {
	p := &Panel{envelope: e, asked: make([]asked, len(s.filters))}
	for i, f := range s.filters {
		p.asked[i].filter = f
	}
	return p
}

// manyDots is how many added dots a piece has at most whose octets are passed on as they lie. A flood of lines that
// open with a dot would make as many slices of it.
const manyDots = 64

// Write passes octets on, which are borrowed until it returns: the next ones of the message. It reports whether what
// filters have said already puts off or refuses the message, so that the rest need not be sent.
func (p *Panel) Write(ctx context.Context, o mail.Octets) (refused bool) {
	p.slices = p.slices[:0]
	if len(o.Dots) > manyDots {
		p.scratch = o.AppendPlain(p.scratch[:0], o.Len())
		p.slices = append(p.slices, p.scratch)
	} else {
		for s := range o.Plain() {
			p.slices = append(p.slices, s)
		}
	}
	p.each(ctx, false, func(ctx context.Context, a *asked) (bool, error) {
		if !a.begun {
			a.begun = true
			var err error
			if a.scan, err = a.filter.begin(ctx, &p.envelope); err != nil {
				return false, err
			}
		}
		if a.decided || len(p.slices) == 0 {
			return false, nil
		}
		var err error
		a.decided, err = a.scan.Write(ctx, p.slices)
		if err != nil || !a.decided {
			return false, err
		}
		a.answer, err = a.scan.End(ctx)
		return true, err
	})
	for i := range p.asked {
		if a := &p.asked[i]; a.over {
			answer := a.settled(&p.envelope)
			refused = refused || answer.Action >= Tempfail
		}
	}
	return refused
}

// End says that the message has ended, and returns what all filters come to.
func (p *Panel) End(ctx context.Context) Decision {
	p.each(ctx, true, func(ctx context.Context, a *asked) (bool, error) {
		if a.scan == nil { // the message has no octet
			a.begun = true
			var err error
			if a.scan, err = a.filter.begin(ctx, &p.envelope); err != nil {
				return false, err
			}
		}
		var err error
		a.answer, err = a.scan.End(ctx)
		return true, err
	})
	return p.Decide()
}

// Decide returns what the filters come to that have answered or failed by now.
func (p *Panel) Decide() Decision {
	var all []opinion
	for i := range p.asked {
		if p.asked[i].over {
			all = append(all, p.asked[i].opinion)
		}
	}
	return decide(all, &p.envelope)
}

// each calls do for each filter that is not over, side by side: within its deadline for the answer to a message that
// has ended, and before that within what is left of it. A filter for which do reports an end, or fails, is over.
func (p *Panel) each(ctx context.Context, ended bool, do func(ctx context.Context, a *asked) (end bool, err error)) {
	abreast.Do(len(p.asked), func(i int) {
		a := &p.asked[i]
		if a.over {
			return
		}
		began, left := time.Now(), a.filter.cfg.Deadline
		if !ended {
			left -= a.took
		}
		end, err := do(mail.Until(ctx, began.Add(left)), a)
		a.took += time.Since(began)
		if end || err != nil {
			a.failed = err
			a.filter.note(err, &p.envelope)
			p.end(a)
		}
	})
}

// end ends the dialogue with one filter.
func (p *Panel) end(a *asked) {
	a.over = true
	if a.scan != nil {
		a.scan.Close()
		a.filter.slots.give(&p.envelope)
		a.scan = nil
	}
}

// Close ends all dialogues. It may be called again.
func (p *Panel) Close() {
	for i := range p.asked {
		if a := &p.asked[i]; !a.over {
			if a.begun {
				a.filter.breaker.unasked()
			}
			p.end(a)
		}
	}
}
