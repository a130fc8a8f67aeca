package node

import (
	"context"
	"iter"
	"maps"
	"strings"

	"github.com/millrace/millrace/cluster/account"
)

// A filesRecord is what the audit has of rules files before or after a reload.
type filesRecord struct {
	Digest string   `json:"digest,omitempty"` // as millrace rules show has it
	Lines  []string `json:"lines,omitempty"`  // that the other one lacks
	More   int      `json:"more,omitempty"`   // of such lines that are left out
}

// The bounds of what is compared line by line, and of the lines that a record has, in octets.
const (
	maxCompared = 16 << 20
	maxRecorded = 16 << 10
)

// heldFiles returns the rules files in force by name, without the API's.
func (r *ruleSet) heldFiles() (files map[string]string, digest string) {
	return maps.Collect(withAPIRules(r.router.Files(), "")), r.router.Digest()
}

// recordReload writes to the audit what a reload changed in the rules files. A problem of that is logged: the rules are
// in force.
func (r *ruleSet) recordReload(ctx context.Context, before map[string]string, digest string) {
	after, now := r.heldFiles()
	if r.account == nil || maps.Equal(before, after) || r.account.Keeps() != nil {
		return
	}
	was, is := compareFiles(before, after)
	was.Digest, is.Digest = digest, now
	by := account.Node("reload of the rules files of " + r.host)
	if err := r.account.Record(ctx, by, "rules.files", was, is); err != nil {
		r.log.Error("the rules files were read anew, and the audit could not be written", "cause", err)
	}
}

// compareFiles returns the lines that only the one or only the other files have.
func compareFiles(before, after map[string]string) (was, is *filesRecord) {
	size := 0
	count := make(map[string]int)
	for _, files := range []map[string]string{before, after} {
		for _, text := range files {
			size += len(text)
		}
	}
	was, is = new(filesRecord), new(filesRecord)
	if size > maxCompared {
		return was, is
	}
	for line := range linesOf(after) {
		count[line]++
	}
	for line := range linesOf(before) {
		if count[line]--; count[line] < 0 {
			was.add(line)
		}
	}
	for line := range linesOf(after) {
		if count[line] > 0 {
			count[line]--
			is.add(line)
		}
	}
	return was, is
}

// linesOf yields the lines of files that say something.
func linesOf(files map[string]string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, text := range files {
			for line := range strings.Lines(text) {
				line = strings.TrimSpace(line)
				if line != "" && line[0] != '#' && !yield(line) {
					return
				}
			}
		}
	}
}

// add adds a line, without what may be a secret of it.
func (f *filesRecord) add(line string) {
	line = account.WithoutHookURLs(line)
	size := 0
	for _, l := range f.Lines {
		size += len(l)
	}
	if size+len(line) > maxRecorded || f.More > 0 {
		f.More++
		return
	}
	f.Lines = append(f.Lines, line)
}
