package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/events"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// readReceiverSecrets reads the secrets of the receivers of events, in their order. The error is Problems.
func readReceiverSecrets(c *config.Config) ([][]hook.Secret, error) {
	if c.Events == nil {
		return nil, nil
	}
	var all [][]hook.Secret
	var wrong config.Problems
	for i, r := range c.Events.Receivers {
		var secrets []hook.Secret
		data, err := os.ReadFile(string(r.SecretFile))
		if err == nil {
			if secrets, err = hook.ParseSecrets(string(data)); err != nil {
				err = inFile(r.SecretFile, err)
			}
		}
		wrong = wrong.Join(c.WithLine("", fmt.Sprintf("events.receivers[%d].secret_file", i), err))
		all = append(all, secrets)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return all, nil
}

// NewReceiverSecret returns a file with a new secret of a receiver of events.
func NewReceiverSecret() []byte {
	secret := make(hook.Secret, keySize)
	rand.Read(secret) // never fails
	return []byte(secret.String() + "\n")
}

// tellRing is how many events of transactions can wait until they are told.
const tellRing = 1024

// allReceivers stands for them in the metrics. It is no name of one.
const allReceivers = "*"

// A teller tells the receivers of events what became of each recipient. It is handed the events of transactions, and
// makes what is told of them on a goroutine of its own.
type teller struct {
	sender *events.Sender
	client *hook.Client
	node   string
	hosts  func(domain string) bool
	queue  chan mail.Event
	drop   func()        // counts an event of a transaction that found no room
	stop   chan struct{} // closed by close: tell what waits, then end
	ended  chan struct{}
}

// offer hands over an event. It never waits. Of what strangers cause for nothing it takes what leaves half of the room.
func (t *teller) offer(e *mail.Event) {
	if t == nil || !e.Kind.IsOutcome() || len(e.To) == 0 {
		return
	}
	if !isOutcome(e) && len(t.queue) > cap(t.queue)/2 {
		t.drop()
		return
	}
	select {
	case t.queue <- *e:
	default:
		t.drop()
	}
}

// run tells of what is handed over, until close.
func (t *teller) run() {
	defer close(t.ended)
	for {
		select {
		case e := <-t.queue:
			t.tell(&e)
			continue
		default:
		}
		select {
		case e := <-t.queue:
			t.tell(&e)
		case <-t.stop:
			return
		}
	}
}

// leastFlush is what receivers have of the time of a stop in any case.
const leastFlush = time.Second

// close tells of what waits and posts it until ctx ends.
func (t *teller) close(ctx context.Context) error {
	close(t.stop)
	<-t.ended
	for len(t.queue) > 0 {
		e := <-t.queue
		t.tell(&e)
	}
	if ctx.Err() != nil { // the time of the drain is over
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), leastFlush)
		defer cancel()
	}
	t.sender.Close(ctx)
	t.client.Close()
	return nil
}

// tell tells of each recipient of an event what became of it. Those that were refused at RCPT have events of their own,
// and the one that ends their transaction only repeats them.
func (t *teller) tell(e *mail.Event) {
	accepted := 0
	for i := range e.To {
		if e.To[i].Verb != "RCPT" {
			accepted++
		}
	}
	for i := range e.To {
		to := &e.To[i]
		kind, told := typeOf(e, to)
		if !told || e.Ends && to.Verb == "RCPT" {
			continue
		}
		out := t.event(e, to, kind)
		if accepted < 2 {
			out.Data.Reply = replyOf(to, true)
		}
		at := aLabels(to.Forward.Domain)
		t.sender.Emit(&out, at)
		if c := e.Complaint; c != nil && to.Complaints && kind == events.Delivered {
			out = t.event(e, to, events.Complained)
			out.Data.Complaint = t.complaint(c)
			t.sender.Emit(&out, at)
		}
	}
}

// typeOf returns what became of a recipient, and false if receivers are not told: the rule delivers it nowhere.
func typeOf(e *mail.Event, to *mail.To) (events.Type, bool) {
	switch {
	case to.Drop || to.Outcome == mail.Dropped, isAskedAgain(e, to):
		return "", false
	case to.Outcome == mail.Relayed, took(to.Targets):
		return events.Delivered, true
	case isInDoubt(e, to), to.Outcome == mail.Aborted:
		return events.Failed, true
	case to.Outcome == mail.Deferred:
		return events.Deferred, true
	case to.Outcome == mail.Refused && e.Host != "":
		return events.Bounced, true
	case to.Outcome == mail.Refused:
		return events.Rejected, true
	}
	return "", false
}

// isAskedAgain reports whether we only asked for a recipient in another transaction. A client may have that said as
// often as it likes, of any recipient.
func isAskedAgain(e *mail.Event, to *mail.To) bool {
	return to.Verb == "RCPT" && e.Host == "" && to.Reply.Code == 452 &&
		to.Reply.Enhanced == mail.EnhancedCode{Subject: 5, Detail: 3}
}

// took reports whether each next hop took the message, whatever the client was answered for the sake of another
// recipient.
func took(targets []mail.Target) bool {
	for i := range targets {
		if targets[i].Reply.Class() != 2 {
			return false
		}
	}
	return len(targets) > 0
}

// settledBy returns the target whose next hop's answer became that of a recipient; nil if none answered the end of
// data.
func settledBy(to *mail.To) (by *mail.Target) {
	for i := range to.Targets {
		t := &to.Targets[i]
		switch {
		case t.Reply.Code == 0:
		case t.Reply.Class() == to.Reply.Class():
			return t
		case by == nil:
			by = t
		}
	}
	return by
}

