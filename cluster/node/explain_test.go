package node

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// onRedis is the configuration of a node that shares its rules.
func onRedis(addr string) string { return "redis: {url: \"redis://" + addr + "\", timeout: 1s}\n" }

// explain asks what would become of a message from a stranger.
func (b *bench) explain(t *testing.T, to string) *Answer {
	t.Helper()
	forward, err := mail.ParsePath(to, false)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Explain(t.Context(), b.cfg, Question{IP: netip.MustParseAddr("198.51.100.1"), To: &forward})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestExplain_SharedRules: explain answers by the rules that the nodes share, not by files that no reload has taken in,
// and names their version.
func TestExplain_SharedRules(t *testing.T) {
	b := startNode(t, onRedis(extern.StartRedis(t)), nil)
	b.rules(t, "domain example.com\ninfo@example.com drop\n")
	for _, tt := range []struct {
		to, verdict string
		version     uint64
		reload      bool
	}{
		{"other@example.com", Accept, 1, false},
		{"info@example.com", Accept, 1, false},
		{"info@example.com", Drop, 2, true},
	} {
		if tt.reload {
			if err := b.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		a := b.explain(t, tt.to)
		if a.Verdict != tt.verdict || a.Rules.Version != tt.version || a.Rules.Origin != "redis" ||
			a.Rules.Digest != b.Node.rules.router.Digest() {
			t.Errorf("%s: %s by %+v, want %s by version %d", tt.to, a.Verdict, *a.Rules, tt.verdict, tt.version)
		}
	}
	shown, files, err := ShowRules(t.Context(), b.cfg)
	if err != nil || shown.Version != 2 || shown.Origin != "redis" || len(files) != 1 ||
		files[0].Text != "domain example.com\ninfo@example.com drop\n" {
		t.Errorf("%+v, %+v, %v", shown, files, err)
	}
}
