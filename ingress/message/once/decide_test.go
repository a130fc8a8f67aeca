package once

import (
	"testing"

	"github.com/millrace/millrace/router/mail"
)

var (
	mine   = mail.TraceID{1}
	others = mail.TraceID{2}
)

// at is the time of the events of these tests.
const at = 1000

func entry(phase mail.LedgerPhase, holder mail.TraceID, until int64) mail.LedgerEntry {
	return mail.LedgerEntry{Phase: phase, Holder: holder, Until: until, Expires: 5000}
}

func doubtful(e mail.LedgerEntry) mail.LedgerEntry {
	e.Doubtful = true
	return e
}

func TestNext(t *testing.T) {
	intent, done, doubt := mail.LedgerIntent, mail.LedgerDone, mail.LedgerDoubt
	took := mail.LedgerEntry{
		Phase: done, Holder: mine, Expires: at + 900, Code: 250, Enhanced: mail.EnhancedCode{Subject: 1, Detail: 5},
	}
	stale := entry(done, others, 0)
	stale.Expires = at
	mineFor900 := entry(intent, mine, at+30)
	mineFor900.Expires = at + 900
	for _, tt := range []struct {
		name   string
		before mail.LedgerEntry
		kind   mail.LedgerEventKind
		after  mail.LedgerEntry
		action Action
	}{
		{"nothing is known", mail.LedgerEntry{}, mail.LedgerClaimed, mineFor900, Deliver},
		{"what has expired is not known", stale, mail.LedgerClaimed, mineFor900, Deliver},
		{"it is delivered", entry(done, others, 0), mail.LedgerClaimed, entry(done, others, 0), Repeat},
		{"it is on its way", entry(intent, others, at+1), mail.LedgerClaimed, entry(intent, others, at+1), Wait},
		{"a lease that is over", entry(intent, others, at), mail.LedgerClaimed, doubtful(mineFor900), Again},
		{"an attempt without an answer", entry(doubt, others, 0), mail.LedgerClaimed, doubtful(mineFor900), Again},
		{"the attempt asks once more", entry(intent, mine, at+1), mail.LedgerClaimed, mineFor900, Deliver},

		{"a lease is renewed", entry(intent, mine, at), mail.LedgerRenewed, mineFor900, NoAction},
		{"that of another is not", entry(intent, others, at), mail.LedgerRenewed, entry(intent, others, at), NoAction},
		{"nor what is delivered", entry(done, mine, 0), mail.LedgerRenewed, entry(done, mine, 0), NoAction},

		{"the next hop took it", entry(intent, mine, at+1), mail.LedgerTook, took, NoAction},
		{"and another waits by now", entry(intent, others, at+1), mail.LedgerTook, took, NoAction},
		{"and nothing is left", mail.LedgerEntry{}, mail.LedgerTook, took, NoAction},
		{"and there was a doubt", doubtful(entry(intent, mine, at)), mail.LedgerTook, doubtful(took), NoAction},

		{"the next hop refused it", entry(intent, mine, at+1), mail.LedgerRefused, mail.LedgerEntry{}, NoAction},
		{
			"but an attempt before may have delivered it", doubtful(entry(intent, mine, at+1)), mail.LedgerRefused,
			doubtful(entry(doubt, mine, 0)), NoAction,
		},
		{"and another waits", entry(intent, others, at), mail.LedgerRefused, entry(intent, others, at), NoAction},
		{"and it is delivered", entry(done, mine, 0), mail.LedgerRefused, entry(done, mine, 0), NoAction},

		{
			"no answer came", entry(intent, mine, at+1), mail.LedgerLost,
			mail.LedgerEntry{Phase: doubt, Holder: mine, Expires: at + 900}, NoAction,
		},
		{"and another waits", entry(intent, others, at), mail.LedgerLost, entry(intent, others, at), NoAction},

		{"the client has read the answer", entry(done, mine, 0), mail.LedgerRead, mail.LedgerEntry{}, NoAction},
		{"that to another attempt", entry(done, others, 0), mail.LedgerRead, entry(done, others, 0), NoAction},
		{"another waits", entry(intent, mine, at), mail.LedgerRead, entry(intent, mine, at), NoAction},
		{
			"the client has probably read it", entry(done, mine, 0), mail.LedgerFades,
			mail.LedgerEntry{Phase: done, Holder: mine, Expires: at + 900}, NoAction,
		},
		{"a look changes nothing", entry(intent, others, at), mail.LedgerLooked, entry(intent, others, at), NoAction},
	} {
		t.Run(tt.name, func(t *testing.T) {
			after, action := Next(tt.before, mail.LedgerEvent{
				Kind: tt.kind, Holder: mine, Now: at, Lease: 30, Keep: 900, Reply: mail.NewReply(250, 1, 5, "OK"),
			})
			if after != tt.after || action != tt.action {
				t.Errorf("got  %+v, %d\nwant %+v, %d", after, action, tt.after, tt.action)
			}
		})
	}
}

