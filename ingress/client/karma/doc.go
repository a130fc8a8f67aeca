// Package karma owns what is learnt of clients from what became of their mail: which answer of a destination is a vote,
// of what weight, from which domain, and which networks are known good for it.
//
// It refuses to know where votes are summed up and fade: a store does that, which counts one vote for each destination
// domain, client and hour. It does not judge a message itself, and keeps nothing of a message but counts.
//
// Which domains may teach. A destination domain is believed once it took enough of our mail, from clients of enough
// networks, in a window of time. Otherwise a user who forwards a domain to himself could vote for his own machines, or
// against those of others. Nothing is learnt from an answer about us, from a 4yz, or about authentication, which a
// forwarder itself may have broken. Clients on the allow list and known good networks are not voted on.
//
// Content filters. What filters of ours say of a message is a vote like that of one destination, whatever they are and
// for whomever they speak: one for a client in an hour. It is believed of a recipient's domain for which they took
// enough, as of a destination. It is a vote where they refuse a share of all that the client brings to believed
// domains, and to three mailboxes at least: the owner of one may have made his filter strict. They vote against alone:
// what they take the destination votes on, and a filter that took what its destination refuses would undo that. No
// standing comes or goes by them, and of a destination nothing is learnt.
//
// Whose votes. A vote is one on the address, whatever it sends, and one on its network for the domain for which SPF
// passes, so that neighbours neither inherit it nor suffer for it, and a new name does not wash it off the address.
//
// A share, not an event. The store keeps the worst vote of an hour, so a large sender of which a destination refuses
// one message in a thousand would only ever be voted down. A refusal is therefore a vote only if such refusals are a
// share of what that client brought to that domain. Below the share it is tolerated.
//
// Known good, and its end. A network is known good for goodFor when its karma says so (Good) and enough believed
// destination domains took its mail since, on this node, without a refusal that counted. It is not voted on then, and
// cannot fall by votes. So its standing ends by itself, and it has to earn it anew from new votes. It ends early when
// believed domains, two at least, refuse a share of its mail as spam. Then no node that took part calls it known good
// again before goodFor is over, and it is voted on like any other network.
//
// Invariants: Record waits for nothing and allocates nothing. Memory is bounded by maxWaiting and maxEntries. There is
// one goroutine, which Close awaits.
package karma
