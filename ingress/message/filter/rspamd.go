package filter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// rspamdScan is a message at a worker of rspamd: one request of HTTP on a connection of its own, whose body goes out as
// the message comes. It is spoken here, because the client of net/http wants a goroutine and a copy of the body.
type rspamdScan struct {
	envelope *Envelope
	conn     net.Conn
	request  []byte // what goes out with the next octets: the head of the request, or of a chunk
	chunked  bool
	vec      net.Buffers
}

// openRspamd connects and composes the head of the request.
func (f *Filter) openRspamd(ctx context.Context, e *Envelope) (Scan, error) {
	conn, err := f.dial(ctx, f.cfg.Rspamd)
	if err != nil {
		return nil, err
	}
	s := &rspamdScan{envelope: e, conn: conn, chunked: e.Size == 0}
	b := append(make([]byte, 0, 1024), "POST /checkv2 HTTP/1.1\r\nConnection: close\r\nUser-Agent: millrace\r\n"...)
	b = appendHeader(b, "Host", hostOf(f.cfg.Rspamd))
	b = appendHeader(b, "Password", f.cfg.Password)
	if e.Client.IsValid() {
		b = appendHeader(b, "IP", e.Client.Addr().Unmap().String())
	}
	b = appendHeader(b, "Hostname", e.Name)
	b = appendHeader(b, "Helo", e.Helo)
	b = appendHeader(b, "User", e.User)
	b = appendHeader(b, "TLS-Version", e.TLS)
	b = appendHeader(b, "MTA-Name", e.Hostname)
	b = appendHeader(b, "MTA-Tag", "millrace")
	b = appendHeader(b, "Queue-Id", e.Trace.String())
	b = append(b, "From: "...)
	b = append(appendClean(b, e.Reverse.String()), "\r\n"...)
	for i := range e.Forwards {
		b = appendHeader(b, "Rcpt", e.Forwards[i].String())
	}
	if e.Scored {
		b = appendHeader(b, "X-Millrace-Score", strconv.FormatFloat(e.Score, 'f', 1, 64))
	}
	if s.chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n\r\n"...)
	} else {
		b = appendHeader(b, "Content-Length", strconv.FormatInt(e.Size, 10))
		b = append(b, "\r\n"...)
	}
	s.request = b
	return s, nil
}

// hostOf returns the value of Host for an address.
func hostOf(address string) string {
	if strings.HasPrefix(address, "unix:") {
		return "localhost"
	}
	return address
}

// appendHeader appends a field of the request, unless it says nothing.
func appendHeader(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(b, name...), ": "...)
	return append(appendClean(b, value), "\r\n"...)
}

// appendClean appends a text from outside without what could end the field it stands in.
func appendClean(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			b = append(b, '?')
		} else {
			b = append(b, c)
		}
	}
	return b
}

// lineEnd stands behind a chunk. It is never written to.
var lineEnd = []byte("\r\n")

// Rcpt does nothing: rspamd is asked about whole messages.
func (*rspamdScan) Rcpt(context.Context, mail.Path) (a Answer, decided bool, err error) {
	return a, false, nil
}

// Write sends octets, as a chunk where the length of the message is not known.
func (s *rspamdScan) Write(ctx context.Context, plain [][]byte) (decided bool, err error) {
	n := 0
	for _, p := range plain {
		n += len(p)
	}
	if n == 0 {
		return false, nil
	}
	if s.chunked {
		s.request = append(strconv.AppendInt(s.request, int64(n), 16), "\r\n"...)
	}
	if s.vec = s.vec[:0]; len(s.request) > 0 {
		s.vec = append(s.vec, s.request)
	}
	if s.vec = append(s.vec, plain...); s.chunked {
		s.vec = append(s.vec, lineEnd)
	}
	out := s.vec
	err = within(ctx, s.conn, func() error { _, err := out.WriteTo(s.conn); return err })
	clear(s.vec)
	s.request = s.request[:0]
	if err == nil {
		return false, nil
	}
	return false, s.brokenOff(err)
}

// brokenOff returns why a request could not be written: what the worker said meanwhile, if it did.
func (s *rspamdScan) brokenOff(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	_ = s.conn.SetDeadline(time.Now().Add(time.Second / 10))
	answer, readErr := http.ReadResponse(bufio.NewReader(io.LimitReader(s.conn, maxRspamdReply)), nil)
	if readErr != nil {
		return failureOf(err)
	}
	defer answer.Body.Close()
	return statusError(answer.StatusCode)
}

// statusError is the status of an answer that is no success.
type statusError int

// Error returns the status.
func (e statusError) Error() string { return fmt.Sprintf("rspamd says %d", int(e)) }

// maxRspamdReply is the most octets of an answer that are read.
const maxRspamdReply = 1 << 20

// End ends the request and reads the answer.
func (s *rspamdScan) End(ctx context.Context) (a Answer, err error) {
	if s.chunked {
		s.request = append(s.request, "0\r\n\r\n"...)
	}
	err = within(ctx, s.conn, func() error {
		if len(s.request) > 0 {
			if _, err := s.conn.Write(s.request); err != nil {
				return err
			}
		}
		answer, err := http.ReadResponse(bufio.NewReader(io.LimitReader(s.conn, maxRspamdReply)), nil)
		if err != nil {
			return failureOf(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return statusError(answer.StatusCode)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return failureOf(err)
		}
		a, err = parseRspamd(body, s.envelope)
		return err
	})
	return a, err
}

// errNoHTTP stands for an answer that is none: what it says may be a part of the message.
var errNoHTTP = errors.New("no answer of HTTP came")

// failureOf returns the error of an answer without what the program wrote.
func failureOf(err error) error {
	var op interface{ Timeout() bool }
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe):
		return errClosed
	case errors.As(err, &op):
		return err
	}
	return errNoHTTP
}

// Close closes the connection.
func (s *rspamdScan) Close() { s.conn.Close() }

// within calls do, which reads and writes on conn, until the deadline of ctx or its end, and returns the error of ctx
// where that ended it.
func within(ctx context.Context, conn net.Conn, do func() error) error {
	at, _ := ctx.Deadline()
	_ = conn.SetDeadline(at)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := do()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case mail.IsOver(ctx):
		return fmt.Errorf("it did not answer in time: %w", context.DeadlineExceeded)
	}
	return err
}
