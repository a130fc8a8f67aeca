// Package message decides what a message is and what becomes of it, from the client's first octet of it to the next
// hop's answer: it looks for loops in the header section, judges and signs, and relays the octets as they come.
//
// It owns the window in which octets are held back, the prediction of a body that has not come yet, the loop tags in
// our Received fields, the memory of header sections, and the order of the steps (Message.Run). It refuses to know SMTP
// verbs, rules and their routing, and what is thought of the client: rates, score and karma. What a message needs of
// its client comes in an Envelope.
//
// Invariants: the end of data leaves only after everything that could refuse the message; below the fields that are
// added stand the client's octets, except for the results that pretend to be ours; an error of our own is a 4yz;
// nothing of a message is kept once Close returned.
package message
