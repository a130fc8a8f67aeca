package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a Sender and the receivers that it posts to, in virtual time.
type world struct {
	*Sender
	mu      sync.Mutex
	answer  func(r hook.Request) (hook.Response, error) // nil: 204
	posts   []string                                    // the ids, in order
	at      []time.Duration                             // when each came
	began   time.Time
	under   int // posts under way
	most    int
	counted map[string]int // "receiver result"
	trouble int
}

func ok(hook.Request) (hook.Response, error) { return hook.Response{Status: http.StatusNoContent}, nil }

func broken(hook.Request) (hook.Response, error) {
	return hook.Response{}, errors.New("connection refused")
}

// begin starts a Sender in a bubble. Receivers without types want all.
func begin(c Config) *world {
	w := &world{counted: map[string]int{}, began: time.Now()}
	for i := range c.Receivers {
		if c.Receivers[i].Types == nil {
			c.Receivers[i].Types = Types()
		}
	}
	if c.Queue == 0 {
		c.Queue = 1000
	}
	if c.Octets == 0 {
		c.Octets = 1 << 20
	}
	c.Now, c.Post = time.Now, w.post
	c.Count = func(receiver string, r Result) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.counted[receiver+" "+r.String()]++
	}
	c.Trouble = func(string, int, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.trouble++
	}
	w.Sender = Start(c)
	return w
}

func (w *world) post(ctx context.Context, r hook.Request) (hook.Response, error) {
	w.mu.Lock()
	w.posts = append(w.posts, r.Header.Get("webhook-id"))
	w.at = append(w.at, time.Since(w.began))
	w.under++
	w.most = max(w.most, w.under)
	answer := w.answer
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.under--
		w.mu.Unlock()
	}()
	if answer == nil {
		answer = ok
	}
	done := make(chan struct{})
	var got hook.Response
	var err error
	go func() { // ends with answer
		defer close(done)
		got, err = answer(r)
	}()
	select {
	case <-done:
		return got, err
	case <-ctx.Done():
		<-done
		return hook.Response{}, ctx.Err()
	}
}

// set changes what the receivers answer.
func (w *world) set(answer func(hook.Request) (hook.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

// seen returns the ids of the posts in order, and when each came.
func (w *world) seen() ([]string, []time.Duration) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.posts), slices.Clone(w.at)
}

// emit hands over an event of a type for a@example.com, whose id is a number.
func (w *world) emit(t Type, n int) {
	w.Emit(&Event{Type: t, ID: fmt.Sprint(n), Time: time.Now(), Data: Data{Recipient: "a@example.com"}}, "example.com")
}

// end closes the Sender in a minute at most.
func (w *world) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.Close(ctx)
}

func (w *world) count(t *testing.T, want map[string]int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, n := range want {
		if w.counted[what] != n {
			t.Errorf("%s: %d, want %d; all: %v", what, w.counted[what], n, w.counted)
		}
	}
}

// TestSender_Posts: each receiver is told of what it wants, once.
func TestSender_Posts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := hook.Secret(strings.Repeat("k", 24))
		w := begin(Config{Receivers: []Receiver{
			{Name: "all", URL: "https://all.example/", Secrets: []hook.Secret{secret}},
			{Name: "bounces", URL: "https://b.example/", Types: []Type{Bounced}, Secrets: []hook.Secret{secret}},
			{
				Name: "other", URL: "https://o.example/", Domains: []string{"other.example"},
				Secrets: []hook.Secret{secret},
			},
		}})
		w.set(func(r hook.Request) (hook.Response, error) {
			if r.Method != http.MethodPost || r.Header.Get("webhook-signature") == "" ||
				r.Header.Get("Content-Type") != "application/json" || !json.Valid(r.Body) {
				t.Errorf("got %+v", r)
			}
			return ok(r)
		})
		w.emit(Delivered, 1)
		w.emit(Bounced, 2)
		synctest.Wait()
		w.Emit(&Event{Type: Failed, ID: "3", Time: time.Now()}, "other.example")
		w.end()
		slices.Sort(w.posts)
		if got := strings.Join(w.posts, " "); got != "1 2 2 3 3" {
			t.Errorf("posted %s", got)
		}
		w.count(t, map[string]int{"all sent": 3, "bounces sent": 1, "other sent": 1, "all dropped": 0})
	})
}

