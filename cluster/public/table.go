package public

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// replies is the table of replies: those of docs/postmaster.md with its words and those of docs/postmaster.ja.md. make
// docs writes it.
//
//go:embed replies.tsv
var replies string

// differs stands in a reply for what is another text each time.
const differs = "…"

// A table holds what each reply of a node means.
type table struct {
	rows    []row
	byReply map[string]int
	byCode  map[rowKey][]int
}

// A rowKey is what rows are sought by: a code with its enhanced code, a class alone, or an enhanced code of any class.
type rowKey struct {
	code     int // a class for all of its codes, 0 for any
	enhanced mail.EnhancedCode
}

// A row is a reply, and what it means in each language.
type row struct {
	reply      string   // as docs/postmaster.md has it
	pieces     []string // of its text, around what differs
	octets     int      // of the pieces
	cause, fix map[string]string
}

// readTable reads the table of replies.
func readTable() (*table, error) {
	t := &table{byReply: make(map[string]int), byCode: make(map[rowKey][]int)}
	for line := range strings.Lines(replies) {
		if line[0] == '#' {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(cells) != 5 {
			return nil, fmt.Errorf("the table of replies has a row of %d cells", len(cells))
		}
		r := row{
			reply: cells[0], cause: map[string]string{"en": cells[1], "ja": cells[3]},
			fix: map[string]string{"en": cells[2], "ja": cells[4]},
		}
		key, text := splitReply(cells[0])
		r.pieces = strings.Split(text, differs)
		for _, piece := range r.pieces {
			r.octets += len(piece)
		}
		t.byReply[r.reply] = len(t.rows)
		t.byCode[key] = append(t.byCode[key], len(t.rows))
		t.rows = append(t.rows, r)
	}
	return t, nil
}

// splitReply splits a reply of the table into its code, with its enhanced code if it has one, and its text.
func splitReply(reply string) (key rowKey, text string) {
	code, text, _ := strings.Cut(reply, " ")
	if detail, any := strings.CutPrefix(code, "X."); any {
		_, key.enhanced, _ = mail.ParseEnhanced("5." + detail)
		return key, text
	}
	if class, all := strings.CutSuffix(code, "yz"); all {
		key.code, _ = strconv.Atoi(class)
		return key, text
	}
	enhanced, rest, _ := strings.Cut(text, " ")
	key.code, _ = strconv.Atoi(code)
	_, key.enhanced, _ = mail.ParseEnhanced(enhanced)
	return key, rest
}

// find returns the row of a reply, that with the most words where several fit, and -1 if there is none.
func (t *table) find(r mail.Reply) int {
	text, best := strings.ReplaceAll(r.Text, "\n", " / "), -1
	for _, key := range [...]rowKey{{r.Code, r.Enhanced}, {r.Class(), mail.EnhancedCode{}}, {0, r.Enhanced}} {
		for _, i := range t.byCode[key] {
			if (best < 0 || t.rows[i].octets > t.rows[best].octets) && t.rows[i].fits(text) {
				best = i
			}
		}
		if best >= 0 {
			return best
		}
	}
	return -1
}

// fits reports whether a text is that of a row, whatever stands where it differs.
func (r *row) fits(text string) bool {
	first, last := r.pieces[0], r.pieces[len(r.pieces)-1]
	if len(r.pieces) == 1 {
		return text == first
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	if text, ok = strings.CutSuffix(text, last); !ok {
		return false
	}
	for _, piece := range r.pieces[1 : len(r.pieces)-1] {
		if _, text, ok = strings.Cut(text, piece); !ok {
			return false
		}
	}
	return true
}
