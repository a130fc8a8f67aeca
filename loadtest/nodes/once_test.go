package nodes_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A slowDestination takes a message and keeps its answer until it is told to send it.
type slowDestination struct {
	*smtptest.Server
	reached, answer chan struct{}
}

func startSlow(t *testing.T, extensions []string) *slowDestination {
	t.Helper()
	d := &slowDestination{reached: make(chan struct{}), answer: make(chan struct{})}
	first := true
	d.Server = smtptest.Start(t, smtptest.Behaviour{
		Extensions: extensions,
		On: func(s smtptest.Step) (smtptest.Answer, bool) { // the first message alone is slow
			if s.Verb == smtptest.Dot && first {
				first = false
				close(d.reached)
				<-d.answer
			}
			return smtptest.Answer{}, false
		},
	})
	return d
}

// retried is a message as its sender sends it for the nth time.
func retried(n int) source.Message {
	return source.Message{
		Reverse: "a@client.example", Forward: []string{"b@x.example"},
		Octets: fmt.Appendf(nil, "Received: from queue by client.example; attempt %d\r\n"+
			"Message-ID: <1@client.example>\r\nDate: Mon, 30 Nov 2026 23:59:59 +0000\r\n"+
			"From: a@client.example\r\nSubject: x\r\n\r\nhi\r\n..dot\r\n", n),
	}
}

// cutAtTheDot sends a message whose client is cut while the destination has it and has not answered.
func cutAtTheDot(t *testing.T, addr string, d *slowDestination) {
	t.Helper()
	s := world.Dial(t, source.Config{Addr: addr})
	m := retried(1)
	for _, line := range []string{
		"MAIL FROM:<" + m.Reverse + ">", "RCPT TO:<" + m.Forward[0] + ">", "DATA",
	} {
		if r, err := s.Command(line); err != nil || r.Code >= 400 {
			t.Fatal(line, r, err)
		}
	}
	if err := s.Write([]byte(strings.Replace(string(m.Octets), "\r\n..dot", "\r\n...dot", 1) + ".\r\n")); err != nil {
		t.Fatal(err)
	}
	<-d.reached
	s.Abort(true)
	close(d.answer)
	world.Messages(t, d.Server, 1)
}

// retry sends the message again until it has a final answer, which is returned.
func retry(t *testing.T, cfg source.Config) source.Reply {
	t.Helper()
	n := 1
	var last source.Reply
	world.Await(t, "a final answer", func() bool {
		n++
		s := world.Dial(t, cfg)
		defer s.Abort(false)
		r, err := s.Send(retried(n))
		if err != nil {
			t.Fatal(err)
		}
		last = r.End
		return last.Class() != 4
	})
	return last
}

// TestOnce_ClientIsCutAtTheDot cuts a client off between the destination's 250 and ours, and has it come again: one
// copy with the ledger, and two without.
func TestOnce_ClientIsCutAtTheDot(t *testing.T) {
	const on = "once: true\n"
	for _, tt := range []struct {
		name    string
		nodes   int
		redis   bool
		config  string
		chunked bool // the destination takes BDAT
		retry   source.Config
		want    int
	}{
		{"one node", 1, false, on, false, source.Config{}, 1},
		{"one node, to BDAT and again by BDAT", 1, false, on, true, source.Config{Chunking: true}, 1},
		{"one node with Redis", 1, true, on, false, source.Config{}, 1},
		{"through another node", 2, true, on, false, source.Config{}, 1},
		{"through another node, without Redis", 2, false, on, true, source.Config{}, 1},
		{"without the ledger", 1, false, "", false, source.Config{}, 2},
		{"without the ledger, through another node", 2, true, "", false, source.Config{}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			extensions := smtptest.Without("CHUNKING")
			if tt.chunked {
				extensions = nil
			}
			d := startSlow(t, extensions)
			w := reaching(t, d.Server)
			w.Config += tt.config
			if tt.redis {
				w.Config += fmt.Sprintf("redis: {url: %q, timeout: 5s}\n", world.StartRedis(t).URL())
			}
			var nodes []*world.Relay
			if tt.nodes == 1 {
				nodes = []*world.Relay{world.Start(t, w)}
			} else {
				nodes = startCluster(t, tt.nodes, w).nodes
			}
			cutAtTheDot(t, nodes[0].Addr, d)
			tt.retry.Addr = nodes[len(nodes)-1].Addr
			if r := retry(t, tt.retry); r.Code != 250 {
				t.Errorf("the retry is answered %v", r)
			}
			if n := len(d.Messages()); n != tt.want {
				t.Errorf("%d copies, want %d", n, tt.want)
			}
		})
	}
}

