package node

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/egress/events"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// startActivity makes the activity log, if the configuration wants it, and returns what writes it, called with every
// event that is logged; nil without one. Addresses stand in it as they stand in the log, which j writes.
func (n *Node) startActivity(j *journal) (observe func(*entry), err error) {
	n.activity = &activity.Nodes{Name: n.cfg.Hostname}
	if n.cfg.Cluster != nil {
		n.activity.Name = n.cfg.Cluster.Name
		n.activity.Others = n.members.others
		n.activity.Ask = func(ctx context.Context, node string, question []byte) ([]byte, error) {
			return n.members.peers.Ask(ctx, node, question)
		}
	}
	c := n.cfg.Activity
	if c == nil {
		return nil, nil
	}
	cfg := activity.Config{
		Node: n.activity.Name, Keep: time.Duration(c.Keep), Octets: int64(c.Memory), Now: time.Now,
		ALabels: aLabels,
	}
	if j.hashKey != nil { // a journal is used by one goroutine
		cfg.Hide = func(address string) string { return (&journal{hashKey: j.hashKey}).hide(address) }
	}
	if n.activity.Log, err = activity.New(cfg); err != nil {
		return nil, n.cfg.WithLine("activity.", "activity", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.activity.Log.Run(ctx) }) // ends with ctx
	n.cleanups.add("activity", func(context.Context) error {
		cancel()
		running.Wait()
		return nil
	})
	return (&recorder{n.activity.Log, j}).see, nil
}

// others returns the names of the other nodes.
func (m *membership) others() (names []string) {
	if m.alone() {
		return nil
	}
	for _, x := range m.cluster.Members() {
		if x.Name != m.cluster.Self() {
			names = append(names, x.Name)
		}
	}
	slices.Sort(names)
	return names
}

// findActivity answers GET /api/v1/log.
func (n shown) findActivity(ctx context.Context, v url.Values) (any, error) {
	q, err := activity.ParseQuery(v, time.Now())
	if err != nil {
		return nil, err
	}
	q.Domains = account.Of(ctx).Domains
	return n.activity.Find(ctx, q), nil
}

// findSenders answers GET /api/v1/log/senders.
func (n shown) findSenders(ctx context.Context, v url.Values) (any, error) {
	q, err := activity.ParseSenders(v, time.Now())
	if err != nil {
		return nil, err
	}
	q.Domains = account.Of(ctx).Domains
	return n.activity.Senders(ctx, q), nil
}

// hide returns what the log has in place of an address in clear. <Postmaster> alone has no domain.
func (j *journal) hide(address string) string {
	domain := ""
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		domain = address[at+1:]
	}
	return j.hashed([]byte(address)) + "@" + domain
}

// A recorder writes the activity log: a row for each recipient whose fate an event tells. It is used by the goroutine
// of the journal.
type recorder struct {
	log *activity.Log
	j   *journal
}

// see writes down an event. What ends a transaction repeats the recipients that were refused before, which have rows.
func (r *recorder) see(e *entry) {
	if !e.Kind.IsOutcome() {
		return
	}
	row := r.row(e)
	if len(e.To) == 0 {
		// A client that goes, or is told to go, before it names a recipient had no message.
		if e.Kind != mail.Aborted && e.Reason != "drain" {
			r.addUnnamed(e, row)
		}
		return
	}
	accepted := 0
	for i := range e.To {
		if e.To[i].Verb != "RCPT" {
			accepted++
		}
	}
	for i := range e.To {
		to := &e.To[i]
		status := statusOf(&e.Event, to)
		if status == "" || e.Ends && to.Verb == "RCPT" {
			continue
		}
		r.addRecipient(&e.Event, to, status, accepted < 2, row)
		row.More = 0
	}
}

// row returns what the rows of an event have in common.
func (r *recorder) row(e *entry) activity.Row {
	row := activity.Row{
		At: e.Time, Helo: printable.Text(e.Helo), TLS: printable.Text(e.TLS), Octets: e.Octets, More: e.more,
		Judgement: activity.Judgement{Score: e.Score, Signals: r.j.mask(e.Signals)},
	}
	if !e.Trace.IsZero() {
		row.ID = e.Trace.String()
	}
	if e.Client.IsValid() {
		row.Client = e.Client.Unmap().String()
	}
	if e.MessageID != 0 {
		row.MessageID = hex.EncodeToString(binary.BigEndian.AppendUint64(nil, e.MessageID))
	}
	if e.User != "" {
		row.User = printable.Text(e.User)
		if r.j.hashKey != nil { // it may be an address
			row.User = r.j.hashed([]byte(e.User))
		}
	}
	if e.Forward != (mail.Path{}) || !e.Reverse.IsNull() || e.Recipients > 0 {
		row.From = r.address(e.Reverse)
	}
	if a := e.Auth; a != nil {
		row.SPF, row.DKIM, row.DMARC, row.ARC = a.SPF, a.DKIM, a.DMARC, a.ARC
	}
	return row
}

// addUnnamed writes down what became of a client that has no recipient, or of the one of a recipient alone.
func (r *recorder) addUnnamed(e *entry, row activity.Row) {
	switch e.Kind {
	case mail.Relayed:
		row.Status = activity.Delivered
	case mail.Dropped:
		row.Status = activity.Dropped
	case mail.Deferred:
		row.Status = activity.Deferred
	default:
		row.Status = activity.Rejected
	}
	if e.Forward != (mail.Path{}) {
		row.To = r.address(e.Forward)
	}
	row.Action = activity.ActionOf(row.Status, e.Host != "")
	row.Host = printable.Text(e.Host)
	row.Reply = r.reply(e.Reply)
	row.Detail = r.detail(&e.Event, e.Reason, true)
	row.Steps = slices.Concat(stagesOf(&e.Event), wholeOf(&e.Event))
	r.log.Add(&row)
}

