package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/source"
)

// clients is how many senders there are while nodes are harmed. They leave the machine some room: what is measured is
// what nodes do, and not how a loaded machine delays gossip.
const clients = 6

// A gaze looks at what nodes know of the ring, again and again.
type gaze struct {
	mu    sync.Mutex
	rings map[string][]string // by node, each version once until the next
	stop  chan struct{}
	done  sync.WaitGroup
}

func (f *fleet) gaze(ctx context.Context, nodes []*member) *gaze {
	g := &gaze{rings: make(map[string][]string), stop: make(chan struct{})}
	for _, m := range nodes {
		g.done.Go(func() { // ends with end
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				if s, err := f.status(ctx, m); err == nil {
					g.see(m.name, s.Ring)
				}
				select {
				case <-g.stop:
					return
				case <-tick.C:
				}
			}
		})
	}
	return g
}

func (g *gaze) see(node, ring string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.rings[node]
	if len(seen) == 0 || seen[len(seen)-1] != ring {
		g.rings[node] = append(seen, ring)
	}
}

// end returns how often the ring changed, on the node where it did most often.
func (g *gaze) end() int {
	close(g.stop)
	g.done.Wait()
	changes := 0
	for _, seen := range g.rings {
		changes = max(changes, len(seen)-1)
	}
	return changes
}

// out waits until nodes have n members and tells how long that took.
func (f *fleet) out(ctx context.Context, nodes []*member, n int) (time.Duration, error) {
	begun := time.Now()
	err := await(ctx, 15*time.Second, fmt.Sprintf("%d members", n), func() bool { return f.sees(ctx, nodes, n) })
	return time.Since(begun), err
}

func pause(ctx context.Context, t *trial) (string, error) {
	owner, others, err := t.ready(ctx)
	if err != nil {
		return "", err
	}
	g := t.ring.gaze(ctx, others)
	n, err := t.under(ctx, &load{addrs: anyOf(others), clients: clients, every: 2 * time.Millisecond}, func() error {
		err := owner.process.signal(syscall.SIGSTOP)
		rest(ctx, 2*time.Second)
		err = errors.Join(err, owner.process.signal(syscall.SIGCONT))
		rest(ctx, time.Second)
		return err
	})
	changes := g.end()
	if changes > 0 {
		err = errors.Join(err, errors.New("the ring changed"))
	}
	return fmt.Sprintf("%s\nthe ring changed %d times", n, changes), err
}

// rest lets time pass that is part of the harm.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ready sees to it that all three nodes are there and that the plain destination has an owner.
func (t *trial) ready(ctx context.Context) (owner *member, others []*member, err error) {
	if _, err := t.ring.out(ctx, t.ring.nodes, 3); err != nil {
		return nil, nil, err
	}
	if err := t.send(ctx, t.ring.nodes, 30); err != nil {
		return nil, nil, err
	}
	return t.ring.owner(ctx)
}

// A pulse is when messages were accepted, over all clients.
type pulse struct {
	mu      sync.Mutex
	last    time.Time
	silence time.Duration // the longest between two of them
	beats   int
}

func (p *pulse) see(r source.Result) {
	if r.End.Class() != 2 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.beats > 0 {
		p.silence = max(p.silence, now.Sub(p.last))
	}
	p.last = now
	p.beats++
}

// now returns the number of messages so far and the longest silence, that which has not ended included.
func (p *pulse) now() (int, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.beats == 0 {
		return 0, 0
	}
	return p.beats, max(p.silence, time.Since(p.last))
}

