// Package activity keeps what became of the messages of a node, for those who run it and those whose domains it serves:
// who sent to whom, what was done with it and why.
//
// It owns the rows of the log, how long and in how much memory they are kept, how they are searched, and how the nodes
// of a cluster are asked for theirs. It refuses to know how a message is relayed and who may read a row.
//
// Invariants: a row has no octet of a message and no field of its header but a keyed hash of the Message-ID; nothing is
// written to a disk; the memory has a bound for whatever strangers send, and what they cause for nothing takes no more
// than half of it; a row that is older than the retention is in no answer and, a minute on, in no memory.
package activity
