// Command chaos breaks what a cluster stands on while mail runs through it, and compares at the end what was sent, what
// was acknowledged and what was delivered. Each scenario has a name and a seed, runs in a network of its own, ends in a
// bounded time and with a verdict.
//
//	go run ./loadtest/chaos                          all scenarios; the verdict is the last line
//	go run ./loadtest/chaos -quick                   those that are short enough for each commit
//	go run ./loadtest/chaos -scenario kill-owner -seed 7   one of them, once more
//	go run ./loadtest/chaos -binary FILE             another build, such as one from before a mend
//	go run ./loadtest/chaos -list                    their names
//
// A message that was acknowledged and is nowhere is lost: there may be none. A second copy may be there only where a
// node counted that it may be: in doubt, or not known to have been acknowledged; or where the node that would have
// counted was killed on purpose between the destination's reply and its own.
//
// It owns the clients, the destinations and what was counted, and refuses to know the relay's packages but for the test
// servers: a node is what `millrace serve` makes of the configuration in deploy/, with the addresses of its stage.
package main
