package node

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// syslogPause is how long the log waits after a syslog daemon could not be reached, or did not take a line.
const syslogPause = time.Second

// udpSilence is for how long it is not said again that nothing listens at a port. By UDP every second line seems to be
// taken then: only the next one is told of it.
const udpSilence = time.Minute

// A syslogConn sends the lines of a log to a syslog daemon, each as a datagram in the form of RFC 5424. While the
// daemon does not take them it waits, as for any other reader of the log, so that the lines of some seconds outlast a
// restart of the daemon: the logWriter in front of it keeps and drops them. One goroutine writes; close may be called
// by another.
type syslogConn struct {
	network, address string
	host, pid        string          // of lines that do not say theirs
	drop             func(lines int) // called for lines that went astray
	failed           func(err error) // called once when the daemon cannot be reached
	silent           bool            // failed was called since a line was taken
	reported         time.Time       // when it was
	b                []byte          // a datagram

	ended chan struct{} // closed by close

	mu   sync.Mutex // over conn, not held while something is sent
	conn net.Conn   // nil: none
}

func newSyslogConn(network, address, host string) *syslogConn {
	return &syslogConn{
		network: network, address: address, host: host, pid: strconv.Itoa(os.Getpid()), ended: make(chan struct{}),
	}
}

// close ends a Write that waits, and all that follow.
func (s *syslogConn) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return
	default:
	}
	close(s.ended)
	if s.conn != nil {
		s.conn.Close()
	}
}

// Write sends whole lines. It returns when all of them were sent, or after close.
func (s *syslogConn) Write(lines []byte) (sent int, err error) {
	for sent < len(lines) {
		line, _, _ := bytes.Cut(lines[sent:], []byte("\n"))
		s.b = appendSyslog(s.b[:0], line, s.host, s.pid)
		if err := s.send(); err != nil {
			return sent, err
		}
		sent = min(sent+len(line)+1, len(lines))
	}
	return sent, nil
}

// send sends the datagram in s.b. The error is net.ErrClosed.
func (s *syslogConn) send() error {
	for {
		conn, made, err := s.connect()
		if err == nil {
			if _, err = conn.Write(s.b); err == nil {
				s.silent = false
				return nil
			}
		}
		switch {
		case errors.Is(err, net.ErrClosed):
			return net.ErrClosed
		case errors.Is(err, syscall.EMSGSIZE):
			s.drop(1)
			return nil
		case s.network == "udp" && errors.Is(err, syscall.ECONNREFUSED):
			s.drop(1) // the line before, which was sent to no socket
		case conn != nil:
			s.disconnect(conn)
			if !made { // the daemon was restarted, and has a socket of that name again
				continue
			}
		}
		if err := s.pause(err); err != nil {
			return err
		}
	}
}

// connect returns the connection, and whether it was made now.
func (s *syslogConn) connect() (conn net.Conn, made bool, err error) {
	s.mu.Lock()
	conn = s.conn
	s.mu.Unlock()
	if conn != nil {
		return conn, false, nil
	}
	conn, err = net.Dial(s.network, s.address) // waits for nothing: no datagram is sent
	if err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		conn.Close()
		return nil, false, net.ErrClosed
	default:
	}
	s.conn = conn
	return conn, true, nil
}

// disconnect closes the connection.
func (s *syslogConn) disconnect(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	conn.Close()
}

// pause waits before the daemon is tried again. The error is net.ErrClosed.
func (s *syslogConn) pause(err error) error {
	if !s.silent && (s.network != "udp" || time.Since(s.reported) >= udpSilence) {
		s.silent, s.reported = true, time.Now()
		s.failed(err)
	}
	wait := time.NewTimer(syslogPause)
	defer wait.Stop()
	select {
	case <-s.ended:
		return net.ErrClosed
	case <-wait.C:
		return nil
	}
}

// The facility of all lines is that of mail, and their severities are those of RFC 5424 section 6.2.1.
const (
	facilityMail    = 2
	severityError   = 3
	severityWarning = 4
	severityInfo    = 6
	severityDebug   = 7
)

// appendSyslog appends a line of the log in the form of RFC 5424. Its time, its severity, and in Postfix's form the
// name of a daemon too, are those that the line begins with; what begins otherwise has no time. host and pid are of the
// lines that do not say theirs.
func appendSyslog(b, line []byte, host, pid string) []byte {
	if rest, is := bytes.CutPrefix(line, []byte(`{"time":"`)); is {
		at, rest, _ := bytes.Cut(rest, []byte(`","level":"`))
		level, _, _ := bytes.Cut(rest, []byte(`"`))
		if isStamp(at) {
			return append(appendHead(b, severityOf(level), string(at), host, "millrace", pid), line...)
		}
	}
	at, rest, _ := bytes.Cut(line, []byte(" "))
	name, rest, _ := bytes.Cut(bytes.TrimPrefix(rest, []byte(host+" ")), []byte("["))
	id, text, is := bytes.Cut(rest, []byte("]: "))
	if is && isStamp(at) && string(id) == pid && isDaemon(name) {
		class, _, _ := bytes.Cut(text, []byte(": "))
		return append(appendHead(b, severityOf(class), string(at), host, string(name), pid), text...)
	}
	return append(appendHead(b, severityInfo, "-", host, "millrace", pid), line...)
}

// appendHead appends what stands before the text: no MSGID and no STRUCTURED-DATA.
func appendHead(b []byte, severity int, at, host, name, pid string) []byte {
	return fmt.Appendf(b, "<%d>1 %s %s %s %s - - ", facilityMail*8+severity, at, host, name, pid)
}

// severityOf returns the severity of a level in a line of JSON, or of the word that a line in Postfix's form begins
// with.
func severityOf(level []byte) int {
	switch string(level) {
	case "DEBUG":
		return severityDebug
	case "WARN", "warning":
		return severityWarning
	case "ERROR", "error":
		return severityError
	}
	return severityInfo
}

// isStamp reports whether at is the time of a line of the log, which is one of RFC 5424 section 6.2.3.
func isStamp(at []byte) bool {
	const second = len("2006-01-02T15:04:05")
	_, err := time.Parse(timeForm, string(at))
	return err == nil && at[second] == '.' // time.Parse takes a comma, too
}

// isDaemon reports whether name is that of a daemon of Postfix.
func isDaemon(name []byte) bool {
	name, is := bytes.CutPrefix(name, []byte("postfix/"))
	return is && len(name) > 0 && len(name) <= len("cleanup") &&
		len(bytes.Trim(name, "abcdefghijklmnopqrstuvwxyz")) == 0
}
