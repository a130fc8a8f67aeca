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
	doubt     = 5.0  // neutral votes that are counted with the others, so that few votes weigh little
	steepness = -2.0 // of the weight over the mean vote: a good client has a weight below zero
	minWeight = -3.0
	maxWeight = 6.0
	// A store bounds the score (by 100 unless it is configured otherwise) and not the votes. More votes than
	// enoughVotes are not counted, because the mean vote of a busy client would come near zero for that reason alone.
	enoughVotes = 50.0
	maxScore    = 100.0
)

// Weight returns what the karma of a client's address and of its network adds to its score, from -3 (for it) to 6
// (against it), and why, in words fit for the client. It is 0 and "" if nothing is known. The karma of the network is
// that of mail of the client's sender, and zero as long as that is not known. That of the address counts whatever is
// sent, so that a new name does not wash it off.
//
// It is the mean vote times -2. The votes of the network count half, because other addresses of the network caused them
// too, and 5 neutral votes are added: one refusal for spam weighs 1.4, ten weigh 4.5. Alone it never rejects with the
// default thresholds.
func Weight(address, network mail.Karma) (weight float64, why string) {
	score := address.Score + network.Score/2
	votes := min(address.Votes, enoughVotes) + min(network.Votes, enoughVotes)/2
	if !(votes > 0) || math.IsNaN(score) || math.IsInf(score, 0) {
		return 0, ""
	}
	weight = max(minWeight, min(maxWeight, steepness*score/(votes+doubt)))
	switch {
	case weight > 0:
		return weight, "destinations refused mail of this client or its network as unwanted"
	case weight < 0:
		return weight, "destinations take the mail of this client and its network"
	}
	return 0, ""
}

// Good reports whether a karma is good enough to be known good: many votes for the network, few of them bad, and a
// score of the address that is not below 0. A Recorder asks it before it calls a network known good. It is not enough
// by itself: only the store's mark (mail.Facts.KnownGood) says that a network is known good.
func Good(address, network mail.Karma) bool {
	return network.Votes >= GoodVotes && network.Score >= GoodScore && address.Score >= 0 &&
		network.Score >= GoodShare*min(network.Votes, maxScore)
}
