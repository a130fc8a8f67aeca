package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/source"
)

// TestRecord_Documents: what the documents say of the race is what was recorded.
func TestRecord_Documents(t *testing.T) {
	t.Chdir("../..")
	readme, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := load(recordFile)
	if errors.Is(err, fs.ErrNotExist) {
		if strings.Contains(string(readme), documentFile) {
			t.Errorf("%s speaks of a record that does not exist", readmeFile)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if renewed, err := replaceBlock(string(readme), r.block()); err != nil || renewed != string(readme) {
		t.Errorf("%s says something else than %s (%v); to mend it: go run ./loadtest/benchrelay -write", readmeFile,
			recordFile, err)
	}
	var want strings.Builder
	r.markdown(&want)
	if document, err := os.ReadFile(documentFile); err != nil || string(document) != want.String() {
		t.Errorf("%s says something else than %s (%v); to mend it: go run ./loadtest/benchrelay -write", documentFile,
			recordFile, err)
	}
}

// TestRecord_Bars: a bar is counted where it is set, and a void cell is no bar reached.
func TestRecord_Bars(t *testing.T) {
	run := func(seconds float64, why string) []sample {
		return []sample{{Messages: 1000, CPU: seconds, Wall: 1, Arrived: 1, Void: why}}
	}
	r := &result{
		Subjects: []string{nothing, haproxy, millrace, "Postfix queue", "Postfix proxy", "Haraka"},
		Rounds:   1,
		Scenarios: []measured{
			{scenario: cell(4<<10, 20, false, false), Runs: map[string][]sample{
				nothing: run(0, ""), haproxy: run(0.1, ""), millrace: run(0.1, ""), "Postfix queue": run(1.2, ""),
				"Postfix proxy": run(0.2, ""), "Haraka": run(0.9, ""),
			}},
			{scenario: cell(4<<10, 20, true, false), Runs: map[string][]sample{
				nothing: run(0, ""), haproxy: run(0.1, ""), millrace: run(0.1, ""),
				"Postfix queue": run(1.2, "one was lost"),
				"Haraka":        run(0.9, ""),
			}},
		},
	}
	r.summarise()
	reached, all, missed := r.bars()
	if reached != 2 || all != 4 || len(missed) != 2 {
		t.Errorf("%d of %d, missed %q", reached, all, missed)
	}
	var document strings.Builder
	r.markdown(&document)
	for _, want := range []string{
		"| 4 KiB, 20 sessions, single | 0.1 (1×) | **0.100** | 1.2 (12×) | 0.2 (2×) | 0.9 (9×) |",
		"| 4 KiB, 20 sessions, reuse | 0.1 (1×) | **0.100** | void |  | 0.9 (9×) |",
		"* Postfix queue, 4 KiB, 20 sessions, reuse: one was lost", "2 of 4 are reached.",
	} {
		if !strings.Contains(document.String(), want) {
			t.Errorf("lacks %q:\n%s", want, document.String())
		}
	}
}

// TestRecord_Block: what stands around the generated part of a document stays.
func TestRecord_Block(t *testing.T) {
	text := "before\n" + blockBegins + "old\n" + blockEnds + "after\n"
	if got, err := replaceBlock(text, "new\n"); err != nil || got != strings.Replace(text, "old", "new", 1) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := replaceBlock("none", "new\n"); err == nil {
		t.Error("a document without the lines was taken")
	}
}

// TestSink_Account: the sink knows each message of a run by its number.
func TestSink_Account(t *testing.T) {
	s, err := newSink("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := source.Dial(ctx, source.Config{Addr: s.addr(), Pipeline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort(false)
	for _, x := range []struct {
		to   []string
		sent int
		want string
	}{
		{[]string{"1sink@bench.example", "2sink@bench.example"}, 2, ""},
		{[]string{"1sink@bench.example"}, 2, "1 never came, 0 came more than once, and 0 came"},
		{[]string{"1sink@bench.example", "1sink@bench.example"}, 1, "0 never came, 1 came more than once, and 0 came"},
		{[]string{"1sink@bench.example", "2sink@bench.example"}, 1, "0 came more than once, and 1 came that were not"},
		{[]string{"1sink@bench.example", "x@y.example"}, 1, "0 came more than once, and 1 came that were not"},
	} {
		s.expect()
		for _, to := range x.to {
			r, err := c.Send(source.Message{
				Reverse: "a@b.example", Forward: []string{to}, Octets: []byte("Subject: x\r\n\r\n.\r\n"),
			})
			if err != nil || r.End.Class() != 2 {
				t.Fatal(r.End, err)
			}
		}
		s.await(ctx, len(x.to))
		if got := s.account(x.sent); (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("%q of %d: got %q, want %q", x.to, x.sent, got, x.want)
		}
		if reverse, head := s.first(); reverse != "a@b.example" || head != "Subject: x\r\n" {
			t.Errorf("first %q, %q", reverse, head)
		}
	}
}

// TestPolicy_Judged: a message that does not say that it was judged is no result.
func TestPolicy_Judged(t *testing.T) {
	head := "Authentication-Results: relay.bench.example; dkim=pass header.d=x\r\n; dmarc=pass; spf=pass\r\n"
	if why := judged("SRS0=a=b=c=d@srs.bench.example", head, false); why != "" {
		t.Error(why)
	}
	for what, with := range map[string][2]string{
		"SPF": {"SRS0=a", strings.Replace(head, "spf=pass", "spf=none", 1)}, "SRS": {"a@b.example", head},
		"DKIM":  {"SRS0=a", strings.Replace(head, "dkim=pass", "dkim=fail", 1)},
		"DMARC": {"SRS0=a", strings.Replace(head, "dmarc=pass", "dmarc=fail", 1)},
	} {
		if judged(with[0], with[1], false) == "" {
			t.Errorf("without %s it is a result", what)
		}
		if got := judged(with[0], with[1], true); (got == "") != (what == "DKIM" || what == "DMARC") {
			t.Errorf("without %s, which is asked: %q", what, got)
		}
	}
}

// TestPeers_Configurations: what a run puts into a configuration is all that is to be put in, and each peer has one.
func TestPeers_Configurations(t *testing.T) {
	b := &bench{}
	var err error
	if b.sink, err = newSink("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer b.sink.close()
	for _, p := range peers {
		dir := t.TempDir()
		if err := b.write("peers/"+p.folder, dir, b.fill(dir, "127.0.0.1:25")); err != nil {
			t.Fatal(err)
		}
		err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			text, err := fs.ReadFile(os.DirFS(dir), name)
			if left := regexp.MustCompile(`@[A-Z]+@`).Find(text); left != nil {
				t.Errorf("%s/%s: %s", p.folder, name, left)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestResult_Table: a table tells quartiles of ratios of the same round, and what the figures depend on; and there is a
// file for each model of processor.
func TestResult_Table(t *testing.T) {
	rounds := func(seconds ...float64) (all []sample) {
		for _, s := range seconds {
			all = append(all, sample{Messages: 1000, CPU: s, Wall: 1, Arrived: 1})
		}
		return all
	}
	r := &result{
		Subjects: []string{haproxy, millrace}, Rounds: 5,
		Around: &around{Flags: []string{"aes", "avx2"}, Congestion: "bbr", Load: "1 2 3", Stolen: 0.125},
		Scenarios: []measured{{scenario: cell(4<<10, 20, true, false), Runs: map[string][]sample{
			haproxy: rounds(0.1, 0.2, 0.1, 0.1, 0.1), millrace: rounds(0.5, 0.2, 0.2, 0.3, 0.4), // 5, 1, 2, 3, 4 times
		}}},
	}
	r.summarise()
	var text strings.Builder
	if err := r.table(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"flags aes avx2; congestion control bbr; load before 1 2 3; stolen 12.5 %", "quartiles", "3.00", "2.00-4.00",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("lacks %q:\n%s", want, text.String())
		}
	}
	for model, want := range map[string]string{
		"AMD EPYC": "amd-epyc.txt", "Intel(R) Xeon(R) CPU @ 2.20GHz": "intel-r-xeon-r-cpu-2-20ghz.txt",
		"": "unknown.txt",
	} {
		if got := fileOf(model); got != want {
			t.Errorf("%q has the file %s, want %s", model, got, want)
		}
	}
}
