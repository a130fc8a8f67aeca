package once

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// memory is a Store of one message.
type memory struct {
	mu      sync.Mutex
	entries map[string]mail.LedgerEntry
	down    bool
	events  []mail.LedgerEventKind
	batches int
	slow    time.Duration // how long each call of Ledgers takes
}

func (m *memory) Ledger(_ context.Context, keys []mail.LedgerKeys, v mail.LedgerEvent) ([]mail.LedgerEntry, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, v.Kind)
	all := make([][]mail.LedgerEntry, len(keys[0].Recipients))
	for i, fields := range keys[0].Recipients {
		for _, f := range fields {
			all[i] = append(all[i], m.entries[f])
		}
	}
	found := Transact(all, v)
	for i, fields := range keys[0].Recipients {
		for j, f := range fields {
			m.entries[f] = all[i][j]
		}
	}
	return found, m.down
}

func (m *memory) Ledgers(ctx context.Context, calls []mail.LedgerCall) (degraded bool) {
	m.mu.Lock()
	m.batches++
	down, slow := m.down, m.slow
	m.mu.Unlock()
	time.Sleep(slow) // virtual
	for _, c := range calls {
		if !down {
			m.Ledger(ctx, c.Keys, c.Event)
		}
	}
	return down
}

// held returns the entries.
func (m *memory) held() (all []mail.LedgerEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if e != (mail.LedgerEntry{}) {
			all = append(all, e)
		}
	}
	return all
}

// fail has the store answer nothing, or answer again.
func (m *memory) fail(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

func ignore(mail.Event) {}

// newLedger returns a Ledger that runs until the test ends, and its store. It is for a bubble, or runs nothing.
func newLedger(t *testing.T) (*Ledger, *memory) {
	m := &memory{entries: make(map[string]mail.LedgerEntry)}
	l := New(m, NewKeys([][]byte{secret}), ignore, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return l, m
}

// attempt returns an attempt by number at these recipients.
func attempt(n byte, recipients ...string) *mail.Attempt {
	a := &mail.Attempt{ID: mail.TraceID{n}, Keys: []mail.LedgerKeys{{Message: "m"}}}
	for _, r := range recipients {
		a.Keys[0].Recipients = append(a.Keys[0].Recipients, []string{r})
	}
	return a
}

var (
	took    = mail.Outcome{Reply: mail.NewReply(250, 1, 5, "queued")}
	refused = mail.Outcome{Reply: mail.NewReply(550, 7, 1, "no")}
	inDoubt = mail.Outcome{Reply: mail.NewReply(451, 4, 2, "lost"), InDoubt: true}
)

// settle claims for an attempt at one recipient and says what became of it.
func settle(t *testing.T, l *Ledger, a *mail.Attempt, o mail.Outcome) mail.Outcome {
	t.Helper()
	answer := l.Claim(t.Context(), a, true)
	if len(answer.Open) != len(answer.Outcomes) {
		t.Fatalf("open are %v of %d", answer.Open, len(answer.Outcomes))
	}
	out := []mail.Outcome{o}
	l.Settle(t.Context(), a, answer.Open, out)
	out[0].Again = answer.Outcomes[0].Again
	return out[0]
}

func TestLedger_RepeatsTheAnswer(t *testing.T) {
	l, _ := newLedger(t)
	if o := settle(t, l, attempt(1, "r"), took); o.Entry != (mail.TraceID{1}) || o.Again {
		t.Errorf("the first attempt: %+v", o)
	}
	answer := l.Claim(t.Context(), attempt(2, "r"), true)
	o := answer.Outcomes[0]
	if len(answer.Open) != 0 || o.Reply.Code != 250 || o.Reply.Enhanced != took.Reply.Enhanced ||
		o.Entry != (mail.TraceID{1}) {
		t.Errorf("the second attempt: %+v", answer)
	}
	if c := l.Counts(); c.Repeated != 1 || c.Again != 0 {
		t.Errorf("counted %+v", c)
	}
}

func TestLedger_DeliversAgainWhatIsInDoubt(t *testing.T) {
	l, _ := newLedger(t)
	settle(t, l, attempt(1, "r"), inDoubt)
	if o := settle(t, l, attempt(2, "r"), took); !o.Again {
		t.Errorf("the second attempt does not count as in doubt: %+v", o)
	}
	if c := l.Counts(); c.Again != 1 {
		t.Errorf("counted %+v", c)
	}
}

func TestLedger_ForgetsARefusal(t *testing.T) {
	l, _ := newLedger(t)
	settle(t, l, attempt(1, "r"), refused)
	if o := settle(t, l, attempt(2, "r"), took); o.Again {
		t.Errorf("the second attempt counts as in doubt: %+v", o)
	}
}

func TestLedger_DeliversToThoseThatLackIt(t *testing.T) {
	l, _ := newLedger(t)
	settle(t, l, attempt(1, "a"), took)
	answer := l.Claim(t.Context(), attempt(2, "b", "a"), true)
	if len(answer.Open) != 1 || answer.Open[0] != 0 || answer.Outcomes[1].Reply.Code != 250 {
		t.Errorf("in hand: %+v", answer)
	}
	l.Settle(t.Context(), attempt(2, "b"), []int{0}, []mail.Outcome{refused})
	answer = l.Claim(t.Context(), attempt(3, "b", "a"), false)
	if len(answer.Open) != 0 || answer.Outcomes[0].Reply.Code != 451 || answer.Outcomes[1].Reply.Code != 250 {
		t.Errorf("not in hand: %+v", answer)
	}
}

func TestLedger_RenewsALeaseForAsLongAsItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLedger(t)
		first := attempt(1, "r")
		l.Claim(t.Context(), first, true)
		for range 9 * 60 / 30 { // deadlines.commit
			time.Sleep(30 * time.Second)
			answer := l.Claim(t.Context(), attempt(2, "r"), true)
			if len(answer.Open) != 0 || answer.Outcomes[0].Reply.Code != 451 ||
				!errors.Is(answer.Outcomes[0].Cause, errInProgress) {
				t.Fatalf("while the first attempt waits: %+v", answer)
			}
		}
		l.Settle(t.Context(), first, []int{0}, []mail.Outcome{took})
		if answer := l.Claim(t.Context(), attempt(3, "r"), true); answer.Outcomes[0].Reply.Code != 250 {
			t.Errorf("after it: %+v", answer)
		}
	})
}

