// Package submission says who may send mail from here and as whom: the users of hosted domains, their passwords, what a
// user may send in a time, and whether the author of a message is its user.
//
// It owns the users, the work that a password costs, the counts of failed logins and of what users send, the reading of
// author fields, and the fields that a message has to have when it leaves (RFC 6409 section 8). It refuses to know the
// dialogue of a login (package wire), where mail goes and how it gets there.
//
// Invariants: a login costs the same work whether there is the user or not. No more passwords are worked at than there
// are processors for, and no more clients wait for that than maxWaiting. A message passes only if every field that says
// who wrote or sent it can be read in one way, and names an address of its user.
package submission