// stopped holds the owner until well after it is out: mail has to flow while it is, and not when it goes on.
func stopped(ctx context.Context, t *trial) (string, error) {
	owner, others, err := t.ready(ctx)
	if err != nil {
		return "", err
	}
	const held = 3 * time.Second
	var (
		took, back, silence time.Duration
		before, after       int
		p                   pulse
	)
	n, err := t.under(ctx, &load{addrs: anyOf(others), clients: clients, every: 2 * time.Millisecond, watch: p.see},
		func() error {
			rest(ctx, 200*time.Millisecond)
			err := owner.process.signal(syscall.SIGSTOP)
			var gone, again error
			took, gone = t.ring.out(ctx, others, 2)
			before, _ = p.now()
			rest(ctx, held)
			after, silence = p.now()
			err = errors.Join(err, gone, owner.process.signal(syscall.SIGCONT))
			back, again = t.ring.out(ctx, t.ring.nodes, 3)
			return errors.Join(err, again)
		})
	figures := fmt.Sprintf("%s\nout of the ring after %s, %d messages in the %s after that, none for %s at most; "+
		"back %s after it went on",
		n, ms(took), after-before, held, ms(silence), ms(back))
	if after == before {
		err = errors.Join(err, errors.New("no mail while a node was stopped"))
	}
	return figures,
		errors.Join(err, within("out of the ring", took, 5*time.Second),
			within("a time without mail", silence, 5*time.Second))
}

// A snare takes the place of a node that was killed, at the address of its hop, and notes when others still come.
type snare struct {
	listener net.Listener
	done     sync.WaitGroup
	mu       sync.Mutex
	came     []time.Time
}

// newSnare takes the address as soon as the system has it.
func newSnare(ctx context.Context, addr string) (*snare, error) {
	s := &snare{}
	err := await(ctx, time.Second, "the address of the killed node", func() (ok bool) {
		var err error
		s.listener, err = net.Listen("tcp", addr)
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	s.done.Go(func() { // ends when end closes the listener
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.came = append(s.came, time.Now())
			s.mu.Unlock()
			c.Close()
		}
	})
	return s, nil
}

// end returns how many came, and how many of these after the first failure must have been known everywhere.
func (s *snare) end() (came, late int) {
	s.listener.Close()
	s.done.Wait()
	if len(s.came) == 0 {
		return 0, 0
	}
	first := slices.MinFunc(s.came, time.Time.Compare)
	for _, at := range s.came {
		if at.Sub(first) > 200*time.Millisecond {
			late++
		}
	}
	return len(s.came), late
}

func killed(ctx context.Context, t *trial) (string, error) {
	owner, others, err := t.ready(ctx)
	if err != nil {
		return "", err
	}
	var took time.Duration
	var came, late int
	n, err := t.under(ctx, &load{addrs: anyOf(t.ring.nodes), clients: clients, every: 2 * time.Millisecond},
		func() error {
			rest(ctx, 300*time.Millisecond)
			if err := owner.process.signal(syscall.SIGKILL); err != nil {
				return err
			}
			<-owner.process.exited
			s, err := newSnare(ctx, owner.peer)
			if err != nil {
				return err
			}
			took, err = t.ring.out(ctx, others, 2)
			came, late = s.end()
			rest(ctx, 300*time.Millisecond)
			return err
		})
	figures := fmt.Sprintf("%s\nout of the ring after %s; %d hops to it after the kill, %d of them later than 0.2 "+
		"s after the first", n, ms(took), came, late)
	if late > 0 {
		err = errors.Join(err, errors.New("hops to a node that was known to be gone"))
	}
	err = errors.Join(err, within("out of the ring", took, 3*time.Second), t.ring.start(owner))
	if err != nil {
		return figures, err
	}
	return figures, t.ring.awaitReady(ctx, owner)
}

func rolling(ctx context.Context, t *trial) (string, error) {
	if _, _, err := t.ready(ctx); err != nil {
		return "", err
	}
	var drains []string
	l := &load{addrs: only(t.ring.balancer), clients: 2 * clients, every: time.Millisecond}
	n, err := t.under(ctx, l, func() error {
		for _, m := range t.ring.nodes {
			rest(ctx, 300*time.Millisecond)
			begun := time.Now()
			if err := m.process.signal(syscall.SIGTERM); err != nil {
				return err
			}
			select {
			case <-m.process.exited:
			case <-ctx.Done():
				return fmt.Errorf("node %s does not end", m.name)
			}
			drains = append(drains, ms(time.Since(begun)))
			if m.process.err != nil {
				return fmt.Errorf("node %s: %w", m.name, m.process.err)
			}
			if err := t.ring.start(m); err != nil {
				return err
			}
			if err := t.ring.awaitReady(ctx, m); err != nil {
				return err
			}
			if _, err := t.ring.out(ctx, t.ring.nodes, 3); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("%s\ndrains took %v", n, drains), err
}
