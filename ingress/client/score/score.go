package score

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Score is one client's score under way. Its methods are called by one goroutine at a time, that of the session.
type Score struct {
	s    *Scorer
	ctx  context.Context // of the session
	addr netip.Addr      // not IPv4-mapped, without a zone; invalid if not known
	// what each source saw, for Explain; nil: nobody wants to know. Guarded by mu but for nil or not
	facts  map[source]string
	helo   string        // the name of the last Helo, as it was given
	tarred time.Duration // how long refusals were held back
	slot   bool          // counts in Scorer.tarred
	public bool          // the address is one that public DNS knows
	talked bool          // an early talker
	greets bool          // helo is set

	running sync.WaitGroup // sources under way
	mu      sync.Mutex     // guards what follows; not held across I/O
	stages  [steps]stage
	known   knowledge
	closed  bool
}

// knowledge is what the store told, without what was used up.
type knowledge struct {
	limited          *mail.Refusal
	rates            []mail.RateResult // for Explain only
	address, network mail.Karma
	in               bool // it has answered
	good, degraded   bool
}

// Greeting gives how long the greeting is to be held back. It waits for what is known of the client, shortly, and only
// if the greeting is held back from anybody: not from who is known good or allowed, from an address that is not known,
// nor when the store could not tell. With reject_at connect it waits for the signals of the address, and the error is a
// *mail.Refusal if they refuse the client.
func (k *Score) Greeting(ctx context.Context) (delay time.Duration, err error) {
	cfg := &k.s.cfg
	if cfg.RejectAt == RejectAtConnect {
		k.await(ctx, atConnect)
		if v := k.sum(atConnect); v.Action == mail.VerdictReject {
			return 0, k.Refusal(v)
		}
	}
	if cfg.Greet == 0 || !k.addr.IsValid() {
		return 0, nil
	}
	k.mu.Lock()
	g, facts := k.stages[atConnect].under, (chan struct{})(nil)
	if g != nil {
		facts = g.facts
	}
	k.mu.Unlock()
	if facts != nil {
		// The store bounds itself. If it does not, nobody waits for long before he is greeted.
		g.wait(mail.Until(ctx, time.Now().Add(cfg.Deadline/4)), facts)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.known.in || k.known.good || k.known.degraded || k.stages[atConnect].allowed {
		return 0, nil
	}
	return cfg.Greet, nil
}

// EarlyTalker says that the client spoke before the greeting (RFC 5321 section 4.3.1 has it wait).
func (k *Score) EarlyTalker() {
	if !k.talked && k.facts == nil {
		k.s.spoke[sigEarlyTalker].Add(1)
	}
	k.talked = true
}

// Verdict gives what is thought of the client. It waits until all signals are in, each stage until its own deadline at
// most: that of connect and EHLO, and of the present MAIL. Once they are in it is cheap, and it stays the same as long
// as the client says nothing new. When ctx ends first, the verdict is of what is known by then.
func (k *Score) Verdict(ctx context.Context) mail.Verdict {
	for at := range step(steps) {
		k.await(ctx, at)
	}
	return k.sum(atMail)
}

// talkedText is what an early talker is told.
const talkedText = "spoke before it was greeted"

// sum makes the verdict of what is in, of the stages up to last.
func (k *Score) sum(last step) mail.Verdict {
	var v mail.Verdict
	k.mu.Lock()
	n, allowed := 0, false
	for at := range last + 1 {
		n += len(k.stages[at].reasons)
		allowed = allowed || k.stages[at].allowed
	}
	if k.talked && last > atConnect {
		n++
	}
	if n > 0 {
		v.Reasons = make([]mail.Reason, 0, n)
	}
	for at := range last + 1 {
		v.Reasons = append(v.Reasons, k.stages[at].reasons...)
	}
	k.mu.Unlock()
	if weight := k.s.weights[sigEarlyTalker]; k.talked && weight != 0 && last > atConnect {
		v.Reasons = append(v.Reasons,
			mail.Reason{Name: catalogue[sigEarlyTalker].name, Weight: weight, Text: talkedText})
	}
	slices.SortFunc(v.Reasons, heavier)
	for i := range v.Reasons {
		v.Score += v.Reasons[i].Weight
	}
	v.Score = round(v.Score)
	if !allowed {
		v.Action = k.s.judge(v.Score)
	}
	return v
}

// heavier orders reasons: what speaks most against the client first. Beside the weight nothing depends on what came in
// first.
func heavier(a, b mail.Reason) int {
	return cmp.Or(cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Text, b.Text))
}

// Facts gives what the store knows of the client: karma, known good, degraded. What it said of rates and lists is used
// up, but a Score that was made by Look has the rates. It is zero until Verdict or Greeting has waited for it.
func (k *Score) Facts() mail.Facts {
	k.mu.Lock()
	defer k.mu.Unlock()
	return mail.Facts{
		Rates: k.known.rates, Address: k.known.address, Network: k.known.network, KnownGood: k.known.good,
		Degraded: k.known.degraded,
	}
}

// KnownGood reports whether the client's network is known good, as far as the store has answered.
func (k *Score) KnownGood() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known.good
}

// Allowed reports whether an allow list speaks for the client, as far as that is proved by now; of reverse-paths it is
// the present one that counts.
func (k *Score) Allowed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.stages[:], func(st stage) bool { return st.allowed })
}

// Limited gives the refusal of a client that is over its rate of connections, 450 4.7.1, or nil. It waits for nothing:
// after Verdict all is known.
func (k *Score) Limited() *mail.Refusal {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known.limited
}

// Grey reports whether mail of a client with this verdict is to be greylisted: it is accepted and its score lies in the
// grey band, and it is neither known good nor allowed. It is not when its address is not known, or when the store
// cannot tell whether it is known good.
func (k *Score) Grey(v mail.Verdict) bool {
	band := k.s.cfg.Grey
	if band == (Band{}) || v.Action != mail.VerdictAccept || v.Score < band.From || v.Score >= band.To ||
		!k.addr.IsValid() {
		return false
	}
	k.mu.Lock()
	sure := k.known.in && !k.known.degraded && !k.known.good
	k.mu.Unlock()
	return sure && !k.Allowed()
}

// Unheard gives what could not be known in time, such as "fcrdns", "store" or "dnsbl zen.example". It counts neither
// for nor against the client.
func (k *Score) Unheard() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var unheard []string
	for _, st := range k.stages {
		unheard = append(unheard, st.unheard...)
	}
	slices.Sort(unheard)
	return slices.Compact(unheard)
}

// Close ends all that is under way and awaits it. It may be called again; the other methods then wait for nothing.
func (k *Score) Close() {
	k.mu.Lock()
	k.closed = true
	for at := range k.stages {
		if g := k.stages[at].under; g != nil {
			k.stages[at].under = nil
			g.end()
		}
	}
	k.mu.Unlock()
	k.running.Wait()
	if k.slot {
		k.slot = false
		k.s.tarred.Add(-1)
	}
}