func TestCombine(t *testing.T) {
	for _, tt := range []struct {
		name    string
		actions []Action
		whole   bool
		want    Plan
	}{
		{"none has it", []Action{Deliver, Again}, false, DeliverAll},
		{"all have it", []Action{Repeat, Repeat}, false, RepeatAll},
		{"some have it, and the message is in hand", []Action{Repeat, Deliver}, true, DeliverOpen},
		{"some have it, and it is not", []Action{Deliver, Repeat}, false, Split},
		{"one is under way", []Action{Repeat, Deliver, Wait}, true, WaitForAll},
	} {
		if got := Combine(tt.actions, tt.whole); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestTransact_FindsASenderByWhatItShows has a message come by one sender and then by another: both show an SPF domain
// or none, and a network.
func TestTransact_FindsASenderByWhatItShows(t *testing.T) {
	claimed := mail.LedgerEvent{Kind: mail.LedgerClaimed, Holder: mine, Now: at, Lease: 30, Keep: 900}
	proved := claimed
	proved.Proved = true
	done, doneProved := entry(mail.LedgerDone, others, 0), entry(mail.LedgerDone, others, 0)
	doneProved.Proved = true
	var no mail.LedgerEntry
	for _, tt := range []struct {
		name   string
		fields []mail.LedgerEntry // of the domain where v.Proved, then of the name and of the network
		v      mail.LedgerEvent
		want   mail.LedgerPhase
	}{
		{"one of them is there", []mail.LedgerEntry{no, done}, claimed, mail.LedgerDone},
		{"the domain is there", []mail.LedgerEntry{doneProved, no}, proved, mail.LedgerDone},
		{"the domain is another, in the same network", []mail.LedgerEntry{no, doneProved}, proved, mail.LedgerAbsent},
		{"there was no domain then", []mail.LedgerEntry{no, done}, proved, mail.LedgerDone},
		{"there is no domain now", []mail.LedgerEntry{no, doneProved}, claimed, mail.LedgerDone},
		{
			"what says most decides", []mail.LedgerEntry{entry(mail.LedgerDoubt, others, 0), done}, claimed,
			mail.LedgerDone,
		},
	} {
		found := Transact([][]mail.LedgerEntry{tt.fields}, tt.v)
		if found[0].Phase != tt.want {
			t.Errorf("%s: found phase %d, want %d", tt.name, found[0].Phase, tt.want)
		}
		for i, e := range tt.fields { // what another sender has is left to it
			if e.Phase == mail.LedgerDone && e.Holder != others || tt.want == mail.LedgerAbsent && i == 0 &&
				e.Holder != mine {
				t.Errorf("%s: field %d is %+v", tt.name, i, e)
			}
		}
	}
}

func TestTransact_TakesAllOrNone(t *testing.T) {
	v := mail.LedgerEvent{Kind: mail.LedgerClaimed, Holder: mine, Now: at, Lease: 30, Keep: 900}
	var no mail.LedgerEntry
	for _, tt := range []struct {
		name   string
		second mail.LedgerEntry
		whole  bool
		taken  bool
	}{
		{"both are free", no, false, true},
		{"one is under way", entry(mail.LedgerIntent, others, at+1), true, false},
		{"one is delivered, and the message is in hand", entry(mail.LedgerDone, others, 0), true, true},
		{"one is delivered, and it is not", entry(mail.LedgerDone, others, 0), false, false},
	} {
		v.Whole = tt.whole
		all := [][]mail.LedgerEntry{{no}, {tt.second}}
		Transact(all, v)
		if taken := all[0][0].Holder == mine; taken != tt.taken {
			t.Errorf("%s: taken is %v", tt.name, taken)
		}
	}
}
