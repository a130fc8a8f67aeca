package migrate

import (
	"cmp"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Delivered is a message that a destination took from us, as our log tells.
type Delivered struct {
	Time    time.Time `json:"time"`
	Trace   string    `json:"trace"`
	NextHop string    `json:"next_hop,omitempty"`
	ID      string    `json:"queue_id,omitempty"` // that the destination said; empty if it said none
	To      []string  `json:"to,omitempty"`
	Reply   string    `json:"reply,omitempty"`
	with    *Received
}

// A Way is from where other messages came to a destination.
type Way struct {
	Client   string    `json:"client"`
	Messages int       `json:"messages"`
	Last     time.Time `json:"last"`
}

// A Reconciliation is what became of messages that a destination took from us, by its own log.
type Reconciliation struct {
	From        time.Time      `json:"from"` // what both logs cover
	To          time.Time      `json:"to"`
	Joined      int            `json:"joined"`
	Missing     []*Delivered   `json:"missing"`     // the destination took it and its log has no such message
	Undelivered []*Received    `json:"undelivered"` // it is there, and was not delivered
	Extra       []*Received    `json:"extra"`       // it came from us, and our log has no such message
	Twice       []string       `json:"twice"`       // Message-IDs that came more than once from us
	OtherWays   []Way          `json:"other_ways"`  // messages that came from others, such as the old MX
	InDoubt     int            `json:"in_doubt"`    // of our log: the destination may have them
	WithoutID   map[string]int `json:"without_id"`  // by next hop: its replies name no queue id
	Elsewhere   map[string]int `json:"elsewhere"`   // by next hop: its messages are in another log
	Outside     int            `json:"outside"`     // messages of ours of times that its log does not cover
}

// A Reconciler compares logs.
type Reconciler struct {
	NextHop string // whose log it is; empty: that of the next hops of which it has a message
	Clock   time.Time
	Zone    *time.Location // of times without one

	log         *maillog
	delivered   []*Delivered
	doubt       int
	sources     map[string]bool // addresses that we sent from
	first, last time.Time
	trace       string // of the last line of our log, whose parts may follow, and its reply
	reply       string
}

// ReadMaillog reads a log of the destination.
func (r *Reconciler) ReadMaillog(text io.Reader) error {
	if r.log == nil {
		r.log = newMaillog()
	}
	return r.log.read(text, logClock{cmp.Or(r.Zone, time.Local), r.Clock})
}

// An ourLine is what a line of our log says of a message that was taken.
type ourLine struct {
	Time    time.Time `json:"time"`
	Msg     string    `json:"msg"`
	Trace   string    `json:"trace"`
	Reply   string    `json:"reply"`
	InDoubt bool      `json:"in_doubt"`
	To      []struct {
		Forward string `json:"forward"`
		Reply   string `json:"reply"`
		Targets []struct {
			Forward string `json:"forward"`
			NextHop string `json:"next_hop"`
			Refused bool   `json:"refused"`
			Reply   string `json:"reply"`
		} `json:"targets"`
	} `json:"to"`
	Legs []struct {
		NextHop string `json:"next_hop"`
		Host    string `json:"host"`
		Source  string `json:"source"`
		Reply   string `json:"reply"`
	} `json:"legs"`
}

// sentForm is a delivery in our log in Postfix's form.
var sentForm = regexp.MustCompile(`^(\S+) \S+ postfix/[sl]mtp\[\d+\]: ([0-9a-f]{32}): to=<([^>]*)>,` +
	` .*\brelay=(\S+), .*` +
	`status=sent \((.*)\)$`)

// ReadLog reads a log of ours, of lines of JSON or in Postfix's form.
func (r *Reconciler) ReadLog(text io.Reader) error {
	if r.sources == nil {
		r.sources = make(map[string]bool)
	}
	return eachLine(text, func(line string) {
		if f := sentForm.FindStringSubmatch(line); f != nil {
			if at, err := time.Parse(time.RFC3339Nano, f[1]); err == nil {
				r.add(&Delivered{Time: at, Trace: f[2], NextHop: f[4], To: []string{f[3]}, Reply: f[5],
					ID: queueID(f[5])})
			}
			return
		}
		start := strings.IndexByte(line, '{') // behind what syslog put in front
		var l ourLine
		if start < 0 || json.Unmarshal([]byte(line[start:]), &l) != nil || l.Msg == "" {
			return
		}
		r.ourLine(&l)
	})
}

// ourLine takes in a line of our log. A destination's reply stands in it where it is not what the client was told, and
// a long line goes on in parts, of which the first has that.
func (r *Reconciler) ourLine(l *ourLine) {
	r.covers(l.Time)
	if l.InDoubt {
		r.doubt++
	}
	if l.Msg != "relayed" {
		return
	}
	if l.Reply == "" && l.Trace == r.trace {
		l.Reply = r.reply
	}
	r.trace, r.reply = l.Trace, l.Reply
	for _, leg := range l.Legs {
		if leg.Host == "" {
			continue
		}
		if leg.Source != "" {
			r.sources[sameAddr(leg.Source)] = true
		}
		replies := []string{cmp.Or(leg.Reply, l.Reply)}
		var to []string
		for _, recipient := range l.To {
			for _, t := range recipient.Targets {
				if t.NextHop != leg.NextHop || t.Refused {
					continue
				}
				to = append(to, t.Forward)
				if reply := cmp.Or(t.Reply, recipient.Reply); reply != "" && !slices.Contains(replies, reply) {
					replies = append(replies, reply)
				}
			}
		}
		r.leg(l, leg.NextHop, to, replies)
	}
}

// leg adds what a next hop took: a message for each queue id that it said.
func (r *Reconciler) leg(l *ourLine, nextHop string, to, replies []string) {
	var ids []string
	for _, reply := range replies {
		if id := queueID(reply); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
			r.add(&Delivered{Time: l.Time, Trace: l.Trace, NextHop: nextHop, To: to, Reply: Plain(reply), ID: id})
		}
	}
	if len(ids) == 0 {
		r.add(&Delivered{Time: l.Time, Trace: l.Trace, NextHop: nextHop, To: to, Reply: Plain(replies[0])})
	}
}

