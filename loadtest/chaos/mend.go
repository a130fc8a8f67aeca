package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// The scenarios here are about faults of one destination, or of one node's surroundings, that honest mail is not to
// feel.

// hosted is the rule that leads from a domain under .test to the same one under .example.
func hosted(domain string) string {
	return fmt.Sprintf("domain %s.test\n/(.+)/@%s.test $1@%s.example\n", domain, domain, domain)
}

// few sends some messages to a domain, one after the other on each of a few clients, and tells what became of them. At
// least so many are to be taken at the first attempt.
func (t *trial) few(what, domain string, messages, least int) error {
	before := t.answers.mark()
	stop := t.begin(&fleet.Load{
		Clients: 3, Messages: messages, Forward: fleet.Always("ok@" + domain + ".test"), Backoff: time.Second,
		Patience: t.scenario.most() / 2, Timeout: 70 * time.Second,
	})
	err := t.awaitAnswers(before, messages)
	sent := stop()
	first := 0
	var took []time.Duration
	for _, m := range sent {
		if m.Accepted && m.Retries == 0 {
			first++
		}
		took = append(took, m.Took)
	}
	slices.Sort(took)
	t.tell("%s: %d of %d at the first attempt, %s for half of them and %s at most%s", what, first, messages,
		fleet.MS(took[len(took)/2]), fleet.MS(took[len(took)-1]), t.answers.textsSince(before))
	if first < least {
		t.harmed("%s: %d of %d at the first attempt, want %d", what, first, messages, least)
	}
	return err
}

// awaitAnswers waits until n messages were answered for good.
func (t *trial) awaitAnswers(mark, n int) error {
	return fleet.Await(t.ctx, t.scenario.most()/2+time.Second, fmt.Sprintf("%d answers", n), func() bool {
		return t.answers.final(mark) >= n
	})
}

// sick makes a scenario of a first MX host that is ill behind the TCP handshake, and a second one that is well.
func sick(name, about string, ill map[string]smtptest.Answer) scenario {
	return scenario{
		name: name, about: about, limit: 2 * time.Minute, config: "deadlines: {rcpt: 20s}\n", rules: hosted("sick"),
		zone: "sick.example. 300 IN MX 10 mx1.sick.example.\nsick.example. 300 IN MX 20 mx2.sick.example.\n" +
			"mx1.sick.example. 300 IN A 10.77.0.201\nmx2.sick.example. 300 IN A 10.77.0.202\n",
		play: func(t *trial) error {
			if _, err := t.Serve(t.ctx, "10.77.0.201", smtptest.Behaviour{Answers: ill}); err != nil {
				return err
			}
			if _, err := t.Serve(t.ctx, "10.77.0.202", smtptest.Behaviour{}); err != nil {
				return err
			}
			return errors.Join(t.few("the first", "sick", 3, 3), t.few("the next", "sick", 9, 9))
		},
	}
}

var (
	sickMX = sick("sick-mx", "the first MX host takes connections and says nothing; the second one is well",
		map[string]smtptest.Answer{smtptest.Greeting: {After: time.Hour}})
	sickMail = sick("sick-mail", "the first MX host says 451 to MAIL; the second one is well",
		map[string]smtptest.Answer{"MAIL": {Reply: "451 4.3.2 Not now"}})
)

// deadAddress is a host with two addresses, of which one is dead.
var deadAddress = scenario{
	name: "dead-address", about: "one of a host's two addresses takes no connection, without a word", quick: true,
	rules: hosted("half"),
	zone: "half.example. 300 IN MX 10 mx.half.example.\nmx.half.example. 300 IN A 10.77.0.203\n" +
		"mx.half.example. 300 IN A 10.77.0.204\n",
	play: func(t *trial) error {
		for _, m := range t.Fleet.Nodes {
			if err := m.Port.Cut(t.ctx, "10.77.0.203"); err != nil {
				return err
			}
		}
		if _, err := t.Serve(t.ctx, "10.77.0.204", smtptest.Behaviour{}); err != nil {
			return err
		}
		return errors.Join(t.few("the first", "half", 3, 3), t.few("the next", "half", 9, 9))
	},
}

// deadSession is a destination whose sessions die without a word while they are pooled, as behind a firewall that has
// forgotten them. New ones are well.
var deadSession = scenario{
	name: "dead-session", about: "pooled sessions die without a word; new ones are well", limit: 3 * time.Minute,
	play: func(t *trial) error {
		for range t.runs(3, 1) {
			if _, _, err := t.warm(); err != nil {
				return err
			}
			n, err := deafen(fleet.Hub)
			if err != nil || n == 0 {
				return errors.Join(err, errNever)
			}
			if err := t.few(fmt.Sprintf("%d sessions are dead", n), "plain", 6, 6); err != nil {
				return err
			}
		}
		return nil
	},
}

