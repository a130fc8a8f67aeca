package node

import (
	"log/slog"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

const (
	// timeForm is how each line of the log says when: always with as many digits, so that lines sort as text.
	timeForm = "2006-01-02T15:04:05.000000Z07:00"
	// maxLine is the most octets of a line of the log. What does not fit goes on in further lines of the same trace.
	maxLine = 16 << 10
	// maxHead is the most octets of what each line has but its lists. Beyond that its texts are cut shorter.
	maxHead = 10 << 10
	// maxText and shortText are the most octets of a text from outside in a line of the log.
	maxText   = 1 << 10
	shortText = 256
	// maxElement is about as many octets as one element of a list has. A recipient with more targets than fit has
	// several elements.
	maxElement = 3 << 10
	// aroundLists is room for what stands around the lists of a line.
	aroundLists = 64
)

// A line is one line of the log under way: an object of JSON. Its methods append a field each, and nothing where the
// value says nothing.
type line struct {
	b    []byte
	text int // the most octets of a text from outside
}

// key appends the name of a field.
func (l *line) key(name string) {
	if last := l.b[len(l.b)-1]; last != '{' && last != '[' {
		l.b = append(l.b, ',')
	}
	l.b = append(append(append(l.b, '"'), name...), '"', ':')
}

// word appends a text of ours, which needs no care.
func (l *line) word(name, value string) {
	if value == "" {
		return
	}
	l.key(name)
	l.b = append(append(append(l.b, '"'), value...), '"')
}

// outside appends a text that came from outside: printable, and cut.
func (l *line) outside(name, value string) {
	if value == "" {
		return
	}
	l.key(name)
	quote(l, cut(printable.Text(value), l.text))
}

// quote appends a printable text in quotes.
func quote[T string | []byte](l *line, s T) {
	l.b = append(l.b, '"')
	from := 0
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			l.b = append(append(l.b, s[from:i]...), '\\')
			from = i
		}
	}
	l.b = append(append(l.b, s[from:]...), '"')
}

func (l *line) number(name string, n int64) {
	l.key(name)
	l.b = strconv.AppendInt(l.b, n, 10)
}

// flag appends a field that is true, or nothing.
func (l *line) flag(name string, is bool) {
	if is {
		l.key(name)
		l.b = append(l.b, "true"...)
	}
}

func (l *line) addr(name string, a netip.Addr) {
	if a.IsValid() {
		l.key(name)
		l.b = append(a.AppendTo(append(l.b, '"')), '"')
	}
}

// ms appends a time in milliseconds, always with as many digits.
func (l *line) ms(name string, d time.Duration) {
	l.key(name)
	l.b = strconv.AppendFloat(l.b, float64(d)/float64(time.Millisecond), 'f', 3, 64)
}

func (l *line) begin(name string, open byte) {
	l.key(name)
	l.b = append(l.b, open)
}

func (l *line) end(shut byte) { l.b = append(l.b, shut) }

// cut cuts a text before the character that reaches beyond most octets.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// A list is which list of a line an element stands in, in the order in which they stand there.
type list uint8

const (
	listTo list = iota
	listLegs
)

var listNames = [...]string{"to", "legs"}

// An element is an element of a list of a line: the octets of journal.elements up to end, behind those of the one
// before it.
type element struct {
	of  list
	end int
}

// open begins a line with what each line of an event has.
func (j *journal) open(l *line, e *entry, level slog.Level) {
	l.b = append(l.b, '{')
	l.key("time")
	l.b = append(e.Time.AppendFormat(append(l.b, '"'), timeForm), '"')
	l.word("level", level.String())
	l.word("msg", e.Kind.String())
	if !e.Trace.IsZero() {
		l.word("trace", e.Trace.String())
	}
}

// write writes the lines of an event: one, unless its lists are too long for that.
func (j *journal) write(e *entry, level slog.Level) {
	j.head(e, level, maxText)
	if len(j.line.b) > maxHead {
		j.head(e, level, shortText)
	}
	j.gather(&e.Event)
	if len(j.elements)+len(j.line.b)+len(j.ends)+aroundLists <= maxLine {
		j.writeLists(j.ends, 0)
		return
	}
	parts := j.split(len(j.line.b))
	for i, part := range parts {
		if i > 0 {
			j.line.b = j.line.b[:0]
			j.open(&j.line, e, level)
		}
		j.line.number("part", int64(i+1))
		j.line.number("parts", int64(len(parts)))
		from := 0
		if part.first > 0 {
			from = j.ends[part.first-1].end
		}
		j.writeLists(j.ends[part.first:part.behind], from)
	}
}

// A part is which elements stand in one line.
type part struct{ first, behind int }

// split shares the elements out to lines. head is the octets of the first line but its lists.
func (j *journal) split(head int) (parts []part) {
	const heads = 256 // of the further lines: see open
	var p part
	used, from := head, 0
	for i, e := range j.ends {
		if n := e.end - from; used+n+1+aroundLists > maxLine && i > p.first {
			p.behind = i
			parts = append(parts, p)
			p = part{first: i}
			used = heads
		}
		used += e.end - from + 1
		from = e.end
	}
	p.behind = len(j.ends)
	return append(parts, p)
}

