package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// A server is one recursive server and the memory of how it has been doing.
type server struct {
	addr    string
	strikes atomic.Int32 // failures in a row
	until   atomic.Int64 // nanoseconds since the resolver was made until which the others are asked first
}

// The first failure sends a server to the end of the line for a second, each further one for twice as long.
const (
	firstRest = time.Second
	mostRest  = 30 * time.Second
)

// failed sends the server to the end of the line for a while.
func (s *server) failed(now time.Duration) {
	rest := min(mostRest, firstRest<<min(s.strikes.Add(1)-1, 6))
	s.until.Store(int64(now + rest))
}

// answered ends that.
func (s *server) answered() {
	s.strikes.Store(0)
	s.until.Store(0)
}

// A failure is why a query brought no answer.
type failure struct {
	kind  error // ErrServer, ErrTimeout or ErrBadReply
	rcode string
	cause error
}

func (f *failure) Error() string {
	if f.cause == nil {
		return f.kind.Error() + " " + f.rcode
	}
	return f.kind.Error() + " " + f.rcode + ": " + f.cause.Error()
}

var errSlots = errors.New("too many queries at once")

// isOurs reports whether a query ended for want of room, and not by any fault of a server.
func isOurs(err error) bool {
	return errors.Is(err, errSlots) || errors.Is(err, errGaveWay) || errors.Is(err, ErrBusy)
}

// line returns the servers in the order of asking: those that have been failing come last.
func (r *Resolver) line() []*server {
	now := int64(r.cfg.Now().Sub(r.began))
	line := make([]*server, 0, len(r.servers))
	for _, s := range r.servers {
		if s.until.Load() <= now {
			line = append(line, s)
		}
	}
	for _, s := range r.servers {
		if !slices.Contains(line, s) {
			line = append(line, s)
		}
	}
	return line
}

// exchange asks one server after the other until one has an answer. It also returns the address of the server that was
// asked last.
func (r *Resolver) exchange(ctx context.Context, t *ticket, name string, qtype uint16) (reply, string, error) {
	line := r.line()
	var at string
	err := error(&failure{kind: ErrTimeout})
	for i := 0; i < r.cfg.tune.attempts && ctx.Err() == nil; i++ {
		s := line[i%len(line)]
		var got reply
		at = s.addr
		if got, err = r.query(ctx, t, s, name, qtype); err == nil {
			s.answered()
			return got, at, nil
		}
		if errors.Is(err, errGaveWay) {
			i-- // it was no attempt: the server still looks for it
			continue
		}
		if r.ctx.Err() != nil || isOurs(err) || errors.Is(ctx.Err(), context.Canceled) {
			break // which is not the server's fault
		}
		r.stats.failed.Add(1)
		// A SERVFAIL says something about the name, most of the time; anything else about the server.
		var f *failure
		if !errors.As(err, &f) || f.rcode != "SERVFAIL" {
			s.failed(r.cfg.Now().Sub(r.began))
		}
	}
	return reply{}, at, err
}

// query asks one server, over TCP too if the reply over UDP was truncated, and without EDNS0 if the server does not
// know it.
func (r *Resolver) query(ctx context.Context, t *ticket, s *server, name string, qtype uint16) (reply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := r.lanes.enter(ctx, t, cancel); err != nil {
		return reply{}, err
	}
	begun := r.cfg.Now()
	t.asker.Come(begun)
	ctx, stop := context.WithTimeout(ctx, r.cfg.tune.timeout)
	defer stop()
	got, err := r.send(ctx, s, name, qtype)
	if r.lanes.leave(t) && err != nil {
		return reply{}, errGaveWay
	}
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) { // else no one waits for it
		r.cfg.Observe(r.cfg.Now().Sub(begun), err)
	}
	return got, err
}

