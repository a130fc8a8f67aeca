package octets_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

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
		switch {
		case all[i].Refusal == "" && r.End.Class() == 2:
			accepted++
		case all[i].Refusal == "" || !bytes.HasPrefix([]byte(r.End.String()), []byte(all[i].Refusal)):
			t.Errorf("%s: got %s, want %s", all[i].Name, r.End, all[i].Refusal)
		}
		if r.End.Class() != 2 {
			if err := s.Reset(); err != nil {
				t.Fatalf("%s: RSET: %v", all[i].Name, err)
			}
		}
	}
	return accepted
}

// TestCorpus_OctetForOctet: every message of the corpus arrives octet for octet.
func TestCorpus_OctetForOctet(t *testing.T) {
	all := world.Corpus(t)
	certificates := smtptest.NewCA()
	for _, to := range []struct {
		name    string
		chunked bool
		tls     *tls.Config
	}{
		{"to DATA in clear", false, nil},
		{"to DATA under TLS", false, certificates.Server("127.0.0.1")},
		{"to BDAT in clear", true, nil},
		{"to BDAT under TLS", true, certificates.Server("127.0.0.1")},
	} {
		for _, from := range []struct {
			name string
			bdat bool
			tls  *tls.Config
		}{
			{"from DATA in clear", false, nil},
			{"from DATA under TLS", false, world.AnyCertificate()},
			{"from BDAT in clear", true, nil},
			{"from BDAT under TLS", true, world.AnyCertificate()},
		} {
			t.Run(from.name+" "+to.name, func(t *testing.T) {
				t.Parallel()
				b := smtptest.Behaviour{TLS: to.tls}
				if !to.chunked {
					b.Extensions = smtptest.Without("CHUNKING")
				}
				d := smtptest.Start(t, b)
				n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
				accepted := sendAll(t, all,
					source.Config{Addr: n.Addr, TLS: from.tls, Chunking: from.bdat, Chunk: 10000, Pipeline: true})
				checkArrived(t, all, world.Messages(t, d, accepted), from.bdat, to.chunked, to.tls != nil)
				world.Violations(t, d)
			})
		}
	}
}

// checkArrived holds what a destination got against what was sent.
func checkArrived(t *testing.T, all []world.Specimen, got []smtptest.Message, bdat, chunked, underTLS bool) {
	t.Helper()
	arrived := make(map[int]int)
	for _, m := range got {
		var i int
		if _, err := fmt.Sscanf(m.Forwards[0], "f%d@x.example", &i); err != nil {
			t.Errorf("forward-path %q: %v", m.Forwards, err)
			continue
		}
		arrived[i]++
		if (m.Chunks != nil) != chunked || (m.TLS != 0) != underTLS {
			t.Errorf("%s: chunks %v, TLS %x", all[i].Name, m.Chunks, m.TLS)
		}
		rest, err := world.Below(m.Octets)
		if err != nil {
			t.Errorf("%s: %v", all[i].Name, err)
			continue
		}
		if d := world.Differ(rest, all[i].Wants(bdat, chunked)); d != "" {
			t.Errorf("%s: %s", all[i].Name, d)
		}
	}
	for i := range all {
		if want := map[bool]int{true: 1, false: 0}[all[i].Refusal == ""]; arrived[i] != want {
			t.Errorf("%s: arrived %d times, want %d", all[i].Name, arrived[i], want)
		}
	}
}

// TestCorpus_SmtpSink: every message of the corpus reaches smtp sink.
func TestCorpus_SmtpSink(t *testing.T) {
	all := world.Corpus(t)
	sink, dir := extern.StartSmtpSink(t, extern.SinkOptions{Dump: true})
	n := world.Start(t, world.World{Routes: "@x.example smtp://" + sink + "\n"})
	accepted := sendAll(t, all, source.Config{Addr: n.Addr})
	got := extern.SinkMessages(t, dir)
	if len(got) != accepted {
		t.Fatalf("smtp-sink has %d messages, %d were accepted", len(got), accepted)
	}
	for _, m := range got {
		var i int
		if _, err := fmt.Sscanf(m.Forward[0], "f%d@x.example", &i); err != nil {
			t.Fatalf("forward-path %q: %v", m.Forward, err)
		}
		rest, err := world.Below(m.Content)
		if err != nil {
			t.Errorf("%s: %v", all[i].Name, err)
			continue
		}
		if d := world.Differ(rest, all[i].Wants(false, false)); d != "" {
			t.Errorf("%s: %s", all[i].Name, d)
		}
	}
}
