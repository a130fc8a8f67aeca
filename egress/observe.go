package egress

import (
	"fmt"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/router/mail"
)

// reactTo does what the rules say to the reply in err, which came in s. inMessage says that the destination had read of
// what the client wrote. It returns what was decided, and reports whether a session that is open is worth waiting for.
// It does nothing if s is nil.
func (r *resources) reactTo(s *slot, d *mail.Delivery, err error, inMessage bool) (done feedback.Decision, wait bool) {
	if s == nil {
		return feedback.Decision{}, false
	}
	reply, _ := replyOf(err)
	done = r.feedback.Observe(feedback.Reply{
		Site: d.Site, Verb: reply.Verb, Reply: reply.Reply, Heard: reply.Heard,
		Client: d.Client, Favoured: d.Favoured, AboutUs: aboutUs(err) != nil, InMessage: inMessage,
	})
	if done.Withheld {
		return done, false
	}
	news, rate := false, 0.0
	text := done.Action.String()
	switch done.Action.Kind {
	case feedback.Nothing:
		return done, false
	case feedback.Slower:
		rate, news = s.Slower(done.Action.Percent, done.Action.For)
		text = fmt.Sprintf("%s, %.3g messages/s", text, rate)
	case feedback.Fewer:
		wait, news = s.TooMany()
	case feedback.Suspend:
		until, isNew := s.Suspend(done.Action.For, err)
		if news = isNew; news && r.cfg.Cluster != nil {
			// The reply's text may name people, and stays on this node.
			r.cfg.Cluster.Suspend(d.Site, until, fmt.Sprintf("%s: %d %d.%d.%d, %s", reply.Verb, reply.Reply.Code,
				reply.Reply.Class(), reply.Reply.Enhanced.Subject, reply.Reply.Enhanced.Detail, text))
		}
	}
	if news {
		r.cfg.Emit(mail.Event{
			Kind: mail.Anomaly, Time: r.cfg.Now(), Trace: d.Trace, Client: d.Client.Addr(), NextHop: d.NextHop,
			Site: d.Site, Verb: reply.Verb, Reply: reply.Reply, Reason: "reaction: " + text, Cause: err,
		})
	}
	return done, wait
}

// isTooMuch reports whether a rule found that there is too much mail from us.
func isTooMuch(d feedback.Decision) bool {
	return d.Action.Kind == feedback.Slower || d.Action.Kind == feedback.Suspend
}

// learn reacts to err as the rules say. If it is a refusal of us the operator is told, and the Site is cooled where no
// rule matches and no client can have provoked it. It reports whether a rule matched.
func (r *resources) learn(s *slot, d *mail.Delivery, err error, inMessage bool) (reacted bool) {
	done, _ := r.reactTo(s, d, err, inMessage)
	if refusal := aboutUs(err); refusal != nil {
		reply, _ := replyOf(err)
		r.anomaly(d, refusal, reply.Verb)
	}
	if done.Cool {
		s.Refused(err)
	}
	return done.Action.Kind != feedback.Nothing
}

// learnFrom learns from the outcomes of a message, and notes what they say of the rate.
func (r *resources) learnFrom(s *slot, d *mail.Delivery, outcomes []mail.Outcome) {
	for i := range outcomes {
		o := &outcomes[i]
		if o.AboutUs && (i == 0 || outcomes[i-1].Reply != o.Reply) {
			r.learn(s, d, &mail.Refusal{
				Reply: o.Reply, Reason: "upstream", Host: o.Host, AboutUs: true, Cause: o.Cause,
			}, true)
		}
	}
	taken := false
	for i := range outcomes {
		o := &outcomes[i]
		switch {
		case o.Reply.Class() == 2:
			taken = true
		case o.AboutUs || i > 0 && outcomes[i-1].Reply == o.Reply:
		case o.Cause != nil:
			r.reactTo(s, d, o.Cause, true)
		}
	}
	if taken && s.Delivered() && r.cfg.Cluster != nil {
		r.cfg.Cluster.Resume(d.Site)
	}
}

// anomaly tells the operator that a destination refuses us.
func (r *resources) anomaly(d *mail.Delivery, refusal *mail.Refusal, verb string) {
	r.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: r.cfg.Now(), Trace: d.Trace, Client: d.Client.Addr(), NextHop: d.NextHop,
		Site: d.Site, Host: refusal.Host, Verb: verb, Reply: refusal.Reply,
		Reason: "refused by destination: " + refusal.Reason, Cause: refusal,
	})
}
