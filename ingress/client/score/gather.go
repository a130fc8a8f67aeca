package score

import (
	"context"
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/router/mail"
)

// A step is a part of a session after which signals begin.
type step uint8

const (
	atConnect step = iota
	atHelo
	atMail
	steps = iota
)

// An inquiry is what is asked about one client: what was found, and what is under way. Its methods are safe for
// concurrent use, and wait for nothing except await and close.
type inquiry struct {
	s      *Scorer
	ctx    context.Context // of the session
	addr   netip.Addr      // not IPv4-mapped, without a zone; invalid if not known
	public bool            // the address is one that public DNS knows

	running sync.WaitGroup // sources under way
	mu      sync.Mutex     // guards what follows; not held across I/O
	stages  [steps]stage
	doubts  *doubt  // the last one; a list, because most clients have none
	spoken  *spoken // the same for what entries tell
	stored  storeAnswer
	passes  string // the domain of the reverse-path, or of EHLO for the null one, if SPF passes for it
	proved  string // the organizational domain of the client's name, "" without one that counts: see Score.Proved
	// explanation is what each source saw, for Explain. It is nil unless Look made the Score, which does not change and
	// may be read without mu.
	explanation map[source]string
	allowedBy   *entry // the first one of an allow list that speaks for the client; nil without one
	closed      bool
	judged      bool // karma has spoken, and was counted
}

// A doubt is a list that may have the client, and was not heard.
type doubt struct {
	at    step
	gap   dnsbl.Gap
	other *doubt // the one before
}

// A spoken is what entries of the allow or the block list tell of a stage; see mail.Verdict.
type spoken struct {
	at    step
	text  string
	other *spoken // the one before
}

// A storeAnswer is what is kept of the store's answer.
type storeAnswer struct {
	limited   *mail.Refusal
	rates     []mail.RateResult // for Explain only
	address   mail.Karma
	network   mail.Senders
	answered  bool
	knownGood []string // domains; see mail.Facts
	degraded  bool
}

// A stage is the signals of one step: what was found, and what is under way.
type stage struct {
	under   *gathering // nil if all is in or the deadline has passed
	leave   func()     // ends the wait for that; may be nil
	reasons []mail.Reason
	unheard []string
	allowed Purposes // for which an allow list speaks for the client
	final   bool     // an entry about the address has decided, and nothing else is asked
	begun   bool
	turn    uint32 // of the last gathering: what lists say after its deadline counts as well
}

// A gathering is the sources of one stage that are under way. It is dropped when they are in.
type gathering struct {
	ctx       context.Context
	cancel    context.CancelFunc
	until     time.Time // the deadline of the stage
	turn      uint32
	open      source        // sources whose answers have not come; guarded by inquiry.mu
	done      chan struct{} // closed when open is empty, or the gathering is dropped
	storeDone chan struct{} // closed when the store has answered; nil if that is not waited for
}

// favour takes the client's look-ups out of the share of its network.
func (q *inquiry) favour() {
	if a := mail.AskingOf(q.ctx); a != nil && a.Questions != nil {
		a.Questions.Favour()
	}
}

// looking reports whether the inquiry is for Explain.
func (q *inquiry) looking() bool { return q.explanation != nil }

// missed counts a source that could not answer.
func (q *inquiry) missed(from source) {
	if !q.looking() {
		q.s.unheard[bits.TrailingZeros16(uint16(from))].Add(1)
	}
}

// final reports whether an entry about the address has decided.
func (q *inquiry) final() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stages[atConnect].final
}

// overLimit reports whether the client is over a rate of connections. It is refused for that whatever else is found, so
// nothing is looked up for it but by Look.
func (q *inquiry) overLimit() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stored.limited != nil && !q.looking()
}

// begin drops what a stage found and has under way, and makes a new gathering for the sources of from, which the caller
// then starts. It returns nil if there are no sources.
func (q *inquiry) begin(at step, from source) *gathering {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stages[at].end()
	turn := q.stages[at].turn + 1
	q.stages[at] = stage{begun: true, turn: turn}
	q.undoubt(at)
	for e := &q.spoken; *e != nil; {
		if (*e).at == at {
			*e = (*e).other
		} else {
			e = &(*e).other
		}
	}
	if at == atMail {
		q.passes = ""
	}
	if !slices.ContainsFunc(q.stages[:], func(st stage) bool { return st.allowed != 0 }) {
		q.allowedBy = nil
	}
	if q.closed || from == 0 {
		return nil
	}
	g := &gathering{turn: turn, open: from, until: time.Now().Add(q.s.cfg.Deadline), done: make(chan struct{})}
	if from&fromStore != 0 && q.s.cfg.Greet > 0 {
		g.storeDone = make(chan struct{})
	}
	g.ctx, g.cancel = context.WithTimeout(q.ctx, q.s.gatherTime())
	q.stages[at].under = g
	return g
}

// end ends all that a stage has under way. The caller holds inquiry.mu.
func (st *stage) end() {
	if g := st.under; g != nil {
		st.under = nil
		g.end()
	}
	if st.leave != nil {
		st.leave()
	}
}

// end releases the waits for g and ends its sources. The caller holds inquiry.mu.
func (g *gathering) end() {
	g.cancel()
	close(g.done)
	g.endStore()
}

// endStore releases the waits for the store. The caller holds inquiry.mu.
func (g *gathering) endStore() {
	if g.storeDone != nil {
		close(g.storeDone)
		g.storeDone = nil
	}
}

