package filters_test

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/d--j/go-milter"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/filters/scanner"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A meddler is a milter that asks for each change of a message that is none of a field on top.
type meddler struct {
	milter.NoOpMilter
}

func (meddler) EndOfMessage(m milter.Modifier) (*milter.Response, error) {
	for _, err := range []error{
		m.AddRecipient("<other@x.example>", ""), m.DeleteRecipient("<f0@x.example>"),
		m.ChangeFrom("<other@y.example>", ""),
		m.ChangeHeader(1, "Subject", "changed"), m.ChangeHeader(1, "From", ""),
		m.ReplaceBodyRawChunk([]byte("another body\r\n")),
	} {
		if err != nil {
			return nil, err
		}
	}
	return milter.RespAccept, nil
}

// startMeddler starts a meddler and returns its address.
func startMeddler(t *testing.T) (addr string) {
	t.Helper()
	server := milter.NewServer(milter.WithMilter(func() milter.Milter { return meddler{} }),
		milter.WithActions(milter.AllClientSupportedActionMasks&^milter.OptSetMacros))
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(socket) }) // ends when the server is closed
	t.Cleanup(func() { _ = server.Close(); served.Wait() })
	return socket.Addr().String()
}

// TestCorpus_OctetForOctet: with filters each message of the corpus arrives octet for octet, by DATA and by BDAT,
// whatever a milter asks to have changed; and a filter is shown the octets that the next hop gets.
func TestCorpus_OctetForOctet(t *testing.T) {
	all := world.Corpus(t)
	for _, tt := range []struct {
		name          string
		bdat, chunked bool
	}{
		{"DATA to DATA", false, false},
		{"DATA to BDAT", false, true},
		{"BDAT to DATA", true, false},
		{"BDAT to BDAT", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var b smtptest.Behaviour
			if !tt.chunked {
				b.Extensions = smtptest.Without("CHUNKING")
			}
			d := smtptest.Start(t, b)
			var mu sync.Mutex
			shown := make(map[string]int)
			spam := scanner.Start(t, scanner.Rspamd("no action", func(octets []byte) {
				mu.Lock()
				defer mu.Unlock()
				shown[string(octets)]++
			}))
			n := world.Start(t, world.World{
				Routes: "@x.example smtp://" + d.Addr() + "\n",
				Config: fmt.Sprintf("filters: [{name: spam, rspamd: %q, late: tempfail}, {name: m, milter: %q}]\n",
					spam.Addr(), startMeddler(t)),
			})
			accepted := sendAll(t, all, source.Config{Addr: n.Addr, Chunking: tt.bdat, Chunk: 10000, Pipeline: true})
			got := world.Messages(t, d, accepted)
			arrived := make([]int, len(all))
			for _, m := range got {
				i := numberOf(t, m.Forwards[0])
				arrived[i]++
				rest, err := world.Below(m.Octets)
				if err != nil {
					t.Errorf("%s: %v", all[i].Name, err)
					continue
				}
				if differs := world.Differ(rest, all[i].Wants(tt.bdat, tt.chunked)); differs != "" {
					t.Errorf("%s: %s", all[i].Name, differs)
				}
				whole := string(all[i].Wants(tt.bdat, true))
				if shown[whole]+shown[whole+"\r\n"] == 0 {
					t.Errorf("%s: the filter was shown another message", all[i].Name)
				}
			}
			for i, times := range arrived {
				if (times == 1) != (all[i].Refusal == "") || times > 1 {
					t.Errorf("%s: arrived %d times", all[i].Name, times)
				}
			}
			world.Violations(t, d)
		})
	}
}

// numberOf returns the number in the local part of a forward-path.
func numberOf(t *testing.T, forward string) (i int) {
	t.Helper()
	if _, err := fmt.Sscanf(forward, "f%d@", &i); err != nil {
		t.Fatal(forward, err)
	}
	return i
}

// sendAll sends each Specimen over one session, to the local part that is its number, and checks the replies. It
// returns how many were accepted.
func sendAll(t *testing.T, all []world.Specimen, cfg source.Config) (accepted int) {
	t.Helper()
	s := world.Dial(t, cfg)
	for i := range all {
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{fmt.Sprintf("f%d@x.example", i)}, Octets: all[i].Octets,
		})
		if err != nil {
			t.Fatalf("%s: %v", all[i].Name, err)
		}
		if all[i].Refusal == "" && r.End.Class() == 2 {
			accepted++
			continue
		}
		if all[i].Refusal == "" || !bytes.HasPrefix([]byte(r.End.String()), []byte(all[i].Refusal)) {
			t.Errorf("%s: got %s, want %s", all[i].Name, r.End, all[i].Refusal)
		}
		if err := s.Reset(); err != nil {
			t.Fatalf("%s: RSET: %v", all[i].Name, err)
		}
	}
	return accepted
}
