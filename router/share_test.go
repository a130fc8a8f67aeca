package router

import (
	"iter"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// pairs returns names and texts in turn.
func pairs(list ...string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := 0; i < len(list); i += 2 {
			if !yield(list[i], list[i+1]) {
				return
			}
		}
	}
}

func flat(files iter.Seq2[string, string]) string {
	var b strings.Builder
	for name, text := range files {
		b.WriteString(name + "=" + text + ";")
	}
	return b.String()
}

// TestRouter_Empty: a Router without rules defers every query.
func TestRouter_Empty(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		cfg := testConfig("/does/not/exist")
		cfg.Empty = true
		if keyed {
			cfg.SRSKeys = keys(keyA)
		}
		r := newRouter(t, cfg)
		for _, to := range []string{
			"a@h.example", "postmaster@h.example", "postmaster", "postmaster@mx1.example.net",
			"SRS0=abcd=JL=a.example=b@srs.example.net",
		} {
			for _, trusted := range []bool{false, true} {
				q := query(t, to)
				q.Trusted = trusted
				routes, err := r.Route(q)
				reply := mail.ReplyFor(err)
				if len(routes) != 0 || reply.Code != 451 || reply.Enhanced != (mail.EnhancedCode{Subject: 3}) {
					t.Errorf("%s: %v, %v", to, routes, err)
				}
				if steps, _, _ := r.Explain(q); len(steps) != 1 || steps[0] != ReasonNoRules {
					t.Errorf("%s: %q", to, steps)
				}
			}
		}
		if r.Ready() || r.Version() != 0 || r.Digest() != "" || r.Len() != 0 || r.Domains() != 0 ||
			r.Hosted("h.example") ||
			len(r.Warnings()) != 0 || r.Needs().SRS.Rules != 0 || r.Needs().Seal.Rules != 0 || flat(r.Files()) != "" {
			t.Error("it says that it has rules")
		}
	}
}

// TestRouter_Prepare: what is prepared is in force once it is used.
func TestRouter_Prepare(t *testing.T) {
	cfg := testConfig()
	cfg.Empty = true
	r := newRouter(t, cfg)
	use, err := r.Prepare(7, pairs("a.txt", "a@h.example x@t.example\n", "b.txt", "b@h.example x@t.example"))
	if err != nil || r.Ready() {
		t.Fatalf("%v, ready %v", err, r.Ready())
	}
	use()
	if !r.Ready() || r.Version() != 7 || r.Len() != 2 ||
		flat(r.Files()) != "a.txt=a@h.example x@t.example\n;b.txt=b@h.example x@t.example;" {
		t.Errorf("version %d: %s", r.Version(), flat(r.Files()))
	}
	routes, err := r.Route(query(t, "b@h.example"))
	if err != nil || routes[0].Rule.File != "b.txt" || routes[0].Rule.Line != 1 {
		t.Errorf("%v, %v", routes, err)
	}
	again, err := r.Prepare(7, r.Files())
	if err != nil {
		t.Fatal(err)
	}
	again()
	if r.Version() != 7 || r.Len() != 2 {
		t.Errorf("version %d", r.Version())
	}
	for name, files := range map[string]iter.Seq2[string, string]{
		"a.txt:2:1: ": pairs("a.txt", "a@h.example x@t.example\na@h.example y@t.example\n"),
		"none":        pairs("a.txt", "# nothing\n"),
		"the rules":   pairs(),
	} {
		if _, err := r.Prepare(8, files); err == nil || !strings.Contains(err.Error(), name) || r.Version() != 7 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRouter_PrepareOrder: of two prepared versions the later one stays.
func TestRouter_PrepareOrder(t *testing.T) {
	r := newRouter(t, testConfig(write(t, "a@h.example x@t.example\n")))
	first, err := r.Prepare(5, pairs("a", "a@h.example x@t.example\n"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.Prepare(6, pairs("a", "a@h.example y@t.example\n"))
	if err != nil {
		t.Fatal(err)
	}
	second()
	first()
	if r.Version() != 6 {
		t.Errorf("version %d", r.Version())
	}
}

// TestRouter_Digest: the form of the digest, which nodes of several versions share.
func TestRouter_Digest(t *testing.T) {
	const want = "9d7ebce82c3fbafc32cf158c2067fa1e365274586d8b2d34eb1a3c38c6af93a2"
	file := write(t, "a@h.example x@t.example\n")
	r := newRouter(t, testConfig(file))
	if got := r.Digest(); got != want {
		t.Errorf("got %s", got)
	}
	use, err := r.Prepare(3, pairs("routes.txt", "a@h.example x@t.example\n"))
	if err != nil {
		t.Fatal(err)
	}
	use()
	if got := r.Digest(); got != want {
		t.Errorf("got %s", got)
	}
	overwrite(t, file, "a@h.example y@t.example\n")
	if err := r.Reload(t.Context()); err != nil || r.Digest() == want {
		t.Errorf("%s, %v", r.Digest(), err)
	}
}

// TestRouter_Read: Read returns the present files.
func TestRouter_Read(t *testing.T) {
	file := write(t, "a@h.example x@t.example\n")
	r := newRouter(t, testConfig(file))
	overwrite(t, file, "nonsense\n")
	files, err := r.Read(t.Context())
	if err != nil || flat(files) != file+"=nonsense\n;" {
		t.Errorf("%v", err)
	}
	cfg := testConfig("routes.txt")
	cfg.Text = "a@h.example x@t.example\n"
	if files, err := newRouter(t, cfg).Read(t.Context()); err != nil || flat(files) != "routes.txt="+cfg.Text+";" {
		t.Errorf("%v", err)
	}
	cfg = testConfig(file + "x")
	cfg.Empty = true
	if _, err := newRouter(t, cfg).Read(t.Context()); err == nil {
		t.Error("a file that is not there was read")
	}
}
