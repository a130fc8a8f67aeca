package rate

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// An Exceeded names the rate that was used up, for the administrator. It is the Cause of a Refusal.
type Exceeded struct {
	Rate mail.Rate
	Wait time.Duration // until it would be allowed
}

// Error returns the rate and its counter in words.
func (e *Exceeded) Error() string {
	r := &e.Rate
	of := r.Group
	if r.Client.IsValid() {
		of = r.Client.String()
	}
	return fmt.Sprintf("%s of %s over %d in %s, wait %s", r.Name, of, r.Count, r.Per, e.Wait)
}

// Refusal returns the refusal of a client that is over one of the rates of Connect, with their answers: 450 4.7.1,
// Reason "rate". It is nil if no rate is used up. Of several, it names the one that holds longest.
func (l *Limits) Refusal(rates []mail.Rate, results []mail.RateResult) *mail.Refusal {
	worst := -1
	for i := range min(len(rates), len(results)) {
		worst = longer(results, worst, i)
	}
	return refusal(rates, results, worst)
}

// RcptRefusal returns the refusal of the recipient q.Rcpts[rcpt] of the RcptQuestion that made rates. It is nil if the
// recipient is within all of its rates and those of the message, else as Refusal returns it. Rates with Unit 0 are not
// read.
func (l *Limits) RcptRefusal(rates []mail.Rate, results []mail.RateResult, rcpt int) *mail.Refusal {
	worst := -1
	for i := range min(len(rates), len(results)) {
		if rates[i].Unit == firstUnit+rcpt {
			worst = longer(results, worst, i)
		}
	}
	return refusal(rates, results, worst)
}

// longer returns the index of the refusal that holds longer, of worst and i. worst is -1 before the first refusal.
func longer(results []mail.RateResult, worst, i int) int {
	if results[i].Allowed || worst >= 0 && results[worst].RetryAfter >= results[i].RetryAfter {
		return worst
	}
	return i
}

// refusal returns the refusal by rates[worst], nil if worst is below 0.
func refusal(rates []mail.Rate, results []mail.RateResult, worst int) *mail.Refusal {
	if worst < 0 {
		return nil
	}
	r, wait := rates[worst], results[worst].RetryAfter
	return mail.Refuse(450, 7, 1, tooMany(&r)+", "+AgainIn(wait), "rate", &Exceeded{Rate: r, Wait: wait})
}

// tooMany returns the text of a refusal for a client. It names no party but the client itself, which knows the
// addresses that it sent.
func tooMany(r *mail.Rate) string {
	name, empty := strings.CutPrefix(r.Name, barren)
	what := "Too many messages"
	if empty {
		what = "Too many transactions without a message"
	}
	switch {
	case name == sent:
		return what + " from this sender's domain"
	case name == taken:
		return what + " to this domain"
	case strings.HasPrefix(name, addressed):
		return what + " to this recipient"
	case !r.Client.IsValid():
		return what
	}
	of := r.Client.String()
	if r.Client.IsSingleIP() {
		of = r.Client.Addr().String()
	}
	switch name {
	case messages:
		return what + " from " + of
	case refused:
		return "Too many refused recipients from " + of
	}
	return "Too many " + name + " from " + of
}

// AgainIn returns "try again in N seconds", rounded up and at least one, so that a client that waits so long does not
// come too early.
func AgainIn(wait time.Duration) string {
	seconds := max(1, int64((wait+time.Second-1)/time.Second))
	if seconds == 1 {
		return "try again in 1 second"
	}
	return "try again in " + strconv.FormatInt(seconds, 10) + " seconds"
}
