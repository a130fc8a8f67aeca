// Package bench holds the Go benchmarks of the octets' path, from the engine alone to a whole node between a bare
// client and a bare destination, beside a relay made of go-smtp's server and client (naive-go) in the same run.
// Recorded results lie in results/, in the form that benchstat reads.
//
// Client and destination of these benchmarks run in the same process and are counted with it, so they are as bare as
// can be: they write octets prepared before, look for the end of a message and nothing else. The subject "none" is
// those two alone. cpu-ns/op is the user and system time of the process per message, which says more than ns/op where
// several goroutines share few cores.
package bench
