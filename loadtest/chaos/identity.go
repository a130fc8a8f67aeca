package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// says runs the binary of the nodes with other arguments.
func (t *trial) says(args ...string) error {
	if out, err := exec.CommandContext(t.ctx, t.options.binary, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (t *trial) key(name string) string { return filepath.Join(t.Dir, "keys", name) }

// expired has the certificate of the owner end under mail. The owner starts anew with it, and gets a new one.
var expired = scenario{
	name: "certificate-expired", about: "the owner's certificate ends; it starts anew with it, and then gets a new one",
	play: func(t *trial) error {
		owner, _, err := t.warm()
		if err != nil {
			return err
		}
		return fault{
			silence: 3 * time.Second,
			begin: func(t *trial) error {
				if err := t.endCertificate(owner.Name, 2*time.Second); err != nil {
					return err
				}
				if err := t.hup(); err != nil {
					return err
				}
				t.rest(4 * time.Second)
				if err := t.drained(owner); err != nil {
					return err
				}
				if err := t.again(owner); err != nil {
					return err
				}
				t.rest(3 * time.Second)
				refused, err := logged(t.Fleet.Nodes, "expired")
				if err == nil && refused == 0 {
					err = errNever
				}
				t.tell("%d lines of the logs about a certificate that has expired", refused)
				return err
			},
			heal: func(t *trial) error {
				if err := t.says("cluster", "renew", t.key("")); err != nil {
					return err
				}
				if err := t.hup(); err != nil {
					return err
				}
				t.rest(2 * time.Second)
				return nil
			},
		}.play(t)
	},
}

// logged counts the lines of the nodes' logs that have a word.
func logged(nodes []*fleet.Member, word string) (n int, err error) {
	for _, m := range nodes {
		said, err := os.ReadFile(m.Log())
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(said)) {
			if strings.Contains(line, word) {
				n++
			}
		}
	}
	return n, nil
}

// endCertificate has the authority of the nodes make one a certificate that ends soon.
func (t *trial) endCertificate(name string, in time.Duration) error {
	ca, err := parsed(t.key("ca.pem"), x509.ParseCertificate)
	if err != nil {
		return err
	}
	key, err := parsed(t.key("ca.key"), x509.ParsePKCS8PrivateKey)
	if err != nil {
		return err
	}
	cert, err := parsed(t.key(name+".pem"), x509.ParseCertificate)
	if err != nil {
		return err
	}
	cert.SerialNumber = new(big.Int).SetInt64(t.rand.Int64())
	cert.NotAfter = time.Now().Add(in)
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, cert.PublicKey, key)
	if err != nil {
		return err
	}
	return os.WriteFile(t.key(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

// parsed reads what a file of PEM holds.
func parsed[T any](name string, parse func([]byte) (T, error)) (T, error) {
	var none T
	text, err := os.ReadFile(name)
	if err != nil {
		return none, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return none, errors.New(name + " holds no PEM")
	}
	return parse(block.Bytes)
}

// sameName has a fourth node start with the name and the certificate of another one, and end.
var sameName = scenario{
	name: "same-name", about: "a node starts with the name and the certificate of another one",
	nodes: 4,
	play: func(t *trial) error {
		owner, others, err := t.warm()
		if err != nil {
			return err
		}
		twin := others[len(others)-1]
		whole, err := os.ReadFile(twin.Configuration())
		if err != nil {
			return err
		}
		if err := t.drained(twin); err != nil {
			return err
		}
		rest := append([]*fleet.Member{owner}, others[:len(others)-1]...)
		if _, err := t.Fleet.Out(t.ctx, rest, len(rest)); err != nil {
			return err
		}
		t.enter = rest
		stop := func() []fleet.Sent { return nil }
		return fault{
			lasts: 6 * time.Second, silence: 3 * time.Second,
			begin: func(t *trial) error {
				text := strings.NewReplacer("  name: "+twin.Name+"\n", "  name: "+owner.Name+"\n",
					"keys/"+twin.Name+".", "keys/"+owner.Name+".").Replace(string(whole))
				if err := os.WriteFile(twin.Configuration(), []byte(text), 0o600); err != nil {
					return err
				}
				if err := t.Fleet.StartNode(twin); err != nil {
					return err
				}
				if err := t.Fleet.AwaitReady(t.ctx, twin); err != nil {
					return err
				}
				l := small()
				l.Addrs = fleet.Only(twin.SMTP)
				stop = t.begin(l)
				return nil
			},
			heal: func(t *trial) error {
				stop()
				if err := t.drained(twin); err != nil {
					return err
				}
				if _, err := t.Fleet.Out(t.ctx, rest, len(rest)); err != nil {
					return err
				}
				if err := os.WriteFile(twin.Configuration(), whole, 0o600); err != nil {
					return err
				}
				return t.again(twin)
			},
		}.play(t)
	},
}

// gossipKey changes the secret of the cluster, step by step and with one node ahead of the others at each, which no
// mail is to feel; and then all at once, with one node ahead as well, which parts that node from the others.
var gossipKey = scenario{
	name: "gossip-key", about: "the gossip key is rotated half way, and then replaced half way",
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		ahead, rest := t.Fleet.Nodes[:1], t.Fleet.Nodes[1:]
		step := func(t *trial, change func() error, parts bool) error {
			if err := change(); err != nil {
				return err
			}
			if err := hupAll(ahead); err != nil {
				return err
			}
			if parts {
				if _, err := t.Fleet.Out(t.ctx, rest, len(rest)); err != nil {
					return err
				}
			} else {
				t.rest(t.between(1500*time.Millisecond, 2500*time.Millisecond))
				if !t.Fleet.Sees(t.ctx, t.Fleet.Nodes, len(t.Fleet.Nodes)) {
					t.harmed("a node is lost while the key is rotated")
				}
			}
			return hupAll(rest)
		}
		err := fault{
			unfelt: true, silence: 2 * time.Second,
			begin: func(t *trial) error {
				for _, verb := range []string{"add", "use", "drop"} {
					change := func() error { return t.says("cluster", "keys", verb, t.key("gossip.key")) }
					if err := step(t, change, false); err != nil {
						return err
					}
				}
				return nil
			},
		}.play(t)
		if err != nil {
			return err
		}
		return fault{
			silence: 3 * time.Second,
			begin: func(t *trial) error {
				return step(t, func() error {
					return os.WriteFile(t.key("gossip.key"), []byte("another secret of all of these nodes\n"), 0o600)
				}, true)
			},
			heal: func(t *trial) error {
				return fleet.Await(t.ctx, 30*time.Second, "one ring", func() bool { return t.Fleet.Merged(t.ctx) })
			},
		}.play(t)
	},
}

// hupAll tells nodes to read their files.
func hupAll(nodes []*fleet.Member) (err error) {
	for _, m := range nodes {
		err = errors.Join(err, m.Process.Signal(syscall.SIGHUP))
	}
	return err
}
