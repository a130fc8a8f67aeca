package source

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// Send sends one message in a transaction of its own. A refusal is a Result and no error; after an error the connection
// is of no more use. A transaction that was refused before its end is left open: Reset ends it.
func (s *Session) Send(m Message) (Result, error) {
	r, ok, err := s.Envelope(m)
	if err != nil || !ok {
		return r, err
	}
	if s.cfg.Chunking && s.Offers("CHUNKING") {
		r.End, err = s.bdat(m.Octets)
		return r, err
	}
	if r.Data.Code == 0 {
		if r.Data, err = s.Command("DATA"); err != nil {
			return r, err
		}
	}
	if r.Data.Code != 354 {
		r.End = r.Data
		return r, nil
	}
	if err = s.paced(Stuff(m.Octets)); err != nil {
		return r, err
	}
	r.End, err = s.Read()
	return r, err
}

// Reset says RSET.
func (s *Session) Reset() error {
	r, err := s.Command("RSET")
	if err == nil && r.Code != 250 {
		err = &RefusedError{"RSET", r}
	}
	return err
}

// Envelope sends MAIL and RCPT, and DATA with them when pipelining without CHUNKING. It reports whether a recipient was
// accepted and, if DATA was sent, whether that was.
func (s *Session) Envelope(m Message) (Result, bool, error) {
	var r Result
	lines := []string{strings.TrimRight("MAIL FROM:<"+m.Reverse+"> "+m.Mail, " ")}
	for _, f := range m.Forward {
		lines = append(lines, "RCPT TO:<"+f+">")
	}
	pipeline := s.cfg.Pipeline && s.Offers("PIPELINING")
	data := pipeline && !(s.cfg.Chunking && s.Offers("CHUNKING"))
	if data {
		lines = append(lines, "DATA")
	}
	if pipeline {
		if err := s.Write([]byte(strings.Join(lines, "\r\n") + "\r\n")); err != nil {
			return r, false, err
		}
	}
	accepted := false
	for i, l := range lines {
		if !pipeline {
			if err := s.Write([]byte(l + "\r\n")); err != nil {
				return r, false, err
			}
		}
		reply, err := s.Read()
		if err != nil {
			return r, false, fmt.Errorf("%.40s: %w", l, err)
		}
		switch {
		case i == 0:
			r.Mail = reply
			if reply.Class() != 2 && !pipeline {
				r.End = reply
				return r, false, nil
			}
		case i <= len(m.Forward):
			r.Rcpt = append(r.Rcpt, reply)
			accepted = accepted || reply.Class() == 2
		default:
			r.Data = reply
		}
	}
	return s.judge(r, accepted, data)
}

// judge finds the refusal that ended an envelope. A server may give a 354 although every recipient was refused (RFC
// 2920 section 3.1): then an empty message is sent, which it refuses.
func (s *Session) judge(r Result, accepted, data bool) (Result, bool, error) {
	if accepted && (!data || r.Data.Code == 354) {
		return r, true, nil
	}
	switch {
	case r.Mail.Class() != 2:
		r.End = r.Mail
	case !accepted && len(r.Rcpt) > 0:
		r.End = r.Rcpt[len(r.Rcpt)-1]
	default:
		r.End = r.Data
	}
	if r.Data.Code == 354 {
		_, err := s.Command(".")
		return r, false, err
	}
	return r, false, nil
}

// bdat sends the octets in chunks, each after the answer to the one before; with Pipeline all chunks are on their way
// before the first answer is read.
func (s *Session) bdat(octets []byte) (Reply, error) {
	size := s.cfg.Chunk
	if size <= 0 {
		size = max(1, len(octets))
	}
	var (
		chunks int
		reply  Reply
		err    error
	)
	for {
		n := min(size, len(octets))
		last := ""
		if n == len(octets) {
			last = " LAST"
		}
		b := append(fmt.Appendf(nil, "BDAT %d%s\r\n", n, last), octets[:n]...)
		if err = s.paced(b); err != nil {
			return reply, err
		}
		octets = octets[n:]
		chunks++
		if !s.cfg.Pipeline {
			if reply, err = s.Read(); err != nil || reply.Class() != 2 {
				return reply, err
			}
		}
		if last != "" {
			break
		}
	}
	if !s.cfg.Pipeline {
		return reply, nil
	}
	var refusal Reply
	for range chunks {
		if reply, err = s.Read(); err != nil {
			return reply, err
		}
		if reply.Class() != 2 && refusal.Code == 0 {
			refusal = reply
		}
	}
	if refusal.Code != 0 {
		return refusal, nil
	}
	return reply, nil
}

// paced writes as fast as the Pace allows. The pauses are what it is for.
func (s *Session) paced(b []byte) error {
	p := s.cfg.Pace
	if p.Octets <= 0 {
		return s.Write(b)
	}
	tick := time.NewTicker(max(p.Every, time.Microsecond))
	defer tick.Stop()
	for len(b) > 0 {
		n := min(p.Octets, len(b))
		if err := s.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		<-tick.C
	}
	return nil
}

// Body makes a message of about n octets with a header section: lines of 78 octets that begin with a letter, so that
// nothing needs stuffing.
func Body(n int) []byte {
	const head = "From: <source@client.example>\r\nTo: <sink@bench.example>\r\nSubject: load\r\nDate: Thu, 1 Jan " +
		"2026 00:00:00 +0000\r\n\r\n"
	line := bytes.Repeat([]byte("X"), 76)
	b := append(make([]byte, 0, n+80), head...)
	for len(b) < n {
		b = append(append(b, line[:min(len(line), max(1, n-len(b)-2))]...), '\r', '\n')
	}
	return b
}