func TestLedger_LeaseOfANodeThatIsGoneEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone, m := newLedger(t)
		gone.Claim(t.Context(), attempt(1, "r"), true)
		gone.mu.Lock()
		clear(gone.waiting) // as if it had been killed
		gone.mu.Unlock()
		time.Sleep(Lease)
		l := New(m, gone.Keys, ignore, time.Now)
		if answer := l.Claim(t.Context(), attempt(2, "r"), true); len(answer.Open) != 1 || !answer.Outcomes[0].Again {
			t.Errorf("after the lease: %+v", answer)
		}
	})
}

func TestLedger_RemovesWhatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLedger(t)
		a := attempt(1, "a", "b")
		answer := l.Claim(t.Context(), a, true)
		out := []mail.Outcome{took, took}
		l.Settle(t.Context(), a, answer.Open, out)
		l.Forget(a, []mail.TraceID{out[0].Entry, {9}}, 0) // the entry of b is another attempt's
		time.Sleep(2 * gathering)
		answer = l.Claim(t.Context(), attempt(2, "a", "b"), true)
		if len(answer.Open) != 1 || answer.Open[0] != 0 {
			t.Errorf("after the removal open are %v, want that of a", answer.Open)
		}
	})
}

func TestLedger_FadesWhatWasPerhapsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLedger(t)
		a := attempt(1, "r")
		o := settle(t, l, a, took)
		l.Forget(a, []mail.TraceID{o.Entry}, time.Hour)
		time.Sleep(2 * gathering)
		open := func(after time.Duration) int {
			clock := func() time.Time { return time.Now().Add(after) }
			return len(New(l.store, l.Keys, ignore, clock).Claim(t.Context(), attempt(2, "r"), true).Open)
		}
		if n := open(59 * time.Minute); n != 0 {
			t.Errorf("within the hour open are %d", n)
		}
		if n := open(61 * time.Minute); n != 1 {
			t.Errorf("after the hour open are %d", n)
		}
	})
}

// readAll has the clients of n messages show that they have read the answers.
func readAll(t *testing.T, l *Ledger, n int) {
	t.Helper()
	for i := range n {
		a := attempt(1, "r")
		a.Keys[0].Message, a.Keys[0].Recipients[0][0] = fmt.Sprint("m", i), fmt.Sprint("r", i)
		o := settle(t, l, a, took)
		l.Forget(a, []mail.TraceID{o.Entry}, 0)
	}
}

func TestLedger_RemovesManyInOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := newLedger(t)
		const messages = 5000 // far more than one call takes
		readAll(t, l, messages)
		time.Sleep(2 * gathering)
		if c := l.Counts(); c.Dropped != 0 || c.Removed != messages || len(m.held()) != 0 {
			t.Errorf("%d entries are left, counted %+v", len(m.held()), c)
		}
		if most := messages/maxGathered + 2; m.batches > most {
			t.Errorf("%d calls, want %d at most", m.batches, most)
		}
	})
}