// start runs a source in the background, if g has that source. It ends when ask returns, soon after g.ctx ends at the
// latest, and close awaits it.
func (q *inquiry) start(at step, g *gathering, from source, ask func(ctx context.Context, f *findings)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || g == nil || g.open&from == 0 {
		return
	}
	q.running.Go(func() {
		f := findings{q: q, from: from}
		ask(g.ctx, &f)
		q.report(at, g, &f)
		if f.rest != nil {
			q.hearRest(at, g, &f)
		}
	})
}

// hearRest waits for what lists say after the deadline of the stage, as long as the client is there and says the same,
// so that it is judged anew at its next recipient. That is seconds at most: then their look-ups have ended.
func (q *inquiry) hearRest(at step, g *gathering, f *findings) {
	ctx, cancel := context.WithCancel(q.ctx)
	defer cancel()
	q.mu.Lock()
	if q.closed || q.stages[at].turn != g.turn {
		cancel()
	} else {
		q.stages[at].leave = cancel
	}
	q.mu.Unlock()
	late := findings{q: q, from: f.from}
	late.hear(f.rest.Await(ctx))
	q.mu.Lock()
	defer q.mu.Unlock()
	q.revise(at, g, &late)
}

// revise puts what lists say after the deadline of the stage in place of the doubt about them. The caller holds mu.
func (q *inquiry) revise(at step, g *gathering, f *findings) {
	st := &q.stages[at]
	if q.closed || st.turn != g.turn {
		return
	}
	name := f.from.unheard()
	st.unheard = slices.DeleteFunc(st.unheard, func(of string) bool { return isUnheard(of, name) })
	q.undoubt(at)
	q.merge(at, f)
}

// undoubt forgets the doubts of a stage, all of which are of one source. The caller holds mu.
func (q *inquiry) undoubt(at step) {
	for d := &q.doubts; *d != nil; {
		if (*d).at == at {
			*d = (*d).other
		} else {
			d = &(*d).other
		}
	}
}

// report adds what a source has found. Findings about what the client no longer says are dropped, and so are those
// after the deadline of the stage, but for what lists say.
func (q *inquiry) report(at step, g *gathering, f *findings) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stages[at].under != g {
		if f.from&(fromLists|fromHeloLists|fromSenderLists) != 0 {
			q.revise(at, g, f)
		}
		return
	}
	q.merge(at, f)
	g.open &^= f.from
	if g.open == 0 {
		q.stages[at].under = nil
		g.end()
	}
}

// merge adds findings to a stage. The caller holds mu.
func (q *inquiry) merge(at step, f *findings) {
	st := &q.stages[at]
	switch {
	case len(f.reasons) == 0:
	case st.reasons == nil:
		st.reasons = f.reasons
	default:
		st.reasons = append(st.reasons, f.reasons...)
	}
	st.unheard = append(st.unheard, f.unheard...)
	q.doubt(at, f.doubts)
	st.allowed |= f.allowed
	if q.allowedBy == nil {
		q.allowedBy = f.entry
	}
	if f.entries != "" {
		q.spoken = &spoken{at, f.entries, q.spoken}
	}
	if f.passes != "" {
		q.passes = f.passes
	}
	if f.proved != "" {
		q.proved = f.proved
	}
	if !q.looking() {
		return
	}
	for from, text := range map[source]string{
		f.from: f.seen, locationOfAllow: f.allowedBy, locationOfBlock: f.blockedBy,
	} {
		if text != "" {
			q.explanation[from] = text
		}
	}
}

// entries returns what entries tell of the stages up to last. The caller holds mu.
func (q *inquiry) entries(last step) (all string) {
	for e := q.spoken; e != nil; e = e.other {
		switch {
		case e.at > last:
		case all == "":
			all = e.text
		default:
			all = e.text + ", " + all
		}
	}
	return all
}

// await waits until all signals of a stage are in, its deadline has passed or ctx has ended. After the deadline the
// stage stays as it is, so that a client has the same verdict at each recipient, but for what lists say later: a client
// may have been put off for want of it.
func (q *inquiry) await(ctx context.Context, at step) {
	q.mu.Lock()
	g := q.stages[at].under
	q.mu.Unlock()
	if g == nil || g.wait(ctx, g.done) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stages[at].under != g || time.Now().Before(g.until) {
		return // it is done after all, or ctx ended before
	}
	for open := g.open; open != 0; open &= open - 1 {
		from := open & -open
		q.stages[at].unheard = append(q.stages[at].unheard, from.unheard())
		q.doubt(at, q.late(g, from))
		q.missed(from)
	}
	q.stages[at].under = nil
	g.end()
}

// late returns the lists that may have the client, where they did not even begin to answer in time, for want of a
// processor perhaps. That the store did not answer, which is asked first, says nothing.
func (q *inquiry) late(g *gathering, from source) []dnsbl.Gap {
	var kind dnsbl.Kind
	switch {
	case g.open&fromStore != 0:
		return nil
	case from == fromLists:
	case from == fromHeloLists || from == fromSenderLists:
		kind = dnsbl.Domains
	default:
		return nil
	}
	return q.s.cfg.Lists.Late(kind)
}

// doubt notes the lists that may have the client. The caller holds mu.
func (q *inquiry) doubt(at step, gaps []dnsbl.Gap) {
	for _, gap := range gaps {
		if gap.Doubt {
			q.doubts = &doubt{at, gap, q.doubts}
		}
	}
}

// wait waits for done and reports whether it came before the deadline of the stage and before ctx ends.
func (g *gathering) wait(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
	}
	until := g.until
	if at, ok := ctx.Deadline(); ok && at.Before(until) {
		until = at // a deadline that may have no timer of its own
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// close ends all that is under way and awaits it.
func (q *inquiry) close() {
	q.mu.Lock()
	q.closed = true
	for at := range q.stages {
		q.stages[at].end()
	}
	q.mu.Unlock()
	q.running.Wait()
}
