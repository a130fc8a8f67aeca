package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A floor is two processes that do no more than a hop has to: they exchange the octets of a message over the hop's own
// TLS, one goroutine for each connection on both sides, with two waits for each message. crypto/tls writes each record
// by itself here, so that for large messages a hop may take less.
type floor struct {
	both []*fleet.Process
	ask  io.WriteCloser
	said *bufio.Reader
}

// What OPEN, its answer and that to COMMIT have in octets, about.
const (
	floorOpen   = 250
	floorAnswer = 80
	floorPiece  = 72 << 10 // of which a message that is larger is sent
)

// newFloor starts the two processes with the keys of two nodes. close ends them.
func newFloor(ctx context.Context, keys string) (f *floor, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f = new(floor)
	made := f // a return of nil and an error leaves no other name
	defer func() {
		if err != nil {
			made.close()
		}
	}()
	_, addr, err := f.start(ctx, self, "-floor", keys)
	if err != nil {
		return nil, err
	}
	line, err := addr.ReadString('\n')
	if err != nil {
		return nil, err
	}
	f.ask, f.said, err = f.start(ctx, self, "-floor", keys, "-to", line[:len(line)-1])
	return f, err
}

func (f *floor) start(ctx context.Context, self string, args ...string) (io.WriteCloser, *bufio.Reader, error) {
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	p, err := fleet.Run(cmd)
	if err != nil {
		return nil, nil, err
	}
	f.both = append(f.both, p)
	return in, bufio.NewReader(out), nil
}

func (f *floor) close() {
	for _, p := range f.both {
		_ = p.Signal(syscall.SIGKILL) // it has nothing to lose; an error means that it is gone
		<-p.Exited
	}
}

func (f *floor) total() (sum time.Duration, err error) {
	for _, p := range f.both {
		c, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += c
	}
	return sum, nil
}

// cost returns the CPU time of both processes in microseconds for each message.
func (f *floor) cost(octets, messages, senders int) (float64, error) {
	if _, err := fmt.Fprintln(f.ask, "connect", senders, 0, 0); err != nil {
		return 0, err
	}
	if _, err := f.said.ReadString('\n'); err != nil {
		return 0, err
	}
	before, err := f.total()
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintln(f.ask, "send", senders, octets, messages/senders); err != nil {
		return 0, err
	}
	if _, err := f.said.ReadString('\n'); err != nil {
		return 0, err
	}
	after, err := f.total()
	return (after - before).Seconds() * 1e6 / float64(messages/senders*senders), err
}

// playFloor is one of the two processes: it serves, or does as in tells it.
func playFloor(keys, to string, in io.Reader, out io.Writer) error {
	name := map[bool]string{true: "a", false: "b"}[to == ""]
	var files [3][]byte
	for i, file := range []string{"ca.pem", name + ".pem", name + ".key"} {
		var err error
		if files[i], err = os.ReadFile(filepath.Join(keys, file)); err != nil {
			return err
		}
	}
	server, client, _, err := peer.Certificates(name, files[0], files[1], files[2])
	if err != nil {
		return err
	}
	if to != "" {
		client.ServerName = "a"
		return driveFloor(client, to, in, out)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go answerFloor(c) // ends with the connection, or the process
	}
}

// answerFloor reads messages, each behind its size, and answers twice.
func answerFloor(c net.Conn) {
	defer c.Close()
	open, answer, piece := make([]byte, floorOpen), make([]byte, floorAnswer), make([]byte, floorPiece)
	for {
		if _, err := io.ReadFull(c, open); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
		left := int(open[0])<<24 | int(open[1])<<16 | int(open[2])<<8 | int(open[3])
		for left > 0 {
			n, err := c.Read(piece[:min(left, len(piece))])
			if err != nil {
				return
			}
			left -= n
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// driveFloor connects and sends as it is told, and says when it is done.
func driveFloor(cfg *tls.Config, to string, in io.Reader, out io.Writer) error {
	var conns []net.Conn
	for {
		var verb string
		var senders, octets, each int
		if _, err := fmt.Fscanln(in, &verb, &senders, &octets, &each); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		for len(conns) < senders {
			c, err := tls.Dial("tcp", to, cfg)
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		failed := make([]error, senders)
		var wg sync.WaitGroup
		for i, c := range conns[:senders] {
			wg.Go(func() { failed[i] = sendFloor(c, octets, each) })
		}
		wg.Wait()
		if err := errors.Join(failed...); err != nil {
			return err
		}
		fmt.Fprintln(out, "done")
	}
}

func sendFloor(c net.Conn, octets, each int) error {
	open, answer, piece := make([]byte, floorOpen), make([]byte, floorAnswer), make([]byte, floorPiece)
	open[0], open[1], open[2], open[3] = byte(octets>>24), byte(octets>>16), byte(octets>>8), byte(octets)
	for range each {
		if _, err := c.Write(open); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			return err
		}
		for left := octets; left > 0; left -= min(left, len(piece)) {
			if _, err := c.Write(piece[:min(left, len(piece))]); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			return err
		}
	}
	return nil
}
