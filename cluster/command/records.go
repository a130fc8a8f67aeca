package command

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/millrace/millrace/cluster/node/doctor"
)

// printRecords prints records as lines of a zone file, each group below what it is for.
func printRecords(w io.Writer, records []doctor.Record) {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	why := ""
	for i := range records {
		r := &records[i]
		if r.For != why {
			why = r.For
			fmt.Fprintf(table, "\n; %s\n", why)
		}
		fmt.Fprintf(table, "%s.\tIN %s\t%s\n", r.Name, r.Type, r.ZoneValue())
	}
	_ = table.Flush() // fails only when the reader has gone
}
