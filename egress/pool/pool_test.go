package pool

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fake is a connection without a socket. dest counts those that are open.
type fake struct {
	dest     *dest
	dead     atomic.Bool
	closed   atomic.Bool
	aborted  atomic.Bool
	messages int
	born     time.Time
	used     time.Time
}

type dest struct{ open, peak atomic.Int64 }

func (d *dest) dial() *fake {
	if n := d.open.Add(1); n > d.peak.Load() {
		d.peak.Store(n)
	}
	return &fake{dest: d, born: time.Now(), used: time.Now()}
}

func (f *fake) Alive() bool { return !f.dead.Load() }
func (f *fake) Close() {
	if !f.closed.Swap(true) {
		f.dest.open.Add(-1)
	}
}
func (f *fake) Abort()              { f.aborted.Store(true) }
func (f *fake) Quit(time.Duration)  { f.Close() }
func (f *fake) Born() time.Time     { return f.born }
func (f *fake) LastUsed() time.Time { return f.used }
func (f *fake) Messages() int       { return f.messages }

func newPool(t testing.TB) *Pool[*fake] {
	p := New[*fake](time.Now, DefaultStreamFloor)
	p.chance = func() float64 { return 0 }
	return p
}

var (
	netA = netip.MustParsePrefix("192.0.2.0/24")
	netB = netip.MustParsePrefix("198.51.100.0/24")
	netC = netip.MustParsePrefix("203.0.113.0/24")
)

func request(cap int, client netip.Prefix) Request {
	return Request{
		Site: "site", Limits: Limits{Sessions: cap}, Hosts: []mx.Host{{Name: "mx1", Pref: 10}, {Name: "mx2", Pref: 20}},
		Client: client,
	}
}

