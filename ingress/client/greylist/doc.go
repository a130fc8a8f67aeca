// Package greylist owns what greylisting takes for the same mail, the triplet of client network, reverse-path and
// recipient, and the reply to a client that comes the first time.
//
// It refuses to know where triplets are remembered and when one has waited long enough (cluster/store: grey.lua, and
// local.go without Redis), and which clients are greylisted: only those in the score's grey band are (Grey of score).
// The client is taken by its /24 or /64, which the store does, because large senders retry from another host of the
// same network; one that SPF or its confirmed name proves is taken by that domain alone. The addresses are taken
// without what changes from message to message (see Policy.Triplet), and are in the store as a MAC.
//
// Invariants: two attempts of one message from one network have the same triplet, and so have two messages of a mailing
// list to one recipient. No mail address leaves this package in clear.
package greylist
