package report

import (
	"net/netip"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A Kind is one of the two kinds of report.
type Kind uint8

// The kinds.
const (
	TLS   Kind = iota // RFC 8460
	DMARC             // RFC 9990
	kinds
)

// String returns the name of the kind: tls or dmarc.
func (k Kind) String() string { return [...]string{"tls", "dmarc"}[k] }

// ParseKind returns the kind of a name, and whether there is one.
func ParseKind(name string) (k Kind, ok bool) {
	for k = range kinds {
		if k.String() == name {
			return k, true
		}
	}
	return 0, false
}

// A Row says what a number of sessions or messages have in common. Of a kind it has only the fields of that kind.
type Row struct {
	// Of TLS. One of success has the first two alone.
	Policy  mail.TLSPolicy `json:"policy,omitzero"`
	Result  mail.TLSResult `json:"result,omitzero"`
	Host    string         `json:"host,omitempty"`
	Address netip.Addr     `json:"address,omitzero"` // of the host
	Source  netip.Addr     `json:"source,omitzero"`  // ours for TLS, the client's for DMARC

	// Of DMARC. The results are words of RFC 8601.
	From        string `json:"from,omitempty"`     // the domain of the author
	Envelope    string `json:"envelope,omitempty"` // the domain of the reverse-path, "" for the null one
	Disposition string `json:"disposition,omitempty"`
	Aligned     byte   `json:"aligned,omitzero"` // alignedSPF, alignedDKIM
	Override    string `json:"override,omitempty"`
	Comment     string `json:"comment,omitempty"`
	SPF         string `json:"spf,omitempty"`     // "domain result"
	Signers     string `json:"signers,omitempty"` // "domain selector result", one a line
}

// The bits of Row.Aligned.
const (
	alignedSPF = 1 << iota
	alignedDKIM
)

// clone returns a copy that keeps nothing of a message or an answer of the DNS alive.
func (r *Row) clone() Row {
	out := *r
	for _, s := range []*string{&out.Host, &out.From, &out.Envelope, &out.Comment, &out.SPF, &out.Signers} {
		*s = strings.Clone(*s)
	}
	return out
}

// size returns about how many octets a row takes in memory.
func (r *Row) size() int {
	const fixed = 320 // the struct, its share of the map, and its number
	return fixed + len(r.Host) + len(r.From) + len(r.Envelope) + len(r.Comment) + len(r.SPF) + len(r.Signers)
}

// A Counted is a Row and its number.
type Counted struct {
	Row
	N uint64 `json:"n"`
}

// A Part is what one node, or all of them, counted of a domain on a day.
type Part struct {
	Rows []Counted `json:"rows"`
	Left uint64    `json:"left,omitempty"` // sessions or messages of which there is no row, for want of room
	// Terms are the domain's policy of MTA-STS, and Record its policy record of DMARC, as they were seen last.
	Terms  string            `json:"terms,omitempty"`
	Record *mail.DMARCPolicy `json:"record,omitempty"`
}

// add adds what another node counted.
func (p *Part) add(other *Part) {
	at := make(map[Row]int, len(p.Rows))
	for i := range p.Rows {
		at[p.Rows[i].Row] = i
	}
	for _, r := range other.Rows {
		if i, ok := at[r.Row]; ok {
			p.Rows[i].N += r.N
		} else {
			at[r.Row] = len(p.Rows)
			p.Rows = append(p.Rows, r)
		}
	}
	p.Left += other.Left
	if p.Terms == "" {
		p.Terms = other.Terms
	}
	if p.Record == nil {
		p.Record = other.Record
	}
}
