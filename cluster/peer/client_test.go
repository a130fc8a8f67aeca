package peer

import (
	"sync/atomic"
	"testing"
	"time"
)

// A node that came back is used again at once.
func TestClient_LastJoined(t *testing.T) {
	var joined atomic.Pointer[time.Time]
	joined.Store(new(time.Time))
	w := newWorld(t, &destination{}, beat, func(_ *ServerConfig, c *ClientConfig) {
		c.LastJoined = func(string) time.Time { return *joined.Load() }
	})
	w.proxy.disconnect(true)
	if _, err := w.client.Begin(t.Context(), "b", delivery()); err == nil {
		t.Fatal("it began at a node that is not there")
	}
	w.proxy.disconnect(false)
	if _, err := w.client.Begin(t.Context(), "b", delivery()); err == nil {
		t.Fatal("it is not left alone")
	}
	now := time.Now()
	joined.Store(&now)
	tx, err := w.client.Begin(t.Context(), "b", delivery())
	if err != nil {
		t.Fatal(err)
	}
	tx.Abort()
}
