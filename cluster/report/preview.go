package report

import (
	"context"
	"errors"
	"time"
)

// A Config has what a Reporter needs. All fields are required.
type Config struct {
	Origin Origin
	Nodes  *Nodes
	Lookup Lookup
}

// A Reporter makes reports. Its methods are safe for concurrent use.
type Reporter struct{ cfg Config }

// New returns a Reporter.
func New(c Config) *Reporter { return &Reporter{c} }

// A Preview is a report that was made to be looked at.
type Preview struct {
	Report  string   `json:"report"` // "" if nothing was counted
	Readers []string `json:"readers"`
	// Refused are readers that are named and may not be told, with the reason.
	Refused []Refused `json:"refused,omitempty"`
	Notes   []string  `json:"notes,omitempty"` // what is missing in it
}

var (
	errOtherDay = errors.New("what was counted is there for the present day of UTC and the one before it")
	errUnknown  = errors.New("what other nodes counted is not known now")
)

// Preview makes the report of a domain on a day, the present one so far or the one before it, and sends it to no one.
func (r *Reporter) Preview(ctx context.Context, k Kind, name string, at time.Time) (p Preview, err error) {
	s := Subject{k, name, dayOf(at)}
	today := dayOf(r.cfg.Nodes.Counts.now())
	if s.Begins != today && s.Begins != today-int64(dayLong/time.Second) {
		return p, errOtherDay
	}
	g, ok := r.cfg.Nodes.gather(ctx, &s)
	if !ok {
		return p, errUnknown
	}
	m := Make(&r.cfg.Origin, s, g.part, g.notes)
	if m == nil {
		p.Notes = g.notes
		return p, nil
	}
	may, not, err := r.readers(ctx, &s, g.part)
	if err != nil {
		return p, err
	}
	p.Report, p.Notes, p.Refused = string(m.Text), m.Notes, not
	for _, one := range may {
		p.Readers = append(p.Readers, one.URI)
	}
	return p, nil
}

// readers returns who is told of a report.
func (r *Reporter) readers(ctx context.Context, s *Subject, p *Part) (may []Reader, not []Refused, err error) {
	if s.Kind == TLS {
		may, err = r.cfg.Lookup.tlsReaders(ctx, s.Domain)
		return may, nil, err
	}
	if p.Record == nil {
		return nil, nil, nil
	}
	return r.cfg.Lookup.dmarcReaders(ctx, s.Domain, p.Record.RUA)
}
