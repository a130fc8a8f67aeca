package message

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/report"
	"github.com/millrace/millrace/router/mail"
)

// A tally makes one answer of what became of a message at its next hops.
type tally struct {
	recipients []Recipient
	report     *report.Transaction
}

// complete returns outcomes if they are one for each forward-path that was accepted. If not, whose they are is not
// known, so each is a 451 in doubt.
func (t tally) complete(outcomes []mail.Outcome) []mail.Outcome {
	n := 0
	for i := range t.recipients {
		n += len(t.recipients[i].Accepted)
	}
	if n == len(outcomes) {
		return outcomes
	}
	return slices.Repeat([]mail.Outcome{miscounted(len(outcomes), n)}, n)
}

// miscounted returns the outcome of a recipient where got outcomes came for want recipients.
func miscounted(got, want int) mail.Outcome {
	o := outcomeOf(fmt.Errorf("%d outcomes for %d recipients", got, want))
	o.InDoubt = true
	return o
}

// perRecipient returns one outcome per recipient that is relayed, out of complete ones.
func (t tally) perRecipient(outcomes []mail.Outcome) []mail.Outcome {
	single := true
	for i := range t.recipients {
		r := &t.recipients[i]
		single = single && !r.Further && len(r.Accepted) <= 1
	}
	if single {
		return outcomes
	}
	var out []mail.Outcome
	for i := 0; i < len(t.recipients); {
		policy, took := t.recipients[i].Route.Policy, 0
		for first := i; i < len(t.recipients) && (i == first || t.recipients[i].Further); i++ {
			took += len(t.recipients[i].Accepted)
		}
		if took > 0 {
			out = append(out, t.joined(outcomes[:took], policy))
		}
		outcomes = outcomes[took:]
	}
	return out
}

// joined returns the outcome of a recipient of whose targets each has one: the first that is neither 2yz nor 5yz; where
// some took the message and others refused it, what the rule chose; else the first, or the worst refusal.
func (t tally) joined(outcomes []mail.Outcome, policy mail.DomainPolicy) mail.Outcome {
	var took, refused *mail.Outcome
	for i := range outcomes {
		switch o := &outcomes[i]; o.Reply.Class() {
		case 2:
			if took == nil {
				took = o
			}
		case 5:
			if refused == nil || o.Reply.Code > refused.Reply.Code {
				refused = o
			}
		default:
			return *o
		}
	}
	switch {
	case took == nil:
		return *refused
	case refused == nil:
		return *took
	case policy.Mixed == mail.MixedReject:
		return *refused
	}
	t.report.Anomaly("mixed fan-out accepted", refused.Cause)
	return *took
}

// differ reports whether outcomes do not fit into one reply.
func differ(outcomes []mail.Outcome) bool {
	for i := range outcomes {
		if outcomes[i].Reply.Class() != outcomes[0].Reply.Class() {
			return true
		}
	}
	return false
}

// worst returns the one answer to the dot. Outcomes that differ in class do not fit into one reply, so they are a 451.
func worst(outcomes []mail.Outcome) mail.Outcome {
	if len(outcomes) == 0 {
		return mail.Outcome{
			Reply: mail.NewReply(451, 3, 0, "Local error, try again later"), Cause: errors.New("no outcome"),
		}
	}
	out, doubt := outcomes[0], outcomes[0].InDoubt
	for i := 1; i < len(outcomes); i++ {
		o := &outcomes[i]
		doubt = doubt || o.InDoubt
		if o.Reply.Class() == 5 && o.Reply.Code > out.Reply.Code && out.Reply.Class() == 5 {
			out = *o
		}
	}
	if differ(outcomes) {
		out = outcomes[0]
		var said strings.Builder
		for i := range outcomes {
			said.WriteString("; " + outcomes[i].Reply.String())
		}
		out.Cause = errors.New("outcomes differ" + said.String())
		out.Reply = mail.NewReply(451, 3, 0, "Recipients ended differently, try again")
	}
	out.InDoubt = doubt
	return out
}

// together returns the error that stands for a message that no next hop took: each has failed by itself, before the end
// of data.
func (m *Message) together(ctx context.Context, f *Fan) error {
	each := tally{m.Recipients, m.report}.perRecipient(f.outcomes())
	m.markSplit(ctx, each)
	out := worst(each)
	var r *mail.Refusal
	if errors.As(out.Cause, &r) && r.Reply == out.Reply {
		return r
	}
	return &mail.Refusal{Reply: out.Reply, Reason: "upstream", Host: out.Host, AboutUs: out.AboutUs, Cause: out.Cause}
}
