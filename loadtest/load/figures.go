package main

import (
	"bytes"
	"fmt"
	"html/template"
	"slices"
	"strconv"

	"github.com/go-analyze/charts"
)

// figures are the pictures of what was measured.
func (r *report) figures() ([]figure, error) {
	d := &drawer{}
	r.drawMatrix(d)
	r.drawClients(d)
	r.drawOpen(d)
	r.drawNodes(d)
	if s := r.Scale; s != nil {
		d.bars("CPU of a message, one node and three",
			"Microseconds of all nodes: one alone; three, with mail that enters at the owner, elsewhere, at all.", "us",
			[]string{"one", "owner", "hop", "all"}, []string{"us"},
			[][]float64{{s.One, s.Here, s.Hop, s.Balanced}})
	}
	if len(r.Idle) > 0 {
		var names []string
		var each, most []float64
		for _, h := range r.Idle {
			names = append(names, h.How)
			if each = append(each, h.Each); h.Most == 0 {
				h.Most = charts.GetNullValue()
			}
			most = append(most, h.Most)
		}
		d.bars("Memory of an idle connection", "KiB of PSS of the node's process for each, and the bar.", "KiB", names,
			[]string{"found", "bar"}, [][]float64{each, most})
	}
	return d.all, d.err
}

// drawMatrix has a picture for each size, because their figures are of other magnitudes.
func (r *report) drawMatrix(d *drawer) {
	rows := r.of("matrix")
	var sizes, counts []int
	for _, w := range rows {
		if !slices.Contains(sizes, w.Octets) {
			sizes = append(sizes, w.Octets)
		}
		if !slices.Contains(counts, w.Sessions) {
			counts = append(counts, w.Sessions)
		}
	}
	for _, what := range []struct {
		title, caption, unit string
		of                   func(row) float64
	}{
		{"Messages a second", "smtp-source through HAProxy and three nodes", "/s", row.rate},
		{"CPU of a message", "all three nodes together, microseconds", "us", row.cost},
	} {
		for _, octets := range sizes {
			values := [][]float64{nulls(len(counts)), nulls(len(counts))}
			var names []string
			for i, sessions := range counts {
				names = append(names, fmt.Sprintf("%d session%s", sessions, plural(sessions)))
				for _, w := range rows {
					if w.Octets != octets || w.Sessions != sessions {
						continue
					}
					series := 1
					if w.Reuse {
						series = 0
					}
					values[series][i] = what.of(w)
				}
			}
			d.bars(what.title+", "+kib(octets), what.caption, what.unit, names,
				[]string{"reuse", "one message a session"}, values)
		}
	}
}

func (w row) rate() float64 { return w.PerSecond }
func (w row) cost() float64 { return w.CPU }

// nulls are values that are not drawn.
func nulls(n int) []float64 { return slices.Repeat([]float64{charts.GetNullValue()}, n) }

// drawClients compares what each way to send costs, and how long its messages take.
func (r *report) drawClients(d *drawer) {
	rows := append(r.of("clients"), r.of("mix")...)
	if len(rows) == 0 {
		return
	}
	var names []string
	var cpu, p50, p99 []float64
	for _, w := range rows {
		names = append(names, w.Name)
		cpu = append(cpu, w.CPU)
		l := w.Latency
		if l == nil {
			l = &latency{}
		}
		p50, p99 = append(p50, l.P50), append(p99, l.P99)
	}
	d.lying("CPU of a message by the way it is sent", "Microseconds of all nodes, 20 clients.", names, []string{"us"},
		[][]float64{cpu})
	d.lying("Time of a message by the way it is sent",
		"Milliseconds from the first command, or the connect, to the 250, in a closed loop: the machine is full.",
		names, []string{"p50 ms", "p99 ms"}, [][]float64{p50, p99})
}

func (r *report) drawOpen(d *drawer) {
	if r.Open == nil {
		return
	}
	var names []string
	var direct, relayed []float64
	for _, s := range r.Open.Steps {
		names = append(names, strconv.FormatFloat(s.Quantile, 'f', -1, 64))
		direct, relayed = append(direct, s.Direct), append(relayed, s.Relayed)
	}
	d.lines(fmt.Sprintf("Time of a message, open loop at %.0f a second", r.Open.Rate),
		"Milliseconds within which so many of 100 messages of 4 KiB had their 250, from when they were due.", "ms",
		names, []string{"no relay", "relayed"}, [][]float64{direct, relayed})
}

// drawNodes shows what each node held, row by row.
func (r *report) drawNodes(d *drawer) {
	if len(r.Rows) < 2 {
		return
	}
	var names, nodes []string
	values := make([][]float64, len(r.Rows[0].Nodes))
	cpu := make([][]float64, len(r.Rows[0].Nodes))
	for i, w := range r.Rows {
		names = append(names, strconv.Itoa(i+1))
		for k, n := range w.Nodes {
			values[k] = append(values[k], n.RSS)
			cpu[k] = append(cpu[k], max(0, n.CPU*w.PerSecond/1e4))
		}
	}
	for _, n := range r.Rows[0].Nodes {
		nodes = append(nodes, "node "+n.Name)
	}
	d.lines("Memory of each node", "RSS in MiB behind each row of the tables, in their order.", "MiB", names, nodes,
		values)
	d.lines("CPU of each node", "Percent of one core while each row of the tables ran.", "%", names, nodes, cpu)
}

