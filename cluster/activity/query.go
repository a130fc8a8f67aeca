package activity

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Query says which rows are wanted. An empty field wants all.
type Query struct {
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`   // an address, "@" and a domain, or a part of an address
	To     string `json:"to,omitempty"`     // the same
	Client string `json:"client,omitempty"` // an address or a network
	Status Status `json:"status,omitempty"`
	Action Action `json:"action,omitempty"`
	Auth   string `json:"auth,omitempty"`   // such as "dmarc=fail"
	Detail string `json:"detail,omitempty"` // a part of the reply or of the error detail
	Node   string `json:"node,omitempty"`
	// Domains are those of the recipients that may be shown, as A-labels in lower case, each with what lies below it.
	Domains []string `json:"domains,omitempty"` // none: all

	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Before string    `json:"before,omitempty"` // Page.Next of the page before
	Limit  int       `json:"limit,omitempty"`
}

const (
	// DefaultLimit is how many rows a page has.
	DefaultLimit = 50
	// MaxLimit is how many it may have.
	MaxLimit = 200
	// maxFilter bounds the octets of a filter.
	maxFilter = 512
)

// ParseQuery reads a Query as the API takes it. now is what times such as "24h" count back from.
func ParseQuery(v url.Values, now time.Time) (q Query, err error) {
	for key, values := range v {
		value := values[len(values)-1]
		if len(value) > maxFilter {
			return q, fmt.Errorf("%s: is longer than %d octets", key, maxFilter)
		}
		if value == "" {
			continue
		}
		switch key {
		case "id":
			q.ID = value
		case "from":
			q.From = value
		case "to":
			q.To = value
		case "client":
			q.Client = value
			_, err = parseNetwork(value)
		case "status":
			q.Status = Status(value)
			err = oneOf(q.Status, Statuses())
		case "action":
			q.Action = Action(value)
			err = oneOf(q.Action, Actions())
		case "auth":
			q.Auth = value
			err = checkAuth(value)
		case "detail":
			q.Detail = value
		case "node":
			q.Node = value
		case "since":
			q.Since, err = parseTime(value, now)
		case "until":
			q.Until, err = parseTime(value, now)
		case "before":
			q.Before = value
			_, err = parseCursor(value)
		case "limit":
			q.Limit, err = strconv.Atoi(value)
			if err != nil || q.Limit < 1 || q.Limit > MaxLimit {
				err = fmt.Errorf("is no number from 1 to %d", MaxLimit)
			}
		default:
			return q, fmt.Errorf("there is no filter %q", key)
		}
		if err != nil {
			return q, fmt.Errorf("%s: %w", key, err)
		}
	}
	return q, nil
}

// oneOf returns an error that names all words, unless word is one of them.
func oneOf[T ~string](word T, all []T) error {
	if slices.Contains(all, word) {
		return nil
	}
	names := make([]string, len(all))
	for i := range all {
		names[i] = string(all[i])
	}
	return fmt.Errorf("is none of %s", strings.Join(names, ", "))
}

// parseNetwork reads an address or a network.
func parseNetwork(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, errors.New("is no address and no network such as 192.0.2.0/24")
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// methods are what Query.Auth may name.
var methods = []string{"spf", "dkim", "dmarc", "arc"}

func checkAuth(s string) error {
	method, result, ok := strings.Cut(s, "=")
	if !ok || result == "" || !slices.Contains(methods, method) {
		return errors.New("is no method and result such as dmarc=fail")
	}
	return nil
}

// parseTime reads a time, or how long ago it was: 90m, 24h, 7d.
func parseTime(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n <= 36500 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, errors.New("is no time such as 2026-11-30T12:00:00Z, and no age such as 24h or 7d")
}

// A cursor is the place of a row in the log of all nodes: its time, and its node where two have the same.
type cursor struct {
	at   int64
	node string
}

func cursorOf(r *Row) cursor { return cursor{r.At.UnixNano(), r.Node} }

// compare orders rows by time.
func (c cursor) compare(d cursor) int {
	return cmp.Or(cmp.Compare(c.at, d.at), cmp.Compare(c.node, d.node))
}

func (c cursor) String() string { return strconv.FormatInt(c.at, 10) + "-" + c.node }

func parseCursor(s string) (c cursor, err error) {
	at, node, _ := strings.Cut(s, "-")
	if c.at, err = strconv.ParseInt(at, 10, 64); err != nil || c.at < 0 || c.at == math.MaxInt64 {
		return c, errors.New("is no end of a page")
	}
	c.node = node
	return c, nil
}

// A Page is a part of the log, the newest rows first.
type Page struct {
	Rows  []Row  `json:"rows"`
	Next  string `json:"next,omitempty"` // the filter before of the next page; "": there is none
	Nodes []Kept `json:"nodes"`          // that were asked
}

// maxAnswer is about the most octets of what a node answers another one, so that it fits into one answer.
const maxAnswer = 48 << 10

// Find returns the rows of this node that are wanted, as many as the page takes.
func (l *Log) Find(q Query) Page {
	page := Page{Rows: []Row{}, Nodes: []Kept{l.kept()}}
	f := l.filter(&q)
	octets := 0
	for p := range l.newest(f.before) {
		r := p.unpack()
		if f.ended(&r) {
			break
		}
		if !f.wants(&r) {
			continue
		}
		size, _ := json.Marshal(&r) // a Row has nothing that cannot be written
		if octets += len(size); len(page.Rows) >= f.limit || octets > maxAnswer && len(page.Rows) > 0 {
			page.Next = cursorOf(&page.Rows[len(page.Rows)-1]).String()
			break
		}
		page.Rows = append(page.Rows, r)
	}
	return page
}

// A filter is a Query that was read.
type filter struct {
	Query
	before  int64
	cursor  cursor
	network netip.Prefix
	limit   int
	aLabels func(domain string) string
}

// filter reads a query. What is wrong in it, which ParseQuery refuses, wants nothing.
func (l *Log) filter(q *Query) *filter {
	f := &filter{
		Query: *q, before: math.MaxInt64, limit: min(cmp.Or(max(q.Limit, 0), DefaultLimit), MaxLimit),
		aLabels: l.cfg.ALabels,
	}
	if q.Before != "" {
		f.cursor, _ = parseCursor(q.Before)
		f.before = f.cursor.at
		if l.cfg.Node < f.cursor.node {
			f.before++
		}
	}
	if !q.Until.IsZero() {
		f.before = min(f.before, q.Until.UnixNano())
	}
	if q.Client != "" {
		f.network, _ = parseNetwork(q.Client)
	}
	if l.cfg.Hide != nil {
		f.From, f.To = l.hidden(f.From), l.hidden(f.To)
	}
	return f
}

// Hashed returns what stands for an address in the rows, and whether that is something else than the address.
func (l *Log) Hashed(address string) (string, bool) {
	if l.cfg.Hide == nil {
		return address, false
	}
	return l.hidden(address), true
}

// hidden returns what stands for an address in the rows. A domain, or a part of an address, stands for itself.
func (l *Log) hidden(address string) string {
	if at := strings.LastIndexByte(address, '@'); at <= 0 || at == len(address)-1 {
		return address
	}
	return l.cfg.Hide(address)
}

// ended reports whether neither a row nor one before it is wanted.
func (f *filter) ended(r *Row) bool { return !f.Since.IsZero() && r.At.Before(f.Since) }

func (f *filter) wants(r *Row) bool {
	switch {
	case f.ID != "" && r.ID != f.ID,
		f.Status != "" && r.Status != f.Status,
		f.Action != "" && r.Action != f.Action,
		f.Node != "" && r.Node != f.Node,
		f.From != "" && !fits(f.From, r.From),
		f.To != "" && !fits(f.To, r.To),
		f.Auth != "" && !r.hasResult(f.Auth),
		f.Detail != "" && !contains(r.Reply, f.Detail) && !contains(r.Detail, f.Detail),
		len(f.Domains) > 0 && !f.isTheirs(r):
		return false
	}
	if f.Client == "" {
		return true
	}
	a, err := netip.ParseAddr(r.Client)
	return err == nil && f.network.Contains(a)
}

// isTheirs reports whether the recipient of a row lies in one of the domains that may be shown.
func (f *filter) isTheirs(r *Row) bool {
	_, domain, ok := cutAddress(r.To)
	if !ok {
		return false
	}
	if f.aLabels != nil {
		domain = f.aLabels(domain)
	}
	domain = strings.ToLower(domain)
	return slices.ContainsFunc(f.Domains, func(d string) bool {
		return d == domain || strings.HasSuffix(domain, "."+d)
	})
}

// cutAddress cuts an address at its last "@".
func cutAddress(s string) (local, domain string, ok bool) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s, "", false
	}
	return s[:at], s[at+1:], true
}

// fits reports whether an address is what a filter wants.
func fits(want, address string) bool {
	local, domain, ok := cutAddress(want)
	switch {
	case ok && local == "" && domain != "":
		_, of, _ := cutAddress(address)
		return strings.EqualFold(of, domain)
	case ok && domain != "", want == "<>":
		return strings.EqualFold(address, want)
	}
	return contains(address, want)
}

// contains reports whether part stands in s, in whatever case.
func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

// hasResult reports whether the message has a result of authentication, such as "dmarc=fail".
func (j *Judgement) hasResult(want string) bool {
	method, result, _ := strings.Cut(want, "=")
	switch method {
	case "spf":
		return j.SPF == result
	case "dkim":
		return j.DKIM == result
	case "dmarc":
		return j.DMARC == result
	}
	return j.ARC == result
}

// merge returns the page of several nodes. Of a node whose page has a next one nothing is known beyond its end, so that
// the page of all ends there too.
func merge(limit int, pages []Page) Page {
	out := Page{Rows: []Row{}}
	var end cursor
	more := false
	for i := range pages {
		p := &pages[i]
		out.Nodes = append(out.Nodes, p.Nodes...)
		out.Rows = append(out.Rows, p.Rows...)
		if p.Next == "" || len(p.Rows) == 0 {
			continue
		}
		more = true
		if last := cursorOf(&p.Rows[len(p.Rows)-1]); last.compare(end) > 0 {
			end = last
		}
	}
	slices.SortFunc(out.Rows, func(a, b Row) int { return cursorOf(&b).compare(cursorOf(&a)) })
	n := len(out.Rows)
	for n > 0 && more && cursorOf(&out.Rows[n-1]).compare(end) < 0 {
		n--
	}
	if n > limit {
		n, more = limit, true
	}
	out.Rows = out.Rows[:n]
	if more && n > 0 {
		out.Next = cursorOf(&out.Rows[n-1]).String()
	}
	return out
}

// ParseSenders reads the Query of Senders as the API takes it: to is required, and a whole address.
func ParseSenders(v url.Values, now time.Time) (q Query, err error) {
	for key := range v {
		if key != "to" && key != "since" && key != "until" {
			return q, fmt.Errorf("there is no filter %q", key)
		}
	}
	if q, err = ParseQuery(v, now); err != nil {
		return q, err
	}
	if at := strings.LastIndexByte(q.To, '@'); at <= 0 || at == len(q.To)-1 {
		return q, errors.New("to: is no address")
	}
	return q, nil
}
