package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A subject is an X between smtp-source and the sink. The meter of nothing is zero, and its address the sink's own.
type subject struct {
	name    string
	version string
	addr    string
	pace    pace
	most    int // sessions at a time; 0: as many as there are
	meter   meter
	policy  bool   // it judges, and is measured in those scenarios alone
	metrics string // where it counts what passes; "" if each message says so
}

// runs reports whether a subject is measured in a scenario.
func (x *subject) runs(s scenario) bool {
	return x.policy == s.Policy && (x.most == 0 || s.Sessions <= x.most)
}

// The names of the subjects that others are compared with.
const (
	nothing  = "no relay"
	haproxy  = "HAProxy TCP"
	millrace = "Millrace"
)

// A bench holds the processes of a run.
type bench struct {
	dir      string
	progress io.Writer
	source   extern.Program
	sink     *sink
	subjects []*subject
	running  []*fleet.Process
	without  map[string]string // peers that could not be had, and why
	letters  map[int]string    // files of signed messages, by size
	apart    bool              // it has a machine of its own, with control groups
	quick    bool
}

// start runs the sink and the subjects that need nothing installed. HAProxy is left out, and said to be, if there is
// none.
func (b *bench) start(ctx context.Context, o options) error {
	var err error
	if b.source, err = extern.Look("smtp-source"); err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	if b.sink, err = newSink(addr); err != nil {
		return err
	}
	b.without = make(map[string]string)
	b.subjects = []*subject{{name: nothing, addr: addr}}
	binary, err := fleet.Build(ctx, filepath.Join(b.dir, "bin"), o.binary) // a subject's folder is named millrace
	if err != nil {
		return err
	}
	all := []peer{peers[0], peers[1]}
	if b.apart {
		all = peers
	}
	for _, p := range all {
		if !strings.Contains(p.name, o.x) {
			continue
		}
		if err := b.startPeer(ctx, p, binary); err != nil {
			if p.name == millrace {
				return err
			}
			b.leaveOut(p.name, err)
		}
	}
	return nil
}

// serve runs cmd and returns its pid once addr takes connections.
func (b *bench) serve(ctx context.Context, cmd *exec.Cmd, addr string) (int, error) {
	var said bytes.Buffer // of a program that fails to start; little is expected of one that serves
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	p, err := fleet.Run(cmd)
	if err != nil {
		return 0, err
	}
	b.running = append(b.running, p)
	if err := fleet.AwaitPort(ctx, p, addr); err != nil {
		p.End() // before what it said is read
		return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return cmd.Process.Pid, nil
}

// close ends the processes, those that feed others first.
func (b *bench) close() {
	for i := len(b.running) - 1; i >= 0; i-- {
		b.running[i].End()
	}
	for _, x := range b.subjects {
		x.meter.end()
	}
	if b.sink != nil {
		b.sink.close()
	}
}

// leaveOut goes on without a peer, and says so.
func (b *bench) leaveOut(name string, why error) {
	fmt.Fprintf(b.progress, "benchrelay: without %s: %v\n", name, why)
	b.without[name] = why.Error()
}

// warm lets each subject open its sessions and fill its pools. A peer that relays nothing is left out.
func (b *bench) warm(ctx context.Context) error {
	var all []*subject
	for _, x := range b.subjects {
		switch err := b.warmOne(ctx, x); {
		case err == nil:
			all = append(all, x)
		case x.name == nothing || x.name == millrace || ctx.Err() != nil:
			return fmt.Errorf("warming %s: %w", x.name, err)
		default:
			b.leaveOut(x.name, err)
			x.meter.end()
		}
	}
	b.subjects = all
	return nil
}

func (b *bench) warmOne(ctx context.Context, x *subject) error {
	for _, octets := range []int{4096, 64 << 10} {
		s := cell(octets, 20, true, x.policy)
		s.Messages = 200
		if x.pace != swift {
			s.Messages = 20
		}
		got, err := b.measure(ctx, s, x)
		if err == nil && got.Void != "" {
			err = errors.New(got.Void)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A sample is one run of smtp-source.
type sample struct {
	Messages int
	CPU      float64 // seconds of the subject
	Wall     float64 // seconds until the sender had its last answer
	Arrived  float64 // seconds until the sink had the last message
	Memory   int     // KiB that the subject holds at the end
	Void     string  `json:",omitempty"` // why the run is no result
}

// arrival bounds the wait for what a queue still holds when its sender has left.
const arrival = time.Minute

// measure runs smtp-source once, and counts at the sink. smtp-source ends with an error at the first reply that is no
// 2yz: a run that fails is void, and says why.
func (b *bench) measure(ctx context.Context, s scenario, x *subject) (sample, error) {
	n := s.messages(x.pace, b.quick)
	o := extern.SourceOptions{
		Sessions: s.Sessions, Messages: n, Octets: s.Octets, Reuse: s.Reuse, Numbered: true, Helo: clientName,
		Reverse: "source@" + bounceDomain, Forward: recipient,
	}
	if s.Policy {
		o.File = b.letters[s.Octets]
	}
	ctx, cancel := context.WithTimeout(ctx, 2*arrival)
	defer cancel()
	cmd := b.source.Command(ctx, o.Args(x.addr)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.sink.expect()
	asked := x.metrics != "" && s.Octets > mostHeld
	var passed passed
	if asked {
		var err error
		if passed, err = x.passed(ctx); err != nil {
			return sample{}, err
		}
	}
	before, err := x.meter.cpu()
	if err != nil {
		return sample{}, err
	}
	begun := time.Now()
	out, failed := cmd.CombinedOutput()
	got := sample{Messages: n, Wall: time.Since(begun).Seconds()}
	if failed != nil {
		got.Void = fmt.Sprintf("smtp-source: %v: %.300s", failed, bytes.TrimSpace(out))
		return got, nil
	}
	waiting, done := context.WithTimeout(ctx, arrival)
	got.Arrived = b.sink.await(waiting, n).Sub(begun).Seconds()
	done()
	if b.apart {
		x.meter.settle()
		got.Memory = x.meter.memory()
	}
	after, err := x.meter.cpu()
	got.CPU = (after - before).Seconds()
	got.Void = b.sink.account(n)
	if s.Policy && got.Void == "" {
		reverse, head := b.sink.first()
		got.Void = judged(reverse, head, asked)
	}
	if asked && got.Void == "" {
		got.Void = x.missed(ctx, passed, n)
	}
	return got, err
}

func freeAddr() (string, error) {
	ports, err := extern.FreePorts(1)
	if err != nil {
		return "", err
	}
	return fleet.Local(ports[0]), nil
}

// fill puts the places of a run into a text of the folder peers.
func (b *bench) fill(dir, addr string) *strings.Replacer {
	host, port, _ := strings.Cut(addr, ":")
	sinkHost, sinkPort, _ := strings.Cut(b.sink.addr(), ":")
	return strings.NewReplacer("@DIR@", dir, "@ADDR@", addr, "@HOST@", host, "@PORT@", port, "@SINK@", b.sink.addr(),
		"@SINKHOST@", sinkHost, "@SINKPORT@", sinkPort)
}

// write makes a folder of a folder of the folder peers.
func (b *bench) write(from, dir string, fill *strings.Replacer) error {
	entries, err := configurations.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		source, target := from+"/"+e.Name(), filepath.Join(dir, e.Name())
		if e.IsDir() {
			err = b.write(source, target, fill)
		} else {
			var text []byte
			if text, err = configurations.ReadFile(source); err == nil {
				err = os.WriteFile(target, []byte(fill.Replace(string(text))), 0o644)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
