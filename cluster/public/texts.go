package public

import (
	_ "embed"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// words is a line for each text of the pages that is not in the table of replies: its name, in English, in Japanese.
//
//go:embed words.tsv
var words string

// texts are what the pages say in each language.
type texts struct {
	words map[string]map[string]string // by language and name
	table *table
}

// readTexts reads the texts of the pages.
func readTexts() (*texts, error) {
	t := &texts{words: map[string]map[string]string{"en": {}, "ja": {}}}
	for line := range strings.Lines(words) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(cells) != 3 {
			return nil, fmt.Errorf("the words have a row of %d cells", len(cells))
		}
		t.words["en"][cells[0]], t.words["ja"][cells[0]] = cells[1], cells[2]
	}
	var err error
	t.table, err = readTable()
	return t, err
}

// An explained is a refusal as a reader sees it.
type explained struct {
	At, Stage, Reply, Cause, Fix string
}

// explain returns a refusal in a language.
func (t *texts) explain(r *Refused, lang string) explained {
	words := t.words[lang]
	out := explained{At: r.At.UTC().Format(time.RFC3339)[:len("2006-01-02T15:04")], Stage: words["stage "+r.Stage]}
	out.At = strings.Replace(out.At, "T", " ", 1) + " UTC"
	out.Reply = fmt.Sprintf("%d %d.%d.%d", r.Code, r.Code/100, r.Enhanced.Subject, r.Enhanced.Detail)
	again := words["permanent"]
	if r.Code/100 == 4 {
		again = words["transient"]
	}
	if i, ok := t.table.byReply[r.Row]; ok {
		row := &t.table.rows[i]
		_, text := splitReply(row.reply)
		out.Reply += " " + text
		out.Cause, out.Fix = row.cause[lang], row.fix[lang]
	} else {
		from := map[From]string{FromDestination: "destination", FromRule: "rule"}[r.From]
		if from == "" {
			from = "node"
		}
		out.Cause, out.Fix = words["cause "+from], words["fix "+from]
	}
	out.Cause = sentence(out.Cause, lang)
	out.Fix = sentence(out.Fix, lang) + map[string]string{"en": " ", "ja": ""}[lang] + again
	return out
}

// sentence returns a cell of a table as a sentence.
func sentence(cell, lang string) string {
	if cell == "" {
		return ""
	}
	stop := map[string]string{"en": ".", "ja": "。"}[lang]
	if !strings.HasSuffix(cell, stop) {
		cell += stop
	}
	if cell[0] < utf8.RuneSelf {
		return strings.ToUpper(cell[:1]) + cell[1:]
	}
	return cell
}
