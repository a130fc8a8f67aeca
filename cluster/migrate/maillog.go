package migrate

import (
	"bufio"
	"errors"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Received is a message that a destination took, as its own log tells.
type Received struct {
	ID        string    `json:"queue_id"`
	Time      time.Time `json:"time"`
	Client    string    `json:"client,omitempty"` // the address that it came from
	MessageID string    `json:"message_id,omitempty"`
	To        []string  `json:"to,omitempty"`
	State     string    `json:"state,omitempty"` // of the last attempt: sent, deferred, bounced, ...
	Said      string    `json:"said,omitempty"`  // about an attempt that did not deliver
	joined    bool      // a delivery of ours is this message
}

// A maillog is the log of a destination: of Postfix, Exim, or the LMTP server of Dovecot.
type maillog struct {
	byID        map[string][]*Received // several where an id was used again
	open        map[string]*Received
	order       []*Received
	first, last time.Time
	lines       int // that were understood
}

func newMaillog() *maillog {
	return &maillog{byID: make(map[string][]*Received), open: make(map[string]*Received)}
}

// A logClock reads the times of lines. The form of RFC 3164 has neither year nor zone.
type logClock struct {
	zone *time.Location
	now  time.Time
}

// maxLogLine is the most octets of a line that is read; the rest of a longer one is left out.
const maxLogLine = 64 << 10

// eachLine calls a function for each line of a text, without its end. What is beyond maxLogLine octets of a line is
// left out.
func eachLine(r io.Reader, line func(string)) error {
	b := bufio.NewReaderSize(r, maxLogLine)
	for {
		text, more, err := b.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line(string(text))
		for more && err == nil {
			_, more, err = b.ReadLine()
		}
	}
}

// read reads a log.
func (m *maillog) read(r io.Reader, c logClock) error {
	return eachLine(r, func(line string) {
		at, rest, ok := c.cut(line)
		if !ok {
			return
		}
		if m.eximLine(at, rest) || m.syslogLine(at, rest) {
			m.lines++
			if m.first.IsZero() || at.Before(m.first) {
				m.first = at
			}
			if at.After(m.last) {
				m.last = at
			}
		}
	})
}

// cut parts a line into its time and the rest.
func (c logClock) cut(line string) (at time.Time, rest string, ok bool) {
	word, rest, _ := strings.Cut(line, " ")
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999Z0700"} {
		if at, err := time.Parse(form, word); err == nil {
			return at, rest, true
		}
	}
	const exim = "2006-01-02 15:04:05"
	if len(line) > len(exim) {
		if at, err := time.ParseInLocation(exim, line[:len(exim)], c.zone); err == nil {
			rest = strings.TrimPrefix(line[len(exim):], ".")
			zone, after, _ := strings.Cut(strings.TrimLeft(rest, "0123456789 "), " ")
			if at, err := time.Parse(exim+" -0700", line[:len(exim)]+" "+zone); err == nil {
				return at, after, true
			}
			_, rest, _ = strings.Cut(rest, " ")
			return at, rest, true
		}
	}
	const syslog = "Jan _2 15:04:05"
	if len(line) <= len(syslog) {
		return at, "", false
	}
	at, err := time.ParseInLocation(syslog, line[:len(syslog)], c.zone)
	if err != nil {
		return at, "", false
	}
	// The year is the last in which such a time is not to come.
	at = at.AddDate(c.now.In(c.zone).Year(), 0, 0)
	if at.After(c.now.Add(24 * time.Hour)) {
		at = at.AddDate(-1, 0, 0)
	}
	return at, strings.TrimLeft(line[len(syslog):], " "), true
}

