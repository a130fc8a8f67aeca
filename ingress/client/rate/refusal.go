package rate

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// An Exceeded says for the operator which rate was used up. It is the Cause of a Refusal.
type Exceeded struct {
	Rate mail.Rate
	Wait time.Duration // until it would be allowed
}

// Error names the rate and its counter.
func (e *Exceeded) Error() string {
	r := &e.Rate
	of := r.Group
	if r.Client.IsValid() {
		of = r.Client.String()
	}
	return fmt.Sprintf("%s of %s over %d in %s, wait %s", r.Name, of, r.Count, r.Per, e.Wait)
}

// Refusal gives what a client is told that is over one of the rates of Connect, with their answers: 450 4.7.1, Reason
// "rate". It is nil if none is used up. Of several, the one that holds longest is told.
func (l *Limits) Refusal(rates []mail.Rate, results []mail.RateResult) *mail.Refusal {
	worst := -1
	for i := range min(len(rates), len(results)) {
		worst = longer(results, worst, i)
	}
	return refusal(rates, results, worst)
}

// RcptRefusal gives what a client is told for the recipient q.Rcpts[rcpt] of the RcptQuestion that made rates: nil if
// it is within all of its rates and those of the message, else as Refusal. What stands in rates with Unit 0 is not
// looked at.
func (l *Limits) RcptRefusal(rates []mail.Rate, results []mail.RateResult, rcpt int) *mail.Refusal {
	worst, last := -1, 0
	for i := range rates {
		last = max(last, rates[i].Unit)
	}
	for i := range min(len(rates), len(results)) {
		if unit := rates[i].Unit; unit == firstUnit+rcpt || unit == last && ofMessage(&rates[i]) {
			worst = longer(results, worst, i)
		}
	}
	return refusal(rates, results, worst)
}

// Counted tells whether the message was drawn by the rates of a RcptQuestion with First. If not, the next recipient of
// the transaction is First again, so that who is over the rate of messages does not get by with the second one.
func Counted(rates []mail.Rate, results []mail.RateResult) bool {
	unit := 0 // in which the message is drawn
	for i := range rates {
		if ofMessage(&rates[i]) && !rates[i].Peek {
			unit = rates[i].Unit
		}
	}
	for i := range min(len(rates), len(results)) {
		if rates[i].Unit == unit && unit != 0 && !results[i].Allowed {
			return false
		}
	}
	return true
}

// ofMessage tells whether a rate is drawn for the message and not for a recipient: the last unit of a group is the
// message's, but that of a question which draws no message is the last recipient's.
func ofMessage(r *mail.Rate) bool { return r.Name == messages || r.Name == sent }

// longer gives the index of the one of two refusals that holds longer; worst may be -1 for none.
func longer(results []mail.RateResult, worst, i int) int {
	if results[i].Allowed || worst >= 0 && results[worst].RetryAfter >= results[i].RetryAfter {
		return worst
	}
	return i
}

func refusal(rates []mail.Rate, results []mail.RateResult, worst int) *mail.Refusal {
	if worst < 0 {
		return nil
	}
	r, wait := rates[worst], results[worst].RetryAfter
	return mail.Refuse(450, 7, 1, what(&r)+", "+AgainIn(wait), "rate", &Exceeded{Rate: r, Wait: wait})
}

// what says to a stranger what there was too much of. It names nobody but the client itself, who knows whom it wrote
// to.
func what(r *mail.Rate) string {
	switch {
	case r.Name == sent:
		return "Too many messages from this sender's domain"
	case r.Name == taken:
		return "Too many messages to this domain"
	case strings.HasPrefix(r.Name, addressed):
		return "Too many messages to this recipient"
	case !r.Client.IsValid():
		return "Too many messages"
	}
	of := r.Client.String()
	if r.Client.IsSingleIP() {
		of = r.Client.Addr().String()
	}
	if r.Name == refused {
		return "Too many refused recipients from " + of
	}
	return "Too many " + r.Name + " from " + of
}

// AgainIn gives "try again in N seconds", rounded up and at least one, so that who waits so long does not come too
// early.
func AgainIn(wait time.Duration) string {
	seconds := max(1, int64((wait+time.Second-1)/time.Second))
	if seconds == 1 {
		return "try again in 1 second"
	}
	return "try again in " + strconv.FormatInt(seconds, 10) + " seconds"
}
