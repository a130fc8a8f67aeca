package decide

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// Conns bounds the connections to the host of a hook.
	Conns = 32
	// maxAtOnce bounds the questions under way, hookAtOnce those to one hook, and networkAtOnce those of these that
	// clients of one network cause.
	maxAtOnce, hookAtOnce, networkAtOnce = 256, 64, 16
	// maxAnswer bounds an answer in octets.
	maxAnswer = 16 << 10
	// restAfter is how many questions in a row a hook leaves without an answer before it rests for restFor: meanwhile
	// it is not asked, and mail does not wait for it.
	restAfter, restFor = 5, 10 * time.Second
	// maxStates bounds the hooks that are remembered while they are not asked.
	maxStates = 1024
)

// A Hook is one that has a name.
type Hook struct {
	Name, URL string
	// Takes reports whether the hook may name an address to forward to. nil takes all.
	Takes func(mail.Path) bool
}

// A Config says which hooks there are. All fields but Named and Count are required.
type Config struct {
	Client   *hook.Client // with as many Conns
	Named    []Hook
	Secrets  func() []hook.Secret // that questions are signed with
	Deadline time.Duration        // of an answer
	Node     string               // the hostname
	// Count is told what became of each question: a fixed word. It must not block; nil disables it.
	Count func(result string)
}

// An Asker asks hooks. Its methods are safe for concurrent use.
type Asker struct {
	cfg    Config
	serial atomic.Uint64

	mu     sync.Mutex // held for the moment of a count
	under  int
	states map[string]*state // by URL
}

// A state is what is known of a hook.
type state struct {
	under  int                  // questions
	from   map[netip.Prefix]int // of under, by the client's network
	failed int                  // questions in a row
	until  time.Time            // the end of its rest
}

// New returns an Asker. It asks nothing yet.
func New(c Config) *Asker { return &Asker{cfg: c, states: make(map[string]*state)} }

// Ask asks a hook.
func (a *Asker) Ask(ctx context.Context, q mail.HookQuestion) mail.HookAnswer {
	h := Hook{Name: "hook", URL: q.Hook}
	for _, named := range a.cfg.Named {
		if named.Name == q.Hook {
			h = named
		}
	}
	answer, result := a.ask(ctx, &h, &q)
	if a.cfg.Count != nil {
		a.cfg.Count(result)
	}
	answer.Said = h.Name + ": " + result
	return answer
}

func (a *Asker) ask(ctx context.Context, h *Hook, q *mail.HookQuestion) (answer mail.HookAnswer, result string) {
	client := network.Widest(q.Client)
	if why := a.begin(h.URL, client, q.At); why != "" {
		return answer, why
	}
	answered := new(bool)
	defer func() { a.end(h.URL, client, q.At, answered) }()
	body, err := question(q, a.cfg.Node)
	if err != nil {
		return answer, "failed"
	}
	// What the client's names cost in look-ups is nothing of the hook's.
	within, cancel := context.WithTimeout(&mail.Asking{Context: ctx, Rank: mail.RankOurs}, a.cfg.Deadline)
	defer cancel()
	header := http.Header{"Content-Type": {"application/json"}}
	id := "hook_" + q.Trace.String() + "_" + strconv.FormatUint(a.serial.Add(1), 36)
	hook.Sign(header, id, q.At, body, a.cfg.Secrets())
	r, err := a.cfg.Client.Do(within, hook.Request{
		Method: http.MethodPost, URL: h.URL, Header: header, Body: body, Limit: maxAnswer,
	})
	switch {
	case err != nil && ctx.Err() != nil: // the time of the client is over, for which the hook can do nothing
		answered = nil
		return answer, "timeout"
	case errors.Is(err, context.DeadlineExceeded):
		return answer, "timeout"
	case err != nil || r.Status != http.StatusOK:
		return answer, "failed"
	}
	if answer, err = parse(r.Body); err != nil {
		return mail.HookAnswer{}, "bad answer"
	}
	*answered = true
	return h.judge(answer)
}

// judge returns an answer and what it is called, and none if it names what the hook may not name.
func (h *Hook) judge(answer mail.HookAnswer) (mail.HookAnswer, string) {
	switch {
	case answer.Drop:
		return answer, "drop"
	case answer.Reply.Class() == 5:
		return answer, "reject"
	case answer.Reply.Class() == 4:
		return answer, "tempfail"
	case h.Takes != nil && slices.ContainsFunc(answer.Forward, func(p mail.Path) bool { return !h.Takes(p) }):
		return mail.HookAnswer{}, "bad target"
	}
	return answer, "forward"
}

// begin counts a question, or returns why it is not asked: too many are under way, or the hook rests. When its rest is
// over one question is asked, and the rest goes on for the others until that is answered.
func (a *Asker) begin(url string, client netip.Prefix, now time.Time) (why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.states[url]
	if s == nil {
		if len(a.states) >= maxStates {
			maps.DeleteFunc(a.states, func(_ string, s *state) bool { return s.under == 0 })
		}
		s = &state{from: make(map[netip.Prefix]int)}
		a.states[url] = s
	}
	switch {
	case a.under == maxAtOnce, s.under == hookAtOnce, s.from[client] == networkAtOnce:
		return "busy"
	case s.failed >= restAfter && now.Before(s.until):
		return "resting"
	case s.failed >= restAfter:
		s.until = now.Add(restFor)
	}
	a.under++
	s.under++
	s.from[client]++
	return ""
}

// end ends the question that begin counted. answered says whether the hook answered it, nil that this says nothing.
func (a *Asker) end(url string, client netip.Prefix, now time.Time, answered *bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.states[url]
	a.under--
	s.under--
	if s.from[client]--; s.from[client] == 0 {
		delete(s.from, client)
	}
	switch {
	case answered == nil:
	case *answered:
		s.failed = 0
	default:
		s.failed++
		s.until = now.Add(restFor)
	}
}
