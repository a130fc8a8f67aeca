package score

import (
	"slices"

	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/router/mail"
)

// karma returns what karma adds to the score of a stage, and why: that of the address alone as long as it is not known
// whose mail it is. The caller holds mu.
func (q *inquiry) karma(last step) (weight float64, why string) {
	weight, why = karma.Weight(q.stored.address, q.sending(last))
	return round(weight * q.s.weights[sigKarma]), why
}

// sending returns the karma that the client's network has for the sender: zero until MAIL and SPF have said who that
// is, and if SPF did not in time. The caller holds mu.
func (q *inquiry) sending(last step) mail.Karma {
	st := &q.stages[atMail]
	switch {
	case last < atMail || !st.begun || q.stages[atConnect].final:
	case st.under != nil && st.under.open&fromSPF != 0:
	case slices.Contains(st.unheard, fromSPF.unheard()):
	default:
		return q.stored.network.Of(q.passes)
	}
	return mail.Karma{}
}

// explainKarma returns the line of karma that spoke, and false if it did not. The caller holds mu.
func (q *inquiry) explainKarma() (line Signal, spoke bool) {
	weight, why := q.karma(atMail)
	if weight == 0 {
		return Signal{}, false
	}
	if q.sending(atMail).Votes > 0 {
		why += " (votes on the network for " + goodNames([]string{q.passes}) + " count too)"
	}
	return Signal{
		Name: catalogue[sigKarma].name, State: Spoke, Weight: weight, Would: q.s.weights[sigKarma], Text: why,
	}, true
}
