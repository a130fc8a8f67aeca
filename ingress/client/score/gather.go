package score

import (
	"context"
	"math/bits"
	"time"

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

// A stage is the signals of one step: what was found, and what is under way.
type stage struct {
	under   *gathering // nil when all is in or given up
	reasons []mail.Reason
	unheard []string
	allowed bool // an allow list speaks for the client
	final   bool // a list of entries has decided about the address, and nothing else is asked
	begun   bool
}

// A gathering is the sources of one stage that are under way. It is forgotten when they are in.
type gathering struct {
	ctx    context.Context
	cancel context.CancelFunc
	until  time.Time     // when it is given up
	open   source        // whose answers have not come; guarded by Score.mu
	done   chan struct{} // closed when open is empty, or it was given up
	facts  chan struct{} // closed when the store has answered; nil: nobody waits for it
}

// A found is what one source brings.
type found struct {
	k       *Score
	from    source
	reasons []mail.Reason
	unheard []string
	allowed bool

	// For Explain only: what it saw, and the places of entries that spoke.
	fact, allowedBy, blockedBy string
}

// speak lets a signal speak with its configured weight. Text is made fit for strangers.
func (f *found) speak(sig signal, text string) { f.weigh(sig, f.k.s.weights[sig], text) }

// weigh lets a signal speak with a weight. One that weighs nothing says nothing.
func (f *found) weigh(sig signal, weight float64, text string) {
	if weight == 0 {
		return
	}
	f.reasons = append(f.reasons,
		mail.Reason{Name: catalogue[sig].name, Weight: weight, Text: printable(text, mostText)})
	if f.k.facts == nil {
		f.k.s.spoke[sig].Add(1)
	}
}

// mostText bounds a reason's text in octets, so that the address before it and the URL behind it have room in a reply.
const mostText = 280

// miss tells of something that could not be known.
func (f *found) miss(what string) {
	f.unheard = append(f.unheard, what)
	f.k.missed(f.from)
}

// see keeps what was seen, for Explain.
func (f *found) see(what string) {
	if f.k.facts != nil {
		f.fact = what
	}
}

// missed counts a source that could not answer.
func (k *Score) missed(from source) {
	if k.facts == nil {
		k.s.unheard[bits.TrailingZeros16(uint16(from))].Add(1)
	}
}

// begin forgets what a stage found and has under way, and makes a new gathering for the sources of from, which the
// caller then starts. It is nil if there are none.
func (k *Score) begin(at step, from source) *gathering {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(at)
	k.stages[at].begun = true
	if k.closed || from == 0 {
		return nil
	}
	g := &gathering{open: from, until: time.Now().Add(k.s.cfg.Deadline), done: make(chan struct{})}
	if from&fromStore != 0 && k.s.cfg.Greet > 0 {
		g.facts = make(chan struct{})
	}
	g.ctx, g.cancel = context.WithTimeout(k.ctx, k.s.patience())
	k.stages[at].under = g
	return g
}

// forget drops what a stage found and has under way. The caller holds mu.
func (k *Score) forget(at step) {
	if g := k.stages[at].under; g != nil {
		g.end()
	}
	k.stages[at] = stage{}
}

// end releases whoever waits for g and what works for it. The caller holds mu.
func (g *gathering) end() {
	g.cancel()
	close(g.done)
	if g.facts != nil {
		close(g.facts)
		g.facts = nil
	}
}

// start runs work of a source in the background, if g has that source: it ends when ask returns, at the latest soon
// after g.ctx ends, and Close awaits it.
func (k *Score) start(at step, g *gathering, from source, ask func(ctx context.Context, f *found)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || g == nil || g.open&from == 0 {
		return
	}
	k.running.Go(func() {
		f := found{k: k, from: from}
		ask(g.ctx, &f)
		k.report(at, g, &f)
	})
}

// report brings in what a source has found. What comes after the stage was given up, or is about what the client no
// longer says, is dropped.
func (k *Score) report(at step, g *gathering, f *found) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stages[at].under != g {
		return
	}
	k.merge(at, f)
	g.open &^= f.from
	if g.open == 0 {
		k.stages[at].under = nil
		g.end()
	}
}

// merge adds what was found to a stage. The caller holds mu.
func (k *Score) merge(at step, f *found) {
	st := &k.stages[at]
	switch {
	case len(f.reasons) == 0:
	case st.reasons == nil:
		st.reasons = f.reasons
	default:
		st.reasons = append(st.reasons, f.reasons...)
	}
	st.unheard = append(st.unheard, f.unheard...)
	st.allowed = st.allowed || f.allowed
	if k.facts == nil {
		return
	}
	for from, fact := range map[source]string{f.from: f.fact, placeOfAllow: f.allowedBy, placeOfBlock: f.blockedBy} {
		if fact != "" {
			k.facts[from] = fact
		}
	}
}

// await waits until all signals of a stage are in, its deadline has passed or ctx has ended. After the deadline the
// stage stays as it is, so that one client hears the same at each recipient.
func (k *Score) await(ctx context.Context, at step) {
	k.mu.Lock()
	g := k.stages[at].under
	k.mu.Unlock()
	if g == nil || g.wait(ctx, g.done) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stages[at].under != g || time.Now().Before(g.until) {
		return // it is done after all, or ctx ended before
	}
	for open := g.open; open != 0; open &= open - 1 {
		from := open & -open
		k.stages[at].unheard = append(k.stages[at].unheard, from.unheard())
		k.missed(from)
	}
	k.stages[at].under = nil
	g.end()
}

// wait waits for done and reports whether it came before the gathering is to be given up and before ctx ends.
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
