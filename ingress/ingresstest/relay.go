package ingresstest

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Rules is a router by local part: what a recipient's route is made by. Other recipients do not exist.
type Rules map[string]func(q mail.Query) ([]mail.Route, error)

// Route returns the route of q.Forward.
func (r Rules) Route(q mail.Query) ([]mail.Route, error) {
	if f, ok := r[q.Forward.LocalPart()]; ok {
		return f(q)
	}
	return nil, mail.Refuse(550, 1, 1, "No such user here", "no rule", nil)
}

// Rewrite returns the reverse-path at srs.example, with the word of opens in front.
func (Rules) Rewrite(q mail.Query, opens mail.Opens) (mail.Path, string) {
	return mail.Path{Local: opens.String() + "=" + q.Reverse.Local, Domain: "srs.example"}, ""
}

// To returns what makes a route to a host, for the recipient as it is or, rewritten, for forwards.
func To(host string, forwards ...string) func(q mail.Query) ([]mail.Route, error) {
	return func(q mail.Query) ([]mail.Route, error) {
		r := mail.Route{
			NextHop: mail.NextHop{Host: host}, Reverse: q.Reverse, Rewrote: len(forwards) > 0,
			Forwards: []mail.Path{q.Forward},
		}
		if len(forwards) > 0 {
			r.Forwards = nil
		}
		for _, f := range forwards {
			r.Forwards = append(r.Forwards, Path(f))
		}
		return []mail.Route{r}, nil
	}
}

// Try returns what makes the routes of a list that is tried in turn, one to each address at the host of its domain.
func Try(addresses ...string) func(q mail.Query) ([]mail.Route, error) {
	return func(q mail.Query) ([]mail.Route, error) {
		list := make([]mail.Route, len(addresses))
		for i, a := range addresses {
			routes, _ := To(Path(a).Domain, a)(q) // has no error
			if list[i] = routes[0]; i > 0 {
				list[i-1].Else = &list[i]
			}
		}
		return list[:1], nil
	}
}

// Path returns the path that is written local@domain.
func Path(text string) mail.Path {
	local, domain, _ := strings.Cut(text, "@")
	return mail.Path{Local: local, Domain: domain}
}

// A Relay keeps what is delivered to it and refuses what its fields say. The zero Relay accepts everything. A test that
// reads or changes a field while a session runs holds Mu.
type Relay struct {
	Mu        sync.Mutex
	Unreached map[string]error // what Begin returns, by the host of the next hop
	Refuse    map[string]error // what Rcpt returns, by forward-path
	StreamErr error            // what Stream returns
	DataErr   error            // what Data returns
	DataTime  time.Duration    // how long Data takes
	WriteErr  error            // what Write returns
	Outcomes  []mail.Outcome   // what Commit returns; nil: 250 for each recipient
	Reached   chan struct{}    // closed when Commit is reached, which then waits for Release; nil: it does not
	Release   chan struct{}
	UTF8      bool // SMTPUTF8 is offered

	// The same by the host of the next hop, where these are set.
	By                              map[string][]mail.Outcome
	StreamErrs, DataErrs, WriteErrs map[string]error

	Sites map[string]mail.Site // of each host of a next hop; noted in the leg of a delivery

	Wanted bool // another client waits for the session

	Calls
}

// A Calls is what a Relay was asked for.
type Calls struct {
	Begins   int
	Streams  int
	Datas    int
	Lends    int
	Aborts   int
	Got      []Delivered
	Patience time.Duration // from the call of Data to Commit's deadline
}

// A Delivered is a message that was committed.
type Delivered struct {
	Delivery mail.Delivery
	Forwards []string
	Octets   string
	Form     mail.Form
	Writes   int
}

// Begin opens a transaction.
func (r *Relay) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	d.Settle(ctx)
	r.Mu.Lock()
	defer r.Mu.Unlock()
	r.Begins++
	if site := r.Sites[d.NextHop.Host]; d.Leg != nil && site != "" {
		d.Leg.Site = site
	}
	if err := r.Unreached[d.NextHop.Host]; err != nil {
		return nil, err
	}
	return &transaction{relay: r, Delivered: Delivered{Delivery: d}}, nil
}

// Lent returns how often a session was handed back.
func (r *Relay) Lent() int {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return r.Lends
}

// A transaction is one of a Relay's.
type transaction struct {
	relay *Relay
	Delivered
	lent, data bool
	dataAt     time.Time
}

