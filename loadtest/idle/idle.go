// Package idle weighs connections on which nothing happens: it opens many to a node in a process of its own, says EHLO
// and RSET on each (STARTTLS before them under TLS), leaves them alone for a while, and asks how much memory the node's
// process holds more than before, as PSS. What the kernel keeps for the sockets is not in it. Meanwhile mail runs
// through the same node, a message every few milliseconds, and tells what it is to wait beside them.
//
// It owns the node, the connections and the mail until Weigh returns, and refuses to know what is a good weight.
package idle

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A Plan says what is weighed.
type Plan struct {
	Name        string // of the messages, unique in a run
	Binary      string
	Connections int // 0: as many as the node has places for, less some for the mail
	TLS         bool
	Scored      bool          // the node has a section score, which weighs each client
	Wait        time.Duration // how long they are left alone
}

// A Weight is what the node's process held, and what became of the mail.
type Weight struct {
	Connections   int
	Before, After fleet.Memory
	Opening       time.Duration // how long it took to open them, a few at a time, both ends on this machine
	WhileOpening  []fleet.Sent
	WhileIdle     []fleet.Sent
	Sent          []fleet.Sent   // all of the mail
	Copies        map[string]int // what came to the destination
}

// Each is how much PSS a connection takes, in octets.
func (w *Weight) Each() int64 { return (w.After.PSS - w.Before.PSS) / int64(w.Connections) }

// rate is how many messages a second run beside the connections.
const rate = 50

// spare are the places that are left for the mail.
const spare = 32

// Weigh runs a node and opens connections to it.
func Weigh(ctx context.Context, plan Plan) (*Weight, error) {
	dir, err := os.MkdirTemp("", "idle")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	sink, err := fleet.ListenSink("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	names, err := dnstest.Listen("127.0.0.1:0", fleet.BaseZone)
	if err != nil {
		return nil, err
	}
	defer names.Close()
	f, err := start(ctx, dir, plan, sink.Addr(), names.Addr())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	node := f.Nodes[0]
	w := &Weight{Connections: plan.Connections}
	if w.Connections == 0 {
		found := 0
		err := fleet.Await(ctx, time.Minute, "the node says how many places it has", func() bool {
			found = places(node.Log())
			return found > 0
		})
		if err != nil {
			return nil, err
		}
		w.Connections = found - spare
	}
	warm := live(node, plan.Name+"warm", nil)
	warm.Messages = 20
	w.Sent = warm.Run(ctx)
	first, err := open(ctx, node.SMTP, 1, plan.TLS) // what the first connection costs is not what each costs
	defer func() { closeAll(first) }()
	if err != nil {
		return nil, err
	}
	if w.Before, err = node.Process.Memory(); err != nil {
		return nil, err
	}
	var more []net.Conn
	defer func() { closeAll(more) }()
	begun := time.Now()
	w.WhileOpening, err = beside(ctx, node, plan.Name+"opening", func() (err error) {
		more, err = open(ctx, node.SMTP, w.Connections, plan.TLS)
		w.Opening = time.Since(begun)
		return err
	})
	if err != nil {
		return nil, err
	}
	w.WhileIdle, err = beside(ctx, node, plan.Name+"idle", func() error {
		fleet.Rest(ctx, plan.Wait)
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	w.After, err = node.Process.Memory()
	w.Sent = append(append(w.Sent, w.WhileOpening...), w.WhileIdle...)
	w.Copies = sink.Copies()
	return w, err
}

// start runs a node whose clients are all partners: of strangers some would have to give way when four fifths of the
// places are taken. Those that are trusted are not scored, and those that the score allows a place are.
func start(ctx context.Context, dir string, plan Plan, next, dns string) (*fleet.Fleet, error) {
	routes := filepath.Join(dir, "routes.txt")
	rules := "domain * dmarc=off require_auth=no seal=never\n@idle.example smtp://" + next + "\n"
	if err := os.WriteFile(routes, []byte(rules), 0o600); err != nil {
		return nil, err
	}
	nodes, err := fleet.Loopback(1)
	if err != nil {
		return nil, err
	}
	nodes[0].Proxied = ""
	p := fleet.Plan{Binary: plan.Binary, Dir: dir, Config: fmt.Sprintf(`routes: %q
dns: {servers: [%q]}
limits: {connections: 20000, connections_per_client: 20000}
log: {level: info}
`, routes, dns)}
	if plan.Scored {
		p.Config += "score: {allow: [\"127.0.0.0/8 for=places they are partners\"]}\n"
	} else {
		p.Trusted = "127.0.0.0/8"
	}
	return fleet.Start(ctx, p, nodes)
}

// places reads from the log of a node how many clients it takes at once, 0 if it has not said so yet.
func places(log string) int {
	text, _ := os.ReadFile(log) // what cannot be read has not been said
	for line := range strings.Lines(string(text)) {
		var said struct{ Places int }
		if json.Unmarshal([]byte(line), &said) == nil && said.Places > 0 {
			return said.Places
		}
	}
	return 0
}

// live is the mail that runs meanwhile, on two connections.
func live(node *fleet.Member, name string, stop <-chan struct{}) *fleet.Load {
	return &fleet.Load{
		Name: name, Addrs: fleet.Only(node.SMTP), Octets: 4 << 10, Clients: 2, Rate: rate, Stop: stop,
		Forward: func(i int) string { return fmt.Sprintf("%s-%d@idle.example", name, i) },
	}
}

// beside has mail run while do does something.
func beside(ctx context.Context, node *fleet.Member, name string, do func() error) ([]fleet.Sent, error) {
	stop := make(chan struct{})
	done := make(chan []fleet.Sent, 1)
	go func() { done <- live(node, name, stop).Run(ctx) }() // ends with stop, or ctx
	err := do()
	close(stop)
	return <-done, err
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close() // all was read from it
	}
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

// connect opens one connection.
func connect(ctx context.Context, addr string, underTLS bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
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
