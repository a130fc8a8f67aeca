package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// A style is what smtp-source cannot do.
type style struct {
	name            string
	octets          int
	fresh           bool // a connection for each message
	messages, quick int
	dial            func(*source.Config)
}

// clients has our own clients send, 20 at a time.
func (r *run) clients() error {
	for _, s := range []style{
		{"a command at a time", 4 << 10, false, 6000, 200, func(*source.Config) {}},
		{"PIPELINING", 4 << 10, false, 6000, 200, func(c *source.Config) { c.Pipeline = true }},
		{"BDAT, one chunk", 4 << 10, false, 6000, 200, func(c *source.Config) { c.Chunking = true }},
		{"BDAT, 64 KiB in chunks of 8, PIPELINING", 64 << 10, false, 3000, 100, func(c *source.Config) {
			c.Chunking, c.Chunk, c.Pipeline = true, 8<<10, true
		}},
	} {
		if err := r.inStyle(s); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		name          string
		fresh, resume bool
	}{
		{"STARTTLS, reuse", false, false},
		{"STARTTLS, a full handshake each", true, false},
		{"STARTTLS, partners that resume", true, true},
	} {
		if err := r.underTLS(s.name, s.fresh, s.resume); err != nil {
			return err
		}
	}
	if err := r.besideSlow(); err != nil {
		return err
	}
	return r.besideAborts()
}

func (r *run) inStyle(s style) error {
	l := r.load(s.octets, 20, r.size(s.messages, s.quick))
	l.Fresh, l.Dial = s.fresh, s.dial
	w := row{Part: "clients", Name: s.name, Octets: s.octets, Sessions: l.Clients, Reuse: !s.fresh}
	_, err := r.measure(w, func() ([]fleet.Sent, error) { return l.Run(r.ctx), nil })
	return err
}

// underTLS sends with STARTTLS, and counts handshakes and which of them were resumed. Session tickets are for trusted
// clients, which come from a network of their own.
func (r *run) underTLS(name string, fresh, resume bool) error {
	var handshakes, resumed atomic.Int64
	cfg := &tls.Config{
		InsecureSkipVerify: true, // the nodes made their certificates themselves
		ServerName:         "relay.example",
		VerifyConnection: func(s tls.ConnectionState) error {
			handshakes.Add(1)
			if s.DidResume {
				resumed.Add(1)
			}
			return nil
		},
	}
	if resume {
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	}
	l := r.load(4<<10, 20, r.size(2500, 100))
	l.Fresh = fresh
	l.Dial = func(c *source.Config) {
		if c.TLS = cfg; resume {
			c.Local = netip.MustParseAddr(partner)
		}
	}
	w := row{Part: "clients", Name: name, Octets: l.Octets, Sessions: l.Clients, Reuse: !fresh}
	_, err := r.measure(w, func() ([]fleet.Sent, error) { return l.Run(r.ctx), nil })
	r.say("    %d handshakes, %d of them resumed", handshakes.Load(), resumed.Load())
	r.report.Rows[len(r.report.Rows)-1].Note = fmt.Sprintf("%d of %d handshakes resumed", resumed.Load(),
		handshakes.Load())
	if err == nil && resume && resumed.Load() == 0 {
		err = errors.New("no session was resumed")
	}
	return err
}

// besideSlow has clients send 256 octets every 20 ms, and others beside them as fast as they can.
func (r *run) besideSlow() error {
	slow := r.load(4<<10, 20, r.size(300, 40))
	slow.Pace = source.Pace{Octets: 256, Every: 20 * time.Millisecond}
	quick := r.load(4<<10, 10, 0)
	stop := make(chan struct{})
	quick.Stop = stop
	var creeping []fleet.Sent
	w := row{Part: "clients", Name: "beside 20 clients of 12 KiB/s", Octets: 4 << 10, Sessions: 10, Reuse: true}
	_, err := r.measure(w, func() ([]fleet.Sent, error) {
		var wg sync.WaitGroup
		wg.Go(func() { // ends with its messages
			creeping = slow.Run(r.ctx)
			close(stop)
		})
		sent := quick.Run(r.ctx)
		wg.Wait()
		return sent, nil
	})
	r.ledger.sent = append(r.ledger.sent, creeping...)
	r.say("    %d slow messages, p50 %.0f ms", len(creeping), float64(times(creeping).ValueAtQuantile(50))/1000)
	return err
}

