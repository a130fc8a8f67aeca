package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// questionVersion is the version of the hop from which on a peer knows the frame question.
	questionVersion = 3
	// maxContent bounds a question, and its answer, in octets.
	maxContent = 60000
)

var (
	errOlder = errors.New("runs an older version, which answers no questions")
	errLong  = fmt.Errorf("a question or an answer of more than %d octets", maxContent)
)

// Ask asks a node a question of its administrators and returns the answer, which is awaited until the deadline of ctx.
// The error is a *PeerError. A node that does not answer is used for mail all the same.
func (c *Client) Ask(ctx context.Context, node string, content []byte) ([]byte, error) {
	if len(content) > maxContent {
		return nil, &PeerError{Node: node, Cause: errLong}
	}
	l, err := c.get(ctx, node)
	if err != nil {
		return nil, &PeerError{Node: node, Cause: err}
	}
	answer, err := l.question(ctx, content)
	switch {
	case err != nil && !errors.Is(err, errOlder): // what comes on the link is not known
		l.close()
	case l.setState(linkOpen):
		c.put(l)
	}
	if err != nil {
		return nil, &PeerError{Node: node, Cause: err}
	}
	return answer, nil
}

// question sends a question and waits for its answer.
func (l *clientLink) question(ctx context.Context, content []byte) ([]byte, error) {
	if l.version < questionVersion {
		return nil, errOlder
	}
	until, _ := ctx.Deadline()
	err := l.send(func(b []byte) []byte {
		return frame(b, question, func(f fields) fields {
			return appendBudget(f.text(fContent, string(content)), budget(until))
		})
	})
	if err != nil {
		return nil, l.reason(err)
	}
	r, err := l.await(ctx, until)
	if err != nil {
		return nil, l.reason(err)
	}
	if r.to != question {
		return nil, fmt.Errorf("%w: kind %d to %d as the answer to a question", errFrame, r.kind, r.to)
	}
	if r.kind == refused {
		a, err := parseAnswer(r.kind, r.body)
		if err != nil {
			return nil, err
		}
		return nil, a.refusal()
	}
	answer, _, err := parseQuestion(r.body)
	return bytes.Clone(answer), err
}

// parseQuestion reads a question, or its answer. The content is part of f.
func parseQuestion(f fields) (content []byte, budget time.Duration, err error) {
	for len(f) > 0 {
		var name byte
		var v []byte
		if name, v, f, err = f.next(); err != nil {
			return nil, 0, err
		}
		switch name {
		case fContent:
			content = v
		case fBudget:
			budget = asBudget(v)
		}
	}
	return content, budget, nil
}

// question answers a question, outside a transaction. A panic becomes a refusal.
func (w *worker) question(body []byte) error {
	if w.t.begun {
		return fmt.Errorf("%w: a question within a transaction", errFrame)
	}
	content, budget, err := parseQuestion(body)
	if err != nil {
		return err
	}
	var answer []byte
	if w.conn.srv.cfg.Answer != nil {
		answer, err = w.answerTo(w.within(budget, commandBudget), content)
	}
	if err == nil && len(answer) > maxContent {
		err = mail.Refuse(451, 3, 0, "Local error, try again later", "long answer", errLong)
	}
	if err != nil {
		return w.answer(refused, question, func(f fields) fields { return appendRefusal(f, err) })
	}
	return w.answer(done, question, func(f fields) fields { return f.text(fContent, string(answer)) })
}

// answerTo returns the answer to a question.
func (w *worker) answerTo(ctx context.Context, content []byte) (answer []byte, err error) {
	defer w.recovered(&err)
	return w.conn.srv.cfg.Answer(ctx, content), nil
}
