package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A fault is harm that lasts for a while, under mail, and then heals.
type fault struct {
	lasts   time.Duration
	load    func() *fleet.Load // nil: small
	begin   func(t *trial) error
	heal    func(t *trial) error
	unfelt  bool          // no mail is put off meanwhile
	silence time.Duration // the longest time without an accepted message, from the beginning to a second after; 0: any
}

// play lets mail run, does the harm and heals it. Mail has to run again within patience, or it is never accepted.
func (f fault) play(t *trial) error {
	if _, _, err := t.warm(); err != nil {
		return err
	}
	load := small()
	if f.load != nil {
		load = f.load()
	}
	var begun, healed time.Time
	mark := t.answers.mark()
	err := t.under(load, func() error {
		t.rest(t.between(200*time.Millisecond, 500*time.Millisecond))
		begun, mark = time.Now(), t.answers.mark()
		err := f.begin(t)
		t.rest(f.lasts)
		if f.heal != nil {
			err = errors.Join(err, f.heal(t))
		}
		healed = time.Now()
		t.rest(time.Second)
		return err
	})
	during, after := t.answers.silence(begun, healed), t.answers.silence(healed, healed.Add(time.Second))
	t.tell("for %s; none accepted for %s at most meanwhile and %s in the second after%s", fleet.MS(healed.Sub(begun)),
		fleet.MS(during), fleet.MS(after), t.answers.textsSince(mark))
	if f.unfelt && t.answers.putOff(mark) > 0 {
		t.harmed("%d replies of 4yz, want none", t.answers.putOff(mark))
	}
	if f.silence > 0 && during > f.silence {
		t.harmed("none accepted for %s, want %s at most", during, f.silence)
	}
	return err
}

// redis makes a scenario of what befalls Redis. No mail is to feel it.
func redis(name, about string, begin, heal func(t *trial) error) scenario {
	f := fault{lasts: 4 * time.Second, begin: begin, heal: heal, unfelt: true, silence: 2 * time.Second}
	return scenario{name: name, about: about, play: f.play}
}

