package feedback

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
	"pgregory.net/rapid"
)

// sender is client n's mail to a domain: networks and reverse-path domains differ by n.
func sender(n int, domain string) Sender {
	return Sender{
		Site: "mx.test", Domain: domain, Client: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 24),
		Reverse: mail.Path{Local: "a", Domain: fmt.Sprintf("client%d.test", n)},
	}
}

// A bench is an Observer with a clock of its own.
type bench struct {
	*Observer
	now time.Time
}

func newBench() *bench {
	b := &bench{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	b.Observer = New(nil, func() time.Time { return b.now })
	return b
}

// refuse has the destination refuse us at RCPT, and reports whether the whole Site is to cool.
func (b *bench) refuse(s Sender) bool {
	return b.Observe(Reply{Sender: s, Verb: "RCPT", Reply: mail.NewReply(550, 7, 1, ""), AboutUs: true}).Cool
}

func (b *bench) isOff(s Sender) bool {
	_, off := b.PutOff(&s)
	return off
}

// TestObserver_PutOff: whom a refusal of us puts off.
func TestObserver_PutOff(t *testing.T) {
	mine := sender(1, "a.test")
	otherReverse := mine
	otherReverse.Reverse.Domain = "else.test"
	neighbour := mine
	neighbour.Reverse = mail.Path{Local: "n", Domain: "third.test"}
	for _, c := range []struct {
		name       string
		do         func(b *bench)
		of         Sender
		off, whole bool
	}{
		{"the sender itself", func(b *bench) { b.refuse(mine) }, mine, true, false},
		{"no other sender of its network", func(b *bench) { b.refuse(mine) }, otherReverse, false, false},
		{"its network, once a second domain met it", func(b *bench) {
			b.refuse(mine)
			b.refuse(otherReverse)
		}, neighbour, true, false},
		{"no other network", func(b *bench) {
			for range 100 {
				b.refuse(mine)
				b.refuse(otherReverse)
			}
		}, sender(2, "a.test"), false, false},
		{"no other domain", func(b *bench) { b.refuse(mine) }, sender(1, "b.test"), false, false},
		{"not for longer than a second at first", func(b *bench) {
			b.refuse(mine)
			b.now = b.now.Add(time.Second)
		}, mine, false, false},
		{"not for longer than a minute", func(b *bench) {
			for range 100 {
				b.refuse(mine)
				b.now = b.now.Add(time.Second)
			}
			b.now = b.now.Add(time.Minute)
		}, mine, false, false},
		{"not if its network was accepted", func(b *bench) {
			b.Accepted(&neighbour)
			b.now = b.now.Add(9 * time.Minute)
			b.refuse(mine)
		}, mine, false, false},
		{"ten minutes later it is", func(b *bench) {
			b.Accepted(&neighbour)
			b.now = b.now.Add(11 * time.Minute)
			b.refuse(mine)
		}, mine, true, false},
		{"two networks with two reverse-path domains are too few", func(b *bench) {
			b.refuse(sender(2, "a.test"))
			b.refuse(sender(3, "a.test"))
		}, mine, false, false},
		{"three networks with one reverse-path domain are too few", func(b *bench) {
			for n := range 3 {
				s := sender(n+2, "a.test")
				s.Reverse.Domain = "same.test"
				b.refuse(s)
			}
		}, mine, false, false},
		{"three networks with three put the domain off", func(b *bench) {
			for n := range 3 {
				b.refuse(sender(n+2, "a.test"))
			}
		}, mine, true, false},
		{"one of them too long ago", func(b *bench) {
			b.refuse(sender(2, "a.test"))
			b.now = b.now.Add(10 * time.Minute)
			b.refuse(sender(3, "a.test"))
			b.refuse(sender(4, "a.test"))
		}, mine, false, false},
		{"but no other domain", func(b *bench) {
			for n := range 3 {
				b.refuse(sender(n+2, "a.test"))
			}
		}, sender(1, "b.test"), false, false},
		{"and not if it was accepted", func(b *bench) {
			s := sender(9, "a.test")
			b.Accepted(&s)
			for n := range 3 {
				b.refuse(sender(n+2, "a.test"))
			}
		}, mine, false, false},
		{"three domains are the Site's", func(b *bench) {
			for n, domain := range []string{"a.test", "b.test", "c.test"} {
				b.refuse(sender(n+2, domain))
			}
		}, mine, false, true},
		{"unless another was accepted meanwhile", func(b *bench) {
			b.refuse(sender(2, "a.test"))
			b.now = b.now.Add(time.Minute)
			s := sender(9, "d.test")
			b.Accepted(&s)
			b.refuse(sender(3, "b.test"))
			b.refuse(sender(4, "c.test"))
		}, mine, false, false},
		{"one /48 is one network", func(b *bench) {
			for n := range 3 {
				s := sender(n+2, "a.test")
				s.Client = netip.MustParsePrefix(fmt.Sprintf("2001:db8:1:%d::/64", n))
				b.refuse(s)
			}
		}, mine, false, false},
		{"the sender behind a reverse-path that we wrote", func(b *bench) {
			for n := range 3 {
				s := sender(n+2, "a.test")
				s.SRS, s.Reverse = "srs.test", mail.Path{Local: "SRS0=abcd=XY=one.test=u", Domain: "srs.test"}
				b.refuse(s)
			}
		}, mine, false, false},
		{"three senders behind reverse-paths that we wrote", func(b *bench) {
			for n := range 3 {
				s := sender(n+2, "a.test")
				s.SRS = "srs.test"
				s.Reverse = mail.Path{Local: fmt.Sprintf("SRS0=abcd=XY=c%d.test=u=v", n), Domain: "srs.test"}
				b.refuse(s)
			}
		}, mine, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench()
			c.do(b)
			if got := b.isOff(c.of); got != c.off {
				t.Errorf("put off: %v", got)
			}
			s := c.of // one more word of a client that was there
			s.Client, s.Reverse = sender(2, "").Client, sender(2, "").Reverse
			if got := b.refuse(s); got != c.whole {
				t.Errorf("the whole Site: %v", got)
			}
		})
	}
}

