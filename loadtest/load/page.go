package main

import (
	"bytes"
	_ "embed"
	"html/template"
	text "text/template"
)

// The forms of a report.
var (
	//go:embed page.html
	pageForm string
	//go:embed text.tmpl
	textForm string
)

// A figure is a picture and what it shows.
type figure struct {
	Title   string
	Caption string
	SVG     template.HTML
}

// A group is the rows of a part.
type group struct {
	About string
	Rows  []row
}

// groups are those that have rows.
func (r *report) groups() []group {
	var all []group
	for _, p := range parts {
		if rows := r.of(p.name); len(rows) > 0 {
			all = append(all, group{p.about, rows})
		}
	}
	return all
}

// page is the report as one HTML file that asks for nothing else.
func (r *report) page() ([]byte, error) {
	figures, err := r.figures()
	if err != nil {
		return nil, err
	}
	t, err := template.New("page").Parse(pageForm)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"Report": r, "Conclusion": r.conclusion(), "Groups": r.groups(), "Figures": figures,
	})
	return out.Bytes(), err
}

// text is the report in Markdown.
func (r *report) text() ([]byte, error) {
	t, err := text.New("text").Parse(textForm)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{"Report": r, "Conclusion": r.conclusion(), "Groups": r.groups()})
	return out.Bytes(), err
}
