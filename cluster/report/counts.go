package report

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

const (
	// mostOctets bounds the counters of one kind of a day, mostOfDomain those of one domain of them, and mostDomains
	// the domains. There are two days: the present one and the one that is reported.
	mostOctets   = 8 << 20
	mostOfDomain = mostOctets / 8
	mostDomains  = 4096
	// mostSigners bounds the signatures of a message that a row has, those that pass first.
	mostSigners = 8
	// mostTerms bounds the text of a policy that is repeated, and what is kept of a policy record.
	mostTerms = 4 << 10
	// dayLong is the time that a report is about: a day of UTC.
	dayLong = 24 * time.Hour
)

// Counts count sessions and messages by day, kind and domain. Its methods are safe for concurrent use; those of nil
// Counts do nothing. See and Session hold a lock for one look-up in a map and never wait for more.
type Counts struct {
	now     func() time.Time
	contact mail.Path
	began   time.Time

	mu   sync.Mutex
	days [2]*day // the present one, and the one before it
}

// NewCounts returns Counts. now is the clock. Messages to the contact of our reports are not counted: they are reports
// about our mail, and ours about them would be answered by others without end.
func NewCounts(now func() time.Time, contact mail.Path) *Counts {
	return &Counts{now: now, contact: contact, began: now()}
}

// A day has the counters of a day.
type day struct {
	begins int64 // seconds since 1970
	kinds  [kinds]ofKind
}

// An ofKind has the counters of one kind.
type ofKind struct {
	domains map[string]*ofDomain
	octets  int
	left    uint64 // sessions or messages of domains that have no room at all
}

// An ofDomain has the counters of one domain.
type ofDomain struct {
	rows    map[Row]uint64
	octets  int
	left    uint64
	terms   string
	record  *mail.DMARCPolicy
	changed bool // since changes was called
}

// dayOf returns when the day of a time begins.
func dayOf(t time.Time) int64 { return t.UTC().Truncate(dayLong).Unix() }

// present returns the present day. The caller holds mu.
func (c *Counts) present() *day {
	begins := dayOf(c.now())
	if c.days[0] == nil || c.days[0].begins < begins { // a clock that was set back goes on with the day there is
		c.days[1], c.days[0] = c.days[0], &day{begins: begins}
	}
	return c.days[0]
}

// of returns the counters of a day, nil without any. The caller holds mu.
func (c *Counts) of(begins int64) *day {
	c.present()
	for _, d := range c.days {
		if d != nil && d.begins == begins {
			return d
		}
	}
	return nil
}

