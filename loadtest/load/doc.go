// Command load sends as much mail as it can through a cluster as it is deployed, and measures what that costs: from
// Postfix's smtp-source, and from clients of our own for what that cannot do, to HAProxy, to three nodes with Redis, to
// a destination that counts. Each message has an id; at the end what was sent, what was acknowledged and what was
// delivered are compared.
//
//	make loadtest                 all parts, in eight minutes; the verdict is the last line
//	make loadtest QUICK=1         all parts but one, with few messages, in less than a minute
//	make loadtest PART=mix,rate   some of them
//	make loadtest SEED=7          the same choices once more
//	make loadtest RECORD=1        writes the result to bench/results as well
//
// The verdict is by counts alone: a message that was acknowledged and is nowhere, that is there twice, that is there
// and was not sent, or that was never taken breaks it. What is measured is held to bars, which are shown as reached or
// MISSED: on a machine that has something else to do a figure says little.
//
// It owns the clients, the destination, the ledger and the report, and refuses to know the relay's packages: a node is
// what `millrace serve` makes of the configuration in deploy/, with the addresses of its rig.
package main
