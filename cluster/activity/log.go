package activity

import (
	"context"
	"iter"
	"sort"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Config says how much of the log is kept.
type Config struct {
	Node   string           // the name of this node, which stands in its rows
	Keep   time.Duration    // how long a row is kept
	Octets int64            // the memory for rows
	Now    func() time.Time // required
	// Hide returns what stands for an address in the rows, where they do not have it in clear. nil: they have.
	Hide func(address string) string
	// ALabels returns a domain as A-labels. nil: domains are taken as they stand.
	ALabels func(domain string) string
}

// MinOctets is the least memory of a Log.
const MinOctets = 1 << 20

// Validate returns a *mail.FieldError for the first field that is wrong, or nil.
func (c *Config) Validate() error {
	switch {
	case c.Keep <= 0:
		return &mail.FieldError{Field: "keep", Reason: "is zero: leave the section out to keep nothing"}
	case c.Octets < MinOctets:
		return &mail.FieldError{Field: "memory", Reason: "is below 1MiB"}
	}
	return nil
}

// A Log keeps rows in memory: what is delivered in one half of it, and all else, which strangers can cause for nothing,
// in the other. It is safe for concurrent use.
type Log struct {
	cfg Config

	mu     sync.Mutex // never held across I/O; guards what follows
	last   int64      // the time of the newest row in nanoseconds; no two rows have the same
	since  time.Time  // from when on nothing is missing
	mail   ring
	others ring
	buffer []byte
}

// New returns a Log. The error is that of Config.Validate.
func New(cfg Config) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, since: cfg.Now()}
	l.mail.most, l.others.most = cfg.Octets/2, cfg.Octets/2
	return l, nil
}

// A ring keeps rows in the order of their times, up to a number of octets.
type ring struct {
	rows   []packed
	head   int    // of rows, the first that is kept
	first  uint64 // the number of that row, counted from the start
	octets int64
	most   int64
}

// overhead is what a row takes beside its text.
const overhead = 48

// add adds a row. It returns the time of the newest that had to go for it, 0 if none had.
func (r *ring) add(p packed) (gone int64) {
	r.rows = append(r.rows, p)
	r.octets += int64(len(p)) + overhead
	for r.octets > r.most && r.len() > 1 {
		gone = r.drop()
	}
	return gone
}

func (r *ring) len() int { return len(r.rows) - r.head }

// drop drops the oldest row and returns its time.
func (r *ring) drop() int64 {
	p := r.rows[r.head]
	r.rows[r.head] = ""
	r.head++
	r.first++
	r.octets -= int64(len(p)) + overhead
	if r.head > len(r.rows)/2 {
		n := copy(r.rows, r.rows[r.head:])
		clear(r.rows[n:])
		r.rows, r.head = r.rows[:n], 0
		if cap(r.rows) > 1024 && n < cap(r.rows)/4 {
			r.rows = append([]packed(nil), r.rows...)
		}
	}
	return p.at()
}

// before returns the number of the first row that is not before a time.
func (r *ring) before(at int64) uint64 {
	kept := r.rows[r.head:]
	return r.first + uint64(sort.Search(len(kept), func(i int) bool { return kept[i].at() >= at }))
}

// Add adds a row. Its node is this one. A row that came no later than another one is noted as a nanosecond after it.
func (l *Log) Add(r *Row) {
	r.Node = l.cfg.Node
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := r.At.UnixNano(); at <= l.last {
		r.At = time.Unix(0, l.last+1)
	}
	l.last = r.At.UnixNano()
	l.buffer = r.pack(l.buffer[:0])
	into := &l.others
	if r.Status.isMail() {
		into = &l.mail
	}
	if gone := into.add(packed(l.buffer)); gone > l.since.UnixNano() {
		l.since = time.Unix(0, gone+1)
	}
}

// expireEvery is how often Run looks for rows that are too old.
const expireEvery = time.Minute

// Run forgets rows that are older than the retention, until ctx ends.
func (l *Log) Run(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.expire()
		}
	}
}

// expire forgets rows that are too old.
func (l *Log) expire() {
	oldest := l.oldest()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range []*ring{&l.mail, &l.others} {
		for r.len() > 0 && r.rows[r.head].at() < oldest {
			r.drop()
		}
	}
}

// oldest returns the time of the oldest row that may be shown.
func (l *Log) oldest() int64 { return l.cfg.Now().Add(-l.cfg.Keep).UnixNano() }

// Kept says what a node has of the log.
type Kept struct {
	Node   string    `json:"node"`
	Since  time.Time `json:"since,omitzero"` // from when on nothing is missing
	Rows   int       `json:"rows"`
	Failed string    `json:"failed,omitempty"` // why it could not be asked
}

// kept returns what this node has.
func (l *Log) kept() Kept {
	oldest := time.Unix(0, l.oldest())
	l.mu.Lock()
	defer l.mu.Unlock()
	k := Kept{Node: l.cfg.Node, Since: l.since, Rows: l.mail.len() + l.others.len()}
	if k.Since.Before(oldest) {
		k.Since = oldest
	}
	return k
}

// chunk is how many rows a reader takes at a time, so that the writer waits for microseconds at most.
const chunk = 256

// A backwards reads a ring from the newest row on.
type backwards struct {
	log   *Log
	ring  *ring
	until uint64 // the number of the row after the next one that is taken
	rows  []packed
}

// peek returns the next row, "" if there is none.
func (b *backwards) peek() packed {
	if len(b.rows) == 0 {
		b.fill()
	}
	if len(b.rows) == 0 {
		return ""
	}
	return b.rows[len(b.rows)-1]
}

func (b *backwards) next() { b.rows = b.rows[:len(b.rows)-1] }

func (b *backwards) fill() {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	if b.until <= b.ring.first {
		return
	}
	n := min(chunk, b.until-b.ring.first)
	end := b.ring.head + int(b.until-b.ring.first)
	b.rows = append(b.rows[:0], b.ring.rows[end-int(n):end]...)
	b.until -= n
}

// from returns what reads a ring from the last row before a time on.
func (l *Log) from(r *ring, at int64) *backwards {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &backwards{log: l, ring: r, until: r.before(at)}
}

// newest yields the rows before a time and not older than the retention, the newest first.
func (l *Log) newest(before int64) iter.Seq[packed] {
	return func(yield func(packed) bool) {
		oldest := l.oldest()
		a, b := l.from(&l.mail, before), l.from(&l.others, before)
		for {
			of, row := a, a.peek()
			if other := b.peek(); row == "" || other != "" && other.at() > row.at() {
				of, row = b, other
			}
			if row == "" || row.at() < oldest || !yield(row) {
				return
			}
			of.next()
		}
	}
}