// addRecipient writes down what became of a recipient. alone says that its event is of no other one, whom a reply might
// name, or whose next hop a cause.
func (r *recorder) addRecipient(
	e *mail.Event, to *mail.To, status activity.Status, alone bool, row activity.Row,
) {
	host := hostOf(e, to)
	row.To, row.Rule, row.Status = r.address(to.Forward), r.j.rule(to.Rule), status
	row.Action = activity.ActionOf(status, host != "" || settledBy(to) != nil)
	if status != activity.Rejected {
		row.Host = printable.Text(host)
	}
	answered := to.Reply
	if by := settledBy(to); by != nil {
		answered = by.Reply
	}
	if !alone {
		answered.Text = ""
	}
	row.Reply = r.reply(answered)
	if status != activity.Delivered && status != activity.Dropped {
		row.Detail = r.detail(e, cmp.Or(to.Reason, e.Reason), alone || len(e.Legs) < 2)
	}
	row.Steps = slices.Concat(stagesOf(e), r.ways(e, to), wholeOf(e))
	r.log.Add(&row)
}

// statusOf returns what became of a recipient, "" if its client was only told to name it again.
func statusOf(e *mail.Event, to *mail.To) activity.Status {
	if isAskedAgain(e, to) {
		return ""
	}
	if to.Outcome == mail.Dropped || to.Drop && to.Outcome == mail.Relayed {
		return activity.Dropped
	}
	fate := *to
	fate.Drop = false
	switch kind, _ := typeOf(e, &fate); kind {
	case events.Delivered:
		return activity.Delivered
	case events.Deferred:
		return activity.Deferred
	case events.Bounced:
		return activity.Bounced
	case events.Rejected:
		return activity.Rejected
	case events.Failed:
		if isInDoubt(e, to) {
			return activity.InDoubt
		}
		return activity.Failed
	}
	return ""
}

// address returns an address as the log has it.
func (r *recorder) address(p mail.Path) string {
	switch {
	case p.IsNull():
		return "<>"
	case r.j.hashKey == nil:
		return printable.Text(p.String())
	}
	return printable.Text(r.j.hide(p.String()))
}

// reply returns a reply as the log has it.
func (r *recorder) reply(reply mail.Reply) string {
	if reply.Code == 0 {
		return ""
	}
	return r.j.mask(string(reply.AppendPlain(nil)))
}

// detail returns why a recipient was refused. theirs says that the cause is of no other recipient's next hop. Where
// addresses are hashed, what a client sent in place of a path is left out.
func (r *recorder) detail(e *mail.Event, reason string, theirs bool) string {
	reason = printable.Text(reason)
	cause := InnermostCause(e)
	if !theirs || cause == "" || r.j.hashKey != nil && e.Reason == "protocol" {
		return reason
	}
	if cause = r.j.mask(cause); reason == "" || strings.HasPrefix(cause, reason) {
		return cause
	}
	return reason + ": " + cause
}

// stagesOf returns how long the stages of a transaction took.
func stagesOf(e *mail.Event) (steps []activity.Step) {
	for s, took := range e.Took {
		if took > 0 {
			steps = append(steps, activity.Step{Name: mail.Stage(s).String(), Took: took})
		}
	}
	return steps
}

// wholeOf returns how long a transaction took in all, and what of that was the wait for its client.
func wholeOf(e *mail.Event) []activity.Step {
	if !e.Ends {
		return nil
	}
	return []activity.Step{{Name: "client", Took: e.Waited}, {Name: "all", Took: e.All}}
}

// ways returns what was tried to bring a recipient's mail to its next hops, and what took it.
func (r *recorder) ways(e *mail.Event, to *mail.To) (steps []activity.Step) {
	for i := range e.Legs {
		leg := &e.Legs[i]
		theirs := slices.ContainsFunc(to.Targets, func(t mail.Target) bool { return t.NextHop == leg.NextHop })
		if len(e.To) > 1 && !theirs {
			continue
		}
		for _, t := range leg.Tried {
			text := t.Host
			if t.Addr.IsValid() {
				text += " (" + t.Addr.String() + ")"
			}
			steps = append(steps, activity.Step{Name: "tried", Text: r.j.mask(text + ": " + t.Cause), Took: t.Took})
		}
		if leg.Session.Host != "" {
			steps = append(steps, activity.Step{Name: "session", Text: r.j.mask(sessionOf(leg)), Took: leg.Wait})
		}
	}
	return steps
}

// sessionOf describes the session that took a message.
func sessionOf(leg *mail.Leg) string {
	s := &leg.Session
	text := s.Host
	if s.Addr.IsValid() {
		text += " (" + s.Addr.String() + ")"
	}
	text += ", " + s.Kind.String() + ", "
	switch {
	case s.TLS == "":
		text += "no TLS"
	case s.Verified:
		text += s.TLS + ", certificate verified"
	default:
		text += s.TLS + ", certificate not verified"
	}
	if leg.Node != "" {
		text += ", by node " + strconv.Quote(leg.Node)
	}
	return text
}

// answerPeer answers the question of another node, about this one alone.
func (n shown) answerPeer(ctx context.Context, question []byte) []byte {
	if answer, ok := n.activity.Answer(question); ok {
		return answer
	}
	if answer, ok := n.answerLive(question); ok {
		return answer
	}
	if answer, ok := n.memory.reports.answerPeer(question); ok {
		return answer
	}
	if answer, ok := n.public.answerPeer(question); ok {
		return answer
	}
	return n.checker().answerPeer(ctx, question)
}