// movedAddress is a host that moves to another address, and whose old machine goes on and refuses all recipients.
var movedAddress = scenario{
	name: "moved-address", about: "a host moves; its old machine refuses for good what comes over pooled sessions",
	rules: hosted("moved"), zone: movedZone("10.77.0.205"),
	play: func(t *trial) error {
		old, err := t.Serve(t.ctx, "10.77.0.205", smtptest.Behaviour{Keep: keep})
		if err != nil {
			return err
		}
		if err := t.few("before it moves", "moved", 12, 12); err != nil {
			return err
		}
		if _, err := t.Serve(t.ctx, "10.77.0.206", smtptest.Behaviour{}); err != nil {
			return err
		}
		if err := t.DNS.SetZone(fleet.BaseZone + movedZone("10.77.0.206")); err != nil {
			return err
		}
		t.rest(2 * time.Second) // the TTL
		old.Set(smtptest.Behaviour{
			Keep: keep, Answers: map[string]smtptest.Answer{"RCPT": {Reply: "550 5.1.1 No such user here"}},
		})
		return t.few("after it has moved", "moved", 15, 12)
	},
}

func movedZone(addr string) string {
	return "moved.example. 1 IN MX 10 mx.moved.example.\nmx.moved.example. 1 IN A " + addr + "\n"
}

// early250 is a destination that says 250 when its TCP has taken only the beginning of the message, which it then
// forgets. What is acknowledged meanwhile is lost. The rest lies in the relay's socket: what the destination's TCP has
// acknowledged, no relay can tell from what the destination has read.
var early250 = scenario{
	name: "early-250", about: "a destination says 250 before it can have the message, and forgets it", quick: true,
	plain: func(*trial) smtptest.Behaviour { return smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")} },
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		if err := narrow(fleet.Hub); err != nil {
			return err
		}
		noChunks := smtptest.Without("CHUNKING") // a chunk before the last one has a 250 of its own
		early := 0
		for range t.runs(12, 4) {
			octets := 192<<10 + t.rand.IntN(512<<10) // more than the destination's TCP takes unread
			t.Plain.Set(smtptest.Behaviour{Keep: keep, Extensions: noChunks, Body: &smtptest.Fault{
				After:  int64(1 + t.rand.IntN(100<<10)),
				Answer: smtptest.Answer{After: 150 * time.Millisecond, Reply: "250 2.0.0 Taken"}, Stall: true,
			}})
			before := t.answers.mark()
			stop := t.begin(&fleet.Load{
				Clients: 4, Messages: 4, Octets: octets, Backoff: 200 * time.Millisecond, Timeout: 8 * time.Second,
			})
			t.rest(500 * time.Millisecond)
			t.Plain.Set(smtptest.Behaviour{Keep: keep, Extensions: noChunks})
			if err := t.awaitAnswers(before, 4); err != nil {
				return err
			}
			for _, m := range stop() {
				early += m.Deferred
			}
		}
		t.tell("%d replies of 4yz to messages that were answered too early%s", early, t.answers.textsSince(0))
		if early == 0 {
			return errNever
		}
		return nil
	},
}

// deafLog makes a scenario of a node whose log has a reader that is of no use.
func deafLog(name, about string, stderr func() (*os.File, error)) scenario {
	return scenario{
		name: name, about: about, nodes: 1, config: "log: {level: debug}\n", rules: hosted("before"),
		zone: "before.example. 300 IN MX 10 mx.plain.example.\nafter.example. 300 IN MX 10 mx.plain.example.\n",
		play: func(t *trial) error {
			m := t.Fleet.Nodes[0]
			if err := t.drained(m); err != nil {
				return err
			}
			var err error
			if m.Stderr, err = stderr(); err != nil {
				return err
			}
			defer m.Stderr.Close()
			if err := t.again(m); err != nil {
				return err
			}
			if err := t.few("mail", "before", 300, 300); err != nil {
				return err
			}
			rules, err := os.ReadFile(t.Rules())
			if err != nil {
				return err
			}
			if err := save(t.Rules(), string(rules)+hosted("after"), time.Minute); err != nil {
				return err
			}
			if err := m.Process.Signal(syscall.SIGHUP); err != nil {
				return err
			}
			t.rest(3 * time.Second)
			if err := t.few("after SIGHUP", "after", 30, 30); err != nil {
				return err
			}
			begun := time.Now()
			err = t.drained(m)
			t.tell("SIGTERM ended it in %s", fleet.MS(time.Since(begun)))
			return err
		},
	}
}

