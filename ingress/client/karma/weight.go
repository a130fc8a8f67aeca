package karma

import (
	"math"

	"github.com/millrace/millrace/router/mail"
)

// The standing from which a network may be known good; see Good.
const (
	GoodScore = 20   // of the network, at least
	GoodVotes = 25   // of the network, at least
	GoodShare = 0.75 // score for each vote, at least: with the default weights, 6 % of the votes are for spam
)

// The terms of Weight.
const (
	doubt     = 5.0  // votes that say nothing and are counted with the others, so that few votes weigh little
	steepness = -2.0 // of the weight over the mean vote: who is good has a weight below zero
	mostGood  = -3.0
	mostBad   = 6.0
	// A store bounds the score (by 100 unless told otherwise) and not the votes. Beyond such a number of votes the mean
	// of a busy client would come near zero for no reason but that.
	enoughVotes = 50.0
	mostScore   = 100.0
)

// Weight gives what the karma of a client's address and of its network adds to its score, from -3 (for it) to 6
// (against it), and why, in words fit for a stranger. It is 0 and "" where nothing is known.
//
// It is the mean vote, with the votes of the network counting half because they are also those of others, and with 5
// votes for nothing: one refusal for spam weighs 1.4, ten weigh 4.5. Alone it never rejects with the default
// thresholds.
func Weight(address, network mail.Karma) (weight float64, why string) {
	score := address.Score + network.Score/2
	votes := min(address.Votes, enoughVotes) + min(network.Votes, enoughVotes)/2
	if !(votes > 0) || math.IsNaN(score) || math.IsInf(score, 0) {
		return 0, ""
	}
	weight = max(mostGood, min(mostBad, steepness*score/(votes+doubt)))
	switch {
	case weight > 0:
		return weight, "destinations refused mail of this client or its network as unwanted"
	case weight < 0:
		return weight, "destinations take the mail of this client and its network"
	}
	return 0, ""
}

// Good tells whether a karma is good enough to be known good: many votes for the network, few of them bad, and nothing
// held against the address. It is what a Recorder asks before it calls a network known good, and not enough by itself:
// only the store's mark (mail.Facts.KnownGood) says that one is.
func Good(address, network mail.Karma) bool {
	return network.Votes >= GoodVotes && network.Score >= GoodScore && address.Score >= 0 &&
		network.Score >= GoodShare*min(network.Votes, mostScore)
}
