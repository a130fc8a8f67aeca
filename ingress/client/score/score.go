package score

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// A Score is one client's score under way. Its methods are called by one goroutine at a time, that of the session.
type Score struct {
	inquiry inquiry
	helo    string // the argument of the last Helo
	heloSet bool   // Helo was called
	talked  bool   // the client is an early talker
	tarpit  tarpit
}

// Greeting returns how long the greeting is to be held back. It waits a quarter of the deadline at most for the store's
// answer, and only if Config.Greet is set. It returns 0 for a client that is known good or allowed, for an address that
// is not known, and if the store failed. With reject_at connect it waits for the signals of the address, and the error
// is a *mail.Refusal if they refuse the client.
func (k *Score) Greeting(ctx context.Context) (delay time.Duration, err error) {
	q := &k.inquiry
	cfg := &q.s.cfg
	if cfg.RejectAt == RejectAtConnect {
		q.await(ctx, atConnect)
		if v := k.sum(atConnect); v.Action == mail.VerdictReject {
			return 0, k.Refusal(v)
		}
	}
	if cfg.Greet == 0 || !q.addr.IsValid() {
		return 0, nil
	}
	q.mu.Lock()
	g, storeDone := q.stages[atConnect].under, (chan struct{})(nil)
	if g != nil {
		storeDone = g.storeDone
	}
	q.mu.Unlock()
	if storeDone != nil {
		// The store bounds itself. If it does not, the greeting still waits no longer than this.
		g.wait(mail.Until(ctx, time.Now().Add(cfg.Deadline/4)), storeDone)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stored.answered || len(q.stored.knownGood) > 0 || q.stored.degraded ||
		q.stages[atConnect].allowed&ForScore != 0 {
		return 0, nil
	}
	return cfg.Greet, nil
}

// EarlyTalker notes that the client spoke before the greeting (RFC 5321 section 4.3.1 has it wait).
func (k *Score) EarlyTalker() {
	if !k.talked && !k.inquiry.looking() {
		k.inquiry.s.spoke[sigEarlyTalker].Add(1)
	}
	k.talked = true
}

// Verdict returns the verdict on the client. It waits until all signals are in, each stage until its own deadline at
// most: that of connect and EHLO, and of the present MAIL. Once they are in it is cheap, and it stays the same as long
// as the client says nothing new. If ctx ends first, the verdict is of what is in by then.
func (k *Score) Verdict(ctx context.Context) mail.Verdict {
	for at := range step(steps) {
		k.inquiry.await(ctx, at)
	}
	return k.sum(atMail)
}

// Count counts a verdict on the client, unless it is for an explanation.
func (k *Score) Count(v mail.Verdict) {
	if k.inquiry.looking() {
		return
	}
	at := int(v.Action)
	if k.Grey(v) {
		at = len(verdictNames) - 1
	}
	k.inquiry.s.verdicts[at].Add(1)
}

// talkedText is the text of sigEarlyTalker.
const talkedText = "spoke before it was greeted"

// sum returns the verdict of what is in, of the stages up to last.
func (k *Score) sum(last step) mail.Verdict {
	var v mail.Verdict
	q := &k.inquiry
	q.mu.Lock()
	n, allowed := 0, Purposes(0)
	for at := range last + 1 {
		n += len(q.stages[at].reasons)
		allowed |= q.stages[at].allowed
	}
	v.Entries = q.entries(last)
	if k.talked && last > atConnect {
		n++
	}
	weight, why := q.karma(last)
	if weight != 0 {
		n++
		if !q.judged && !q.looking() {
			q.judged = true
			q.s.spoke[sigKarma].Add(1)
		}
	}
	if n > 0 {
		v.Reasons = make([]mail.Reason, 0, n)
	}
	for at := range last + 1 {
		v.Reasons = append(v.Reasons, q.stages[at].reasons...)
	}
	q.mu.Unlock()
	if weight != 0 {
		v.Reasons = append(v.Reasons, mail.Reason{Name: catalogue[sigKarma].name, Weight: weight, Text: why})
	}
	if weight := q.s.weights[sigEarlyTalker]; k.talked && weight != 0 && last > atConnect {
		v.Reasons = append(v.Reasons,
			mail.Reason{Name: catalogue[sigEarlyTalker].name, Weight: weight, Text: talkedText})
	}
	slices.SortFunc(v.Reasons, heavier)
	for i := range v.Reasons {
		v.Score += v.Reasons[i].Weight
	}
	v.Score = round(v.Score)
	if allowed&ForScore == 0 {
		v.Action = q.s.action(v.Score)
	}
	return v
}

// heavier orders reasons: what speaks most against the client first. The order in which they came in has no influence.
func heavier(a, b mail.Reason) int {
	return cmp.Or(cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Text, b.Text))
}