// redisSays says each line to Redis.
func redisSays(lines ...string) func(*trial) error {
	return func(*trial) error {
		for _, line := range lines {
			if _, err := fleet.RedisSays(fleet.RedisAddr, strings.Fields(line)...); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
		return nil
	}
}

func signalRedis(s syscall.Signal) func(*trial) error {
	return func(t *trial) error { return t.Redis.Signal(s) }
}

var (
	redisKilled = redis("redis-killed", "Redis is killed, and comes back empty", signalRedis(syscall.SIGKILL),
		func(t *trial) (err error) {
			t.Redis, err = fleet.StartRedis(t.ctx, fleet.RedisAddr, t.Dir)
			return err
		})
	redisFrozen = redis("redis-frozen", "Redis is stopped, and goes on", signalRedis(syscall.SIGSTOP),
		signalRedis(syscall.SIGCONT))
	redisEmptied  = redis("redis-emptied", "Redis is emptied", redisSays("FLUSHALL"), redisSays("FLUSHALL"))
	redisReadOnly = redis("redis-read-only", "Redis takes no writes, as a replica without a master",
		redisSays("REPLICAOF 10.77.0.250 6379"), redisSays("REPLICAOF NO ONE"))
	redisFull = redis("redis-full", "Redis is out of memory",
		redisSays("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"),
		redisSays("CONFIG SET maxmemory 0"))
)

// namedDomains is how many domains the scenarios about DNS send to, of which each look-up is good for a second.
const namedDomains = 200

// names makes a scenario of what befalls the name server. Mail is put off, and none is refused.
func names(name, about string, d dnstest.Fault) scenario {
	var rules, zone strings.Builder
	for i := range namedDomains {
		domain := fmt.Sprintf("n%d", i)
		rules.WriteString(hosted(domain))
		fmt.Fprintf(&zone, "%s.example. 1 IN MX 10 %s.\n", domain, fleet.PlainHost)
	}
	f := fault{
		lasts: 5 * time.Second,
		load: func() *fleet.Load {
			l := small()
			l.Forward = func(i int) string { return fmt.Sprintf("ok@n%d.test", i%namedDomains) }
			l.Backoff, l.Timeout = 500*time.Millisecond, 70*time.Second
			return l
		},
		begin: func(t *trial) error { t.DNS.SetFault("*", "*", d); return nil },
		heal:  func(t *trial) error { t.DNS.SetFault("*", "*", dnstest.Fault{}); return nil },
	}
	return scenario{
		name: name, about: about, limit: 2 * time.Minute, rules: rules.String(), zone: zone.String(), play: f.play,
	}
}

var (
	dnsDead     = names("dns-dead", "the name server says nothing", dnstest.Fault{Flaw: dnstest.Drop})
	dnsSlow     = names("dns-slow", "the name server takes 800 ms", dnstest.Fault{Delay: 800 * time.Millisecond})
	dnsServfail = names("dns-servfail", "the name server says SERVFAIL", dnstest.Fault{Rcode: "SERVFAIL"})
	dnsLying    = names("dns-lying", "answers come to other questions", dnstest.Fault{Flaw: dnstest.OtherID})
)

// destination makes a scenario of what befalls the destination.
func destination(name, about string, load func() *fleet.Load, b smtptest.Behaviour) scenario {
	b.Keep = keep
	f := fault{
		lasts: 4 * time.Second, load: load,
		begin: func(t *trial) error { t.Plain.Set(b); return nil },
		heal:  func(t *trial) error { t.Plain.Set(smtptest.Behaviour{Keep: keep}); return nil },
	}
	return scenario{
		name: name, about: about, limit: 2 * time.Minute, config: "deadlines: {rcpt: 8s}\n", play: f.play,
	}
}

// patient is senders that wait for as long as RCPT may take.
func patient() *fleet.Load {
	l := small()
	l.Timeout = 70 * time.Second
	return l
}

// heavy is messages of 40 KiB.
func heavy() *fleet.Load {
	l := small()
	l.Octets = 40 << 10
	return l
}

var (
	rstInData = destination("rst-in-data", "the destination resets connections inside messages", heavy,
		smtptest.Behaviour{Body: &smtptest.Fault{After: 10 << 10, Answer: smtptest.Answer{Reset: true}}})
	garbage = destination("garbage", "the destination answers RCPT with what is no reply", patient,
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{"RCPT": {Reply: "\xff\xfe what?\x00"}}})
	storm421 = destination("storm-421", "the destination greets with 421", nil,
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{
			smtptest.Greeting: {Reply: "421 4.3.2 Not now", Close: true},
			"MAIL":            {Reply: "421 4.3.2 Not now", Close: true},
		}})
	closes = destination("closes-after-250", "the destination closes after each message, without a word", nil,
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Dot: {Reply: "250 2.0.0 OK", Close: true}}})
	noReply = destination("no-reply", "the destination takes messages and closes in place of its reply", nil,
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Dot: {Close: true}}})
)

// greylisted is a destination that puts off the first attempt of each message. All pass at the second one.
var greylisted = scenario{
	name: "greylisting", about: "the destination greylists each message; the owner is killed meanwhile",
	plain: func(*trial) smtptest.Behaviour {
		return smtptest.Behaviour{Answers: map[string]smtptest.Answer{"RCPT": {Greylist: true}}}
	},
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		stop := t.begin(&fleet.Load{Clients: 8, Every: time.Millisecond, Backoff: 200 * time.Millisecond})
		t.rest(2 * time.Second)
		sent := stop()
		first := 0
		for _, m := range sent {
			if m.Accepted && m.Retries == 1 {
				first++
			}
		}
		t.tell("%d of %d at the first retry", first, len(sent))
		if first < len(sent) {
			t.harmed("%d of %d at the first retry", first, len(sent))
		}
		owner, others, err := t.Fleet.OwnerOf(t.ctx, fleet.PlainHost)
		if err != nil {
			return err
		}
		return t.under(&fleet.Load{Clients: 8, Every: time.Millisecond, Backoff: 200 * time.Millisecond},
			func() error { return t.killed(owner, others) })
	},
}

// blackHole is a destination that nothing reaches any more, sessions included, and is silent.
var blackHole = scenario{
	name: "black-hole", about: "nothing reaches the destination, and there is no word of it", limit: 2 * time.Minute,
	rules: hosted("hole"), zone: "hole.example. 300 IN MX 10 mx.hole.example.\nmx.hole.example. 300 IN A 10.77.0.208\n",
	config: "deadlines: {rcpt: 15s}\n",
	play: func(t *trial) error {
		if _, err := t.Serve(t.ctx, "10.77.0.208", smtptest.Behaviour{Keep: keep}); err != nil {
			return err
		}
		each := func(do func(m *fleet.Member) error) (err error) {
			for _, m := range t.Fleet.Nodes {
				err = errors.Join(err, do(m))
			}
			return err
		}
		return fault{
			lasts: 6 * time.Second,
			load: func() *fleet.Load {
				l := small()
				l.Forward, l.Timeout, l.Patience = fleet.Always("ok@hole.test"), 70*time.Second, 60*time.Second
				l.Backoff = 500 * time.Millisecond
				return l
			},
			begin: func(t *trial) error {
				return each(func(m *fleet.Member) error { return m.Port.Cut(t.ctx, "10.77.0.208") })
			},
			heal: func(t *trial) error {
				return each(func(m *fleet.Member) error { return m.Port.Join(t.ctx, "10.77.0.208") })
			},
		}.play(t)
	},
}

