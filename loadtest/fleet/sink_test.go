package fleet

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/loadtest/source"
)

// TestSink_Counts: each message counts once, however it is sent, by the local part of its first recipient.
func TestSink_Counts(t *testing.T) {
	s, err := ListenSink("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	octets := source.Body(100 << 10)
	for i, cfg := range []source.Config{
		{}, {Pipeline: true}, {Chunking: true}, {Chunking: true, Chunk: 1000},
		{Chunking: true, Chunk: 1000, Pipeline: true},
	} {
		cfg.Addr = s.Addr()
		session, err := source.Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 2 {
			id := fmt.Sprintf("m%d-%d", i, k)
			forward := []string{Unknown + "@x.example", id + "@x.example", "b@x.example"}
			r, err := session.Send(source.Message{Reverse: "a@client.example", Forward: forward, Octets: octets})
			if err != nil || r.End.Code != 250 || r.Rcpt[0].Code != 550 {
				t.Fatalf("%+v: %+v, %v", cfg, r, err)
			}
		}
		if r, err := session.Send(source.Message{Forward: []string{Unknown + "@x.example"}}); err != nil ||
			r.End.Class() != 5 {
			t.Errorf("%+v: %+v, %v", cfg, r, err)
		}
		if err := session.Quit(); err != nil {
			t.Error(err)
		}
	}
	for id, n := range s.Copies() {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	if c := s.Counts(); len(s.Copies()) != 10 || c.Messages != 10 || c.Refused != 15 || c.Connections != 5 ||
		c.Octets != 10*int64(len(octets)) {
		t.Errorf("%d ids, %+v", len(s.Copies()), c)
	}
}

// TestSink_Half: half a message is none.
func TestSink_Half(t *testing.T) {
	s, err := ListenSink("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []source.Config{{}, {Chunking: true, Chunk: 1000}} {
		cfg.Addr, cfg.Cut = s.Addr(), source.Cut{After: 5000}
		session, err := source.Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = session.Send(source.Message{Forward: []string{"m-1@x.example"}, Octets: source.Body(20 << 10)})
		if err == nil {
			t.Error("it was not cut")
		}
	}
	s.Close()
	if len(s.Copies()) > 0 {
		t.Errorf("%v came", s.Copies())
	}
}

// TestLoad_Rate: a message that waits for others has taken time since it was due, and sizes are whole lines.
func TestLoad_Rate(t *testing.T) {
	s, err := ListenSink("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n = 200
	l := &Load{
		Name: "m", Addrs: Only(s.Addr()), Clients: 1, Messages: n, Rate: 1e6, Octets: 10000,
		Size:    func(i int) int { return 100 + 49*i },
		Forward: func(i int) string { return fmt.Sprintf("m-%d@x.example", i) },
	}
	all := l.Run(t.Context())
	if tally := Compare(all, s.Copies()); tally.Err() != nil || tally.Messages != n {
		t.Fatalf("%s: %v", tally, tally.Err())
	}
	// All were due in the first moment, and one client sends one behind the other.
	for i := n / 2; i < n; i++ {
		if all[i].Took <= all[i/2].Took {
			t.Errorf("message %d took %s, and %d, which came before it, %s", i, all[i].Took, i/2, all[i/2].Took)
		}
	}
}