// writeLists ends the line under way with the lists of elements, of which the first begins at from, and writes it.
func (j *journal) writeLists(elements []element, from int) {
	l := &j.line
	for i, e := range elements {
		if i == 0 || e.of != elements[i-1].of {
			if i > 0 {
				l.end(']')
			}
			l.begin(listNames[e.of], '[')
		} else {
			l.b = append(l.b, ',')
		}
		l.b = append(l.b, j.elements[from:e.end]...)
		from = e.end
	}
	if len(elements) > 0 {
		l.end(']')
	}
	l.b = append(l.b, '}', '\n')
	_, _ = j.out.Write(l.b) // it never fails
}

// gather makes the elements of the lists of an event.
func (j *journal) gather(e *mail.Event) {
	j.elements, j.ends = j.elements[:0], j.ends[:0]
	for i := range e.To {
		j.addTo(e, &e.To[i])
	}
	for i := range e.Legs {
		j.addLeg(e, &e.Legs[i])
	}
}

// element begins an element.
func (j *journal) element() line {
	return line{b: append(j.elements, '{'), text: shortText}
}

// keep ends an element.
func (j *journal) keep(l *line, of list) {
	l.end('}')
	j.elements = l.b
	j.ends = append(j.ends, element{of, len(l.b)})
}

// addTo adds a recipient.
func (j *journal) addTo(e *mail.Event, to *mail.To) {
	targets := to.Targets
	for again := true; again; again = len(targets) > 0 {
		begun := len(j.elements)
		l := j.element()
		j.path(&l, "forward", to.Forward)
		l.word("outcome", to.Outcome.String())
		if to.Rule != (mail.Rule{}) {
			l.outside("rule", j.rule(to.Rule))
		}
		j.reply(&l, to.Reply)
		if to.Reason != e.Reason {
			l.outside("reason", to.Reason)
		}
		l.flag("drop", to.Drop)
		for i := 0; len(targets) > 0 && (i == 0 || len(l.b)-begun < maxElement); i++ {
			if i == 0 {
				l.begin("targets", '[')
			} else {
				l.b = append(l.b, ',')
			}
			j.addTarget(&l, to, &targets[0])
			targets = targets[1:]
			if len(targets) == 0 || len(l.b)-begun >= maxElement {
				l.end(']')
			}
		}
		j.keep(&l, listTo)
	}
}

// addTarget appends an address that a recipient became.
func (j *journal) addTarget(l *line, to *mail.To, t *mail.Target) {
	l.b = append(l.b, '{')
	j.path(l, "forward", t.Forward)
	l.outside("next_hop", t.NextHop.String())
	l.flag("refused", t.Refused)
	if !alike(&t.Reply, &to.Reply) {
		j.reply(l, t.Reply)
	}
	l.end('}')
}

// addLeg adds the way to a next hop.
func (j *journal) addLeg(e *mail.Event, leg *mail.Leg) {
	l := j.element()
	l.outside("next_hop", leg.NextHop.String())
	if s := string(leg.Site); s != leg.NextHop.String() {
		l.outside("site", s)
	}
	l.outside("node", leg.Node)
	if len(leg.Tried) > 0 {
		l.begin("tried", '[')
		for i := range leg.Tried {
			if i > 0 {
				l.b = append(l.b, ',')
			}
			j.addTry(&l, &leg.Tried[i])
		}
		l.end(']')
	}
	if s := &leg.Session; s.Host != "" {
		l.outside("host", s.Host)
		addEnd(&l, s.Addr)
		l.addr("source", s.Source)
		l.outside("tls", s.TLS)
		l.outside("cipher", s.Cipher)
		l.outside("key_exchange", s.KeyExchange)
		if s.TLS != "" {
			l.key("verified")
			l.b = strconv.AppendBool(l.b, s.Verified)
		}
		addReport(&l, s.Report)
		l.word("session", s.Kind.String())
		j.path(&l, "reverse", leg.Reverse)
	}
	if !alike(&leg.Replied, &e.Reply) {
		j.reply(&l, leg.Replied)
	}
	l.word("seal", leg.Sealed.Wanted)
	if leg.Sealed.Signed != e.Signed || leg.Sealed.Unsigned != e.Unsigned {
		l.outside("signed", leg.Sealed.Signed)
		l.outside("unsigned", leg.Sealed.Unsigned)
	}
	if leg.Wait > 0 {
		l.ms("wait", leg.Wait)
	}
	j.keep(&l, listLegs)
}

// alike reports whether two replies read alike.
func alike(a, b *mail.Reply) bool {
	return a.Code == b.Code && a.Enhanced == b.Enhanced && a.Text == b.Text
}

// addTry appends what did not serve a message.
func (j *journal) addTry(l *line, t *mail.Try) {
	l.b = append(l.b, '{')
	l.outside("host", t.Host)
	addEnd(l, t.Addr)
	l.outside("cause", j.mask(t.Cause))
	addReport(l, t.Report)
	l.ms("ms", t.Took)
	l.end('}')
}

// addReport appends whose policy a host had to meet, and what was wrong.
func addReport(l *line, r mail.TLSReport) {
	if r.Policy != mail.NoTLSPolicy {
		l.word("tls_policy", r.Policy.String())
	}
	if r.Result != mail.TLSWorked {
		l.word("tls_result", r.Result.String())
	}
}

// addEnd appends an address of a host, and its family.
func addEnd(l *line, a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	l.key("addr")
	l.b = append(a.AppendTo(append(l.b, '"')), '"')
	family := "ipv4"
	if a.Addr().Is6() {
		family = "ipv6"
	}
	l.word("family", family)
}
