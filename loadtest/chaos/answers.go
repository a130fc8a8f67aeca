package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// answers are all replies to messages of a trial, in the order in which they came. A mark is how many there were.
type answers struct {
	mu  sync.Mutex // over all
	all []answer
}

// An answer is a reply to a message, and when it came.
type answer struct {
	at   time.Time
	code int
	text string
}

// see notes each answer.
func (a *answers) see(r source.Result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, answer{time.Now(), r.End.Code, r.End.Text})
}

// mark is how many answers there are.
func (a *answers) mark() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.all)
}

// final counts the replies since a mark that are not 4yz.
func (a *answers) final(mark int) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.all[mark:] {
		if x.code/100 != 4 {
			n++
		}
	}
	return n
}

// putOff counts the replies of 4yz since a mark.
func (a *answers) putOff(mark int) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.all[mark:] {
		if x.code/100 == 4 {
			n++
		}
	}
	return n
}

// silence is the longest time without an accepted message in a span.
func (a *answers) silence(from, to time.Time) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := from
	for _, x := range a.all {
		if x.code/100 != 2 || x.at.Before(from) || x.at.After(to) {
			continue
		}
		longest = max(longest, x.at.Sub(last))
		last = x.at
	}
	return max(longest, to.Sub(last))
}

// textsSince tells the replies that were not 2yz.
func (a *answers) textsSince(mark int) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	by := make(map[string]int)
	for _, x := range a.all[mark:] {
		if x.code/100 != 2 {
			text := fmt.Sprint(x.code, " ", world.ReplyID.ReplaceAllString(x.text, ""))
			by[strings.TrimSpace(text[:min(len(text), 60)])]++
		}
	}
	var parts []string
	for _, text := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("; %d of %q", by[text], text))
	}
	return strings.Join(parts, "")
}
