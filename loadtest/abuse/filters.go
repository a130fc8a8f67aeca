package main

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/filters/scanner"
	"github.com/millrace/millrace/loadtest/source"
)

// failingFilters are a worker of rspamd and a milter, of which each fails in all ways in turn while mail comes that
// both are to be shown. Honest mail is of a domain without filters. When both are well again, what was put off is sent
// again.
func failingFilters() scenario {
	var (
		rspamd, milter *scanner.Program
		destination    *smtptest.Server
		sent           *letters
	)
	return scenario{
		name:   "filters: two that fail",
		long:   true, // until the node asks them again
		routes: "domain * filter=off\ndomain f.test filter=on\n",
		slower: 250 * time.Millisecond,
		world: func(t *trial) {
			rspamd, milter, sent = scanner.Start(t, nil), scanner.Start(t, nil), new(letters)
			destination = t.serve("127.0.1.2:0", smtptest.Behaviour{})
			t.rules = "@f.test smtp://" + destination.Addr() + "\n"
			t.settings = fmt.Sprintf("filters: [{name: r, rspamd: %q, deadline: 1s, late: tempfail}, "+
				"{name: m, milter: %q, deadline: 1s, late: tempfail}]\n", rspamd.Addr(), milter.Addr())
		},
		attack: func(t *trial) {
			t.attackers.Go(func() { failInTurn(t, rspamd, milter) }) // ends with the attack
			most := int64(t.size(100, 300))
			t.crowd(t.size(10, 30), func(i int) {
				if n := sent.next(); n < most {
					sent.bring(t, stranger(i, 0), n)
					return
				}
				t.rest(time.Minute)
			})
			t.stands(func() bool { return sent.answered.Load() >= most/5 })
		},
		harm: func(t *trial) {
			rspamd.Become(scanner.Rspamd("no action", nil))
			milter.Become(scanner.Milter(nil))
			n := min(sent.last.Load(), int64(t.size(100, 300)))
			t.tell("%d shown to filters that fail, %d put off", n, n-sent.taken())
			for i := range n {
				for t.ctx.Err() == nil && !sent.has(i) { // until the node asks the filters again
					sent.bring(t, honestClient(int(i)), i)
					t.rest(10 * time.Millisecond)
				}
			}
			sent.compare(t, destination, n)
		},
	}
}

// failInTurn changes how filters fail, each to another way than the others.
func failInTurn(t *trial, programs ...*scanner.Program) {
	ways := []scanner.Behaviour{
		nil, scanner.Silent, scanner.Reads(1200), scanner.Closed, scanner.ReadsAndCloses(1200), scanner.Nonsense,
	}
	for turn := 0; t.ctx.Err() == nil; turn++ {
		for i, p := range programs {
			p.Become(ways[(turn+i)%len(ways)])
		}
		t.rest(200 * time.Millisecond)
	}
}

// letters are the messages for f.test, by their numbers.
type letters struct {
	last     atomic.Int64
	answered atomic.Int64
	accepted sync.Map // by number
}

func (l *letters) next() int64 { return l.last.Add(1) - 1 }

func (l *letters) has(i int64) bool {
	_, ok := l.accepted.Load(i)
	return ok
}

// taken returns how many were accepted.
func (l *letters) taken() (n int64) {
	l.accepted.Range(func(any, any) bool { n++; return true })
	return n
}

// bring sends letter i, of which one in three streams, and notes that it was accepted. An answer that is neither that
// nor a 4yz is harm.
func (l *letters) bring(t *trial, client netip.Addr, i int64) {
	size := 2000
	if i%3 == 0 {
		size = 300 << 10
	}
	answer := t.deliver(client, source.Message{
		Reverse: "a@client.example", Forward: []string{fmt.Sprintf("f%d@f.test", i)},
		Octets: append(small(int(i)), source.Body(size)...),
	})
	switch {
	case strings.HasPrefix(answer, "250"):
		l.accepted.Store(i, true)
	case t.ctx.Err() != nil: // it was cut
	case !strings.HasPrefix(answer, "4"):
		t.harmed("letter %d: %s", i, answer)
	}
	l.answered.Add(1)
}

// compare wants each of n letters at a destination once.
func (l *letters) compare(t *trial, d *smtptest.Server, n int64) {
	arrived := make(map[string]int)
	for _, m := range d.Messages() {
		arrived[m.Forwards[0]]++
	}
	lost, doubled := 0, 0
	for i := range n {
		switch times := arrived[fmt.Sprintf("f%d@f.test", i)]; {
		case times == 0:
			lost++
		case times > 1:
			doubled++
		}
	}
	t.tell("%d lost, %d doubled", lost, doubled)
	if lost+doubled > 0 {
		t.harmed("%d letters are lost and %d doubled", lost, doubled)
	}
}
