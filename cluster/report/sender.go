package report

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

const (
	// tickEvery is how often it is looked what is to be kept and to be sent.
	tickEvery = time.Minute
	// firstAfter is how long after the end of a day its first report is sent, so that all nodes have kept what they
	// counted. The others follow within spreadOver (RFC 8460 section 5.4): a reader of many gets them one by one.
	firstAfter = 10 * time.Minute
	spreadOver = 4 * time.Hour
	// againAfter is when a report is made again that was put off, lastAfter when it is given up.
	againAfter = time.Hour
	lastAfter  = 23 * time.Hour
	// listEvery is how often it is asked which domains there are to be told.
	listEvery = 10 * time.Minute
	// sendWithin is how long one attempt may take, and atOnce how many there are at a time.
	sendWithin = 10 * time.Minute
	atOnce     = 4
	// mostLetter bounds a letter in octets, which readers without a size of their own get.
	mostLetter = 10 << 20
)

// A Delivery says how reports travel and what is said of them. All fields are required.
type Delivery struct {
	// Owns reports whether this node sends the reports of a domain.
	Owns func(name string) bool
	// Mail sends a message to one recipient, and returns the reply that settled it.
	Mail func(ctx context.Context, from, to mail.Path, message []byte) (code int, reply string, err error)
	// Post posts a body to a URL, and returns the status of the answer.
	Post func(ctx context.Context, url string, header http.Header, body []byte) (status int, err error)
	// Say logs; Count counts what became of an attempt: sent, put_off, refused, given_up or not_authorised.
	Say   func(level slog.Level, message string, args ...any)
	Count func(kind, result string)
}

// A Sender sends the reports of each day once to each reader, within the next one.
type Sender struct {
	*Reporter
	Delivery
	tasks  map[Subject]*task // of the day that is reported
	listed time.Time         // when the domains were asked for
}

// NewSender returns a Sender.
func NewSender(r *Reporter, d Delivery) *Sender {
	return &Sender{Reporter: r, Delivery: d, tasks: make(map[Subject]*task)}
}

// A task is one report that is to be sent. It has nothing of the report, which is made for each attempt.
type task struct {
	Subject
	due  time.Time
	done map[string]bool // by URI: readers that were told, or refused
	over bool
}

// Run keeps what was counted, and sends reports, until ctx ends. Then it keeps what was counted last.
func (s *Sender) Run(ctx context.Context) {
	var sending sync.WaitGroup
	sending.Go(func() { each(ctx, func() { s.sendDue(ctx) }) }) // ends with ctx
	each(ctx, func() { s.cfg.Nodes.flush(ctx, false) })         // waits for no reader
	sending.Wait()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
	defer cancel()
	s.cfg.Nodes.flush(ending, true)
}

// each calls do now and with each tick, until ctx ends.
func each(ctx context.Context, do func()) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sendDue sends what is due now, a few reports at a time, and waits for them.
func (s *Sender) sendDue(ctx context.Context) {
	now := s.cfg.Nodes.Counts.now()
	s.list(ctx, now)
	places := make(chan struct{}, atOnce)
	var sending sync.WaitGroup
	for _, t := range s.tasks {
		if t.over || t.due.After(now) || !s.Owns(t.Domain) {
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		sending.Go(func() { // ends within sendWithin, and with ctx
			defer func() { <-places }()
			s.attempt(ctx, t)
		})
	}
	sending.Wait()
}

// list brings the tasks of the day that is over up to date.
func (s *Sender) list(ctx context.Context, now time.Time) {
	begins := dayOf(now) - int64(dayLong/time.Second)
	for subject := range s.tasks {
		if subject.Begins != begins {
			delete(s.tasks, subject)
		}
	}
	over := time.Unix(begins, 0).Add(dayLong)
	if now.Sub(over) < firstAfter || now.Sub(over) > lastAfter || now.Sub(s.listed) < listEvery {
		return
	}
	s.listed = now
	for k := range kinds {
		if n := s.cfg.Nodes.Counts.Unroomed(k, begins); n > 0 && len(s.tasks) == 0 {
			s.Say(slog.LevelWarn, "reports have no room for some domains", "kind", k.String(), "counted", n)
		}
		names, _ := s.cfg.Nodes.Domains(ctx, k, begins)
		for _, name := range names {
			subject := Subject{k, name, begins}
			if s.tasks[subject] == nil {
				s.tasks[subject] = &task{
					Subject: subject, due: over.Add(firstAfter + delayOf(&subject)), done: make(map[string]bool),
				}
			}
		}
	}
}

// delayOf spreads the reports of a day.
func delayOf(s *Subject) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.name())) // it never fails
	return time.Duration(h.Sum64() % uint64(spreadOver))
}

