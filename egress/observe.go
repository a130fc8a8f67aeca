package egress

import (
	"cmp"
	"fmt"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A moment is where in a session a reply came.
type moment uint8

// The moments. At opening no client has a part in what a host says.
const (
	opening moment = iota
	within         // from MAIL on
	retried        // from MAIL on, and another session is tried at once
)

// sender returns whose mail d is, for a recipient of a domain, or for all of them if that is "".
func (r *resources) sender(d *mail.Delivery, domain string) feedback.Sender {
	if domain == "" {
		domain = cmp.Or(d.RecipientDomain, d.NextHop.Host)
	}
	return feedback.Sender{
		Site: d.Site, Domain: ascii.Fold(domain), Client: d.Client, Reverse: d.Reverse, SRS: r.cfg.SRSDomain,
	}
}

// putOff returns the Refusal for mail that is not offered for now because its destination refuses us, else nil.
func (r *resources) putOff(d *mail.Delivery, user string) error {
	sender := r.sender(d, "")
	until, ok := r.feedback.PutOff(&sender)
	if !ok {
		return r.userPutOff(d.Site, user)
	}
	refusal := mail.Refuse(451, 7, 0, "Destination does not take mail from here at the moment, try again later",
		"put off", fmt.Errorf("%s refused us and is asked again at %s", d.Site, until.UTC().Format(time.TimeOnly)))
	refusal.AboutUs = true
	return refusal
}

// userPutOff returns the Refusal for mail that has to go by a user whose password was refused just now, else nil.
func (r *resources) userPutOff(site mail.Site, user string) error {
	until, ok := r.feedback.UserPutOff(site, user)
	if !ok {
		return nil
	}
	refusal := mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", reasonCredentials,
		fmt.Errorf("%s refused the user %s and is asked again at %s", site, user, until.UTC().Format(time.TimeOnly)))
	refusal.AboutUs = true
	return refusal
}

// reached tells the cluster that a Site took a recipient from this node.
func (r *resources) reached(d *mail.Delivery, site mail.Site) {
	if c := r.cfg.Cluster; c != nil && countsForNodes(d) {
		c.Reached(site)
	}
}

// reactTo does what the rules say to the reply in err, which came in s for a recipient of domain. It returns what was
// decided, and reports whether a session that is open is worth waiting for. It does nothing if s is nil.
func (r *resources) reactTo(
	s *slot, d *mail.Delivery, domain string, err error, at moment,
) (done feedback.Decision, wait bool) {
	if s == nil {
		return feedback.Decision{}, false
	}
	reply, _ := replyOf(err)
	done = r.feedback.Observe(feedback.Reply{
		Sender: r.sender(d, domain), Verb: reply.Verb, Reply: reply.Reply, Heard: reply.Heard,
		Favoured: d.Favoured, AboutUs: aboutUs(err) != nil, Opening: at == opening,
		Retried: at == retried,
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
		wait, news = s.TooMany(done.OneDomain)
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

// learn reacts to err, which came for a recipient of domain, as the rules say. If it is a refusal of us the operator is
// told, and the Site is cooled where no rule matches and enough clients have met it.
func (r *resources) learn(s *slot, d *mail.Delivery, domain string, err error) {
	done, _ := r.reactTo(s, d, domain, err, within)
	if refusal := aboutUs(err); refusal != nil {
		reply, _ := replyOf(err)
		r.anomaly(d, refusal, reply.Verb)
		if reply.OurIPv6 {
			sender := r.sender(d, domain)
			r.marks.RefusedIPv6(d.Site, sender.Of())
		}
	}
	if done.Cool {
		s.Refused(err)
	}
}

// learnFrom learns from the outcomes of a message, and notes what they say of the rate.
func (r *resources) learnFrom(s *slot, d *mail.Delivery, outcomes []mail.Outcome) {
	for i := range outcomes {
		o := &outcomes[i]
		if o.AboutUs && (i == 0 || outcomes[i-1].Reply != o.Reply) {
			r.learn(s, d, "", &mail.Refusal{
				Reply: o.Reply, Reason: "upstream", Host: o.Host, AboutUs: true, Cause: o.Cause,
			})
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
			r.reactTo(s, d, "", o.Cause, within)
		}
	}
	if taken {
		sender := r.sender(d, "")
		r.feedback.Taken(&sender)
	}
	if taken && s.Delivered() && r.cfg.Cluster != nil {
		r.cfg.Cluster.Resume(d.Site)
	}
}

// countsForNodes reports whether mail says something about nodes that fails to reach its destination, or does. What a
// stranger chose the next hop of does not, such as a bounce to a reverse-path that we wrote for him: its hosts could be
// silent to one of our nodes alone.
func countsForNodes(d *mail.Delivery) bool { return !d.Chosen && !d.Reverse.IsNull() }

// anomaly tells the operator that a destination refuses us.
func (r *resources) anomaly(d *mail.Delivery, refusal *mail.Refusal, verb string) {
	r.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: r.cfg.Now(), Trace: d.Trace, Client: d.Client.Addr(), NextHop: d.NextHop,
		Site: d.Site, Host: refusal.Host, Verb: verb, Reply: refusal.Reply,
		Reason: "refused by destination: " + refusal.Reason, Cause: refusal,
	})
}
