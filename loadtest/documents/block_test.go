package documents

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
)

// A block is what stands between two fences of a page.
type block struct {
	line int
	kind string // behind the first fence: sh, yaml
	text string
	note string // the comment right above the fence
}

var noteForm = regexp.MustCompile(`^<!-- (.+) -->$`)

// blocksOf returns the blocks of a page in order.
func blocksOf(page string) (all []block) {
	var open *block
	note := ""
	for i, line := range strings.Split(page, "\n") {
		kind, fence := strings.CutPrefix(line, "```")
		switch {
		case open == nil && fence:
			open = &block{line: i + 1, kind: kind, note: note}
		case open != nil && line == "```":
			all, open = append(all, *open), nil
		case open != nil:
			open.text += line + "\n"
		}
		if note = ""; open == nil {
			if m := noteForm.FindStringSubmatch(line); m != nil {
				note = m[1]
			}
		}
	}
	return all
}

// The notes above a block of commands. One without either is run with its page.
const (
	runBy  = "run by "   // the test that runs it
	notRun = "not run: " // and why
)

// isRun reports whether a block is run with its page.
func (b *block) isRun() bool {
	return b.kind == "sh" && !strings.HasPrefix(b.note, runBy) && !strings.HasPrefix(b.note, notRun)
}

// file returns the name of the file that a block is the content of, as its first line says, or "".
func (b *block) file() string {
	first, _, _ := strings.Cut(b.text, "\n")
	m := fileForm.FindStringSubmatch(first)
	if m == nil || b.kind == "sh" {
		return ""
	}
	return m[1]
}

var fileForm = regexp.MustCompile(`^# ([a-z0-9/_-]+\.[a-z]+)$`)

// pages returns the documents that git tracks or would track, by name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	root := extern.Root()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-co", "--exclude-standard", "*.md")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, name := range strings.Fields(string(out)) {
		all[name] = read(t, filepath.Join(root, name))
	}
	return all
}

// TestBlocks: each block of commands is run with its page, run by a test that there is, or has a reason for neither.
// What needs no network has none.
func TestBlocks(t *testing.T) {
	grep := exec.CommandContext(t.Context(), "git", "grep", "--untracked", "-h", "^func Test", "--", "*_test.go")
	grep.Dir = extern.Root()
	tests, err := grep.Output()
	if err != nil {
		t.Fatal(err)
	}
	run := 0
	for name, page := range pages(t) {
		for _, b := range blocksOf(page) {
			test, byTest := strings.CutPrefix(b.note, runBy)
			reason, not := strings.CutPrefix(b.note, notRun)
			switch {
			case b.kind != "sh":
			case byTest && !strings.Contains(string(tests), "func "+test+"("):
				t.Errorf("%s:%d: there is no %s", name, b.line, test)
			case not && !reasonForm.MatchString(reason):
				t.Errorf("%s:%d: %q: want what it needs, as in reasonForm", name, b.line, reason)
			case !not && !byTest:
				run++
			}
		}
	}
	if run < 10 {
		t.Errorf("only %d blocks are run", run)
	}
}

// reasonForm is a reason that a block is not run for: what it needs, and no test has.
var reasonForm = regexp.MustCompile(`^needs (a network|a running node|another machine|systemd|this tree)\b`)

// TestTranslations: a page in Japanese has the blocks of the one that it translates.
func TestTranslations(t *testing.T) {
	all := pages(t)
	found := 0
	for name, page := range all {
		original, translated := strings.CutSuffix(name, ".ja.md")
		if !translated {
			continue
		}
		found++
		got, want := blocksOf(page), blocksOf(all[original+".md"])
		if len(got) != len(want) {
			t.Errorf("%s has %d blocks, %s.md has %d", name, len(got), original, len(want))
			continue
		}
		for i := range want {
			if got[i].kind != want[i].kind || got[i].text != want[i].text || got[i].note != want[i].note {
				t.Errorf("%s:%d is not the block of %s.md:%d:\n%s\nwant\n%s", name, got[i].line, original, want[i].line,
					got[i].text, want[i].text)
			}
		}
	}
	if found == 0 {
		t.Error("no page in Japanese")
	}
}

// TestBlocksOf: blocks are found with their comment, and those that are files with their name.
func TestBlocksOf(t *testing.T) {
	got := blocksOf("text\n```sh\na\n```\n<!-- not run: needs a network -->\n```sh\nb\n```\n" +
		"```yaml\n# x.yaml\nc: 1\n```\n")
	if len(got) != 3 || !got[0].isRun() || got[1].isRun() || got[1].line != 6 || got[2].file() != "x.yaml" ||
		got[2].text != "# x.yaml\nc: 1\n" {
		t.Errorf("got %+v", got)
	}
}