// TestSender_Repeats: what a receiver does not take is posted again, with the same id and at growing intervals, and the
// times of the posts have a bound.
func TestSender_Repeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(Config{Receivers: []Receiver{{Name: "r"}}})
		w.set(broken)
		w.emit(Delivered, 1)
		time.Sleep(2 * time.Hour)
		ids, at := w.seen()
		if len(ids) != attempts || len(slices.Compact(ids)) != 1 {
			t.Errorf("posted %v", ids)
		}
		want := firstRest
		for i := 1; i < len(at); i++ {
			if took := at[i] - at[i-1]; took < want*3/4 || took > want*5/4 {
				t.Errorf("post %d came %v after the one before it, want about %v", i+1, took, want)
			}
			want = min(want*restFactor, maxRest)
		}
		w.count(t, map[string]int{"r repeated": attempts - 1, "r dropped": 1, "r sent": 0})
		w.end()
		if w.Waiting()["r"] != 0 || w.receivers[0].octets != 0 {
			t.Errorf("%d wait with %d octets", w.Waiting()["r"], w.receivers[0].octets)
		}
	})
}

// TestSender_Dead: a receiver that never answers is asked by one post at a time after the first ones, has a queue with
// a bound, and takes nothing from another one. When it is well again, it gets what waits.
func TestSender_Dead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(Config{
			Receivers: []Receiver{{Name: "dead", URL: "dead"}, {Name: "well", URL: "well"}}, Queue: 100,
		})
		dead := true
		w.set(func(r hook.Request) (hook.Response, error) {
			w.mu.Lock()
			silent := dead && r.URL == "dead"
			w.mu.Unlock()
			if silent {
				time.Sleep(10 * time.Second)
				return broken(r)
			}
			return ok(r)
		})
		const all = 500
		for i := range all {
			w.emit(Delivered, i)
			synctest.Wait()
		}
		w.count(t, map[string]int{"well sent": all, "dead dropped": all - 100 - parallel})
		if n := w.Waiting()["dead"]; n != 100 {
			t.Errorf("%d events wait, want 100", n)
		}
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		posts := len(w.posts) - all
		dead = false
		w.mu.Unlock()
		// 8 at once, and then one for each rest of 1, 4, 16, 64 and 256 seconds, and the 10 seconds of its silence.
		if posts < parallel+3 || posts > parallel+5 {
			t.Errorf("the dead receiver had %d posts in five minutes", posts)
		}
		time.Sleep(20 * time.Minute)
		w.count(t, map[string]int{"dead sent": 100 + parallel})
		w.end()
	})
}

// TestSender_Poison: an event that its receiver will not take stops the others for a moment alone.
func TestSender_Poison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(Config{Receivers: []Receiver{{Name: "r"}}})
		w.set(func(r hook.Request) (hook.Response, error) {
			if r.Header.Get("webhook-id") == "7" {
				return hook.Response{Status: http.StatusInternalServerError}, nil
			}
			return ok(r)
		})
		for i := range 100 {
			w.emit(Delivered, i)
		}
		time.Sleep(3 * time.Second)
		w.count(t, map[string]int{"r sent": 99})
		w.end()
		w.count(t, map[string]int{"r dropped": 1})
	})
}

// TestSender_Room: what strangers cause for nothing has half of the room, and octets count as events do.
func TestSender_Room(t *testing.T) {
	for _, tt := range []struct {
		name   string
		types  []Type
		queue  int
		octets int64
		text   int
		want   int // events that are taken
	}{
		{"delivered", []Type{Delivered}, 10, 1 << 20, 0, 10},
		{"others", []Type{Deferred, Bounced, Rejected, Failed, Complained}, 10, 1 << 20, 0, 5},
		{"octets", []Type{Delivered}, 1000, 10000, 900, 6},
		{"octets of others", []Type{Rejected}, 1000, 10000, 900, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := begin(Config{Receivers: []Receiver{{Name: "r"}}, Queue: tt.queue, Octets: tt.octets})
			w.set(broken)
			w.emit(Delivered, 0) // the receiver rests, and one event waits
			synctest.Wait()
			for i := range 50 {
				w.Emit(&Event{
					Type: tt.types[i%len(tt.types)], Time: time.Now(), Data: Data{Sender: strings.Repeat("x", tt.text)},
				}, "")
			}
			if n := w.Waiting()["r"]; n != tt.want {
				t.Errorf("%s: %d wait, want %d", tt.name, n, tt.want)
			}
			w.count(t, map[string]int{"r dropped": 51 - tt.want})
			w.end()
		})
	}
}

