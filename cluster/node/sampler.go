package node

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/leaf/gcra"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// maxNetworks bounds the networks that are remembered.
const maxNetworks = 4096

var (
	// networkRate is how many events of one client network are logged, of which a stranger can cause any number.
	networkRate = gcra.Limit{Burst: 100, Pace: time.Second}
	// allRate is the same for all networks together.
	allRate = gcra.Limit{Burst: 5000, Pace: 2 * time.Millisecond}
)

// A sampler decides which events are logged of those that a stranger can cause for nothing. Times are those of the
// events.
type sampler struct {
	all      gcra.Account
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
	logged gcra.Account
	more   int         // events that were left out since the last that was logged
	last   *mail.Event // of these; without meaning if there is none
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
	if of.logged.Take(e.Time, networkRate) && s.all.Take(e.Time, allRate) {
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
// the samples of which nothing is used at now.
func (s *sampler) settle(now time.Time, add func(e *mail.Event, more int)) {
	s.rest.settle(add)
	for key, of := range s.networks {
		of.settle(add)
		if of.logged.IsUnused(now) {
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