// send is query for one that has its turn.
func (r *Resolver) send(ctx context.Context, s *server, name string, qtype uint16) (reply, error) {
	for _, edns := range []bool{true, false} {
		q, err := newQuery(name, qtype, edns, r.cfg.TrustAD)
		if err != nil {
			return reply{}, &failure{kind: ErrBadReply, cause: err}
		}
		r.stats.udp.Add(1)
		got, err := overUDP(ctx, s.addr, q)
		switch {
		case errors.Is(err, errTruncated):
			r.stats.tcp.Add(1)
			got, err = overTCP(ctx, s.addr, q)
		case errors.Is(err, errCase):
			got, err = r.otherwise(ctx, s, q)
		}
		if !errors.Is(err, errNoEDNS) {
			return got, asFailure(err)
		}
	}
	return reply{}, &failure{kind: ErrServer, rcode: "FORMERR"}
}

// otherwise asks a server that does not keep the case of a question: over TCP, which cannot be forged from afar, and
// where it has none, over UDP in lower case. It gets no worse than from a resolver that mixes no case.
func (r *Resolver) otherwise(ctx context.Context, s *server, q *query) (reply, error) {
	half, cancel := context.WithTimeout(ctx, r.cfg.tune.timeout/2)
	defer cancel()
	r.stats.tcp.Add(1)
	got, err := overTCP(half, s.addr, q)
	var f *failure
	if err == nil || errors.As(err, &f) || errors.Is(err, errNoEDNS) || ctx.Err() != nil {
		return got, err
	}
	q.fold()
	r.stats.udp.Add(1)
	return overUDP(ctx, s.addr, q)
}

// asFailure returns err as a *failure; an error of a socket is ErrTimeout.
func asFailure(err error) error {
	var f *failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	}
	return &failure{kind: ErrTimeout, cause: err}
}

// maxForeign bounds how many packets that answer something else are read before a query is given up.
const maxForeign = 64

// overUDP sends q from a fresh port and reads until the reply to it comes. Packets that do not answer q are passed
// over: they are late, or guesses of a forger (RFC 5452 section 9.1).
func overUDP(ctx context.Context, addr string, q *query) (reply, error) {
	conn, stop, err := dial(ctx, "udp", addr)
	if err != nil {
		return reply{}, err
	}
	defer stop()
	if _, err := conn.Write(q.raw); err != nil {
		return reply{}, err
	}
	buf := make([]byte, 4096)
	var foreign error
	for range maxForeign {
		n, err := conn.Read(buf)
		if err != nil {
			if foreign != nil {
				err = fmt.Errorf("%w, after %w", err, foreign)
			}
			return reply{}, err
		}
		got, err := q.read(buf[:n], true)
		if !errors.Is(err, errForeign) {
			return got, err
		}
		foreign = err
	}
	return reply{}, &failure{kind: ErrBadReply, cause: foreign}
}

// overTCP asks q over a connection of its own (RFC 1035 section 4.2.2, RFC 7766).
func overTCP(ctx context.Context, addr string, q *query) (reply, error) {
	conn, stop, err := dial(ctx, "tcp", addr)
	if err != nil {
		return reply{}, err
	}
	defer stop()
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(q.raw)), uint16(len(q.raw)))
	if _, err := conn.Write(append(framed, q.raw...)); err != nil {
		return reply{}, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return reply{}, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return reply{}, err
	}
	got, err := q.read(buf, false)
	if errors.Is(err, errForeign) || errors.Is(err, errTruncated) {
		err = &failure{kind: ErrBadReply, cause: err}
	}
	return got, err
}

// dial connects with ctx's deadline on every read and write. The end of ctx wakes a read or write that waits. stop
// closes the connection.
func dial(ctx context.Context, network, addr string) (conn net.Conn, stop func(), err error) {
	var d net.Dialer
	if conn, err = d.DialContext(ctx, network, addr); err != nil {
		return nil, nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	forget := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() {
		forget()
		_ = conn.Close()
	}, nil
}