// TestSender_Answers: what an answer says of the next post.
func TestSender_Answers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		after  string
		want   time.Duration // of the second post, about; 0: there is none
	}{
		{"taken", 200, "", 0},
		{"taken, whatever it says", 299, "100", 0},
		{"gone", 410, "", 0},
		{"not to be found", 404, "", time.Second},
		{"a redirect", 307, "", time.Second},
		{"busy", 429, "30", 30 * time.Second},
		{"busy for a year", 503, "31536000", maxRest},
		{"busy until a day in words", 503, "Fri, 31 Dec 1999 23:59:59 GMT", time.Second},
		{"busy since before", 503, "-5", time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := begin(Config{Receivers: []Receiver{{Name: "r"}}})
			w.set(func(hook.Request) (hook.Response, error) {
				return hook.Response{Status: tt.status, Header: http.Header{"Retry-After": {tt.after}}}, nil
			})
			w.emit(Delivered, 1)
			time.Sleep(maxRest * 3 / 2)
			var got time.Duration
			if _, at := w.seen(); len(at) > 1 {
				got = at[1] - at[0]
			}
			if got < tt.want*3/4 || got > tt.want*5/4 {
				t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
			}
			w.end()
		})
	}
}

// TestSender_Age: an event that is too old is not posted any more.
func TestSender_Age(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(Config{Receivers: []Receiver{{Name: "r"}}})
		w.set(func(hook.Request) (hook.Response, error) {
			return hook.Response{Status: 503, Header: http.Header{"Retry-After": {"86400"}}}, nil
		})
		for i := range 50 {
			w.emit(Delivered, i)
		}
		time.Sleep(2 * maxAge)
		w.count(t, map[string]int{"r dropped": 50})
		if ids, _ := w.seen(); len(ids) > parallel+10 {
			t.Errorf("%d posts", len(ids))
		}
		w.end()
	})
}

// TestSender_Close: what waits is posted while there is time, and what cannot be is dropped and counted.
func TestSender_Close(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(hook.Request) (hook.Response, error)
		sent   int
		lasts  time.Duration // at most
	}{
		{"a receiver that is well", ok, 100, 0},
		{"one that is slow", func(r hook.Request) (hook.Response, error) {
			time.Sleep(time.Second)
			return ok(r)
		}, 100, 14 * time.Second},
		{"one that is too slow", func(r hook.Request) (hook.Response, error) {
			time.Sleep(25 * time.Second)
			return ok(r)
		}, 2 * parallel, 75 * time.Second},
		{"one that refuses all", broken, 0, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := begin(Config{Receivers: []Receiver{{Name: "r"}}})
			w.set(tt.answer)
			for i := range 100 {
				w.emit(Delivered, i)
			}
			began := time.Now()
			w.end()
			if lasted := time.Since(began); lasted > tt.lasts {
				t.Errorf("%s: lasts %v", tt.name, lasted)
			}
			w.count(t, map[string]int{"r sent": tt.sent, "r dropped": 100 - tt.sent})
			w.emit(Delivered, 100)
			w.count(t, map[string]int{"r dropped": 101 - tt.sent})
		})
	}
}

// TestSender_UseSecrets: a reload counts from the next post on.
func TestSender_UseSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(Config{Receivers: []Receiver{{Name: "r", Secrets: []hook.Secret{{1}}}}})
		var signatures []string
		w.set(func(r hook.Request) (hook.Response, error) {
			signatures = append(signatures, r.Header.Get("webhook-signature"))
			return ok(r)
		})
		w.emit(Delivered, 1)
		synctest.Wait()
		w.UseSecrets([][]hook.Secret{{{2}, {1}}})
		w.emit(Delivered, 1)
		w.end()
		if len(signatures) != 2 || strings.Fields(signatures[1])[1] != signatures[0] {
			t.Errorf("got %q", signatures)
		}
	})
}

// TestNewID: an id is that of a message, a type and a recipient.
func TestNewID(t *testing.T) {
	seen := map[string]bool{}
	for _, attempt := range []mail.TraceID{{1}, {2}} {
		for _, kind := range Types() {
			for _, rcpt := range []string{"a@example.com", "b@example.com"} {
				id := NewID(attempt, kind, rcpt)
				if seen[id] || id != NewID(attempt, kind, rcpt) || !strings.HasPrefix(id, "msg_"+attempt.String()+"_") {
					t.Errorf("got %s", id)
				}
				seen[id] = true
			}
		}
	}
}

// TestEvent_Body: what does not apply is left out, and the null sender is "".
func TestEvent_Body(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 5e6, time.FixedZone("", 3600))
	e := Event{Type: Bounced, Time: at, Data: Data{
		Transaction: "1", Node: "mx1.example.net", Recipient: "a@example.com", Reply: &Reply{550, "5.1.1", "no <b>"},
	}}
	got, err := e.body()
	want := `{"type":"message.bounced","timestamp":"2026-11-30T11:00:00.005Z","data":{"id":"1",` +
		`"node":"mx1.example.net","recipient":"a@example.com","sender":"",` +
		`"reply":{"code":550,"enhanced":"5.1.1","text":"no \u003cb\u003e"}}}`
	if string(got) != want || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
}