// covers notes a time that our log covers.
func (r *Reconciler) covers(at time.Time) {
	if r.first.IsZero() || at.Before(r.first) {
		r.first = at
	}
	if at.After(r.last) {
		r.last = at
	}
}

// add adds a delivery. In Postfix's form one transaction has a line for each recipient.
func (r *Reconciler) add(h *Delivered) {
	r.covers(h.Time)
	if n := len(r.delivered); n > 0 && r.delivered[n-1].Trace == h.Trace && r.delivered[n-1].ID == h.ID &&
		r.delivered[n-1].NextHop == h.NextHop {
		r.delivered[n-1].To = append(r.delivered[n-1].To, h.To...)
		return
	}
	r.delivered = append(r.delivered, h)
}

// idForms are how servers say which message they made of ours.
var idForms = []*regexp.Regexp{
	regexp.MustCompile(`queued as ([0-9A-Za-z]{5,32})\b`),
	regexp.MustCompile(`\bid=([0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4})\b`),
	regexp.MustCompile(`2\.0\.0 ([0-9A-Za-z]{8,32}) Message accepted for delivery`),
	regexp.MustCompile(`<[^>]*> (\S+) Saved\b`),
}

// queueID returns the id of a message in a reply of a destination; empty if it says none.
func queueID(reply string) string {
	for _, form := range idForms {
		if f := form.FindStringSubmatch(reply); f != nil {
			return f[1]
		}
	}
	return ""
}

// Result compares what was read.
func (r *Reconciler) Result() *Reconciliation {
	if r.log == nil {
		r.log = newMaillog()
	}
	out := &Reconciliation{
		InDoubt: r.doubt, WithoutID: make(map[string]int), Elsewhere: make(map[string]int),
		Missing: []*Delivered{}, Undelivered: []*Received{}, Extra: []*Received{}, Twice: []string{},
		OtherWays: []Way{},
	}
	out.From, out.To = r.log.first, r.log.last
	if r.first.After(out.From) {
		out.From = r.first
	}
	if r.last.Before(out.To) {
		out.To = r.last
	}
	slices.SortStableFunc(r.delivered, func(a, b *Delivered) int { return a.Time.Compare(b.Time) })
	ours := make(map[string]bool) // next hops whose log it is
	for _, h := range r.delivered {
		if r.NextHop != "" && h.NextHop != r.NextHop {
			continue
		}
		if h.with = r.log.take(h); h.with != nil {
			ours[h.NextHop] = true
			out.Joined++
		}
	}
	for _, h := range r.delivered {
		r.judge(out, h, ours[h.NextHop] || h.NextHop == r.NextHop)
	}
	r.judgeLog(out)
	return out
}

// take returns the message of a log that a delivery is, the nearest in time where an id was used again; nil if there is
// none.
func (m *maillog) take(h *Delivered) (best *Received) {
	if h.ID == "" {
		return nil
	}
	apart := func(r *Received) time.Duration { return r.Time.Sub(h.Time).Abs() }
	for _, r := range m.byID[h.ID] {
		if !r.joined && (best == nil || apart(r) < apart(best)) {
			best = r
		}
	}
	if best != nil {
		best.joined = true
	}
	return best
}

// logStep is the time within which a line of a log may have been written: syslog's form has whole seconds.
const logStep = time.Second

// judge says what is wrong with a delivery. isTheirs says that the log is of its next hop.
func (r *Reconciler) judge(out *Reconciliation, h *Delivered, isTheirs bool) {
	switch {
	case h.with != nil && h.with.State != "" && h.with.State != "sent":
		out.Undelivered = append(out.Undelivered, h.with)
	case h.with != nil, r.NextHop != "" && h.NextHop != r.NextHop:
	case h.ID == "":
		out.WithoutID[h.NextHop]++
	case !isTheirs:
		out.Elsewhere[h.NextHop]++
	case h.Time.Before(r.log.first) || h.Time.After(r.log.last.Add(logStep)):
		out.Outside++
	default:
		out.Missing = append(out.Missing, h)
	}
}

// judgeLog says what the log has that we did not hand over: from us, and from others.
func (r *Reconciler) judgeLog(out *Reconciliation) {
	ways := make(map[string]*Way)
	count := make(map[string]int)
	for _, m := range r.log.order {
		fromUs := m.joined || r.sources[m.Client]
		switch {
		case m.Client == "":
			continue
		case fromUs && m.MessageID != "":
			if count[m.MessageID]++; count[m.MessageID] == 2 {
				out.Twice = append(out.Twice, Plain(m.MessageID))
			}
		}
		switch {
		case m.joined:
		case fromUs && !m.Time.Before(r.first.Add(-logStep)) && !m.Time.After(r.last):
			out.Extra = append(out.Extra, m)
		case !fromUs:
			w := ways[m.Client]
			if w == nil {
				w = &Way{Client: m.Client}
				ways[m.Client] = w
			}
			w.Messages++
			w.Last = m.Time
		}
	}
	for _, w := range ways {
		out.OtherWays = append(out.OtherWays, *w)
	}
	slices.SortFunc(out.OtherWays, func(a, b Way) int {
		return cmp.Or(b.Messages-a.Messages, strings.Compare(a.Client, b.Client))
	})
}
