// Command idle weighs connections on which nothing happens: it opens many to a node in a process of its own, says EHLO
// and RSET on each (STARTTLS before them with -tls), leaves them alone for a while, and reads from /proc how much
// memory the node's process takes more than before, as PSS. What the kernel keeps for the sockets is not in it.
//
//	go run ./loadtest/idle [-tls] [-n 5000] [-wait 60s]
//
// It ends with 1 if a connection takes more than it may: 6 KiB in clear, 24 KiB under TLS.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// The most that one connection may take.
const (
	maxClear = 6 << 10
	maxTLS   = 24 << 10
)

func main() {
	underTLS := flag.Bool("tls", false, "with STARTTLS")
	n := flag.Int("n", 5000, "connections")
	wait := flag.Duration("wait", time.Minute, "how long they are left alone")
	binary := flag.String("binary", "", "weigh this millrace instead of building one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w, err := weigh(ctx, *binary, *n, *underTLS, *wait)
	if err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
	limit, how := int64(maxClear), "in clear"
	if *underTLS {
		limit, how = maxTLS, "under TLS"
	}
	fmt.Printf("%d connections %s, %s after EHLO and RSET: %.2f KiB of PSS each (at most %d), %.1f MiB before, "+
		"%.1f MiB with them\n",
		*n, how, *wait, float64(w.each(*n))/1024, limit>>10, float64(w.before)/(1<<20), float64(w.after)/(1<<20))
	if w.each(*n) > limit {
		os.Exit(1)
	}
}

// A weight is the PSS of the node's process in octets.
type weight struct{ before, after int64 }

func (w weight) each(n int) int64 { return (w.after - w.before) / int64(n) }

// config serves no mail: the connections get no further than RSET.
const config = `hostname: idle.example
postmaster: ops@elsewhere.example
listen:
  - {addr: "%s"}
routes: routes.txt
limits: {connections: 19000, connections_per_client: 19000}
log: {level: error}
`

// weigh runs a node and opens n connections to it.
func weigh(ctx context.Context, binary string, n int, underTLS bool, wait time.Duration) (weight, error) {
	var w weight
	dir, err := os.MkdirTemp("", "idle")
	if err != nil {
		return w, err
	}
	defer os.RemoveAll(dir)
	if binary, err = fleet.Build(ctx, dir, binary); err != nil {
		return w, err
	}
	ports, err := extern.FreePorts(1)
	if err != nil {
		return w, err
	}
	addr := fleet.Local(ports[0])
	file := filepath.Join(dir, "millrace.yaml")
	err = errors.Join(os.WriteFile(file, fmt.Appendf(nil, config, addr), 0o644),
		os.WriteFile(filepath.Join(dir, "routes.txt"), []byte("@idle.example drop\n"), 0o644))
	if err != nil {
		return w, err
	}
	cmd := exec.Command(binary, "serve", "-c", file)
	var said bytes.Buffer
	cmd.Stderr = &said
	p, err := fleet.Run(cmd)
	if err != nil {
		return w, err
	}
	defer p.End()
	conns, err := open(ctx, addr, 1, underTLS) // what the first connection costs is not what each costs
	if err != nil {
		return w, fmt.Errorf("%w: %s", err, said.Bytes())
	}
	if w.before, err = pss(cmd.Process.Pid); err != nil {
		return w, err
	}
	more, err := open(ctx, addr, n, underTLS)
	defer func() {
		for _, c := range append(conns, more...) {
			_ = c.Close() // all was read from it
		}
	}()
	if err != nil {
		return w, err
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return w, ctx.Err()
	}
	w.after, err = pss(cmd.Process.Pid)
	return w, err
}

// open opens n connections, a few at a time. Those that are open are returned with an error too.
func open(ctx context.Context, addr string, n int, underTLS bool) ([]net.Conn, error) {
	const atOnce = 8
	var (
		mu    sync.Mutex // over what follows
		conns []net.Conn
		errs  error
		wg    sync.WaitGroup
	)
	for i := range atOnce {
		wg.Go(func() { // ends when its share is open
			for range (n + atOnce - 1 - i) / atOnce {
				c, err := connect(ctx, addr, underTLS)
				mu.Lock()
				if err != nil {
					errs = errors.Join(errs, err)
					mu.Unlock()
					return
				}
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return conns, errs
}

// connect opens one connection, and tries until the node serves.
func connect(ctx context.Context, addr string, underTLS bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	for errors.Is(err, syscall.ECONNREFUSED) && ctx.Err() == nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
		c, err = d.DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if c, err = converse(c, underTLS); err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}

func converse(c net.Conn, underTLS bool) (net.Conn, error) {
	if err := say(c, "", "220"); err != nil {
		return nil, err
	}
	if err := say(c, "EHLO client.example", "250"); err != nil {
		return nil, err
	}
	if underTLS {
		if err := say(c, "STARTTLS", "220"); err != nil {
			return nil, err
		}
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true}) // the node made its certificate itself
		if err := say(c, "EHLO client.example", "250"); err != nil {
			return nil, err
		}
	}
	return c, say(c, "RSET", "250")
}

// say sends a line and reads a reply.
func say(c net.Conn, line, code string) error {
	if line != "" {
		if _, err := c.Write([]byte(line + "\r\n")); err != nil {
			return err
		}
	}
	for in := bufio.NewReader(c); ; {
		reply, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(reply, code) {
			return fmt.Errorf("%s: %q", line, reply)
		}
		if len(reply) > 3 && reply[3] == ' ' {
			return nil
		}
	}
}

// pss is the proportional set size of a process in octets.
func pss(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		if rest, ok := strings.CutPrefix(in.Text(), "Pss:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.Join(fmt.Errorf("no Pss in %s", f.Name()), in.Err())
}