var (
	// syslogForm is a line of a daemon behind its time: host, program, process and text.
	syslogForm = regexp.MustCompile(`^\S+ (postfix[^ \[]*|dovecot)(?:\[\d+\])?: (.*)$`)
	// queueForm is what Postfix says of a message in its queue.
	queueForm = regexp.MustCompile(`^([0-9A-Za-z]{5,32}): (client=|message-id=|from=<|to=<|removed|uid=)(.*)$`)
	// clientForm is the address of a client behind its name.
	clientForm = regexp.MustCompile(`^[^\[,]*\[([0-9A-Fa-f.:]+)\]`)
	// recipientForm is a recipient with what became of it.
	recipientForm = regexp.MustCompile(`^([^>]*)>.*, status=([a-z]+) \((.*)\)$`)
	// savedForm is a message that Dovecot put into a mailbox.
	savedForm = regexp.MustCompile(`^lmtp\(([^)]*)\)<\d+><([^>]+)>: .*saved mail to `)
	// eximForm is what Exim says of a message.
	eximForm = regexp.MustCompile(`^([0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,` +
		`4}) (<=|=>|->|>>|\*\*|==|Completed) ?(.*)$`)
	// eximClient is the address of a client, and eximID the Message-ID.
	eximClient = regexp.MustCompile(`\bH=.*?\[([0-9A-Fa-f.:]+)\]`)
	eximID     = regexp.MustCompile(`\bid=(\S+)`)
)

// syslogLine takes in a line of Postfix or Dovecot, and reports whether it was one about a message.
func (m *maillog) syslogLine(at time.Time, rest string) bool {
	f := syslogForm.FindStringSubmatch(rest)
	if f == nil {
		return false
	}
	if f[1] == "dovecot" {
		saved := savedForm.FindStringSubmatch(f[2])
		if saved == nil {
			return false
		}
		r := m.message(saved[2], at, true)
		r.To, r.State = append(r.To, saved[1]), "sent"
		return true
	}
	q := queueForm.FindStringSubmatch(f[2])
	if q == nil {
		return false
	}
	r := m.message(q[1], at, q[2] == "client=" || q[2] == "uid=")
	switch q[2] {
	case "client=":
		if c := clientForm.FindStringSubmatch(q[3]); c != nil {
			r.Client = sameAddr(c[1])
		}
	case "message-id=":
		r.MessageID = strings.Trim(q[3], "<>")
	case "to=<":
		if to := recipientForm.FindStringSubmatch(q[3]); to != nil {
			r.attempt(to[1], to[2], to[3])
		}
	case "removed":
		delete(m.open, r.ID)
	}
	return true
}

// eximLine takes in a line of Exim's main log, and reports whether it was one about a message.
func (m *maillog) eximLine(at time.Time, rest string) bool {
	f := eximForm.FindStringSubmatch(rest)
	if f == nil {
		return false
	}
	r := m.message(f[1], at, f[2] == "<=")
	to, _, _ := strings.Cut(f[3], " ")
	switch f[2] {
	case "<=":
		if c := eximClient.FindStringSubmatch(f[3]); c != nil {
			r.Client = sameAddr(c[1])
		}
		if id := eximID.FindStringSubmatch(f[3]); id != nil {
			r.MessageID = id[1]
		}
	case "=>", "->", ">>":
		r.attempt(to, "sent", "")
	case "**":
		r.attempt(to, "bounced", f[3])
	case "==":
		r.attempt(to, "deferred", f[3])
	default:
		delete(m.open, r.ID)
	}
	return true
}

// sameAddr returns an address in one form.
func sameAddr(text string) string {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().String()
	}
	return text
}

// message returns the message with an id. isNew says that the id begins with this line.
func (m *maillog) message(id string, at time.Time, isNew bool) *Received {
	if r := m.open[id]; r != nil && !(isNew && r.Client != "") {
		return r
	}
	r := &Received{ID: id, Time: at}
	m.open[id] = r
	m.byID[id] = append(m.byID[id], r)
	m.order = append(m.order, r)
	return r
}

// attempt notes an attempt to deliver a message. What was delivered to one recipient and not to another counts as what
// it is to the worst.
func (r *Received) attempt(to, state, said string) {
	if len(r.To) < maxTargets && !slices.Contains(r.To, to) {
		r.To = append(r.To, to)
	}
	if state == "sent" && (r.State == "bounced" || r.State == "expired") {
		return
	}
	r.State, r.Said = state, ""
	if state != "sent" {
		r.Said = said
	}
}
