package ingress

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/router/mail"
)

// maxHooks is how many hooks one transaction asks. Each may take its time, and the recipients behind it wait.
const maxHooks = 10

// askHook has the hook asked that an answer of the rules needs, and returns what the rules answer then. err is the
// answer as it is where none is needed. A client that is over a rate, or has to come again, is told so and asks no
// hook.
func askHook(ctx context.Context, s *session, q mail.Query, routes []mail.Route, err error) ([]mail.Route, error) {
	if err == nil {
		return routes, nil
	}
	needed, ok := errors.AsType[*mail.HookNeeded](err)
	if !ok {
		return routes, err
	}
	t := s.t
	if t.hooks == maxHooks {
		return nil, mail.AnotherTransaction("too many hooks")
	}
	if s.cfg.Hook == nil {
		return nil, err
	}
	t.hooks++
	alone := func(group []client.Recipient) []client.Recipient { return group }
	if err := t.await(t.client.Recipient(ctx, client.Recipient{Forward: q.Forward}, alone)); err != nil {
		return nil, err
	}
	t.client.Allowed(q.Forward)
	if q.SPF == "" && !s.trusted {
		q.SPF = awaitSPF(ctx, s)
	}
	e, began := &t.report.Event, time.Now()
	answer := s.cfg.Hook(ctx, mail.HookQuestion{
		Hook: needed.Hook, Rule: needed.Rule, Trace: e.Trace, At: t.report.Now(), Recipient: q.Forward,
		Sender: q.Reverse, Client: e.Client, Helo: s.conn.Helo, TLS: e.TLS, LoggedIn: e.User != "", Size: t.params.Size,
		SPF: q.SPF, Score: e.Score, Signals: e.Signals,
	})
	took := time.Since(began)
	t.report.Took(mail.StepHook, began, took)
	e.Hook = fmt.Sprintf("%s, %d ms", answer.Said, took.Milliseconds())
	q.Hook = &answer
	return s.cfg.Router.Route(q)
}