// TestObserver_OneNetwork: whatever one network does, no mail of others is put off, and memory is bounded.
func TestObserver_OneNetwork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench()
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			s := sender(1, rapid.SampledFrom([]string{"a.test", "b.test", "c.test", "d.test"}).Draw(t, "domain"))
			s.Reverse.Domain = fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "reverse"))
			if b.refuse(s) {
				t.Fatal("the whole Site")
			}
			b.now = b.now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds")) * time.Second)
			for _, domain := range []string{"a.test", "b.test", "c.test", "d.test"} {
				if b.isOff(sender(2, domain)) {
					t.Fatal(domain)
				}
			}
		}
	})
}

// TestCasebook_Bounds: a crowd of clients keeps few words for each subject, and pushes out none but its own.
func TestCasebook_Bounds(t *testing.T) {
	b := newBench()
	b.refuse(sender(2, "a.test"))
	b.refuse(sender(3, "a.test"))
	for i := range 1000 {
		s := sender(1, "a.test")
		s.Reverse.Domain = fmt.Sprintf("r%d.test", i)
		b.refuse(s)
	}
	e, ok := b.cases.cases.Get(subject{site: "mx.test", domain: "a.test"})
	if !ok || len(e.met) != 2+mostOfNetwork {
		t.Errorf("%d words are kept", len(e.met))
	}
	for i := range 4 * evidenceCache {
		b.refuse(sender(1, fmt.Sprintf("d%d.test", i)))
	}
	if n := b.cases.cases.Len(); n > evidenceCache {
		t.Errorf("%d subjects", n)
	}
}

// TestObserver_RefusedUser: one user of a next hop says nothing of another one.
func TestObserver_RefusedUser(t *testing.T) {
	b := newBench()
	b.RefusedUser("mx.test", "u")
	for user, want := range map[string]bool{"u": true, "v": false, "": false} {
		if _, got := b.UserPutOff("mx.test", user); got != want {
			t.Errorf("%q: %v", user, got)
		}
	}
}

// TestObserver_Allocations: mail that is accepted costs no allocation here.
func TestObserver_Allocations(t *testing.T) {
	b := newBench()
	b.refuse(sender(2, "b.test"))
	s := sender(1, "a.test")
	if n := testing.AllocsPerRun(100, func() {
		b.PutOff(&s)
		b.Accepted(&s)
		b.Taken(&s)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkObserver is what a message costs here that is accepted.
func BenchmarkObserver(b *testing.B) {
	o := newBench()
	o.refuse(sender(2, "b.test"))
	s := sender(1, "a.test")
	for b.Loop() {
		o.PutOff(&s)
		o.Accepted(&s)
		o.Taken(&s)
	}
}

// TestObserver_Reactions: a rule is carried out once three networks with three reverse-path domains met the reply.
func TestObserver_Reactions(t *testing.T) {
	rules, err := Parse("f", "450 4.7.0 * * -> slower 50% for 5m\n450 4.7.1 * * -> fewer sessions\n"+
		"450 4.7.2 * * -> suspend 5m\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		detail   int
		domains  []string
		accepted string
		want     Decision
	}{
		{"two are too few", 1, []string{"a.test", "a.test"}, "", Decision{Withheld: true, OneDomain: true}},
		{"fewer on one domain's words", 1, []string{"a.test", "a.test", "a.test"}, "", Decision{OneDomain: true}},
		{"fewer on three", 1, []string{"a.test", "b.test", "c.test"}, "", Decision{}},
		{
			"slower where the Site has one domain", 0, []string{"a.test", "a.test", "a.test"}, "a.test",
			Decision{OneDomain: true},
		},
		{
			"slower beside another domain", 0, []string{"a.test", "a.test", "a.test"}, "z.test",
			Decision{Withheld: true, OneDomain: true},
		},
		{"slower on three domains' words", 0, []string{"a.test", "b.test", "c.test"}, "z.test", Decision{}},
		{
			"a suspension on one domain's", 2, []string{"a.test", "a.test", "a.test"}, "",
			Decision{Withheld: true, OneDomain: true},
		},
		{"a suspension on three", 2, []string{"a.test", "b.test", "c.test"}, "", Decision{}},
		{
			"a suspension beside accepted mail", 2, []string{"a.test", "b.test", "c.test"}, "z.test",
			Decision{Withheld: true},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench()
			b.Use(rules)
			var got Decision
			for n, domain := range c.domains {
				got = b.Observe(Reply{
					Sender: sender(n, domain), Verb: "RCPT", Reply: mail.NewReply(450, 7, c.detail, ""),
				})
				if s := sender(9, c.accepted); c.accepted != "" {
					b.Accepted(&s)
				}
			}
			got.Action = Action{}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
