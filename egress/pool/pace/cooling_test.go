package pace

import (
	"errors"
	"testing"
	"time"
)

var noon = time.Unix(1e9, 0)

func TestBackoff(t *testing.T) {
	var b Backoff
	now := noon
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		b.Fail(now, 0)
		b.Fail(now.Add(want*time.Second/2), 0) // within it, which does not count
		if got := b.Until().Sub(now); got != want*time.Second {
			t.Errorf("got %v, want %v", got, want*time.Second)
		}
		now = b.Until()
		if b.IsOn(now) || b.IsStale(now.Add(CoolMost)) || !b.IsStale(now.Add(CoolMost+1)) {
			t.Errorf("on %v, stale too soon or too late", b.IsOn(now))
		}
	}
	b = Backoff{}
	if b.Fail(noon, 0.5); b.Until().Sub(noon) != 875*time.Millisecond {
		t.Errorf("got %v with half of the chance", b.Until().Sub(noon))
	}
}

func TestCooling(t *testing.T) {
	cause := errors.New("421")
	after := noon.Add(time.Hour)
	for _, c := range []struct {
		name string
		do   func(c *Cooling)
		now  time.Time
		// what is wanted
		on, refused, suspended, probe, ok bool
	}{
		{"a warm Site", func(*Cooling) {}, noon, false, false, false, false, true},
		{
			"one that was not reached", func(c *Cooling) { c.Fail(noon, 0, cause, false) }, noon,
			true, false, false, false, false,
		},
		{
			"and is tried by one", func(c *Cooling) { c.Fail(noon, 0, cause, false) }, after,
			true, false, false, true, true,
		},
		{
			"at a time",
			func(c *Cooling) {
				c.Fail(noon, 0, cause, false)
				c.MayOpen(after)
			}, after, true, false, false, false, false,
		},
		{
			"after the other",
			func(c *Cooling) {
				c.Fail(noon, 0, cause, false)
				c.MayOpen(after)
				c.EndProbe()
			}, after, true, false, false, true, true,
		},
		{
			"a probe is out though the Site is warm again",
			func(c *Cooling) {
				c.Fail(noon, 0, cause, false)
				c.MayOpen(after)
				c.Warm()
				c.Fail(noon, 0, cause, false)
			}, after, true, false, false, false, false,
		},
		{
			"one that refused us", func(c *Cooling) { c.Fail(noon, 0, cause, true) }, noon,
			true, true, false, false, false,
		},
		{
			"and is not reached then",
			func(c *Cooling) {
				c.Fail(noon, 0, cause, true)
				c.Fail(noon, 0, cause, false)
			}, noon, true, true, false, false, false,
		},
		{
			"one that is suspended", func(c *Cooling) { c.Suspend(noon, 5, time.Minute, cause) }, noon,
			true, true, true, false, false,
		},
		{
			"which a message that was on its way does not end",
			func(c *Cooling) {
				c.Suspend(noon, 5, time.Minute, cause)
				c.Delivered(5)
			}, noon, true, true, true, false, false,
		},
		{
			"but a later one does",
			func(c *Cooling) {
				c.Suspend(noon, 5, time.Minute, cause)
				c.Delivered(6)
			}, noon, false, false, false, false, true,
		},
		{
			"and which stays so when it fails behind its time",
			func(c *Cooling) {
				c.Suspend(noon, 5, time.Minute, cause)
				c.Fail(after, 0, cause, false)
			}, after, true, true, true, false, false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var k Cooling
			c.do(&k)
			if k.IsOn() != c.on || k.IsRefused() != c.refused || k.IsSuspended() != c.suspended {
				t.Errorf("on %v, refused %v, suspended %v", k.IsOn(), k.IsRefused(), k.IsSuspended())
			}
			if probe, ok := k.MayOpen(c.now); probe != c.probe || ok != c.ok {
				t.Errorf("probe %v, ok %v", probe, ok)
			}
		})
	}
}

func TestCooling_Suspend(t *testing.T) {
	var c Cooling
	cause := errors.New("421")
	if until, news := c.Suspend(noon, 5, time.Minute, cause); !news || until != noon.Add(time.Minute) {
		t.Errorf("got %v, %v", until, news)
	}
	if until, news := c.Suspend(noon, 6, time.Hour, cause); news || until != noon.Add(time.Minute) {
		t.Errorf("the second time: got %v, %v", until, news)
	}
	c.Fail(noon, 0, errors.New("other"), true)
	if c.Until() != noon.Add(time.Minute) || c.Cause() != cause {
		t.Errorf("a failure within it counts: %v, %v", c.Until(), c.Cause())
	}
}
