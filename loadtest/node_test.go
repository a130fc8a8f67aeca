package loadtest_test

import (
	"context"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
)

// A relay is a node that runs inside the test.
type relay struct {
	addr string
	log  *logBuffer
	node *node.Node
}

// startNode runs a node until the test ends. Its log is shown if the test fails.
func startNode(t testing.TB, w world) *relay {
	t.Helper()
	if w.dir == "" {
		w.dir = t.TempDir()
	}
	cfg, err := config.Load(w.write(t, w.dir, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{log: new(logBuffer)}
	if r.node, err = node.New(cfg, node.Options{Stderr: r.log}); err != nil {
		t.Fatal(err)
	}
	if err := r.node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stop(t)
		if log := r.log.String(); t.Failed() && log != "" {
			t.Logf("log of the node:\n%.4000s", log)
		}
	})
	r.addr = r.node.Addrs()[0].String()
	return r
}

// stop drains the node; transactions under way end before it returns.
func (r *relay) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.node.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
