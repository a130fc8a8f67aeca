package score

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestScore_Faults: no fault speaks against a client. All sources fail in every way, and all at once.
func TestScore_Faults(t *testing.T) {
	for _, kind := range []string{"PTR", "A", "MX", "list", "", "store", "spf", "everything"} {
		for _, fault := range []struct {
			name string
			err  error
		}{{"fails", errDNS}, {"hangs", errHangs}} {
			t.Run(kind+" "+fault.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, v := proper(), good()
					if kind == "store" || kind == "everything" {
						w.storeErr = fault.err
					}
					if kind == "spf" || kind == "everything" {
						v.spf = spfHang{}
					}
					switch kind {
					case "everything":
						w.err[""] = fault.err
					case "A": // else the part of the answer that came would do
						delete(w.dns, "A mail.example.net")
						w.err[kind] = fault.err
					case "store", "spf":
					default:
						w.err[kind] = fault.err
					}
					cfg := w.config()
					cfg.Lists, cfg.Limits, cfg.Greet, cfg.Grey = w.lists(t), limits(t), time.Second, Band{-100, 100}
					k := scorer(t, cfg).Connect(t.Context(), Client{Addr: client})
					defer k.Close()
					began := time.Now()
					v.to(k)
					if time.Since(began) != 0 {
						t.Errorf("MAIL waited %s", time.Since(began))
					}
					verdict := k.Verdict(t.Context())
					if took := time.Since(began); took > time.Second {
						t.Errorf("it took %s", took)
					}
					if len(verdict.Reasons) != 0 {
						t.Errorf("got %s", texts(verdict))
					}
					if len(k.Unheard()) == 0 {
						t.Error("nothing was reported")
					}
					if k.Limited() != nil {
						t.Errorf("limited: %s", k.Limited())
					}
				})
			})
		}
	}
}

// TestScore_Deadline: what is in by the deadline counts.
func TestScore_Deadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, v := proper(), good()
		w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
		w.err["list 9.113.0.203.half.example"] = errHangs
		w.err["PTR"] = errHangs
		cfg := w.config()
		cfg.Lists, cfg.Deadline = w.lists(t), 700*time.Millisecond
		k := scorer(t, cfg).Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		began := time.Now()
		v.to(k)
		verdict := k.Verdict(t.Context())
		if took := time.Since(began); took < 600*time.Millisecond || took > 700*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		if got, want := Signals(verdict), "dnsbl 10"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := strings.Join(k.Unheard(), ","), "dnsbl half.example,fcrdns"; got != want {
			t.Errorf("unheard %q, want %q", got, want)
		}
	})
}

// TestScore_StageDeadlines: each stage has its own deadline.
func TestScore_StageDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := proper()
		w.err["PTR"] = errHangs
		k := scorer(t, w.config()).Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		time.Sleep(900 * time.Millisecond)
		k.Mail(path("a@gone.example.net"), spfHang{})
		began := time.Now()
		verdict := k.Verdict(t.Context())
		if took := time.Since(began); took < 900*time.Millisecond || took > time.Second {
			t.Errorf("it took %s", took)
		}
		if got, want := Signals(verdict), "sender-domain 4"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		// The signals of the address are not waited for again.
		k.Mail(path("b@gone.example.net"), nil)
		began = time.Now()
		k.Verdict(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("the second transaction took %s", took)
		}
	})
}

// A stubbornResolver ignores its context.
type stubbornResolver struct {
	*fixture
	until chan struct{}
}

func (s stubbornResolver) LookupMX(ctx context.Context, name string) ([]string, error) {
	<-s.until
	return s.fixture.LookupMX(ctx, name)
}

// TestScore_LateAnswer: a late answer changes nothing.
func TestScore_LateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, v := proper(), good()
		w.dns["MX example.net"] = "."
		cfg := w.config()
		late := stubbornResolver{w, make(chan struct{})}
		cfg.Resolver = late
		k := scorer(t, cfg).Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		began := time.Now()
		v.to(k)
		if got := Signals(k.Verdict(t.Context())); got != "" || time.Since(began) != time.Second {
			t.Errorf("got %q after %s", got, time.Since(began))
		}
		close(late.until)
		synctest.Wait()
		if got := Signals(k.Verdict(t.Context())); got != "" {
			t.Errorf("later %q", got)
		}
		if got := strings.Join(k.Unheard(), ","); got != "sender-domain" {
			t.Errorf("unheard %q", got)
		}
	})
}

// TestScore_VerdictContext: the caller's context ends the wait.
func TestScore_VerdictContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, v := proper(), good()
		w.err["MX"] = errHangs
		k := scorer(t, w.config()).Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		v.to(k)
		began := time.Now()
		// A deadline without a timer, as the session has it.
		k.Verdict(mail.Until(t.Context(), began.Add(100*time.Millisecond)))
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		k.Verdict(ctx)
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		// The stage goes on.
		k.Verdict(t.Context())
		if took := time.Since(began); took < 900*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

// TestScore_GreetingStore: the greeting waits for the store alone.
func TestScore_GreetingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := proper()
		w.err[""] = errHangs
		cfg := w.config()
		cfg.Lists, cfg.Greet = w.lists(t), 3*time.Second
		k := scorer(t, cfg).Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		began := time.Now()
		delay, err := k.Greeting(t.Context())
		if took := time.Since(began); took != 0 || delay != 3*time.Second || err != nil {
			t.Errorf("after %s: %s, %v", took, delay, err)
		}
	})
}

// TestScore_GreetingSlowStore: the greeting does not wait long for the store.
func TestScore_GreetingSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := proper()
		w.storeErr = errHangs
		cfg := w.config()
		cfg.Greet = 3 * time.Second
		k := scorer(t, cfg).Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		began := time.Now()
		delay, err := k.Greeting(t.Context())
		if took := time.Since(began); took > 250*time.Millisecond || delay != 0 || err != nil {
			t.Errorf("after %s: %s, %v", took, delay, err)
		}
	})
}

// TestScore_GreetingRefusal: with reject_at connect the greeting refuses by the deadline.
func TestScore_GreetingRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := proper()
		w.err["PTR"] = errHangs
		w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
		cfg := w.config()
		cfg.Lists, cfg.RejectAt = w.lists(t), RejectAtConnect
		k := scorer(t, cfg).Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		began := time.Now()
		_, err := k.Greeting(t.Context())
		if took := time.Since(began); took > time.Second || err == nil {
			t.Errorf("after %s: %v", took, err)
		}
	})
}
