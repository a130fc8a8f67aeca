package account

import (
	"net/netip"
	"testing"
	"time"
)

// TestAuthenticate_Limit: after twenty wrong tokens of a network none of it is good for a while, but those that were
// right from there before and those that no one can guess; other networks go on.
func TestAuthenticate_Limit(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.now = time.Time{}
	w.Account.cfg.Now = func() time.Time { return w.now }
	_, known, err := w.AddToken(t.Context(), TokenFile(), Token{Name: "known", Role: ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	_, unseen, err := w.AddToken(t.Context(), TokenFile(), Token{Name: "unseen", Role: ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	try := func(secret, from string) Kind {
		_, err := w.Authenticate(secret, netip.MustParseAddr(from))
		kind, _ := kindOf(err)
		return kind
	}
	const right = 255
	if got := try(known, "192.0.2.1"); got != right {
		t.Fatal(got)
	}
	if got := try("", "192.0.2.1"); got != Unauthorized {
		t.Errorf("none: %d", got)
	}
	for range maxWrong {
		if got := try("wrong", "192.0.2.2"); got != Unauthorized {
			t.Fatal(got)
		}
	}
	for _, c := range []struct {
		secret, from string
		want         Kind
	}{
		{"wrong", "192.0.2.1", Limited}, {"of the configuration", "192.0.2.1", Limited}, {known, "192.0.2.9", right},
		{unseen, "192.0.2.1", right}, {unseen + "x", "192.0.2.1", Limited}, // as many come from one proxy
		{"of the configuration", "198.51.100.1", right}, {"wrong", "2001:db8::1", Unauthorized},
	} {
		if got := try(c.secret, c.from); got != c.want {
			t.Errorf("%s from %s: %d, want %d", c.secret, c.from, got, c.want)
		}
	}
	w.now = w.now.Add(wrongTime)
	if got := try("of the configuration", "192.0.2.1"); got != right {
		t.Errorf("a minute later: %d", got)
	}
}