// descriptors is an owner that may open no file any more.
var descriptors = scenario{
	name: "descriptors", about: "the owner has no descriptors left; mail enters elsewhere", limit: 2 * time.Minute,
	play: func(t *trial) error {
		owner, others, err := t.warm()
		if err != nil {
			return err
		}
		t.enter = others // what waits for the owner to take its connection waits
		var before unix.Rlimit
		limit := func(most uint64) error {
			return unix.Prlimit(owner.Process.Cmd.Process.Pid, unix.RLIMIT_NOFILE,
				&unix.Rlimit{Cur: most, Max: before.Max}, nil)
		}
		if err := unix.Prlimit(owner.Process.Cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
			return err
		}
		return fault{
			lasts: 5 * time.Second,
			load: func() *fleet.Load {
				l := small()
				l.Fresh = true
				return l
			},
			begin:   func(*trial) error { return limit(16) },
			heal:    func(*trial) error { return limit(before.Cur) },
			silence: 3 * time.Second,
		}.play(t)
	},
}

// reloads tells all nodes to read their files, again and again.
var reloads = scenario{
	name: "reloads", about: "SIGHUP to all nodes, fifty times a second",
	play: func(t *trial) error {
		return fault{
			unfelt: true, silence: 2 * time.Second,
			begin: func(t *trial) error {
				for range 200 {
					if err := t.hup(); err != nil {
						return err
					}
					t.rest(20 * time.Millisecond)
				}
				return nil
			},
		}.play(t)
	},
}

// lossy loses a fifth of what comes to the clients and to the destination.
var lossy = scenario{
	name: "loss", about: "a fifth of the packets to clients and destination is lost", limit: 2 * time.Minute,
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		return fault{
			lasts: 6 * time.Second,
			load: func() *fleet.Load {
				l := heavy()
				l.Timeout = 70 * time.Second
				return l
			},
			begin: func(*trial) error { return lose(fleet.Hub, 5) },
			heal:  func(*trial) error { return lose(fleet.Hub, 0) },
		}.play(t)
	},
}

// certificates of all nodes are renewed under mail, and a node that starts anew has its new one.
var certificates = scenario{
	name: "certificates", about: "the certificates of all nodes are renewed, and the owner starts anew",
	play: func(t *trial) error {
		owner, _, err := t.warm()
		if err != nil {
			return err
		}
		return fault{
			silence: 2 * time.Second, lasts: time.Second,
			begin: func(t *trial) error {
				for range 3 {
					keys := filepath.Join(t.Dir, "keys")
					out, err := exec.CommandContext(t.ctx, t.options.binary, "cluster", "renew", keys).CombinedOutput()
					if err != nil {
						return fmt.Errorf("cluster renew: %w: %s", err, out)
					}
					if err := t.hup(); err != nil {
						return err
					}
					t.rest(time.Second)
				}
				return nil
			},
			heal: func(t *trial) error {
				if err := t.drained(owner); err != nil {
					return err
				}
				return t.again(owner)
			},
		}.play(t)
	},
}

// hogs take the processors.
var hogs = scenario{
	name: "cpu-hogs", about: "eight programs that do nothing but compute",
	play: func(t *trial) error {
		var running []*fleet.Process
		defer func() {
			for _, p := range running {
				p.End()
			}
		}()
		return fault{
			lasts: 6 * time.Second, silence: 5 * time.Second,
			begin: func(*trial) error {
				for range 8 {
					p, err := fleet.Run(exec.Command("sh", "-c", "while :; do :; done"))
					if err != nil {
						return err
					}
					running = append(running, p)
				}
				return nil
			},
			heal: func(*trial) error {
				for _, p := range running {
					p.End()
				}
				return nil
			},
		}.play(t)
	},
}