// get gets a Slot and fills it if it has to.
func get(t testing.TB, p *Pool[*fake], d *dest, r Request) *Slot[*fake] {
	t.Helper()
	s, err := p.Get(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, full := s.Conn(); !full {
		s.Fill(Key{Way: r.Way, Host: r.Hosts[0].Name}, d.dial())
	}
	return s
}

// conn returns the connection in s, nil if there is none yet.
func conn(s *Slot[*fake]) *fake {
	f, _ := s.Conn()
	return f
}

// endings waits until what is being closed is closed. No test may have waiters meanwhile.
func endings(p *Pool[*fake]) { p.done.Wait() }

// ask calls Get in a goroutine, which ends when it has its answer.
func ask(t testing.TB, p *Pool[*fake], r Request) <-chan *Slot[*fake] {
	c := make(chan *Slot[*fake], 1)
	go func() {
		s, err := p.Get(t.Context(), r)
		if err != nil {
			s = nil
		}
		c <- s
	}()
	return c
}

// The connection used last is reused first.
func TestPool_LastInFirstOut(t *testing.T) {
	p, d := newPool(t), new(dest)
	a, b := get(t, p, d, request(5, netA)), get(t, p, d, request(5, netA))
	last := conn(b)
	a.Put()
	b.Put()
	if got := conn(get(t, p, d, request(5, netA))); got != last {
		t.Error("got the connection that was idle for longer")
	}
}

// An idle connection of the best host is preferred.
func TestPool_BestHost(t *testing.T) {
	p, d := newPool(t), new(dest)
	r := request(5, netA)
	best, other := get(t, p, d, r), get(t, p, d, r)
	want := conn(best)
	best.Put()
	other.key.Host = "mx2"
	other.Put()
	if got := conn(get(t, p, d, r)); got != want {
		t.Error("the second host's connection was used last and was preferred")
	}
	if got := get(t, p, d, r); got.Key().Host != "mx2" {
		t.Errorf("got %v, want the idle connection of mx2", got.Key())
	}
}

// A connection serves only its own Way and hosts.
func TestPool_Way(t *testing.T) {
	for name, change := range map[string]func(*Request){
		"another identity":     func(r *Request) { r.Way.User = "x" },
		"another TLS policy":   func(r *Request) { r.Way.TLS = 2 },
		"another port":         func(r *Request) { r.Way.Port = 26 },
		"another EHLO name":    func(r *Request) { r.Way.Helo = "x" },
		"another transport":    func(r *Request) { r.Way.Transport = mail.LMTP },
		"hosts without its":    func(r *Request) { r.Hosts = []mx.Host{{Name: "mx3"}} },
		"another Site":         func(r *Request) { r.Site = "other" },
		"no hosts, as happens": func(r *Request) { r.Hosts = nil },
	} {
		p, d := newPool(t), new(dest)
		get(t, p, d, request(5, netA)).Put()
		r := request(5, netA)
		change(&r)
		s, err := p.Get(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if _, full := s.Conn(); full {
			t.Errorf("%s: got the connection", name)
		}
	}
}

// An idle connection of another Way makes room at the cap.
func TestPool_AnotherWayAtTheCap(t *testing.T) {
	p, d := newPool(t), new(dest)
	s := get(t, p, d, request(1, netA))
	old := conn(s)
	s.Put()
	r := request(1, netA)
	r.Way.User = "x"
	if get(t, p, d, r); !old.closed.Load() || d.peak.Load() != 1 {
		t.Errorf("closed %v, peak %d", old.closed.Load(), d.peak.Load())
	}
}

// Limits end a connection.
func TestPool_Limits(t *testing.T) {
	for name, wear := range map[string]func(*fake){
		"after enough messages": func(f *fake) { f.messages = 100 },
		"at its age":            func(f *fake) { f.born = f.born.Add(-time.Hour) },
	} {
		p, d := newPool(t), new(dest)
		s := get(t, p, d, request(2, netA))
		f := conn(s)
		wear(f)
		s.Put()
		endings(p)
		if !f.closed.Load() || p.Count() != (Count{}) {
			t.Errorf("%s: closed %v, %+v", name, f.closed.Load(), p.Count())
		}
	}
}

// A connection that was idle for too long is not used.
func TestPool_IdleTooLong(t *testing.T) {
	p, d := newPool(t), new(dest)
	s := get(t, p, d, request(1, netA))
	f := conn(s)
	s.Put()
	f.used = f.used.Add(-time.Hour)
	if got := conn(get(t, p, d, request(1, netA))); got == f || !f.closed.Load() || d.peak.Load() != 1 {
		t.Errorf("same %v, closed %v, peak %d", got == f, f.closed.Load(), d.peak.Load())
	}
}

// EndIdle closes the connection that was idle for longest, of whatever Site, and none that is lent.
func TestPool_EndIdle(t *testing.T) {
	p, d := newPool(t), new(dest)
	of := func(site mail.Site, ago time.Duration) (*Slot[*fake], *fake) {
		r := request(5, netA)
		r.Site = site
		s := get(t, p, d, r)
		conn(s).used = time.Now().Add(-ago)
		return s, conn(s)
	}
	oldest, first := of("a", 3*time.Second)
	middle, second := of("b", 2*time.Second)
	held, third := of("c", 10*time.Second)
	oldest.Put()
	middle.Put()
	for i, want := range [][3]bool{{true, false, false}, {true, true, false}, {true, true, false}} {
		p.EndIdle()
		endings(p)
		if got := [3]bool{first.closed.Load(), second.closed.Load(), third.closed.Load()}; got != want {
			t.Errorf("call %d: closed %v, want %v", i+1, got, want)
		}
	}
	held.Put()
	if got, want := p.Count(), (Count{Idle: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Dead idle connections are closed and the next is tried.
func TestPool_Dead(t *testing.T) {
	p, d := newPool(t), new(dest)
	a, b, c := get(t, p, d, request(5, netA)), get(t, p, d, request(5, netA)), get(t, p, d, request(5, netA))
	first, second, third := conn(a), conn(b), conn(c)
	a.Put()
	b.Put()
	c.Put()
	second.dead.Store(true)
	third.dead.Store(true)
	if got := conn(get(t, p, d, request(5, netA))); got != first {
		t.Error("did not get the one that was alive")
	}
	if !second.closed.Load() || !third.closed.Load() || d.open.Load() != 1 {
		t.Errorf("dead connections are open: %d", d.open.Load())
	}
	if got, want := p.Count(), (Count{Lent: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Dead idle connections leave an empty Slot.
func TestPool_AllDead(t *testing.T) {
	p, d := newPool(t), new(dest)
	s := get(t, p, d, request(1, netA))
	conn(s).dead.Store(true)
	s.Put()
	s, err := p.Get(t.Context(), request(1, netA))
	if err != nil {
		t.Fatal(err)
	}
	if _, full := s.Conn(); full {
		t.Error("got the dead connection")
	}
	s.Discard()
	if got := p.Count(); got != (Count{}) {
		t.Errorf("%+v is left", got)
	}
}

func BenchmarkGetPut(b *testing.B) {
	p, d := newPool(b), new(dest)
	r := request(20, netA)
	get(b, p, d, r).Put()
	conn(p.sites["site"].idle[0]).born = time.Now().Add(time.Hour)
	conn(p.sites["site"].idle[0]).used = time.Now().Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		s, err := p.Get(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		s.Put()
	}
}

// A Site that went to another node keeps no idle connection.
func TestPool_Yield(t *testing.T) {
	p, d := newPool(t), &dest{}
	limits := func(mail.Site) Limits { return Limits{Sessions: 4} }
	idle, lent := get(t, p, d, request(4, netA)), get(t, p, d, request(4, netA))
	idle.Put()
	p.Yield(func(mail.Site) bool { return false }, limits)
	endings(p)
	if n := d.open.Load(); n != 1 {
		t.Errorf("%d connections are open beside the one in use", n-1)
	}
	lent.Put()
	endings(p)
	if n := d.open.Load(); n != 0 {
		t.Errorf("%d connections are open", n)
	}
	p.Yield(func(site mail.Site) bool { return site == "site" }, limits) // it came back
	get(t, p, d, request(4, netA)).Put()
	if n := d.open.Load(); n != 1 {
		t.Errorf("%d connections are kept of a Site that is ours", n)
	}
	p.Yield(func(mail.Site) bool { return true }, limits)
	if n := d.open.Load(); n != 1 {
		t.Errorf("%d connections are left of a Site that is ours", n)
	}
}

// A Site whose share shrank keeps no idle connection over it.
func TestPool_YieldShare(t *testing.T) {
	p, d := newPool(t), &dest{}
	var all []*Slot[*fake]
	for range 4 {
		all = append(all, get(t, p, d, request(4, netA)))
	}
	for _, s := range all {
		s.Put()
	}
	p.Yield(func(mail.Site) bool { return true }, func(mail.Site) Limits { return Limits{Sessions: 1} })
	endings(p)
	if n := d.open.Load(); n != 1 {
		t.Errorf("%d connections are open, want the one that is our share", n)
	}
}