// save writes a file that was changed so long ago.
func save(name, content string, ago time.Duration) error {
	past := time.Now().Add(-ago)
	return errors.Join(os.WriteFile(name, []byte(content), 0o600), os.Chtimes(name, past, past))
}

var (
	stderrBlocked = deafLog("stderr-blocked", "the reader of a node's log has stopped reading", fullPipe)
	stderrClosed  = deafLog("stderr-closed", "the reader of a node's log is gone", closedPipe)
)

// closedPipe returns the end of a pipe whose reader has gone.
func closedPipe() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return w, r.Close()
}

// fullPipe returns the end of a pipe that is full and is never read.
func fullPipe() (*os.File, error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	if err := syscall.SetNonblock(fds[1], true); err != nil {
		return nil, err
	}
	for {
		if _, err := syscall.Write(fds[1], make([]byte, 4096)); errors.Is(err, syscall.EAGAIN) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	if err := syscall.SetNonblock(fds[1], false); err != nil { // the node has the same pipe, and blocks
		return nil, err
	}
	return os.NewFile(uintptr(fds[1]), "full pipe"), nil // its reader lives as long as this process
}

// ruledDomains is how many domains the rules of tornRules host.
const ruledDomains = 40

// tornRules writes the file of the rules anew, in two parts of whole lines, with SIGHUP in between, while mail to all
// of its domains runs.
var tornRules = scenario{
	name: "torn-rules", about: "the rules file is being written while the nodes are told to read it", quick: true,
	rules: manyRules(),
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		whole, err := os.ReadFile(t.Rules())
		if err != nil {
			return err
		}
		lines := strings.SplitAfter(string(whole), "\n")
		load := small()
		load.Forward = func(i int) string { return fmt.Sprintf("ok@r%d.test", i%ruledDomains) }
		return t.under(load, func() error {
			for range t.runs(4, 1) {
				some := 3 + t.rand.IntN(len(lines)-6)
				if err := os.WriteFile(t.Rules(), []byte(strings.Join(lines[:some], "")), 0o600); err != nil {
					return err
				}
				if err := t.hup(); err != nil {
					return err
				}
				t.rest(t.between(100*time.Millisecond, 900*time.Millisecond))
				if err := os.WriteFile(t.Rules(), whole, 0o600); err != nil {
					return err
				}
				if err := t.hup(); err != nil {
					return err
				}
				t.rest(2 * time.Second)
			}
			t.tell("of answers since%s", cmp.Or(t.answers.textsSince(0), ": all 2yz"))
			return nil
		})
	},
}

func manyRules() string {
	var b strings.Builder
	for i := range ruledDomains {
		fmt.Fprintf(&b, "domain r%d.test\n/(.+)/@r%d.test $1@plain.example\n", i, i)
	}
	return b.String()
}

// hup tells all nodes to read their files.
func (t *trial) hup() error {
	var err error
	for _, m := range t.Fleet.Nodes {
		err = errors.Join(err, m.Process.Signal(syscall.SIGHUP))
	}
	return err
}

// noRoute is an owner without a route to a destination that the other nodes reach.
var noRoute = scenario{
	name: "no-route", about: "the owner has no route to a destination that the other nodes reach",
	limit: 2 * time.Minute, rules: hosted("far"),
	zone: "far.example. 300 IN MX 10 mx.far.example.\nmx.far.example. 300 IN A 10.77.0.207\n",
	play: func(t *trial) error {
		if _, err := t.Serve(t.ctx, "10.77.0.207", smtptest.Behaviour{}); err != nil {
			return err
		}
		if err := t.few("with a route", "far", 12, 12); err != nil {
			return err
		}
		owner, others, err := t.Fleet.OwnerOf(t.ctx, "mx.far.example")
		if err != nil {
			return err
		}
		for i := range t.runs(2, 1) {
			order := []string{"add", "del"}[i%2]
			if err := owner.Port.Do(func() error {
				return fleet.IP(t.ctx, "route "+order+" unreachable 10.77.0.207/32")
			}); err != nil {
				return err
			}
			t.enter = others
			if err := t.few("the owner's route: "+order+", by way of the others", "far", 60, 60); err != nil {
				return err
			}
			t.enter = []*fleet.Member{owner}
			if err := t.few("by way of the owner", "far", 20, 0); err != nil {
				return err
			}
			t.enter = nil
		}
		return nil
	},
}
