package pages

import (
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// auditRows is how many entries of the audit a page has.
const auditRows = 50

// An auditBody is the body of the page of the audit.
type auditBody struct {
	Query       string
	Rows        []auditRow
	Newer, Next string // where the pages before and behind are; "": there is none
	Kept        bool   // there is an entry that the visitor may see
}

// An auditRow is who changed what, as the page has it.
type auditRow struct {
	At      time.Time
	Who     string
	Token   string // its id
	What    string // a key of the words behind "audit."
	About   string // what was changed, as people know it
	Domain  string
	Changes []fieldChange
}

// A fieldChange is what a change did to a field of a record. A value that is absent is "".
type fieldChange struct{ Field, Before, After string }

// audit shows what was changed, by whom, before and after. Package account says which entries a visitor sees.
func (p *Pages) audit(w http.ResponseWriter, r *http.Request, v account.Principal) {
	body := auditBody{Query: strings.TrimSpace(r.URL.Query().Get("q"))}
	list, err := p.cfg.Account.Audit(v, math.MaxInt)
	if err != nil {
		p.fail(w, r, v, statusOf(err), "error.weak")
		return
	}
	number, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || number < 1 {
		number = 1
	}
	body.Kept = len(list) > 0
	from, want, n := (number-1)*auditRows, strings.ToLower(body.Query), 0
	for i := range list {
		row := auditRowOf(&list[i])
		if want != "" && !strings.Contains(strings.ToLower(row.Who+"\n"+row.About+"\n"+row.Domain), want) {
			continue
		}
		if n++; n > from && n <= from+auditRows {
			body.Rows = append(body.Rows, row)
		}
	}
	link := func(number int) string {
		return "/audit?" + url.Values{"q": {body.Query}, "page": {strconv.Itoa(number)}}.Encode()
	}
	if number > 1 {
		body.Newer = link(number - 1)
	}
	if n > from+auditRows {
		body.Next = link(number + 1)
	}
	p.show(w, r, "audit", http.StatusOK, page{Title: "nav.audit", Body: body})
}

// auditRowOf returns an entry as the page has it.
func auditRowOf(e *account.Entry) auditRow {
	before, after := fieldsOf(e.Before), fieldsOf(e.After)
	row := auditRow{At: e.At, Who: e.Who, Token: e.Token, What: e.What, About: e.About, Domain: e.Domain}
	for _, record := range []map[string]string{before, after} {
		for _, name := range []string{"name", "address", "pattern"} { // the last that there is
			if record[name] != "" {
				row.About = record[name]
			}
		}
	}
	names := maps.Clone(before)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c := fieldChange{name, before[name], after[name]}
		said := c.Before+c.After == row.About || slices.Contains(unshown, name)
		if c.Before != c.After && !said {
			row.Changes = append(row.Changes, c)
		}
	}
	return row
}

// unshown are the fields that say nothing which the entry does not.
var unshown = []string{"id", "created", "modified", "domain"}

// fieldsOf returns the fields of a record as people read them, without those that are empty.
func fieldsOf(record json.RawMessage) map[string]string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(record, &fields) != nil {
		return map[string]string{}
	}
	out := make(map[string]string, len(fields))
	for name, value := range fields {
		var text string
		var list []string
		switch {
		case string(value) == "0": // as good as absent
		case json.Unmarshal(value, &text) == nil:
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				text = at.UTC().Format("2006-01-02 15:04:05 UTC")
			}
			out[name] = text
		case json.Unmarshal(value, &list) == nil:
			out[name] = strings.Join(list, ", ")
		default:
			out[name] = string(value)
		}
	}
	return out
}