// Session counts a session with a host.
func (c *Counts) Session(s mail.TLSSession) {
	if c == nil || !isName(s.Domain) {
		return
	}
	r := Row{Policy: s.Policy, Result: s.Result}
	if s.Result != mail.TLSWorked {
		r.Host, r.Address, r.Source = domain.Canonical(s.Host), s.Addr.Unmap(), s.Source.Unmap()
	}
	if len(s.Terms) > mostTerms {
		s.Terms = ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &c.present().kinds[TLS]
	d := k.add(domain.Canonical(s.Domain), &r)
	if d != nil && s.Terms != "" && d.terms != s.Terms && k.grow(d, len(s.Terms)-len(d.terms)) {
		d.terms = strings.Clone(s.Terms)
	}
}

// See counts the message that an event ends. One that is put off comes again and is counted then.
func (c *Counts) See(e *mail.Event) {
	if c == nil || !e.Ends || e.Auth == nil || e.Auth.Report == nil {
		return
	}
	switch e.Kind {
	case mail.Relayed, mail.Dropped, mail.Refused:
	default:
		return
	}
	if len(e.To) > 0 && !slices.ContainsFunc(e.To, func(to mail.To) bool { return to.Forward != c.contact }) {
		return
	}
	r := rowOf(e)
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &c.present().kinds[DMARC]
	if d := k.add(e.Auth.Report.Domain, &r); d != nil {
		k.repeat(d, e.Auth.Report.Policy)
	}
}

// add counts a row of a domain. It returns the counters of the domain, nil if there is no room for them.
func (k *ofKind) add(name string, r *Row) *ofDomain {
	d := k.domains[name]
	if d == nil {
		const fixed = 512
		if len(k.domains) >= mostDomains || k.octets+fixed > mostOctets {
			k.left++
			return nil
		}
		if k.domains == nil {
			k.domains = make(map[string]*ofDomain)
		}
		d = &ofDomain{rows: make(map[Row]uint64)}
		k.domains[strings.Clone(name)] = d
		k.octets += fixed
	}
	d.changed = true
	if n, ok := d.rows[*r]; ok {
		d.rows[*r] = n + 1
		return d
	}
	if !k.grow(d, r.size()) {
		d.left++
		return d
	}
	d.rows[r.clone()] = 1
	return d
}

// grow takes room for so many octets more of a domain, and reports whether there is so much.
func (k *ofKind) grow(d *ofDomain, octets int) bool {
	if d.octets+octets > mostOfDomain || k.octets+octets > mostOctets {
		return false
	}
	d.octets += octets
	k.octets += octets
	return true
}

// repeat keeps the policy record of a domain as it was seen last, where there is room for it: its length is the choice
// of a stranger. The copy keeps nothing of the answer of the DNS alive.
func (k *ofKind) repeat(d *ofDomain, p *mail.DMARCPolicy) {
	if p == nil || d.record != nil && *d.record == *p || len(p.RUA)+len(p.FO) > mostTerms {
		return
	}
	before := 0
	if d.record != nil {
		before = len(d.record.RUA) + len(d.record.FO)
	}
	if !k.grow(d, len(p.RUA)+len(p.FO)-before) {
		return
	}
	kept := *p
	kept.RUA, kept.FO = strings.Clone(p.RUA), strings.Clone(p.FO)
	d.record = &kept
}

// isName reports whether s is a domain name in ASCII.
func isName(s string) bool { return domain.IsName(domain.Canonical(s), domain.MaxName) }

// rowOf returns the row of DMARC that a message belongs to.
func rowOf(e *mail.Event) Row {
	a, v := e.Auth, e.Auth.Report
	r := Row{Source: e.Client.Unmap().WithZone(""), From: v.Author, Disposition: "none"}
	if v.SPF {
		r.Aligned |= alignedSPF
	}
	if v.DKIM {
		r.Aligned |= alignedDKIM
	}
	checked := e.Reverse.Domain
	if e.Reverse.IsNull() {
		checked = e.Helo
	} else if isName(checked) {
		r.Envelope = domain.Canonical(checked)
	}
	if isName(checked) && a.SPF != "" {
		r.SPF = domain.Canonical(checked) + " " + wordOf(a.SPF)
	}
	r.Signers = signersOf(a)
	r.dispose(e)
	return r
}

// wordOf returns a result in the words of RFC 8601, which has none for what was not evaluated.
func wordOf(result string) string {
	if result == "unevaluated" {
		return "temperror"
	}
	return result
}

// signersOf returns Row.Signers: the signatures that pass come first.
func signersOf(a *mail.Auth) string {
	var lines []string
	for _, s := range a.Signers {
		if !isName(s.Domain) || !isName(s.Selector) {
			continue
		}
		lines = append(lines, domain.Canonical(s.Domain)+" "+strings.ToLower(s.Selector)+" "+wordOf(s.Result))
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		return cmp.Compare(failing(a), failing(b))
	})
	return strings.Join(lines[:min(len(lines), mostSigners)], "\n")
}

// failing orders the lines of Row.Signers.
func failing(line string) int {
	if strings.HasSuffix(line, " pass") {
		return 0
	}
	return 1
}

