// Command abuse plays strangers that take what others need, and shows that honest mail goes on: each attack runs
// against the binary in a process of its own, with honest clients beside it, and is compared with the same honest
// clients without it. Some run against a cluster of three, where another node owns what is attacked.
//
//	go run ./loadtest/abuse                    all scenarios at full size; the verdict is the last line
//	go run ./loadtest/abuse -quick             those that are short enough for each commit, some of them smaller
//	go run ./loadtest/abuse -run 'sessions'    some of them
//	go run ./loadtest/abuse -binary FILE       another build, such as one from before a mend
//
// It owns the clients, the destinations and what was counted, and refuses to know the relay's packages but for the test
// servers, the status that a node tells and, to play a node that was broken into, the client of the hop.
package main