// attempt makes a report and sends it to the readers that were not told yet. What is put off is made again from the
// counters later.
func (s *Sender) attempt(ctx context.Context, t *task) {
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	now := s.cfg.Nodes.Counts.now()
	if s.settle(ctx, t, now) {
		t.over = true
		return
	}
	t.due = now.Add(againAfter)
	if t.due.Sub(time.Unix(t.Begins, 0).Add(dayLong)) > lastAfter && ctx.Err() == nil {
		t.over = true
		s.Count(t.Kind.String(), "given_up")
		s.Say(slog.LevelInfo, "a report was not sent within the day", "kind", t.Kind.String(), "domain", t.Domain)
	}
}

// settle sends a report, and reports whether nothing is left to do.
func (s *Sender) settle(ctx context.Context, t *task, now time.Time) bool {
	g, ok := s.cfg.Nodes.gather(ctx, &t.Subject)
	if !ok {
		return false
	}
	m := Make(&s.cfg.Origin, t.Subject, g.part, g.notes)
	if m == nil {
		return true
	}
	may, not, err := s.readers(ctx, &t.Subject, g.part)
	if err != nil {
		return false
	}
	for _, r := range not {
		if !t.done[r.URI] {
			t.done[r.URI] = true
			s.say(t, "not_authorised", r.URI, r.Why)
		}
	}
	all := true
	for i := range may {
		r := &may[i]
		if t.done[r.URI] || g.done[r.URI] {
			continue
		}
		result, why := s.send(ctx, m, r, now)
		if ctx.Err() != nil && result == "put_off" {
			return false // the node ends, or the time is over
		}
		s.say(t, result, r.URI, why)
		if result == "put_off" {
			all = false
			continue
		}
		t.done[r.URI] = true
		s.cfg.Nodes.reached(ctx, &t.Subject, r.URI)
	}
	return all
}

// say counts and logs what became of a report to a reader.
func (s *Sender) say(t *task, result, uri, why string) {
	s.Count(t.Kind.String(), result)
	s.Say(slog.LevelInfo, "report", "kind", t.Kind.String(), "domain", t.Domain, "result", result, "to",
		printable.Text(uri), "reply", printable.Text(why))
}

// send sends a report to one reader, and returns what came of it: sent, put_off or refused.
func (s *Sender) send(ctx context.Context, m *Made, r *Reader, now time.Time) (result, why string) {
	if r.To.IsNull() {
		return s.post(ctx, m, r)
	}
	from, _ := mail.ParsePath(m.Origin.Contact, false) // the configuration was validated
	letter := m.letter(r.To, now)
	most := int64(mostLetter)
	if r.Most > 0 {
		most = min(most, r.Most)
	}
	if int64(len(letter)) > most {
		return "refused", fmt.Sprintf("the report has %d octets, and %d are taken", len(letter), most)
	}
	code, reply, err := s.Mail(ctx, from, r.To, letter)
	switch {
	case err != nil:
		return "put_off", err.Error()
	case code/100 == 2:
		return "sent", reply
	case code/100 == 5:
		return "refused", reply
	}
	return "put_off", reply
}

// post posts a report (RFC 8460 section 5.4).
func (s *Sender) post(ctx context.Context, m *Made, r *Reader) (result, why string) {
	body := m.packed()
	if r.Most > 0 && int64(len(body)) > r.Most {
		return "refused", fmt.Sprintf("the report has %d octets, and %d are taken", len(body), r.Most)
	}
	status, err := s.Post(ctx, r.URI, http.Header{"Content-Type": {"application/tlsrpt+gzip"}}, body)
	if err != nil {
		return "put_off", err.Error()
	}
	why = strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
	switch {
	case status/100 == 2:
		return "sent", why
	case status/100 == 5, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
		return "put_off", why
	}
	return "refused", why // a redirect too: what a record names is where reports go
}
