package world

import (
	"context"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/cluster/node"
)

// A Relay is a node that runs inside the test.
type Relay struct {
	Addr string
	Log  *logtest.Log
	Node *node.Node
}

// Start runs a node until the test ends. Its log is shown if the test fails.
func Start(t testing.TB, w World) *Relay {
	t.Helper()
	if w.Dir == "" {
		w.Dir = t.TempDir()
	}
	cfg, err := config.Load(w.Write(t, w.Dir, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Log: new(logtest.Log)}
	if r.Node, err = node.New(cfg, node.Options{Stderr: r.Log}); err != nil {
		t.Fatal(err)
	}
	if err := r.Node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Stop(t)
		if log := r.Log.String(); t.Failed() && log != "" {
			t.Logf("log of the node:\n%.4000s", log)
		}
	})
	r.Addr = r.Node.Addrs()[0].String()
	return r
}

// Stop drains the node; transactions under way end before it returns.
func (r *Relay) Stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := r.Node.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