// A drawer makes pictures. What fails first stays.
type drawer struct {
	all []figure
	err error
}

// The sizes of pictures.
const (
	narrow = 392
	wide   = 606
	height = 300
)

// theme is that of the page.
func theme() charts.ColorPalette {
	return charts.MakeTheme(charts.ThemeOption{
		AxisStrokeColor:    charts.ColorFromHex("#9aa5b1"),
		AxisSplitLineColor: charts.ColorFromHex("#e4e7eb"),
		BackgroundColor:    charts.ColorFromHex("#ffffff"),
		TextColor:          charts.ColorFromHex("#3e4c59"),
		SeriesColors: []charts.Color{
			charts.ColorFromHex("#2b6cb0"), charts.ColorFromHex("#ed8936"), charts.ColorFromHex("#38a169"),
			charts.ColorFromHex("#805ad5"),
		},
	})
}

// draw makes one picture.
func (d *drawer) draw(title, caption string, width, high int, do func(*charts.Painter) error) {
	if d.err != nil {
		return
	}
	p := charts.NewPainter(charts.PainterOptions{
		OutputFormat: charts.ChartOutputSVG, Width: width, Height: high, Theme: theme(),
	})
	if d.err = do(p); d.err != nil {
		return
	}
	var svg []byte
	svg, d.err = p.Bytes()
	svg = bytes.Replace(svg, []byte("<svg "), fmt.Appendf(nil, `<svg width="%d" height="%d" `, width, high), 1)
	// The library measures Roboto; these are as wide where it is not there.
	svg = bytes.ReplaceAll(svg, []byte("sans-serif"), []byte("'Liberation Sans',Arial,Helvetica,sans-serif"))
	d.all = append(d.all, figure{title, caption, template.HTML(svg)})
}

// lettering is smaller than the library's.
func lettering() charts.FontStyle { return charts.NewFontStyleWithSize(9) }

// short writes a number with three digits that count, at most.
func short(v float64) string {
	switch {
	case v == charts.GetNullValue():
		return ""
	case v == 0:
		return "0"
	case v < 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func (d *drawer) bars(title, caption, unit string, names, series []string, values [][]float64) {
	d.draw(title, caption, narrow, height, func(p *charts.Painter) error {
		return p.BarChart(barOption(unit, names, series, values))
	})
}

// lying has a bar below the other, the first at the top, for names that are long.
func (d *drawer) lying(title, caption string, names, series []string, values [][]float64) {
	names = slices.Clone(names)
	slices.Reverse(names)
	for i := range values {
		values[i] = slices.Clone(values[i])
		slices.Reverse(values[i])
	}
	o := barOption("", names, series, values)
	o.Horizontal = true
	o.ValueAxis[0].Show = charts.Ptr(false) // each bar says its value
	high := 60 + len(names)*(10+16*len(series))
	d.draw(title, caption, wide, high, func(p *charts.Painter) error { return p.BarChart(o) })
}

func barOption(unit string, names, series []string, values [][]float64) charts.BarChartOption {
	o := charts.NewBarChartOptionWithData(values)
	o.Theme = theme()
	o.CategoryAxis.Labels = names
	o.CategoryAxis.LabelFontStyle = lettering()
	o.ValueAxis[0].LabelFontStyle = lettering()
	o.Legend.FontStyle = lettering()
	o.Legend.SeriesNames = series
	o.Legend.Show = charts.Ptr(len(series) > 1)
	o.ValueFormatter = short
	o.ValueAxis[0].Min = charts.Ptr(0.0)
	o.ValueAxis[0].Title = unit
	for i := range o.SeriesList {
		o.SeriesList[i].Label.Show = charts.Ptr(true)
		o.SeriesList[i].Label.ValueFormatter = short
	}
	return o
}

func (d *drawer) lines(title, caption, unit string, names, series []string, values [][]float64) {
	o := charts.NewLineChartOptionWithData(values)
	o.Theme = theme()
	o.XAxis.Labels = names
	o.XAxis.LabelFontStyle = lettering()
	o.YAxis[0].LabelFontStyle = lettering()
	o.Legend.FontStyle = lettering()
	o.Legend.SeriesNames = series
	o.ValueFormatter = short
	o.XAxis.LabelCount = min(len(names), 20)
	o.YAxis[0].Min = charts.Ptr(0.0)
	o.YAxis[0].Title = unit
	d.draw(title, caption, wide, height, func(p *charts.Painter) error { return p.LineChart(o) })
}
