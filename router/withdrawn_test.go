package router

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestReload_Grace: what a reload took away, and no other rule takes, is refused for now, for ten minutes.
func TestReload_Grace(t *testing.T) {
	now := time.Now()
	const whole = "domain h.example\na@h.example x@t.example\nb@h.example x@t.example\n" +
		"no@h.example reject 550 Gone\n/list-.*/@h.example x@t.example\n@g.example x@t.example\n" +
		"@f.example smtp://192.0.2.9\n"
	const cut = "domain h.example\na@h.example x@t.example\n"
	file := write(t, whole)
	cfg := testConfig(file)
	cfg.Now = func() time.Time { return now }
	r := newRouter(t, cfg)
	reload := func(text string) {
		t.Helper()
		overwrite(t, file, text)
		if err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check := func(step, rcpt string, trusted bool, want int) {
		t.Helper()
		q := query(t, rcpt)
		q.Trusted = trusted
		_, err := r.Route(q)
		var refusal *mail.Refusal
		switch {
		case err == nil && want == 250:
		case !errors.As(err, &refusal) || refusal.Reply.Code != want ||
			(refusal.Reason == mail.ReasonWithdrawn) != (want == 451):
			t.Errorf("%s, %s: got %v, want %d", step, rcpt, err, want)
		}
	}
	reload(cut)
	for rcpt, want := range map[string]int{
		"a@h.example": 250, "b@h.example": 451, "list-1@h.example": 451, "no@h.example": 550, "who@h.example": 550,
		"any@g.example": 451, "any@G.Example": 451, "any@f.example": 451, "any@foreign.example": 550,
		"postmaster@mx1.example.net": 250,
	} {
		check("cut", rcpt, false, want)
	}
	check("cut, and a trusted client", "any@g.example", true, 451)
	check("cut, and a trusted client", "any@foreign.example", true, 250)

	now = now.Add(6 * time.Minute)
	reload(cut + "@h.example y@t.example\n@e.example y@t.example\n")
	check("another rule takes it", "b@h.example", false, 250)
	check("a second reload", "any@g.example", false, 451)
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("the same files again", "any@g.example", false, 451)

	now = now.Add(4*time.Minute - time.Second)
	check("a second before the end", "any@g.example", false, 451)
	now = now.Add(time.Second)
	check("ten minutes after", "any@g.example", false, 550)
	check("ten minutes after, and a trusted client", "any@g.example", true, 250)

	reload(whole)
	check("mended", "any@g.example", false, 250)
	check("mended", "any@e.example", false, 451)
	now = now.Add(grace)
	check("long after", "any@e.example", false, 550)
	if r.current.Load().withdrawn.Load() != nil {
		t.Error("the rules before are kept for ever")
	}
}

// TestPrepare_Grace: a set that another node's reload of files published carries the same grace.
func TestPrepare_Grace(t *testing.T) {
	r := newRouter(t, testConfig(write(t, "@h.example x@t.example\n@g.example x@t.example\n")))
	use, err := r.Prepare(7, pairs("routes.txt", "@h.example x@t.example\n"))
	if err != nil {
		t.Fatal(err)
	}
	use()
	_, err = r.Route(query(t, "a@g.example"))
	var refusal *mail.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != mail.ReasonWithdrawn {
		t.Error(err)
	}
	steps, _, _ := r.Explain(query(t, "a@g.example"))
	if steps[len(steps)-1] != errWithdrawn.Error() {
		t.Errorf("%q", steps)
	}
}

// TestReload_GraceBounded: many reloads do not keep many sets.
func TestReload_GraceBounded(t *testing.T) {
	file := write(t, "@h0.example x@t.example\n")
	r := newRouter(t, testConfig(file))
	for i := range 10 {
		overwrite(t, file, fmt.Sprintf("@h%d.example x@t.example\n", i+1))
		if err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if list := r.current.Load().withdrawn.Load(); list == nil || len(*list) != maxWithdrawn {
		t.Error("the sets before:", list)
	}
}

// TestPrepare_Meant: what only the file of requests takes away is refused for good at once, and be it the last rule. A
// change of another file beside it has the grace.
func TestPrepare_Meant(t *testing.T) {
	cfg := testConfig(write(t, "# none\n"))
	cfg.Meant = "api"
	r := newRouter(t, cfg)
	use := func(files, api string) {
		t.Helper()
		use, err := r.Prepare(0, func(yield func(name, text string) bool) {
			_ = yield("files", files) && (api == "" || yield("api", api))
		})
		if err != nil {
			t.Fatal(err)
		}
		use()
	}
	code := func(rcpt string) int {
		_, err := r.Route(query(t, rcpt))
		var refusal *mail.Refusal
		if errors.As(err, &refusal) {
			return refusal.Reply.Code
		}
		return 250
	}
	use("", "a@h.example drop\nb@h.example drop\n")
	use("", "b@h.example drop\n")
	if got := code("a@h.example"); got != 550 {
		t.Errorf("one that was removed: %d", got)
	}
	use("", "")
	if got := code("b@h.example"); got != 550 || r.Len() != 0 {
		t.Errorf("the last that was removed: %d", got)
	}
	use("c@h.example drop\n", "a@h.example drop\n")
	use("d@h.example drop\n", "")
	for rcpt, want := range map[string]int{"a@h.example": 451, "c@h.example": 451, "d@h.example": 250} {
		if got := code(rcpt); got != want {
			t.Errorf("%s: %d, want %d", rcpt, got, want)
		}
	}
}
