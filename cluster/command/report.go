package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/report"
	"github.com/millrace/millrace/router/leaf/printable"
)

type reportVerbs struct {
	TLS   reportTLSVerb   `cmd:"" name:"tls" help:"@report_tls"`
	DMARC reportDMARCVerb `cmd:"" name:"dmarc" help:"@report_dmarc"`
}

type (
	reportFlags struct {
		configFlag
		jsonFlag
		Domain string `arg:"" help:"@report_domain"`
		Day    string `placeholder:"DATE" help:"@report_day"`
	}
	reportTLSVerb   struct{ reportFlags }
	reportDMARCVerb struct{ reportFlags }
)

func (v *reportTLSVerb) run(s streams) int   { return v.print(s, report.TLS) }
func (v *reportDMARCVerb) run(s streams) int { return v.print(s, report.DMARC) }

// reportTimeout bounds what a node needs for a report: other nodes and the DNS are asked.
const reportTimeout = 30 * time.Second

// print asks the running node for a report and prints it, and on stderr who would get it.
func (v *reportFlags) print(s streams, kind report.Kind) int {
	cfg, err := config.Load(v.Config)
	if err != nil {
		return fail(s, err)
	}
	path := "/api/v1/reports/" + kind.String() + "/" + url.PathEscape(v.Domain)
	if v.Day != "" {
		path += "?day=" + url.QueryEscape(v.Day)
	}
	body, err := tellNode(context.Background(), cfg, nodeRequest{
		method: http.MethodGet, path: path, most: reportTimeout,
	})
	if err != nil {
		return fail(s, err)
	}
	var p report.Preview
	if err := json.Unmarshal(body, &p); err != nil {
		return fail(s, fmt.Errorf("%s: %w", cfg.Admin.Addr, err))
	}
	if v.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(p); err != nil {
			return fail(s, err)
		}
		return exitOK
	}
	for line := range strings.Lines(p.Report) {
		fmt.Fprintln(s.out, printable.Text(strings.TrimRight(line, "\n")))
	}
	printReaders(s.err, &p)
	return exitOK
}

// printReaders prints who would get a report.
func printReaders(out io.Writer, p *report.Preview) {
	if p.Report == "" {
		fmt.Fprintln(out, "nothing was counted, so no report would be sent")
	}
	for _, note := range p.Notes {
		fmt.Fprintln(out, "note:", printable.Text(note))
	}
	for _, uri := range p.Readers {
		fmt.Fprintln(out, "for:", printable.Text(uri))
	}
	for _, r := range p.Refused {
		fmt.Fprintf(out, "not for: %s: %s\n", printable.Text(r.URI), printable.Text(r.Why))
	}
	if p.Report != "" && len(p.Readers) == 0 {
		fmt.Fprintln(out, "the domain names no reader who may be told, so it would not be sent")
	}
}