// dispose sets what was done with a message, and why that is not what its domain asks for.
func (r *Row) dispose(e *mail.Event) {
	a, v := e.Auth, e.Auth.Report
	asked := v.Asked
	switch {
	case r.Aligned != 0:
		return
	case e.Kind == mail.Refused && e.Reason == "dmarc":
		r.Disposition = "reject"
		if asked == "quarantine" {
			r.Override, r.Comment = "local_policy", "quarantine is refused here"
		}
	case asked == "none" && v.Policy.Testing && (v.Policy.P != "none" || v.Policy.SP != ""):
		r.Override = "policy_test_mode"
	case asked == "none":
	case e.Kind == mail.Refused:
		r.Override, r.Comment = "other", "refused for another reason"
	default:
		r.Override, r.Comment = overrideOf(a.Overrides, asked)
	}
}

// overrideOf returns the type and the comment of RFC 9990 for why a message was delivered that fails.
func overrideOf(overrides []string, asked string) (kind, comment string) {
	for _, o := range overrides {
		switch o {
		case "list":
			return "mailing_list", ""
		case "trusted ARC sealer":
			return "trusted_forwarder", "arc=pass"
		}
	}
	if len(overrides) > 0 {
		return "local_policy", strings.Join(overrides, ", ")
	}
	if asked == "quarantine" {
		return "local_policy", "forwarded with its results"
	}
	return "local_policy", ""
}

// Domains returns the domains of a day that have counters here.
func (c *Counts) Domains(k Kind, begins int64) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.of(begins)
	if d == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(d.kinds[k].domains))
}

// Part returns what was counted here of a domain on a day, nil for nothing.
func (c *Counts) Part(k Kind, begins int64, name string) *Part {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.of(begins)
	if d == nil || d.kinds[k].domains[name] == nil {
		return nil
	}
	return d.kinds[k].domains[name].part()
}

// part returns a copy.
func (d *ofDomain) part() *Part {
	p := &Part{Left: d.left, Terms: d.terms, Record: d.record, Rows: make([]Counted, 0, len(d.rows))}
	for r, n := range d.rows {
		p.Rows = append(p.Rows, Counted{r, n})
	}
	p.sort()
	return p
}

// sort orders the rows, those of the largest number first, so that a report reads the same each time it is made.
func (p *Part) sort() {
	slices.SortFunc(p.Rows, func(a, b Counted) int {
		return cmp.Or(
			cmp.Compare(b.N, a.N), cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Result, b.Result),
			a.Source.Compare(b.Source), a.Address.Compare(b.Address), strings.Compare(a.Host, b.Host),
			strings.Compare(a.From, b.From), strings.Compare(a.Envelope, b.Envelope),
			strings.Compare(a.Disposition, b.Disposition), cmp.Compare(a.Aligned, b.Aligned),
			strings.Compare(a.Comment, b.Comment), strings.Compare(a.SPF, b.SPF),
			strings.Compare(a.Signers, b.Signers),
		)
	})
}

// Unroomed returns how many sessions or messages of a day belong to domains that had no room at all here.
func (c *Counts) Unroomed(k Kind, begins int64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.of(begins); d != nil {
		return d.kinds[k].left
	}
	return 0
}

// A change is a domain whose counters have changed.
type change struct {
	kind   Kind
	begins int64
	domain string
}

// changes returns what has changed since it was called last.
func (c *Counts) changes() (list []change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.present()
	for _, d := range c.days {
		if d == nil {
			continue
		}
		for k := range kinds {
			for name, of := range d.kinds[k].domains {
				if of.changed {
					of.changed = false
					list = append(list, change{k, d.begins, name})
				}
			}
		}
	}
	return list
}

// changed says that a change was not kept.
func (c *Counts) changed(what change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.of(what.begins); d != nil {
		if of := d.kinds[what.kind].domains[what.domain]; of != nil {
			of.changed = true
		}
	}
}