// remembered returns for how long Redis remembers each entry of the ledger.
func remembered(t *testing.T, r *world.Redis) (left []time.Duration) {
	t.Helper()
	for key := range strings.Lines(r.Do(t, "KEYS", "*}:o")) {
		for value := range strings.Lines(r.Do(t, "HVALS", strings.TrimSpace(key))) {
			f := strings.Fields(value)
			expires, err := strconv.ParseInt(f[5], 10, 64)
			if err != nil || f[0] != "3" {
				t.Fatalf("an entry %q: %v", value, err)
			}
			left = append(left, time.Until(time.UnixMilli(expires)))
		}
	}
	return left
}

// TestOnce_RemembersUntilTheAnswerWasRead: an entry is removed if the client shows that it has read the answer, and
// remembered for as long as it may not have.
func TestOnce_RemembersUntilTheAnswerWasRead(t *testing.T) {
	const never = 0
	ends := func(t *testing.T, s *source.Session, line string) {
		t.Helper()
		if _, err := s.Command(line); err != nil {
			t.Fatal(line, err)
		}
	}
	front := source.ProxyV2(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:25"))
	sends := func(t *testing.T, s *source.Session, id string) {
		t.Helper()
		m := retried(1)
		m.Octets = []byte(strings.Replace(string(m.Octets), "<1@", "<"+id+"@", 1))
		world.Send(t, s, m)
	}
	for _, tt := range []struct {
		name  string
		proxy []byte
		does  func(t *testing.T, s *source.Session) // after the message was answered
		left  time.Duration                         // at most; never: the entry is removed
		more  int                                   // entries of further messages
	}{
		{"goes on with a message", nil, func(t *testing.T, s *source.Session) {
			ends(t, s, "MAIL FROM:<a@client.example>")
			ends(t, s, "RSET")
		}, never, 0},
		{"says QUIT", nil, func(t *testing.T, s *source.Session) { ends(t, s, "QUIT") }, never, 0},
		{"closes the connection", nil, func(_ *testing.T, s *source.Session) { s.Abort(false) }, time.Hour, 0},
		{"resets the connection", nil, func(_ *testing.T, s *source.Session) { s.Abort(true) }, 5 * 24 * time.Hour, 0},
		{"says QUIT behind a front end", front, func(t *testing.T, s *source.Session) { ends(t, s, "QUIT") },
			24 * time.Hour, 0},
		{"goes on with a message behind a front end", front, func(t *testing.T, s *source.Session) {
			sends(t, s, "2")
			s.Abort(true)
		}, never, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			redis := world.StartRedis(t)
			d := smtptest.Start(t, smtptest.Behaviour{})
			w := reaching(t, d)
			w.Config += fmt.Sprintf("once: true\nredis: {url: %q, timeout: 5s}\n", redis.URL())
			if tt.proxy != nil {
				w.Listen = "proxy_protocol: [\"127.0.0.1/32\"]"
			}
			node := world.Start(t, w)
			client := func() {
				redis.Do(t, "FLUSHALL")
				s := world.Dial(t, source.Config{Addr: node.Addr, Proxy: tt.proxy})
				sends(t, s, "1")
				if left := remembered(t, redis); len(left) != 1 || left[0] < 4*24*time.Hour {
					t.Fatalf("before it was read it is remembered for %v", left)
				}
				tt.does(t, s)
			}
			client()
			polls := 0
			world.Await(t, "what is remembered is as it should be", func() bool {
				// A busy machine lets a node note that it wrote the answer when the next command has come already,
				// which then is no sign. Such a client comes again.
				if polls++; polls%100 == 0 {
					client()
				}
				left := remembered(t, redis)
				if tt.left == never {
					return len(left) == tt.more
				}
				return len(left) == 1 && left[0] <= tt.left && left[0] > tt.left-time.Minute
			})
		})
	}
}

