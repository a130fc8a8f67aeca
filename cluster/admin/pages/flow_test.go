package pages

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/admin"
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
		one, _ := f.join()
		two, _ := f.join()
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
		for range maxStreams {
			if _, ok := f.join(); !ok {
				t.Error("a page finds no room")
			}
		}
		if _, ok := f.join(); ok {
			t.Error("pages have no bound")
		}
		f.close()
		if _, ok := f.join(); ok {
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
