package filter

import (
	"context"
	"slices"
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
	said    Answer // what it says of the recipient that is asked about
	scan    Scan   // nil while no dialogue is open
	slot    slot   // with scan
	pace    *pace  // with scan; nil unless the message streams and may have to give way
	opened  int    // how often a dialogue was opened
	over    bool   // it has answered or failed
	decided bool   // it needs no more octets
}

// Begin returns the Panel of a message. Nothing is said to a filter yet.
func (s *Set) Begin(e Envelope) *Panel {
	p := &Panel{envelope: e, asked: make([]asked, len(s.filters))}
	for i, f := range s.filters {
		p.asked[i].filter = f
	}
	return p
}

// open opens the dialogue with a filter, if it is not open.
func (p *Panel) open(ctx context.Context, a *asked) (err error) {
	if a.scan != nil {
		return nil
	}
	if a.scan, a.slot, err = a.filter.begin(ctx, &p.envelope); err == nil {
		a.opened++
		a.pace = a.filter.slots.follow(a.slot)
	}
	return err
}

// maxTold is how often a filter is told anew of recipients, because others needed its slot meanwhile.
const maxTold = 8

// tires reports whether a filter was told too often of the recipients that there are, to be told again.
func (p *Panel) tires() bool {
	return slices.ContainsFunc(p.asked, func(a asked) bool { return !a.over && a.scan == nil && a.opened > maxTold })
}

// yield ends the dialogues whose slots others need, until the client has said more.
func (p *Panel) yield() {
	for i := range p.asked {
		if a := &p.asked[i]; !a.over && a.scan != nil && a.filter.slots.crowded() {
			p.end(a)
		}
	}
}

// Wanted reports whether the message, which streams, is to give way to others that a filter is to be shown.
func (p *Panel) Wanted() bool {
	for i := range p.asked {
		if a := &p.asked[i]; a.pace != nil && a.pace.wanted.Load() {
			return true
		}
	}
	return false
}

// Rcpt asks the filters that want it about a recipient beside those that there are, and takes it in if none of them
// refuses it or puts it off. A spared recipient is taken in whatever they say: Filtered says what that is, as far as
// they do not say it of the message.
func (p *Panel) Rcpt(ctx context.Context, forward mail.Path, spared bool) Decision {
	if p.tires() {
		if spared { // it is told of when the message begins
			p.envelope.Forwards = append(p.envelope.Forwards, forward)
			return Decision{}
		}
		return Decision{Action: Tempfail, Refusal: Unexamined("filter: busy", errBusy)}
	}
	defer p.yield()
	p.each(ctx, false, func(ctx context.Context, a *asked) (decided bool, err error) {
		if a.said = (Answer{}); a.filter.cfg.Milter == "" {
			return false, nil
		}
		if err := p.open(ctx, a); err != nil {
			return false, err
		}
		if a.said, decided, err = a.scan.Rcpt(ctx, forward); decided {
			a.answer = a.said
		}
		return decided, err
	})
	var all []opinion
	for i := range p.asked {
		a := &p.asked[i]
		o := a.opinion
		if !a.over {
			o.answer = a.said
		}
		all = append(all, o)
	}
	d := decide(all, &p.envelope)
	d.Filtered = p.against(all, d.Filtered, spared)
	if d.Action < Tempfail || spared {
		p.envelope.Forwards = append(p.envelope.Forwards, forward)
		return Decision{Filtered: d.Filtered}
	}
	for i := range p.asked { // one that took it has a recipient that is none
		if a := &p.asked[i]; a.said.Action < Tempfail && !a.over {
			p.end(a)
		}
	}
	return d
}

// against returns of what filters say of a recipient that which refuses it or puts it off. Of a spared one it is none
// of what they say of the message as well.
func (p *Panel) against(all []opinion, said []mail.Filtered, spared bool) []mail.Filtered {
	kept := said[:0]
	for i := range said {
		if a := all[i].settled(&p.envelope); a.Action >= Tempfail && !(spared && p.asked[i].over) {
			said[i].Rcpt = true
			kept = append(kept, said[i])
		}
	}
	return slices.Clip(kept)
}

// Forget takes a recipient out that Rcpt took in last. Filters that have heard of it are asked anew.
func (p *Panel) Forget(forward mail.Path) {
	if last := len(p.envelope.Forwards) - 1; last >= 0 && p.envelope.Forwards[last] == forward {
		p.envelope.Forwards = p.envelope.Forwards[:last]
		p.Lend()
	}
}

// Lend ends the dialogues while the client is silent, before the first octet. They begin again, with the recipients
// that were taken in, when there is something to say.
func (p *Panel) Lend() {
	for i := range p.asked {
		if a := &p.asked[i]; !a.over {
			p.end(a)
		}
	}
}

// Message says what is known of the message now that it begins: its recipients, and its size or 0. A filter that has
// refused the client has nothing to say of a message for mailboxes that each client reaches. Other recipients were
// taken before it did, or are spared by the policy.
func (p *Panel) Message(e Envelope) {
	p.envelope = e
	for i := range p.asked {
		a := &p.asked[i]
		switch {
		case a.scan == nil || !e.Streams:
		case a.filter.slots.pace(&a.slot):
			a.pace = a.filter.slots.follow(a.slot)
		default:
			p.end(a) // it is told anew when there is room
		}
	}
	if slices.ContainsFunc(e.Forwards, func(f mail.Path) bool { return !f.IsPostmasterOrAbuse() }) {
		return
	}
	for i := range p.asked {
		if a := &p.asked[i]; a.over && a.failed == nil && a.answer.Action >= Tempfail {
			a.answer = Answer{}
		}
	}
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
	p.each(ctx, false, func(ctx context.Context, a *asked) (end bool, err error) {
		if err := p.open(ctx, a); err != nil || a.decided || len(p.slices) == 0 {
			return false, err
		}
		if a.pace != nil {
			a.pace.octets.Add(int64(o.Len()))
		}
		if a.decided, err = a.scan.Write(ctx, p.slices); err != nil || !a.decided {
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
		err := p.open(ctx, a) // where the message has no octet
		if err == nil {
			a.answer, err = a.scan.End(ctx)
		}
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
		took := time.Since(began)
		if a.took += took; a.pace != nil {
			a.pace.waited.Add(int64(took))
		}
		if end || err != nil {
			a.over, a.failed = true, err
			if a.pace != nil && time.Since(a.pace.since) > 2*a.filter.cfg.Deadline {
				a.filter.breaker.unasked() // the client took so long, which the filter need not bear
			} else {
				a.filter.note(err, &p.envelope)
			}
			p.end(a)
		}
	})
}

// end ends the dialogue with one filter, if one is open.
func (p *Panel) end(a *asked) {
	if a.scan == nil {
		return
	}
	a.scan.Close()
	a.filter.slots.leave(a.pace)
	a.filter.slots.give(a.slot)
	a.scan, a.pace = nil, nil
	if !a.over {
		a.filter.breaker.unasked()
	}
}

// Close ends all dialogues. It may be called again.
func (p *Panel) Close() { p.Lend() }
