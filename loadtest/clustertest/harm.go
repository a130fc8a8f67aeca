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

	"github.com/millrace/millrace/loadtest/fleet"
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

func newGaze(ctx context.Context, f *fleet.Fleet, nodes []*fleet.Member) *gaze {
	g := &gaze{rings: make(map[string][]string), stop: make(chan struct{})}
	for _, m := range nodes {
		g.done.Go(func() { // ends with end
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				if s, err := f.Status(ctx, m); err == nil {
					g.see(m.Name, s.Ring)
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

func pause(ctx context.Context, t *trial) (string, error) {
	owner, others, err := t.ready(ctx)
	if err != nil {
		return "", err
	}
	g := newGaze(ctx, t.ring, others)
	l := &fleet.Load{Addrs: fleet.AnyOf(others), Clients: clients, Every: 2 * time.Millisecond}
	n, err := t.under(ctx, l, func() error {
		err := owner.Process.Signal(syscall.SIGSTOP)
		fleet.Rest(ctx, 2*time.Second)
		err = errors.Join(err, owner.Process.Signal(syscall.SIGCONT))
		fleet.Rest(ctx, time.Second)
		return err
	})
	changes := g.end()
	if changes > 0 {
		err = errors.Join(err, errors.New("the ring changed"))
	}
	return fmt.Sprintf("%s\nthe ring changed %d times", n, changes), err
}

// ready sees to it that all three nodes are there and that the plain destination has an owner.
func (t *trial) ready(ctx context.Context) (owner *fleet.Member, others []*fleet.Member, err error) {
	if _, err := t.ring.Out(ctx, t.ring.Nodes, 3); err != nil {
		return nil, nil, err
	}
	if err := t.send(ctx, t.ring.Nodes, 30); err != nil {
		return nil, nil, err
	}
	return t.ring.OwnerOf(ctx, plainHost)
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
	l := &fleet.Load{Addrs: fleet.AnyOf(others), Clients: clients, Every: 2 * time.Millisecond, Watch: p.see}
	n, err := t.under(ctx, l,
		func() error {
			fleet.Rest(ctx, 200*time.Millisecond)
			err := owner.Process.Signal(syscall.SIGSTOP)
			var gone, again error
			took, gone = t.ring.Out(ctx, others, 2)
			before, _ = p.now()
			fleet.Rest(ctx, held)
			after, silence = p.now()
			err = errors.Join(err, gone, owner.Process.Signal(syscall.SIGCONT))
			back, again = t.ring.Out(ctx, t.ring.Nodes, 3)
			return errors.Join(err, again)
		})
	figures := fmt.Sprintf("%s\nout of the ring after %s, %d messages in the %s after that, none for %s at most; "+
		"back %s after it went on",
		n, fleet.MS(took), after-before, held, fleet.MS(silence), fleet.MS(back))
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
	err := fleet.Await(ctx, time.Second, "the address of the killed node", func() (ok bool) {
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
	n, err := t.under(ctx, &fleet.Load{Addrs: fleet.AnyOf(t.ring.Nodes), Clients: clients, Every: 2 * time.Millisecond},
		func() error {
			fleet.Rest(ctx, 300*time.Millisecond)
			if err := owner.Process.Signal(syscall.SIGKILL); err != nil {
				return err
			}
			<-owner.Process.Exited
			s, err := newSnare(ctx, owner.Peer)
			if err != nil {
				return err
			}
			took, err = t.ring.Out(ctx, others, 2)
			came, late = s.end()
			fleet.Rest(ctx, 300*time.Millisecond)
			return err
		})
	figures := fmt.Sprintf("%s\nout of the ring after %s; %d hops to it after the kill, %d of them later than 0.2 "+
		"s after the first", n, fleet.MS(took), came, late)
	if late > 0 {
		err = errors.Join(err, errors.New("hops to a node that was known to be gone"))
	}
	err = errors.Join(err, within("out of the ring", took, 3*time.Second), t.ring.StartNode(owner))
	if err != nil {
		return figures, err
	}
	return figures, t.ring.AwaitReady(ctx, owner)
}

func rolling(ctx context.Context, t *trial) (string, error) {
	if _, _, err := t.ready(ctx); err != nil {
		return "", err
	}
	var drains []string
	l := &fleet.Load{Addrs: fleet.Only(t.ring.Balancer), Clients: 2 * clients, Every: time.Millisecond}
	n, err := t.under(ctx, l, func() error {
		for _, m := range t.ring.Nodes {
			fleet.Rest(ctx, 300*time.Millisecond)
			begun := time.Now()
			if err := m.Process.Signal(syscall.SIGTERM); err != nil {
				return err
			}
			select {
			case <-m.Process.Exited:
			case <-ctx.Done():
				return fmt.Errorf("node %s does not end", m.Name)
			}
			drains = append(drains, fleet.MS(time.Since(begun)))
			if m.Process.Err() != nil {
				return fmt.Errorf("node %s: %w", m.Name, m.Process.Err())
			}
			if err := t.ring.StartNode(m); err != nil {
				return err
			}
			if err := t.ring.AwaitReady(ctx, m); err != nil {
				return err
			}
			if _, err := t.ring.Out(ctx, t.ring.Nodes, 3); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("%s\ndrains took %v", n, drains), err
}
