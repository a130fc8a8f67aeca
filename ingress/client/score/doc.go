// Package score owns the verdict on a client before its first recipient: which signals there are, what each weighs, how
// long they are waited for, from which score on a client is deferred or refused, and the text of the refusal.
//
// A signal speaks when it adds its weight to the score. Those of the address begin when the client connects; those of
// its name in EHLO and of the reverse-path at the first RCPT of a transaction, because EHLO and MAIL alone cost a
// client nothing. They are gathered in the background, each stage by a deadline of its own, and awaited at the first
// RCPT only. The package refuses to know how DNS is spoken, where facts about clients are kept, what a rule would do
// with a recipient, and when a session asks. Trusted networks and authenticated clients are not scored.
//
// Invariants: what could not be known in time is reported (Unheard) and never counted, so that no fault of DNS, of a
// list or of the store speaks against a client; but load must not speak for one either: a stranger is deferred if a
// list that could decide was not asked, or answers about others (Unsure). With the default weights and thresholds no
// signal but a DNS list or a block list refuses or defers a client alone. A client whose address is not known has no
// signals of an address. A name in EHLO or a reverse-path, which any client can claim, speaks for a client only where
// it is proved: the name resolves to the client, or SPF passes. A Score holds no goroutine, no timer and no answer of
// DNS once all signals of a stage are in.
//
// To add a signal: give it a constant and a line in catalogue (signal.go), and let the file of its source see it
// (address.go, helo.go, sender.go). A look-up of its own is a new source: the comment on source says what it needs
// besides. TestScore_Signals has a case for each signal, and TestScore_Explain the whole list as explain shows it.
// Weights, their validation, the command explain and the counters follow from the catalogue.
package score
