package migrate

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A row is a line of a table whose columns have names.
type row struct {
	file  string
	line  int
	cells map[string]string // by the names of the columns, in lower case, with _ for a blank
}

// at returns the place of a row.
func (r *row) at() Note { return Note{File: r.file, Line: r.line} }

// readRows reads comma-separated values whose first line has the names of the columns. Where it has none of those that
// are wanted, it is a row itself, and the columns are named in their order. Semicolons and tabs part columns too.
func readRows(d Document, wanted ...string) (rows []row, err error) {
	text := bytes.TrimPrefix(d.Text, []byte("\ufeff"))
	r := csv.NewReader(bytes.NewReader(text))
	r.FieldsPerRecord = -1
	r.Comma = comma(text)
	r.TrimLeadingSpace = r.Comma != '\t'
	var names []string
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Name, err)
		}
		line, _ := r.FieldPos(0)
		if names == nil {
			names = columns(cells)
			if has(names, wanted) {
				continue
			}
			names = wanted
		}
		one := row{d.Name, line, make(map[string]string, len(names))}
		for i, cell := range cells {
			if i >= len(names) {
				if strings.TrimSpace(cell) == "" {
					continue
				}
				return nil, fmt.Errorf("%s:%d: has more columns than the %d of the first "+
					"line", d.Name, line, len(names))
			}
			one.cells[names[i]] = strings.TrimSpace(cell)
		}
		rows = append(rows, one)
	}
}

// comma returns what parts the columns of the first line: the first of these that stands in it.
func comma(text []byte) rune {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	for _, c := range ",;\t" {
		if bytes.ContainsRune(first, c) {
			return c
		}
	}
	return ','
}

// columns returns names of columns as they are looked up.
func columns(cells []string) []string {
	names := make([]string, len(cells))
	for i, cell := range cells {
		names[i] = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(cell)), " ", "_")
	}
	return names
}

// has reports whether one of the wanted names is among those of columns.
func has(names, wanted []string) bool {
	for _, name := range names {
		for _, w := range wanted {
			if name == w {
				return true
			}
		}
	}
	return false
}

// listed parts a list of addresses in a cell.
func listed(cell string) []string {
	return strings.FieldsFunc(cell, func(r rune) bool { return strings.ContainsRune(",; \t\r\n", r) })
}

// isURL reports whether a destination is a webhook.
func isURL(text string) bool {
	text = strings.ToLower(text)
	return strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://")
}
