package ingress

import (
	"context"

	"github.com/millrace/millrace/router/mail"
)

// A lookups is what the calls of a session ask the DNS within.
type lookups struct {
	questions mail.Questions
	asking    mail.Asking // the context of the first call, with them
}

// within returns ctx for the questions of this client: about names that the client chose, unless it is said otherwise.
func (l *lookups) within(ctx context.Context) context.Context {
	switch l.asking.Context {
	case nil:
		l.asking = mail.Asking{Context: ctx, Questions: &l.questions}
	case ctx:
	default:
		return &mail.Asking{Context: ctx, Questions: &l.questions}
	}
	return &l.asking
}
