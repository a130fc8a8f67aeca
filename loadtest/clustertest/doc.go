// Command clustertest runs a cluster as it runs in the field, as processes on loopback with Redis, a name server,
// destinations and HAProxy, and shows that it keeps what was promised of it: nodes are killed, stopped and restarted
// under mail, Redis is emptied, and everything that was accepted is looked for at the destinations.
//
//	go run ./loadtest/clustertest                the acceptance; the verdict is the last line
//	go run ./loadtest/clustertest -run 'kill|stop'  some of its steps
//	go run ./loadtest/clustertest -long          with the steps that take long
//	go run ./loadtest/clustertest -stay           a cluster to play with; -once ends it after a message each
//	go run ./loadtest/clustertest -hop            what the hop between nodes costs, in CPU
//
// It owns the processes and what was counted, and refuses to know the relay's packages but for the test servers and the
// form of its status: a node is what `millrace serve` makes of a configuration.
package main