// isInDoubt reports whether a next hop of a recipient may have the message although it did not say so. Where none
// answered, what is known of the whole transaction counts.
func isInDoubt(e *mail.Event, to *mail.To) bool {
	if settledBy(to) == nil {
		return e.InDoubt
	}
	return slices.ContainsFunc(to.Targets, func(t mail.Target) bool { return t.InDoubt })
}

// event returns what is told of one recipient.
func (t *teller) event(e *mail.Event, to *mail.To, kind events.Type) events.Event {
	attempt := to.Entry
	if attempt.IsZero() {
		attempt = e.Trace
	}
	recipient := to.Forward.String()
	data := events.Data{
		Transaction: e.Trace.String(), Node: t.node, Recipient: recipient, Sender: e.Reverse.String(),
		Rule: to.Rule.Pattern, Reply: replyOf(to, false), Reason: to.Reason,
		InDoubt: e.InDoubt && kind == events.Failed, Auth: e.Auth.String(), Octets: e.Octets,
	}
	if e.Client.IsValid() {
		data.Client = e.Client.Unmap().String()
	}
	if kind != events.Rejected {
		data.Host = hostOf(e, to)
	}
	return events.Event{Type: kind, ID: events.NewID(attempt, kind, recipient), Time: e.Time, Data: data}
}

// hostOf returns the host that a recipient's mail went to. That of an event with several next hops may be another
// recipient's.
func hostOf(e *mail.Event, to *mail.To) string {
	if len(e.Legs) < 2 {
		return e.Host
	}
	by := settledBy(to)
	if by == nil && len(to.Targets) > 0 {
		by = &to.Targets[0]
	}
	for i := range e.Legs {
		if by != nil && e.Legs[i].NextHop == by.NextHop {
			return e.Legs[i].Session.Host
		}
	}
	return ""
}

// replyOf returns the reply that settled a recipient: the next hop's own if it is known, else what the client was
// answered. The text of a reply to several recipients may name another one, so that it is left out there.
func replyOf(to *mail.To, alone bool) *events.Reply {
	r := to.Reply
	if by := settledBy(to); by != nil {
		r = by.Reply
	}
	if r.Code == 0 {
		return nil
	}
	out := &events.Reply{
		Code: r.Code, Enhanced: fmt.Sprintf("%d.%d.%d", r.Class(), r.Enhanced.Subject, r.Enhanced.Detail),
	}
	if alone {
		out.Text = r.Text
	}
	return out
}

// complaint returns what a report says. Of the recipients that it names, the first is told that is one of ours.
func (t *teller) complaint(c *mail.Complaint) *events.Complaint {
	out := &events.Complaint{Feedback: c.Feedback}
	if !c.Arrived.IsZero() {
		out.Arrived = c.Arrived.Format(time.RFC3339)
	}
	for _, p := range c.Recipients {
		if at := aLabels(p.Domain); t.hosts(at) {
			out.Recipient, out.Domain = p.String(), at
			break
		}
	}
	return out
}

// aLabels returns a domain as receivers name it: in lower case, with A-labels.
func aLabels(name string) string {
	name = domain.Canonical(name)
	if a, ok := rules.ALabels(name); ok && !ascii.Is(name) {
		return a
	}
	return name
}

// startTeller starts what tells receivers of events. The configuration has the section.
func startTeller(p *parts, metrics *admin.Metrics, log *logger) *teller {
	c := p.cfg.Events
	t := &teller{
		client: p.hook, node: p.cfg.Hostname, hosts: p.files.rules.Hosted,
		queue: make(chan mail.Event, tellRing), stop: make(chan struct{}), ended: make(chan struct{}),
		drop: func() { metrics.CountPost(allReceivers, events.Dropped.String()) },
	}
	t.sender = events.Start(events.Config{
		Receivers: receiversOf(p.cfg, *p.files.receivers.Load()), Queue: c.Queue, Octets: int64(c.Memory),
		Post: t.client.Do, Now: time.Now,
		Count: func(receiver string, r events.Result) { metrics.CountPost(receiver, r.String()) },
		Trouble: func(receiver string, status int, err error) {
			args := []any{"receiver", receiver}
			if err != nil {
				args = append(args, "cause", err.Error())
			} else {
				args = append(args, "status", status)
			}
			log.say(slog.LevelWarn, "a receiver of events does not take them", args...)
		},
	})
	for _, r := range c.Receivers {
		metrics.BeginPosts(r.Name, events.Results()...)
	}
	go t.run() // ends with close
	return t
}

// useSecrets has the receivers' posts signed with other secrets.
func (t *teller) useSecrets(secrets [][]hook.Secret) {
	if t != nil {
		t.sender.UseSecrets(secrets)
	}
}

// receiversOf returns the receivers of a configuration with their secrets.
func receiversOf(c *config.Config, secrets [][]hook.Secret) (out []events.Receiver) {
	for i, r := range c.Events.Receivers {
		to := events.Receiver{Name: r.Name, URL: r.URL, Rules: r.Rules, Secrets: secrets[i]}
		for _, t := range r.Types {
			to.Types = append(to.Types, events.Type(t))
		}
		for _, d := range r.Domains {
			to.Domains = append(to.Domains, domain.Canonical(d))
		}
		out = append(out, to)
	}
	return out
}
