package nodes_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestOnce_EqualAlarms: messages without Message-ID may be equal and all meant. One whose predecessor was answered is
// delivered.
func TestOnce_EqualAlarms(t *testing.T) {
	const alarm = "From: a@client.example\r\nSubject: the disk is full\r\n\r\nhelp\r\n"
	const envelope = "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@x.example>\r\n"
	m := source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: []byte(alarm)}
	one := func(t *testing.T, addr string, n int) {
		s := world.Dial(t, source.Config{Addr: addr})
		for range n {
			world.Send(t, s, m)
		}
		if r, err := s.Command("QUIT"); err != nil || r.Code != 221 {
			t.Fatal(r, err)
		}
		_, _ = s.Read() // the end
	}
	for _, tt := range []struct {
		name  string
		nodes int
		redis bool
		send  func(t *testing.T, addr string, n int)
	}{
		{"on one connection", 1, false, one},
		{"on one connection, Redis", 1, true, one},
		{"on several", 1, false, func(t *testing.T, addr string, n int) {
			for range n {
				one(t, addr, 1)
			}
		}},
		{"pipelined behind the dot", 1, false, func(t *testing.T, addr string, n int) {
			s := world.Dial(t, source.Config{Addr: addr})
			if err := s.Write([]byte(envelope + "DATA\r\n")); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				for range 3 {
					if r, err := s.Read(); err != nil || r.Code >= 400 {
						t.Fatal(r, err)
					}
				}
				next := envelope + "DATA\r\n"
				if i == n-1 {
					next = ""
				}
				if err := s.Write([]byte(alarm + ".\r\n" + next)); err != nil {
					t.Fatal(err)
				}
				if r, err := s.Read(); err != nil || r.Code >= 400 {
					t.Fatal(r, err)
				}
			}
		}},
		{"through another node, Redis", 2, true, one},
		{"through another node", 2, false, one},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{})
			w := reaching(t, d)
			w.Config += "once: true\n"
			if tt.redis {
				w.Config += fmt.Sprintf("redis: {url: %q, timeout: 5s}\n", world.StartRedis(t).URL())
			}
			var nodes []*world.Relay
			if tt.nodes == 1 {
				nodes = []*world.Relay{world.Start(t, w)}
			} else {
				nodes = startCluster(t, tt.nodes, w).nodes
			}
			for _, n := range nodes {
				tt.send(t, n.Addr, 10)
			}
			if got := len(d.Messages()); got != 10*tt.nodes {
				t.Errorf("%d of %d were delivered", got, 10*tt.nodes)
			}
		})
	}
}