// What the store could not be told is told later, or its entries would stay for days.
func TestLedger_RemovesWhatTheStoreWasNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := newLedger(t)
		m.fail(true)
		readAll(t, l, 10)
		time.Sleep(3 * renewal)
		if n := len(m.held()); n != 10 {
			t.Errorf("while the store does not answer, it holds %d", n)
		}
		if m.batches > 5 {
			t.Errorf("it was asked %d times meanwhile", m.batches)
		}
		m.fail(false)
		time.Sleep(renewal + gathering)
		if n := len(m.held()); n != 0 {
			t.Errorf("after it answers, it holds %d", n)
		}
	})
}

func TestLedger_GivesUpWhatTheStoreIsNotToldForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := newLedger(t)
		m.fail(true)
		readAll(t, l, 10)
		time.Sleep((maxTries + 2) * renewal)
		l.mu.Lock()
		waiting := l.forgotten
		l.mu.Unlock()
		if c := l.Counts(); c.Dropped != 10 || waiting != 0 {
			t.Errorf("%d wait, counted %+v", waiting, c)
		}
	})
}

// A client that has read the answer and sends the same message at once means it.
func TestLedger_RemovesBeforeTheSameMessageIsClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLedger(t)
		a := attempt(1, "r")
		o := settle(t, l, a, took)
		l.Forget(a, []mail.TraceID{o.Entry}, 0)
		next := attempt(2, "r")
		l.Prepare(t.Context(), next)
		if answer := l.Claim(t.Context(), next, true); len(answer.Open) != 1 || answer.Outcomes[0].Again {
			t.Errorf("sent once more: %+v", answer)
		}
	})
}

// TestLedger_RenewsWhileManyAreRemoved: a slow store holds no lease back.
func TestLedger_RenewsWhileManyAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := newLedger(t)
		first := attempt(1, "r")
		l.Claim(t.Context(), first, true)
		readAll(t, l, 5000)
		m.mu.Lock()
		m.slow = 2 * time.Second
		m.mu.Unlock()
		for range 6 {
			time.Sleep(10 * time.Second)
			if answer := l.Claim(t.Context(), attempt(2, "r"), true); len(answer.Open) != 0 {
				t.Fatalf("while the first attempt waits: %+v", answer)
			}
		}
		l.Settle(t.Context(), first, []int{0}, []mail.Outcome{took})
	})
}

func TestLedger_CountsWhatTheStoreWasNotTold(t *testing.T) {
	l, m := newLedger(t)
	m.down = true
	settle(t, l, attempt(1, "r"), took)
	if c := l.Counts(); c.Unguarded != 2 {
		t.Errorf("counted %+v", c)
	}
}

// TestLedger_AsksTwice holds the cost: one question before the end of data, one word behind it.
func TestLedger_AsksTwice(t *testing.T) {
	l, m := newLedger(t)
	a := attempt(1, "a", "b", "c")
	answer := l.Claim(t.Context(), a, true)
	l.Settle(t.Context(), a, answer.Open, []mail.Outcome{took, took, took})
	if len(m.events) != 2 {
		t.Errorf("%d round trips: %v", len(m.events), m.events)
	}
}

// Without Redis an entry stands at the owner of the Site alone, where the node of the client cannot remove it: the next
// message, which looks the same and is meant, would be answered and not delivered.
func TestLedger_RemembersNoBriefMessageThatTheStoreWasNotTold(t *testing.T) {
	l, m := newLedger(t)
	m.down = true
	first, next := attempt(1, "r"), attempt(2, "r")
	first.Brief, next.Brief = true, true
	settle(t, l, first, took)
	m.down = false
	if o := settle(t, l, next, took); o.Again {
		t.Errorf("the next message counts as in doubt: %+v", o)
	}
}

// TestLedger_KeepsWhatLooksAlikeWhileItIsPutOff: a message without Message-ID that one recipient has and another one
// lacks comes again for days, and goes to the first one once.
func TestLedger_KeepsWhatLooksAlikeWhileItIsPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := newLedger(t)
		full := mail.Outcome{Reply: mail.NewReply(452, 2, 2, "full")}
		part := func(n byte, recipients ...string) *mail.Attempt {
			a := attempt(n, recipients...)
			a.Brief = true
			return a
		}
		settle(t, l, part(1, "s"), full)
		l.Keep(t.Context(), part(1, "r", "s"), []mail.Outcome{settle(t, l, part(1, "r"), took), full})
		for n := byte(2); n < 30; n++ {
			time.Sleep(time.Hour)
			answer := l.Claim(t.Context(), part(n, "r"), true)
			if len(answer.Open) > 0 || answer.Outcomes[0].Entry != (mail.TraceID{1}) {
				t.Fatalf("attempt %d: %+v", n, answer)
			}
			settle(t, l, part(n, "s"), full)
			l.Keep(t.Context(), part(n, "r", "s"), []mail.Outcome{answer.Outcomes[0], full})
		}
		l.Forget(part(30, "r", "s"), []mail.TraceID{{1}, {}}, 0)
		if n := len(m.held()); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}