// besideAborts has clients break off anywhere in a message, by FIN and by RST, and others beside them. What was broken
// off is in no ledger: one that arrives is one that was not sent.
func (r *run) besideAborts() error {
	quick := r.load(4<<10, 10, r.size(4000, 200))
	n := r.size(2000, 100)
	name := r.name("aborted")
	cuts := choices(r.seed, n)
	stop := make(chan struct{})
	var done, wrong atomic.Int64
	abort := func(i int) {
		// The envelope and the header section have 200 octets, the message 4096 more.
		cut := source.Cut{After: 1 + int64(cuts[i]*4000), Reset: i%2 == 0}
		s, err := source.Dial(r.ctx, source.Config{Addr: r.rig.trio.Balancer, Cut: cut})
		if err == nil {
			forward := fmt.Sprintf("%s-%d@%s.load.test", name, i, domain(i))
			_, err = s.Send(source.Message{
				Reverse: name + "@client.example", Forward: []string{forward}, Octets: source.Body(4 << 10),
			})
			s.Abort(cut.Reset)
		}
		if done.Add(1); !errors.Is(err, source.ErrCut) && r.ctx.Err() == nil {
			wrong.Add(1)
		}
	}
	w := row{Part: "clients", Name: "beside clients that break off", Octets: 4 << 10, Sessions: 10, Reuse: true}
	_, err := r.measure(w, func() ([]fleet.Sent, error) {
		var wg sync.WaitGroup
		for client := range 4 {
			wg.Go(func() { // ends with its share, or with stop
				for i := client; i < n; i += 4 {
					select {
					case <-stop:
						return
					default:
						abort(i)
					}
				}
			})
		}
		sent := quick.Run(r.ctx)
		close(stop)
		wg.Wait()
		return sent, nil
	})
	note := fmt.Sprintf("%d broken off", done.Load())
	r.say("    %s", note)
	r.report.Rows[len(r.report.Rows)-1].Note = note
	if err == nil && wrong.Load() > 0 {
		err = fmt.Errorf("%d of %d aborts were none", wrong.Load(), done.Load())
	}
	return err
}

// mix sends what people quote. Message i has the same size and fate for the same seed.
func (r *run) mix() error {
	l := r.load(1<<20, 20, r.size(4000, 200))
	sizes, fates := choices(r.seed, l.Messages), choices(r.seed+1, l.Messages)
	l.Size = func(i int) int { return mixedSize(sizes[i]) }
	known := l.Forward
	refused := 0
	for _, fate := range fates {
		if fate < 0.3 {
			refused++
		}
	}
	l.Forward = func(i int) string {
		if fates[i] < 0.3 {
			return fleet.Unknown + "-" + known(i)
		}
		return known(i)
	}
	r.ledger.refused += refused
	w := row{
		Part: "mix", Name: "70 % 4-16 KiB, 25 % 64 KiB, 5 % 1 MiB", Sessions: l.Clients, Reuse: true,
		Note: fmt.Sprintf("%d refused at RCPT", refused),
	}
	w, err := r.measure(w, func() ([]fleet.Sent, error) { return l.Run(r.ctx), nil })
	if err == nil && w.Refused != refused {
		err = fmt.Errorf("%d messages were refused, want %d", w.Refused, refused)
	}
	return err
}

// mixedSize is the size of a message for a number of [0, 1).
func mixedSize(u float64) int {
	switch {
	case u < 0.7:
		return 4<<10 + int(u/0.7*(12<<10))
	case u < 0.95:
		return 64 << 10
	}
	return 1 << 20
}
