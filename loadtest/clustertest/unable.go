package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// What the nodes of such a scene reach besides the Hub.
const (
	farHost  = "10.77.0.2" // of all Sites
	farNames = "10.77.0.3" // the name server
	farSites = 60
)

// A fault keeps one node from all destinations, while the other nodes reach it and them.
type fault struct {
	what string
	do   func(context.Context, *fleet.Member) error
	undo func(context.Context, *fleet.Member) error
	// lasts is for how long the node has it; 0: unableFor
	lasts time.Duration
	// fresh says that mail goes to Sites that no node has asked the name server for before.
	fresh bool
	// deaf says that the node cannot have its own clients' mail delivered by others either: it does not know who owns
	// the Site, or reaches no other node.
	deaf bool
}

// route makes what a node sends to an address end in its own system, with an error.
func route(kind, addr string) fault {
	order := func(verb string) func(context.Context, *fleet.Member) error {
		return func(ctx context.Context, m *fleet.Member) error {
			return m.Port.Do(func() error { return fleet.IP(ctx, "route "+verb+" "+kind+" "+addr+"/32") })
		}
	}
	return fault{what: kind + " route to " + addr, do: order("add"), undo: order("del")}
}

// faults are by the name of their scene.
var faults = map[string]fault{
	"unable":         route("prohibit", farHost),
	"unable-noroute": route("unreachable", farHost),
	"unable-dns":     withoutNames(),
	"unable-silent": {
		what: "what it sends to " + farHost + " is lost", lasts: 35 * time.Second,
		do:   func(ctx context.Context, m *fleet.Member) error { return m.Port.Cut(ctx, farHost) },
		undo: func(ctx context.Context, m *fleet.Member) error { return m.Port.Join(ctx, farHost) },
	},
	"unable-files": {
		what: "it may open no file more", deaf: true,
		do: func(_ context.Context, m *fleet.Member) error {
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Process.Cmd.Process.Pid))
			return errors.Join(err, limitFiles(m, uint64(len(open))))
		},
		undo: func(_ context.Context, m *fleet.Member) error { return limitFiles(m, unix.RLIM_INFINITY) },
	},
}

// withoutNames keeps a node from its name server.
func withoutNames() fault {
	f := route("prohibit", farNames)
	f.fresh, f.deaf = true, true
	return f
}

// limitFiles sets how many files the node may have open, at most what it might have before. Those that it has stay.
func limitFiles(m *fleet.Member, n uint64) error {
	var l unix.Rlimit
	pid := m.Process.Cmd.Process.Pid
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &l); err != nil {
		return err
	}
	l.Cur = min(n, l.Max)
	return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &l, nil)
}

// playUnable plays the scene of a fault.
func playUnable(ctx context.Context, out io.Writer, binary string, f fault) error {
	var zone, rules strings.Builder
	for i := range 2 * farSites {
		fmt.Fprintf(&zone, "d%d.far.example. 300 IN MX 10 mx%d.far.example.\nmx%d.far.example. 300 IN A %s\n", i, i, i,
			farHost)
		fmt.Fprintf(&rules, "domain d%d.far.test\n/(.+)/@d%d.far.test $1@d%d.far.example\n", i, i, i)
	}
	s, err := fleet.NewStage(ctx, fleet.StagePlan{
		Binary: binary, Nodes: 3, Rules: rules.String(),
		Config: fmt.Sprintf("dns: {servers: [%q]}\n", farNames+":53"),
	})
	if err != nil {
		return err
	}
	defer s.Close()
	far, err := s.Serve(ctx, farHost, smtptest.Behaviour{Keep: keep})
	if err != nil {
		return err
	}
	if err := fleet.IP(ctx, "addr add "+farNames+"/24 dev hub"); err != nil {
		return err
	}
	names, err := dnstest.Listen(farNames+":53", zone.String())
	if err != nil {
		return err
	}
	defer names.Close()
	figures, err := unable(ctx, s.Fleet, far, f)
	fmt.Fprintln(out, figures)
	return err
}

// unableFor is how long a node has its fault, and longest what a message may wait for that: for a session that died
// silently, and a connection that is not accepted.
const (
	unableFor = 12 * time.Second
	longest   = 20 * time.Second
)

// unable has mail come in at all nodes while one of them has a fault.
func unable(ctx context.Context, f *fleet.Fleet, far *smtptest.Server, harm fault) (string, error) {
	sick, others, first := f.Nodes[0], f.Nodes[1:], 0
	load := func(name string, nodes []*fleet.Member, stop chan struct{}) *fleet.Load {
		return &fleet.Load{
			Name: name, Addrs: fleet.AnyOf(nodes), Clients: clients, Every: 20 * time.Millisecond, Stop: stop,
			Backoff: time.Second, Patience: time.Minute,
			Forward: func(i int) string { return fmt.Sprintf("b@d%d.far.test", first+i%farSites) },
		}
	}
	warm := load("warm", f.Nodes, nil)
	warm.Messages = 6 * farSites
	if err := fleet.Count(warm.Run(ctx), far).Err(); err != nil {
		return "", err
	}
	if harm.fresh {
		first = farSites
	}
	stop := make(chan struct{})
	done := make(chan []fleet.Sent, 2)
	send := func() {
		for _, l := range []*fleet.Load{load("others", others, stop), load("own", []*fleet.Member{sick}, stop)} {
			go func() { done <- l.Run(ctx) }() // ends with stop
		}
	}
	if !harm.fresh {
		send()
		fleet.Rest(ctx, time.Second)
	}
	if err := harm.do(ctx, sick); err != nil {
		return "", err
	}
	if harm.fresh {
		send()
	}
	begun := time.Now()
	out := "never"
	for time.Since(begun) < cmp.Or(harm.lasts, unableFor) && ctx.Err() == nil {
		if v, err := f.Metric(ctx, sick, "millrace_cluster_out"); err == nil && v == 1 && out == "never" {
			out = "after " + fleet.MS(time.Since(begun))
		}
		fleet.Rest(ctx, 50*time.Millisecond)
	}
	waived, _ := f.Metric(ctx, sick, "millrace_cluster_waived_sites") // 0 on a node of before
	mended := harm.undo(ctx, sick)
	close(stop)
	figures := fmt.Sprintf("%s for %s; it had no weight %s, and left %.0f Sites to others", harm.what,
		fleet.MS(time.Since(begun)), out, waived)
	var errs []error
	for range 2 {
		all := <-done
		n := fleet.Count(all, far)
		deferred := 0
		for _, m := range all {
			deferred += m.Deferred
		}
		through, most := "the others", 0
		if len(all) > 0 && strings.HasPrefix(all[0].ID, "own") {
			through, most = "the node itself", farSites // a session of before, found dead at RCPT, for each Site
		}
		figures += fmt.Sprintf("\nthrough %s: %s, %d x 4yz", through, n, deferred)
		errs = append(errs, n.Err())
		if most == 0 {
			errs = append(errs, within("a message through "+through, n.Slowest, longest))
		}
		if deferred > most && (most == 0 || !harm.deaf) {
			errs = append(errs, fmt.Errorf("%d messages were put off through %s", deferred, through))
		}
	}
	return figures, errors.Join(append(errs, mended)...)
}
