// Package rate owns what a client may take in a time: which counters are asked for a connection and for a group of
// recipients, and the reply when one of them is used up.
//
// It builds the sets of mail.Rate that a store answers in one round trip, and reads the answers. It refuses to know
// where they are counted, and what else is thought of a client. It is not asked about trusted networks and
// authenticated clients.
//
// Invariants: a recipient that one of its rates refuses draws nothing from any other rate, and does not touch the
// other recipients of its group. What counts messages is drawn when one was accepted, and never by naming a
// recipient. No counter's name has a mail address or a domain in clear: a MAC (Names) replaces them, so that a reader
// of the store learns nothing of the correspondence. Nothing here waits, except the worker of Background, which is
// off the mail path and ends with Close.
package rate
