package peer

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestANodeThatCameBackIsAskedAgainAtOnce(t *testing.T) {
	var came atomic.Pointer[time.Time]
	came.Store(new(time.Time))
	w := newWorld(t, &destination{}, beat, func(_ *ServerConfig, c *ClientConfig) {
		c.Came = func(string) time.Time { return *came.Load() }
	})
	w.proxy.cut(true)
	if _, err := w.client.Begin(t.Context(), "b", delivery()); err == nil {
		t.Fatal("it began at a node that is not there")
	}
	w.proxy.cut(false)
	if _, err := w.client.Begin(t.Context(), "b", delivery()); err == nil {
		t.Fatal("it is not left alone")
	}
	now := time.Now()
	came.Store(&now)
	tx, err := w.client.Begin(t.Context(), "b", delivery())
	if err != nil {
		t.Fatal(err)
	}
	tx.Abort()
}
