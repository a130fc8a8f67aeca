package world

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
)

// A Specimen is one message of the corpus as a client sends it: lines that end in CRLF. Refusal is the reply that it is
// to get instead of being relayed, "" for none.
type Specimen struct {
	Name    string
	Octets  []byte
	Refusal string
}

// The two messages that are refused, and why.
var refusedSpecimens = map[string]string{
	// 93 Received fields: E5 takes more than 50 for a loop
	"james-mime4j__benchmark_src_main_resources_long-headers.msg": "554 5.4.6",
}

// Corpus reads the messages that real software wrote or was tested with.
func Corpus(t testing.TB) []Specimen {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(ingresstest.Shared(t, "corpus", "eml"), "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var all []Specimen
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		s := Specimen{Name: filepath.Base(f), Octets: b, Refusal: refusedSpecimens[filepath.Base(f)]}
		if bytes.ContainsRune(bytes.ReplaceAll(b, []byte("\r\n"), nil), '\r') {
			s.Refusal = "550 5.6.11"
			t.Logf("%s has a bare CR", s.Name)
		}
		all = append(all, s)
	}
	return all
}

// texts are the specimens whose first line is no field: an empty line parts them from ours.
var texts = []string{
	"cpython__msg_19.txt", "enmime__testdata_low-quality_bad-header-start.raw",
	"james-mime4j__core_src_test_resources_testmsgs_malformedHeader-noheader.msg",
}

// Wants is what is to stand below our field. chunked tells how the message left.
func (s *Specimen) Wants(clientBDAT, chunked bool) []byte {
	want := s.Octets
	if slices.Contains(texts, s.Name) {
		want = append([]byte("\r\n"), want...)
	}
	if !bytes.HasSuffix(want, []byte("\r\n")) && !(clientBDAT && chunked) {
		return append(bytes.Clone(want), '\r', '\n')
	}
	return want
}
