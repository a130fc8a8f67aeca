// Command soak runs a cluster at half of what it can do, for an hour or as long as it is told, and looks for what
// grows: heap, goroutines and descriptors of each node, and sessions with each Site. A line is laid through what was
// seen each minute, the first ten left out, of a short run a quarter; it may rise by 2 % of its mean in an hour, and
// what chance may do besides. At the end the load stops, and the nodes have to come down to the goroutines and
// descriptors that they had before it.
//
//	go run ./loadtest/soak -minutes 60      the verdict is the last line
//	go run ./loadtest/soak -minutes 12      the same; a short run says how short it was, and shows less
//
// All messages are counted: one that was acknowledged and is at no destination is lost, and there may be none.
//
// It owns the load, the destinations and the figures, and refuses to know the relay's packages but for the test
// servers: what it knows of a node is what its metrics say.
package main
