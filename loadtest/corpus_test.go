package loadtest_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
)

// A specimen is one message of the corpus as a client sends it: lines that end in CRLF. refusal is the reply that it is
// to get instead of being relayed, "" for none.
type specimen struct {
	name    string
	octets  []byte
	refusal string
}

// The two messages that are refused, and why.
var refusedSpecimens = map[string]string{
	// 93 Received fields: E5 takes more than 50 for a loop
	"james-mime4j__benchmark_src_main_resources_long-headers.msg": "554 5.4.6",
}

// corpus reads the messages that real software wrote or was tested with.
func corpus(t *testing.T) []specimen {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "shared", "corpus", "eml", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("no ../shared")
	}
	var all []specimen
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		s := specimen{name: filepath.Base(f), octets: b, refusal: refusedSpecimens[filepath.Base(f)]}
		if bytes.ContainsRune(bytes.ReplaceAll(b, []byte("\r\n"), nil), '\r') {
			s.refusal = "550 5.6.11"
			t.Logf("%s has a bare CR", s.name)
		}
		all = append(all, s)
	}
	return all
}

// wants is what is to stand below our field. chunked tells how the message left.
func (s *specimen) wants(clientBDAT, chunked bool) []byte {
	if !bytes.HasSuffix(s.octets, []byte("\r\n")) && !(clientBDAT && chunked) {
		return append(bytes.Clone(s.octets), '\r', '\n')
	}
	return s.octets
}

// sendAll sends each specimen over one session, to the local part that is its number, and checks the replies. It
// returns how many were accepted.
func sendAll(t *testing.T, all []specimen, cfg source.Config) (accepted int) {
	t.Helper()
	s := dial(t, cfg)
	for i := range all {
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{fmt.Sprintf("f%d@x.example", i)}, Octets: all[i].octets,
		})
		if err != nil {
			t.Fatalf("%s: %v", all[i].name, err)
		}
		switch {
		case all[i].refusal == "" && r.End.Class() == 2:
			accepted++
		case all[i].refusal == "" || !bytes.HasPrefix([]byte(r.End.String()), []byte(all[i].refusal)):
			t.Errorf("%s: got %s, want %s", all[i].name, r.End, all[i].refusal)
		}
		if r.End.Class() != 2 {
			if err := s.Reset(); err != nil {
				t.Fatalf("%s: RSET: %v", all[i].name, err)
			}
		}
	}
	return accepted
}

func TestEveryMessageOfTheCorpusArrivesOctetForOctet(t *testing.T) {
	all := corpus(t)
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
			{"from DATA under TLS", false, anyCertificate()},
			{"from BDAT in clear", true, nil},
			{"from BDAT under TLS", true, anyCertificate()},
		} {
			t.Run(from.name+" "+to.name, func(t *testing.T) {
				t.Parallel()
				b := smtptest.Behaviour{TLS: to.tls}
				if !to.chunked {
					b.Extensions = smtptest.Without("CHUNKING")
				}
				d := smtptest.Start(t, b)
				n := startNode(t, world{routes: "@x.example smtp://" + d.Addr() + "\n"})
				accepted := sendAll(t, all,
					source.Config{Addr: n.addr, TLS: from.tls, Chunking: from.bdat, Chunk: 10000, Pipeline: true})
				checkArrived(t, all, messages(t, d, accepted), from.bdat, to.chunked, to.tls != nil)
				violations(t, d)
			})
		}
	}
}

// checkArrived holds what a destination got against what was sent.
func checkArrived(t *testing.T, all []specimen, got []smtptest.Message, bdat, chunked, underTLS bool) {
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
			t.Errorf("%s: chunks %v, TLS %x", all[i].name, m.Chunks, m.TLS)
		}
		rest, err := below(m.Octets)
		if err != nil {
			t.Errorf("%s: %v", all[i].name, err)
			continue
		}
		if d := differ(rest, all[i].wants(bdat, chunked)); d != "" {
			t.Errorf("%s: %s", all[i].name, d)
		}
	}
	for i := range all {
		if want := map[bool]int{true: 1, false: 0}[all[i].refusal == ""]; arrived[i] != want {
			t.Errorf("%s: arrived %d times, want %d", all[i].name, arrived[i], want)
		}
	}
}

func TestEveryMessageOfTheCorpusReachesSmtpSink(t *testing.T) {
	all := corpus(t)
	sink, dir := extern.StartSmtpSink(t, extern.SinkOptions{Dump: true})
	n := startNode(t, world{routes: "@x.example smtp://" + sink + "\n"})
	accepted := sendAll(t, all, source.Config{Addr: n.addr})
	got := extern.SinkMessages(t, dir)
	if len(got) != accepted {
		t.Fatalf("smtp-sink has %d messages, %d were accepted", len(got), accepted)
	}
	for _, m := range got {
		var i int
		if _, err := fmt.Sscanf(m.Forward[0], "f%d@x.example", &i); err != nil {
			t.Fatalf("forward-path %q: %v", m.Forward, err)
		}
		rest, err := below(m.Content)
		if err != nil {
			t.Errorf("%s: %v", all[i].name, err)
			continue
		}
		if d := differ(rest, all[i].wants(false, false)); d != "" {
			t.Errorf("%s: %s", all[i].name, d)
		}
	}
}