// Facts returns what the store knows of the client: karma, known good, degraded. Its answers about lists and rates are
// not kept, but a Score that Look made has the rates. It is zero until Verdict or Greeting has waited for it.
func (k *Score) Facts() mail.Facts {
	q := &k.inquiry
	q.mu.Lock()
	defer q.mu.Unlock()
	return mail.Facts{
		Rates: q.stored.rates, Address: q.stored.address, Network: q.stored.network, KnownGood: q.stored.knownGood,
		Degraded: q.stored.degraded,
	}
}

// KnownGood reports whether the client's network is known good for mail of the present reverse-path: of its domain if
// SPF passes for it, or for mail of which SPF passes for none. It is false until the store has answered, and what SPF
// says is in after Verdict.
func (k *Score) KnownGood() bool {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	return k.inquiry.isKnownGood()
}

// isKnownGood is Score.KnownGood. The caller holds mu.
func (q *inquiry) isKnownGood() bool {
	return slices.Contains(q.stored.knownGood, q.passes)
}

// Passing returns the domain of the present reverse-path, or of EHLO for the null one, if SPF passes for it, else "".
// It waits for nothing: after Verdict the answer is in.
func (k *Score) Passing() string {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	return k.inquiry.passes
}

// Allowed returns what an allow list speaks for the client for, as far as that is proved by now. Of reverse-paths only
// the present one counts.
func (k *Score) Allowed() Purposes {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	var p Purposes
	for i := range k.inquiry.stages {
		p |= k.inquiry.stages[i].allowed
	}
	return p
}

// AllowedBy returns where the entry of an allow list stands that speaks for the client, "" without one.
func (k *Score) AllowedBy() string {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	if k.inquiry.allowedBy == nil {
		return ""
	}
	return k.inquiry.allowedBy.location
}

// Proved returns the domain that the client proved to send for, "" without one: that of the present reverse-path, which
// sender is, or of the name in EHLO for the null one, if SPF passes; else the organizational domain of the client's
// name in DNS, if that leads back to the client and is not made of its address. It waits for nothing: after Verdict
// the answer is in.
func (k *Score) Proved(sender string) string {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	switch {
	case k.inquiry.passes == "":
		return k.inquiry.proved
	case sender == "":
		return domain.Canonical(k.helo)
	}
	return domain.Canonical(sender)
}

// Name returns the organizational domain of the client's name in the DNS, where that leads back to the client; else "".
func (k *Score) Name() string {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	return k.inquiry.proved
}

// Limited returns the refusal of a client that is over its rate of connections, 450 4.7.1, or nil. It waits for
// nothing: after Verdict the answer is in.
func (k *Score) Limited() *mail.Refusal {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	return k.inquiry.stored.limited
}

// Grey reports whether mail of a client with this verdict is to be greylisted: it is accepted, its score lies in the
// grey band, and it is neither known good nor allowed. It is false if the client's address is not known, and if the
// store failed and may not know that the client is known good.
func (k *Score) Grey(v mail.Verdict) bool {
	q := &k.inquiry
	band := q.s.cfg.Grey
	if band == (Band{}) || v.Action != mail.VerdictAccept || v.Score < band.From || v.Score >= band.To ||
		!q.addr.IsValid() {
		return false
	}
	q.mu.Lock()
	sure := q.stored.answered && !q.stored.degraded && !q.isKnownGood()
	q.mu.Unlock()
	return sure && k.Allowed()&ForScore == 0
}

// Unheard returns what could not be known in time, such as "fcrdns", "store" or "dnsbl zen.example". It counts neither
// for nor against the client.
func (k *Score) Unheard() []string {
	k.inquiry.mu.Lock()
	defer k.inquiry.mu.Unlock()
	var unheard []string
	for _, st := range k.inquiry.stages {
		unheard = append(unheard, st.unheard...)
	}
	slices.Sort(unheard)
	return slices.Compact(unheard)
}

// Close ends all that is under way and awaits it. It may be called again. The other methods wait for nothing then.
func (k *Score) Close() {
	k.inquiry.close()
	k.tarpit.close(k.inquiry.s)
}
