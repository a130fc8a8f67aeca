package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// What a provider takes, and what of it the nodes are to use.
const (
	providerSessions = 20
	providerRate     = 50                     // messages per second
	providerDelay    = 250 * time.Millisecond // until it has taken a message, so that one session is not enough
	leastUse         = 0.90
	mostDeferred     = 0.01
)

// A provider is a destination that bounds sessions and messages and counts strictly: no session above the number, and
// in any second that ends with a MAIL command, no more of these than the rate, this one included. There is no burst and
// no tolerance beyond that, which is harder than those who count by token bucket or by the minute. What it refuses does
// not count.
type provider struct {
	*smtptest.Server

	mu      sync.Mutex
	took    []time.Time // the MAIL commands that it let pass, all of them
	refused []time.Time // and those over its rate
}

func (p *provider) behaviour() smtptest.Behaviour {
	return smtptest.Behaviour{
		Keep: keep, MaxSessions: providerSessions, On: p.answer,
		Answers: map[string]smtptest.Answer{smtptest.Dot: {After: providerDelay}},
	}
}

func (p *provider) answer(s smtptest.Step) (smtptest.Answer, bool) {
	if s.Verb != "MAIL" {
		return smtptest.Answer{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if n := len(p.took); n >= providerRate && now.Sub(p.took[n-providerRate]) < time.Second {
		p.refused = append(p.refused, now)
		return smtptest.Answer{Reply: "451 4.7.0 Message rate limit exceeded, slow down"}, true
	}
	p.took = append(p.took, now)
	return smtptest.Answer{}, false
}

// between counts what passed and what was refused.
func (p *provider) between(from, to time.Time) (took, refused int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return countIn(p.took, from, to), countIn(p.refused, from, to)
}

// countIn counts the times from one to before another; all are in order.
func countIn(all []time.Time, from, to time.Time) int {
	a, _ := slices.BinarySearchFunc(all, from, time.Time.Compare)
	b, _ := slices.BinarySearchFunc(all, to, time.Time.Compare)
	return b - a
}

// A deferral is a 4yz that a sender saw.
type deferral struct {
	at   time.Time
	text string
}

// deferrals are those of a load.
type deferrals struct {
	mu  sync.Mutex
	all []deferral
}

func (d *deferrals) watch(r source.Result) {
	if r.End.Class() != 4 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	text := replyID.ReplaceAllString(r.End.String(), "")
	d.all = append(d.all, deferral{time.Now(), text[:min(len(text), 60)]})
}

func (d *deferrals) since(from time.Time) (n int, texts string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	by := make(map[string]int)
	for _, x := range d.all {
		if x.at.After(from) {
			n++
			by[x.text]++
		}
	}
	var lines []string
	for _, text := range slices.Sorted(maps.Keys(by)) {
		lines = append(lines, fmt.Sprintf("%d of %q", by[text], text))
	}
	return n, strings.Join(lines, ", ")
}

// How long a provider is sent to, and the time over which its rate is looked at.
const (
	providerRun    = 45 * time.Second
	providerWindow = 5 * time.Second
)

// provided sends as much as a provider takes and more, first to one whose limits the nodes know, then to one that they
// learn from its replies alone, of which nothing is demanded.
func provided(ctx context.Context, t *trial) (string, error) {
	figures, err := t.provided(ctx, "limits known", "known", &t.lab.limited, true)
	if err != nil {
		return figures, err
	}
	learnt, err := t.provided(ctx, "only its replies", "guessed", &t.lab.guessed, false)
	return figures + "\n" + learnt, err
}

func (t *trial) provided(ctx context.Context, what, name string, p *provider, demanded bool) (string, error) {
	stop := make(chan struct{})
	var deferred deferrals
	l := &fleet.Load{
		Name: t.tag(name), Addrs: fleet.Only(t.ring.Balancer), Forward: fleet.Always("ok@" + name + ".test"),
		Clients: 6 * providerSessions, Networks: 8,
		Stop: stop, Patience: 2 * providerRun, Backoff: time.Second, Watch: deferred.watch,
	}
	begun := time.Now()
	done := make(chan []fleet.Sent, 1)
	go func() { done <- l.Run(ctx) }() // ends with stop
	fleet.Rest(ctx, providerRun)
	ended := time.Now()
	close(stop)
	n := fleet.Count(<-done, p.Server)

	settled := p.settled(begun, ended)
	took, refused := p.between(settled, ended)
	rate := float64(took) / ended.Sub(settled).Seconds()
	later, texts := deferred.since(settled)
	c := p.Counts()
	all, allRefused := p.between(begun, ended)
	how := "settled after"
	if rate < leastUse*providerRate {
		how = "not settled, after"
	}
	figures := fmt.Sprintf("%s: %s %.0f s: %.1f messages/s, %.0f %% of %d; of %d messages since then senders saw "+
		"%d of 4yz (%.2f %%), %d of them by the provider's rate",
		what, how, settled.Sub(begun).Seconds(), rate, 100*rate/providerRate, providerRate,
		took, later, 100*float64(later)/float64(max(1, took+later)), refused)
	if texts != "" {
		figures += ": " + texts
	}
	figures += fmt.Sprintf("\n  in all: %s; %d let pass, %d over the rate; %d connections, %d at once at most "+
		"(limit %d)",
		n, all, allRefused, c.Connections, c.Peak, providerSessions)
	err := n.Err()
	if !demanded {
		return figures, err
	}
	if ended.Sub(settled) < providerWindow || rate < leastUse*providerRate || rate > providerRate {
		err = errors.Join(err,
			fmt.Errorf("it takes %.0f %% to 100 %% of %d messages/s, and gets %.1f", 100*leastUse, providerRate, rate))
	}
	if float64(later) > mostDeferred*float64(took+later) {
		err = errors.Join(err, errors.New("too many messages were deferred"))
	}
	if c.Peak > providerSessions {
		err = errors.Join(err, errors.New("more connections than the provider takes"))
	}
	return figures, err
}

// settled returns the time from which on the rate is what is demanded of it in every window to the end, or else the
// last window's.
func (p *provider) settled(begun, ended time.Time) time.Time {
	at := ended.Add(-providerWindow)
	for from := at; !from.Before(begun); from = from.Add(-time.Second) {
		n, _ := p.between(from, from.Add(providerWindow))
		if float64(n) < leastUse*providerRate*providerWindow.Seconds() {
			break
		}
		at = from
	}
	return at
}
