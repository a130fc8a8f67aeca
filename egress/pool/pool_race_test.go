package pool

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Get never lends Slots of two records of one Site, even if the reaper removes the Site as soon as it is unused.
func TestPool_Forget(t *testing.T) {
	// Each look at the clock takes longer than an unused Site is remembered.
	var looks atomic.Int64
	begun := time.Now()
	clock := func() time.Time { return begun.Add(time.Duration(looks.Add(1)) * 2 * time.Minute) }
	p, d := New[*fake](clock, DefaultStreamFloor), new(dest)
	var holders, reaper sync.WaitGroup
	stop := make(chan struct{})
	reaper.Go(func() { // ends when the holders have ended
		for {
			select {
			case <-stop:
				return
			default:
				p.reap()
			}
		}
	})
	for range 4 {
		holders.Go(func() { // ends after its turns
			for range 500 {
				s, err := p.Get(t.Context(), request(1, netA))
				if err != nil {
					t.Error(err)
					return
				}
				if _, full := s.Conn(); !full {
					s.Fill(Key{Host: "mx1"}, d.dial())
				}
				s.Discard()
			}
		})
	}
	holders.Wait()
	close(stop)
	reaper.Wait()
	endings(p)
	if d.peak.Load() != 1 || d.open.Load() != 0 {
		t.Errorf("%d connections at once, %d in the end", d.peak.Load(), d.open.Load())
	}
	if p.reap(); len(p.sites) != 0 {
		t.Errorf("%d Sites are remembered", len(p.sites))
	}
}

// A Get that has looked up a record which the reaper removes meanwhile looks again.
func TestPool_ForgetWhileEntering(t *testing.T) {
	for range 100 {
		p := newPool(t)
		old, err := p.meet("site")
		if err != nil {
			t.Fatal(err)
		}
		old.mu.Lock() // as the reaper does
		slot := make(chan *Slot[*fake])
		go func() { // ends when it has a Slot
			s, err := p.Get(t.Context(), request(1, netA))
			if err != nil {
				t.Error(err)
			}
			slot <- s
		}()
		for range 100 {
			runtime.Gosched() // so that Get, most of the time, has looked the record up
		}
		old.life = forgotten
		old.mu.Unlock()
		p.forget(old)
		if s := <-slot; s.site == old || s.site != p.sites["site"] {
			t.Fatal("a Slot was lent of a record that is forgotten")
		}
	}
}

// Shutdown and Abort reach all Sites while holders of each get, park and put: nothing is left, and nothing is lent
// after them.
func TestPool_ShutdownWhileBusy(t *testing.T) {
	for round := range 10 {
		p, d := newPool(t), new(dest)
		p.Start()
		var all sync.WaitGroup
		busy := make(chan struct{}, 1000)
		for i := range 24 {
			all.Go(func() { // ends when the pool is closed
				r := request(2, prefix(i))
				r.Site = mail.Site(fmt.Sprint("site", i%4))
				for n := 0; ; n++ {
					s, err := p.Get(t.Context(), r)
					if errors.Is(err, ErrClosed) {
						return
					} else if err != nil {
						t.Error(err)
						return
					}
					if _, full := s.Conn(); !full {
						s.Fill(Key{Host: "mx1"}, d.dial())
					}
					if s.Park(); s.Unpark() {
						s.Dirty()
						s.Put()
					}
					select {
					case busy <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 100 + round {
			<-busy
		}
		var both sync.WaitGroup
		both.Go(p.Abort) // ends at once
		both.Go(func() { // ends when all Slots were given back
			if err := p.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		all.Wait()
		if c := p.Count(); c != (Count{}) || d.open.Load() != 0 {
			t.Fatalf("%+v, %d connections are open", c, d.open.Load())
		}
	}
}

// BenchmarkGetPut_Sites is BenchmarkGetPut with a Site for each of many goroutines.
func BenchmarkGetPut_Sites(b *testing.B) {
	p, d := newPool(b), new(dest)
	var number atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := request(20, netA)
		r.Site = mail.Site(fmt.Sprint("site", number.Add(1)))
		s := get(b, p, d, r)
		conn(s).born, conn(s).used = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
		s.Put()
		for pb.Next() {
			s, err := p.Get(b.Context(), r)
			if err != nil {
				b.Error(err)
				return
			}
			s.Put()
		}
	})
}
