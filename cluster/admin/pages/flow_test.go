package pages

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/mail"
)

// TestFlow_Idle: nodes are asked while a page is open, and not before and not behind; strangers have none asked.
func TestFlow_Idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{}
		cfg := b.config(t)
		f := newFlow(cfg.Live)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := b.asked.Load(); n != 0 {
			t.Errorf("asked %d times before a page was open", n)
		}
		one, _ := f.join("1", "a")
		two, _ := f.join("2", "b")
		time.Sleep(10*beat + beat/2)
		synctest.Wait()
		if n := b.asked.Load(); n != 11 {
			t.Errorf("asked %d times in ten beats with two pages", n)
		}
		f.leave(one)
		f.leave(two)
		before := b.asked.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := b.asked.Load(); n > before+1 {
			t.Errorf("asked %d times without a page", n-before)
		}
		for i := range maxStreams {
			if _, ok := f.join(fmt.Sprint(i), fmt.Sprint(i)); !ok {
				t.Error("a page finds no room")
			}
		}
		if _, ok := f.join("more", "more"); ok {
			t.Error("pages have no bound")
		}
		f.close()
		if _, ok := f.join("behind", "behind"); ok {
			t.Error("a page is joined to what has ended")
		}
	})
}

// TestFlow_Rates: the figures are those of the last beat; a node that restarted counts from nothing, and one that did
// not answer counts nothing.
func TestFlow_Rates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlow(nil)
		took := make([]uint64, len(admin.LiveBounds())+1)
		beats := func(relayed uint64, failed string) {
			took[7] = relayed
			f.note([]admin.Live{{
				Node: "a", At: time.Now(), Failed: failed, Outcomes: map[string]uint64{"relayed": relayed,
					"refused": relayed / 2},
				Octets: relayed * 1000, Took: slices.Clone(took),
			}})
			time.Sleep(beat)
		}
		beats(100, "")
		if m := f.latest; m.Measured || m.Rates[0].Rate != 0 {
			t.Errorf("at first: %+v", m)
		}
		beats(120, "")
		if m := f.latest; m.Rates[0] != (rate{"relayed", 10}) || m.Rates[3] != (rate{"refused", 5}) ||
			m.Octets != 10000 ||
			m.P50 != admin.LiveBounds()[7] || !m.Measured {
			t.Errorf("in a beat: %+v", m)
		}
		beats(10, "")
		if m := f.latest; m.Rates[0].Rate != 5 {
			t.Errorf("behind a restart: %+v", m.Rates)
		}
		beats(0, "no answer")
		beats(20, "")
		if m := f.latest; m.Rates[0].Rate != 0 {
			t.Errorf("behind a silence: %+v", m.Rates)
		}
		if n := len(f.samples); n != 2 {
			t.Errorf("%d samples", n)
		}
		time.Sleep(time.Hour)
		beats(30, "")
		if n := len(f.samples); n != 0 {
			t.Errorf("%d samples are of an hour ago", n)
		}
	})
}

// TestPages_Live: an open page gets what changes, one event a beat, and a closed one none.
func TestPages_Live(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(adminToken)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", c.base+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	event := make([]byte, 4096)
	if _, err := io.ReadAtLeast(resp.Body, event, 200); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(event), "event: flow\ndata: <dl") ||
		resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("got %q", event)
	}
	b.Close() // as at the end of the node
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestFlow_Shares: no session and no token takes all the pages that are kept up to date, and one that leaves makes
// room.
func TestFlow_Shares(t *testing.T) {
	f := newFlow(func(context.Context) []admin.Live { return nil })
	defer f.close()
	var first chan struct{}
	for i := range tokenStreams {
		c, ok := f.join(fmt.Sprint("session", i/sessionStreams), "token")
		if !ok {
			t.Fatalf("page %d finds no room", i)
		}
		if i == 0 {
			first = c
		}
		if i == sessionStreams-1 {
			if _, ok := f.join("session0", "token"); ok {
				t.Error("a session has no bound")
			}
		}
	}
	if _, ok := f.join("another session", "token"); ok {
		t.Error("a token has no bound")
	}
	if _, ok := f.join("another session", "another token"); !ok {
		t.Error("one token takes the room of another")
	}
	f.leave(first)
	if _, ok := f.join("another session", "token"); !ok {
		t.Error("a page that was closed leaves no room")
	}
}

// TestPages_LiveSlow: a reader that takes nothing is dropped when the time of a write is over, and its place is free
// again; one whose token is withdrawn is sent no more.
func TestPages_LiveSlow(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(adminToken)
	w := &stuck{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/live", nil)
	base, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range c.Jar.Cookies(base) {
		r.AddCookie(cookie)
	}
	b.ServeHTTP(w, r) // returns when the first write fails
	if w.deadline.IsZero() {
		t.Error("a write has no deadline")
	}
	b.flow.mu.Lock()
	if n := len(b.flow.viewers); n != 0 {
		t.Errorf("%d pages are kept up to date", n)
	}
	b.flow.mu.Unlock()
	b.revoked.Store(true)
	answer := httptest.NewRecorder()
	b.ServeHTTP(answer, r)
	if answer.Code != 303 || strings.Contains(answer.Body.String(), "event:") {
		t.Errorf("behind the token's end: %d %s", answer.Code, answer.Body)
	}
}

// stuck is a connection that takes nothing: a write to it fails at its deadline.
type stuck struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (s *stuck) Write([]byte) (int, error)           { return 0, os.ErrDeadlineExceeded }
func (s *stuck) SetWriteDeadline(at time.Time) error { s.deadline = at; return nil }

// TestFlow_Cost: what a message has counted allocates nothing, with pages of the flow open as without.
func TestFlow_Cost(t *testing.T) {
	m := admin.NewMetrics("v1", admin.Gauges{})
	f := newFlow(func(context.Context) []admin.Live { return []admin.Live{m.Live()} })
	defer f.close()
	event := mail.Event{Kind: mail.Relayed, Time: time.Now()}
	for pages := range 3 {
		if n := testing.AllocsPerRun(1000, func() { m.See(&event) }); n != 0 {
			t.Errorf("with %d pages: %v allocations", pages, n)
		}
		if _, ok := f.join(fmt.Sprint(pages), "token"); !ok {
			t.Fatal("a page finds no room")
		}
	}
}
