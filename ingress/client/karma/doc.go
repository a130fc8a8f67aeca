// Package karma owns what is learnt of clients from what became of their mail: which answer of a destination is a vote,
// of what weight, from whom, and who is known good for it.
//
// It refuses to know where votes are summed up and fade (a store does, one vote for each destination domain, client and
// hour), and it does not judge a message itself. It keeps nothing of one but counts.
//
// Who may teach it. A destination domain is believed once it took enough of our mail, from clients of enough networks,
// in a window of time: whoever forwards a domain to himself could else vote for his own machines, or against those of
// others. Nothing is learnt from an answer about us, from a 4yz, or about authentication, which a forwarder itself may
// have broken. Clients on the allow list and known good networks are not voted on.
//
// A share, not an event. The store keeps the worst vote of an hour, so a large sender of which a destination refuses
// one message in a thousand would only ever be voted down. A refusal is therefore a vote only if such refusals are a
// share of what that client brought to that domain; below it, it is tolerated.
//
// Known good, and its end. A network is known good for Config.GoodFor when its karma says so (Good) and enough believed
// destination domains took its mail since, on this node, without a refusal that counted. It is not voted on then, and
// cannot fall by votes: so its standing ends by itself, and it has to earn it anew from new votes; and it ends early
// when believed domains, two at least, refuse a share of its mail as spam. Then it is not known good again, by any node
// that took part, before Config.GoodFor is over, and it is voted on like anybody.
//
// Invariants: See waits for nothing and allocates nothing. Memory is bounded by Config.Queue and Config.Entries. One
// goroutine, which Close awaits.
package karma
