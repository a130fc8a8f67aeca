package smtpclient

import "time"

// lateRest is how much later than their first octets the rest of the answers to one write must have come, so that our
// own acknowledgement may have been what it waited for. Linux holds one back for 40 ms and more.
const lateRest = 20 * time.Millisecond

// A flight is how the server answers what went out in one write: most answer it in one segment. One that writes each
// reply, or each line, by itself, and whose TCP sends no small segment before the last one was acknowledged (Nagle's
// algorithm, RFC 896), meets the kernel of ours, which holds an acknowledgement back for something to send along with
// it (RFC 9293 section 3.8.6.3). Then each message waits. On a connection where the rest came late once, what has come
// is acknowledged before the rest is waited for. That costs a system call where answers come apart, and none elsewhere.
type flight struct {
	began bool // octets have come since the last write
	late  bool // the rest came late once
	least time.Duration
	acks  int              // calls, for the tests that count them
	ack   func(fd uintptr) // nil where the connection is no TCP
}

// rest reads what comes behind the first octets of a flight.
func (w *wire) rest(b []byte) (int, error) {
	f := &w.flight
	if f.late && f.ack != nil {
		f.acks++
		_ = w.fd.sys.Control(f.ack) // a closed socket is for Read to find
	}
	asked := time.Now()
	n, err := w.Conn.Read(b)
	f.late = f.late || n > 0 && time.Since(asked) >= f.least
	return n, err
}
