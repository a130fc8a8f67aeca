package node

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// networkBurst is how many events of one client network, of which a stranger can cause any number, are logged at
	// once, and networkPace the time until there is room for one more.
	networkBurst = 100
	networkPace  = time.Second
	// allBurst and allPace are the same for all networks together.
	allBurst = 5000
	allPace  = 2 * time.Millisecond
	// maxNetworks bounds the networks that are remembered.
	maxNetworks = 4096
)

// A sampler decides which events are logged of those that a stranger can cause for nothing. Times are those of the
// events.
type sampler struct {
	all      allowance
	networks map[sampleKey]*sample
	rest     sample // of the networks for which there was no room
}

// A sampleKey is what has a share of the log: the refusals of a network, or its anomalies. Events without a client
// share one.
type sampleKey struct {
	network netip.Prefix
	anomaly bool
}

// A sample is what is known of the events of one sampleKey.
type sample struct {
	allowance allowance
	more      int         // events that were left out since the last that was logged
	last      *mail.Event // of these; without meaning if there is none
}

// An allowance is a rate that something may have (GCRA): the time up to which it is used.
type allowance struct{ used time.Time }

// take reports whether there is room for one more at now, and takes it.
func (a *allowance) take(now time.Time, burst int, pace time.Duration) bool {
	if a.used.Before(now) {
		a.used = now
	}
	if a.used.Sub(now) > time.Duration(burst-1)*pace {
		return false
	}
	a.used = a.used.Add(pace)
	return true
}

func newSampler() sampler { return sampler{networks: make(map[sampleKey]*sample)} }

// of returns the sample that e belongs to.
func (s *sampler) of(e *mail.Event) *sample {
	key := sampleKey{network.Widest(e.Client), e.Kind == mail.Anomaly}
	if found := s.networks[key]; found != nil {
		return found
	}
	if len(s.networks) >= maxNetworks {
		return &s.rest
	}
	made := new(sample)
	s.networks[key] = made
	return made
}

// add reports whether e is to be logged, and if so how many events before it were left out.
func (s *sampler) add(e *mail.Event) (logged bool, more int) {
	of := s.of(e)
	if of.allowance.take(e.Time, networkBurst, networkPace) && s.all.take(e.Time, allBurst, allPace) {
		more, of.more = of.more, 0
		return true, more
	}
	of.more++
	if of.last == nil {
		of.last = new(mail.Event)
	}
	*of.last = *e
	return false, 0
}

// settle calls add for the last event that was left out of each sample, with the number of those before it, and forgets
// the samples whose allowance is whole again at now.
func (s *sampler) settle(now time.Time, add func(e *mail.Event, more int)) {
	s.rest.settle(add)
	for key, of := range s.networks {
		of.settle(add)
		if !of.allowance.used.After(now) {
			delete(s.networks, key)
		}
	}
}

func (of *sample) settle(add func(e *mail.Event, more int)) {
	if of.more > 0 {
		add(of.last, of.more-1)
		of.more = 0
	}
	of.last = nil
}