func (t *transaction) Rcpt(_ context.Context, p mail.Path) error {
	t.relay.Mu.Lock()
	defer t.relay.Mu.Unlock()
	t.lent = false
	if err := t.relay.Refuse[p.String()]; err != nil {
		return err
	}
	t.Forwards = append(t.Forwards, p.String())
	return nil
}

func (t *transaction) Stream(context.Context) error {
	t.relay.Mu.Lock()
	defer t.relay.Mu.Unlock()
	t.relay.Streams++
	return cmp.Or(t.relay.StreamErrs[t.host()], t.relay.StreamErr)
}

func (t *transaction) Data(_ context.Context, f mail.Form) error {
	t.relay.Mu.Lock()
	t.relay.Datas++
	t.relay.Mu.Unlock()
	t.Form, t.data, t.dataAt = f, true, time.Now()
	if t.relay.DataTime > 0 {
		<-time.After(t.relay.DataTime)
	}
	return cmp.Or(t.relay.DataErrs[t.host()], t.relay.DataErr)
}

func (t *transaction) Write(o mail.Octets) error {
	t.Writes++
	t.take(o)
	return cmp.Or(t.relay.WriteErrs[t.host()], t.relay.WriteErr)
}

// host returns the host of the next hop.
func (t *transaction) host() string { return t.Delivery.NextHop.Host }

func (t *transaction) take(o mail.Octets) {
	for _, s := range o.Segments {
		t.Octets += string(s)
	}
}

func (t *transaction) Commit(ctx context.Context, o mail.Octets) []mail.Outcome {
	t.take(o)
	if t.relay.Reached != nil {
		close(t.relay.Reached)
		<-t.relay.Release
	}
	t.relay.Mu.Lock()
	defer t.relay.Mu.Unlock()
	if due, ok := ctx.Deadline(); ok {
		t.relay.Patience = due.Sub(t.dataAt)
	}
	t.relay.Got = append(t.relay.Got, t.Delivered)
	if by := t.relay.By[t.host()]; by != nil {
		return by
	}
	if t.relay.Outcomes != nil {
		return t.relay.Outcomes
	}
	out := make([]mail.Outcome, len(t.Forwards))
	for i := range out {
		out[i] = mail.Outcome{Reply: mail.NewReply(250, 0, 0, "Ok: queued as 4711"), Host: "mx.far.example"}
	}
	return out
}

func (t *transaction) Abort() {
	t.relay.Mu.Lock()
	defer t.relay.Mu.Unlock()
	t.relay.Aborts++
}

func (t *transaction) Lend() bool {
	t.relay.Mu.Lock()
	defer t.relay.Mu.Unlock()
	if t.data || t.lent {
		return false
	}
	t.relay.Lends++
	t.lent = true
	return true
}

func (t *transaction) Renew(ctx context.Context) error {
	if !t.lent {
		return nil
	}
	forwards := t.Forwards
	t.Forwards = nil
	for _, f := range forwards {
		if err := t.Rcpt(ctx, Path(f)); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) Wanted() bool {
	t.relay.Mu.Lock()
	defer t.relay.Mu.Unlock()
	return t.relay.Wanted
}

func (t *transaction) SMTPUTF8() bool { return t.relay.UTF8 }

// A Sink is a relay that forgets all octets and counts how often it was called.
type Sink struct{ Begins, Datas, Commits, Aborts, Octets atomic.Int64 }

// Begin opens a transaction.
func (s *Sink) Begin(context.Context, mail.Delivery) (mail.Transaction, error) {
	s.Begins.Add(1)
	return &forgotten{s}, nil
}

// A forgotten is a transaction of a Sink.
type forgotten struct{ sink *Sink }

func (f *forgotten) Rcpt(context.Context, mail.Path) error { return nil }

func (*forgotten) Stream(context.Context) error { return nil }

func (f *forgotten) Data(context.Context, mail.Form) error {
	f.sink.Datas.Add(1)
	return nil
}

func (f *forgotten) Write(o mail.Octets) error {
	f.sink.Octets.Add(int64(o.Len()))
	return nil
}

func (f *forgotten) Commit(context.Context, mail.Octets) []mail.Outcome {
	f.sink.Commits.Add(1)
	return []mail.Outcome{{Reply: mail.NewReply(250, 0, 0, "OK")}}
}

func (f *forgotten) Abort()                    { f.sink.Aborts.Add(1) }
func (*forgotten) Lend() bool                  { return false }
func (*forgotten) Renew(context.Context) error { return nil }
func (*forgotten) Wanted() bool                { return false }
func (*forgotten) SMTPUTF8() bool              { return true }