// TestOnce_OneOfTwoRecipientsHasIt: the first attempt delivers to one recipient, the other one is put off; the client
// is cut, and sends the message again to both until each has its answer.
func TestOnce_OneOfTwoRecipientsHasIt(t *testing.T) {
	for name, size := range map[string]int{"held": 10, "streamed": 300 << 10} {
		t.Run(name, func(t *testing.T) {
			d := &slowDestination{reached: make(chan struct{}), answer: make(chan struct{})}
			var attempts atomic.Int32
			d.Server = smtptest.Start(t, smtptest.Behaviour{
				On: func(s smtptest.Step) (smtptest.Answer, bool) {
					switch {
					case s.Verb == "RCPT" && s.Forward == "c@y.example" && attempts.Load() == 0:
						return smtptest.Answer{Reply: "451 4.2.0 Later"}, true
					case s.Verb == smtptest.Dot && attempts.Add(1) == 1:
						close(d.reached)
						<-d.answer
					}
					return smtptest.Answer{}, false
				},
			})
			w := reaching(t, d.Server)
			w.Config += "once: true\n"
			addr := world.Start(t, w).Addr
			m := retried(1)
			m.Forward = []string{"b@x.example", "c@x.example"}
			m.Octets = append(m.Octets, strings.Repeat("a line that makes the message long\r\n", size/36)...)
			s := world.Dial(t, source.Config{Addr: addr, Pipeline: false})
			sent := make(chan struct{})
			go func() { // ends when it is cut
				defer close(sent)
				if r, err := s.Send(m); err == nil {
					t.Error("it ends with", r)
				}
			}()
			select {
			case <-d.reached:
			case <-sent:
				t.Fatal("it never came to the destination")
			}
			s.Abort(true)
			<-sent
			close(d.answer)
			world.Messages(t, d.Server, 1)
			world.Await(t, "each recipient has an answer", func() bool {
				s := world.Dial(t, source.Config{Addr: addr})
				defer s.Abort(false)
				r, err := s.Send(m)
				if err != nil {
					t.Fatal(err)
				}
				if r.End.Class() != 2 {
					return false
				}
				var open []string
				for i, f := range m.Forward {
					if r.Rcpt[i].Class() != 2 {
						open = append(open, f)
					}
				}
				m.Forward = open
				return len(open) == 0
			})
			copies := make(map[string]int)
			for _, got := range d.Messages() {
				for _, f := range got.Forwards {
					copies[f]++
				}
			}
			if copies["b@y.example"] != 1 || copies["c@y.example"] != 1 {
				t.Errorf("copies are %v, want one each", copies)
			}
		})
	}
}

// TestOnce_WhatIsUnderWayIsNotSentAgain: a client hangs up while the destination thinks, and comes again.
func TestOnce_WhatIsUnderWayIsNotSentAgain(t *testing.T) {
	d := startSlow(t, nil)
	w := reaching(t, d.Server)
	w.Config += "once: true\n"
	addr := world.Start(t, w).Addr
	s := world.Dial(t, source.Config{Addr: addr})
	go func() { _, _ = s.Send(retried(1)) }() // ends when it is cut
	<-d.reached
	s.Abort(true)
	r, err := world.Dial(t, source.Config{Addr: addr}).Send(retried(2))
	if err != nil || r.End.Code != 451 || !strings.Contains(r.End.Text, "still in progress") {
		t.Errorf("meanwhile the retry is answered %v, %v", r.End, err)
	}
	close(d.answer)
	if r := retry(t, source.Config{Addr: addr}); r.Code != 250 || len(d.Messages()) != 1 {
		t.Errorf("then it is answered %v, and there are %d copies", r, len(d.Messages()))
	}
}

// TestOnce_PipelinedBehindTheDot: what was sent before the answer could be read does not prove that it was read.
func TestOnce_PipelinedBehindTheDot(t *testing.T) {
	redis := world.StartRedis(t)
	w := reaching(t, smtptest.Start(t, smtptest.Behaviour{}))
	w.Config += fmt.Sprintf("once: true\nredis: {url: %q, timeout: 5s}\n", redis.URL())
	s := world.Dial(t, source.Config{Addr: world.Start(t, w).Addr})
	m := retried(1)
	for _, line := range []string{"MAIL FROM:<" + m.Reverse + ">", "RCPT TO:<" + m.Forward[0] + ">", "DATA"} {
		if r, err := s.Command(line); err != nil || r.Code >= 400 {
			t.Fatal(line, r, err)
		}
	}
	const message = "Message-ID: <1@c.example>\r\nDate: now\r\n\r\nhi\r\n"
	if err := s.Write([]byte(message + ".\r\nMAIL FROM:<>\r\nQUIT\r\n")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{250, 250, 221} {
		if r, err := s.Read(); err != nil || r.Code != want {
			t.Fatalf("got %v, %v, want %d", r, err, want)
		}
	}
	if _, err := s.Read(); err == nil {
		t.Fatal("the connection is open")
	}
	if left := remembered(t, redis); len(left) != 1 || left[0] < 4*24*time.Hour {
		t.Errorf("remembered for %v", left)
	}
}

// TestOnce_AsksRedisTwice: a message costs one round trip before the end of data and one behind it.
func TestOnce_AsksRedisTwice(t *testing.T) {
	redis := world.StartRedis(t)
	w := reaching(t, smtptest.Start(t, smtptest.Behaviour{}))
	w.Config += fmt.Sprintf("once: true\nredis: {url: %q, timeout: 5s}\nrates: none\n", redis.URL())
	s := world.Dial(t, source.Config{Addr: world.Start(t, w).Addr})
	before := redis.Calls(t)
	world.Send(t, s, retried(1))
	first := redis.Calls(t) - before // with the attempts at scripts that Redis does not have yet
	world.Send(t, s, source.Message{
		Reverse: "a@client.example", Forward: []string{"b@x.example"},
		Octets: []byte("Message-ID: <2@client.example>\r\nDate: x\r\n\r\nhi\r\n"),
	})
	// The removal of the first message comes beside them.
	world.Await(t, "two round trips and a removal", func() bool { return redis.Calls(t)-before-first == 3 })
}
