package dev

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"
)

// patience is how long the client of the tour waits for a reply.
const patience = 30 * time.Second

// A reply is what the server said to one command.
type reply struct {
	code  string
	lines []string // without CRLF, codes included
}

func (r reply) ok() bool { return r.code != "" && (r.code[0] == '2' || r.code[0] == '3') }

// last returns the last line, which holds the trace id.
func (r reply) last() string {
	if len(r.lines) == 0 {
		return ""
	}
	return r.lines[len(r.lines)-1]
}

// A line is one line of a dialogue. side is C for the client, S for the server and - for a note.
type line struct{ side, text string }

// A client is an SMTP client that records every command and reply, so that a reader can follow. It does not pipeline.
type client struct {
	conn   net.Conn
	r      *bufio.Reader
	spoken []line
}

// dial connects and reads the greeting.
func dial(addr string) (*client, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, r: bufio.NewReader(conn)}
	greeting, err := c.read()
	if err != nil || !greeting.ok() {
		conn.Close()
		return nil, fmt.Errorf("greeting %q: %w", greeting.last(), err)
	}
	return c, nil
}

// say sends a command and reads its reply.
func (c *client) say(format string, args ...any) (reply, error) {
	command := fmt.Sprintf(format, args...)
	c.spoken = append(c.spoken, line{"C", command})
	return c.write(command + "\r\n")
}

// octets sends the octets of a message and reads the reply. The record holds the note in their place.
func (c *client) octets(octets, note string) (reply, error) {
	c.spoken = append(c.spoken, line{"C", note})
	return c.write(octets)
}

func (c *client) write(octets string) (reply, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return reply{}, err
	}
	if _, err := c.conn.Write([]byte(octets)); err != nil {
		return reply{}, err
	}
	return c.read()
}

func (c *client) read() (reply, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return reply{}, err
	}
	var r reply
	for {
		text, err := c.r.ReadString('\n')
		if err != nil {
			return r, err
		}
		text = strings.TrimRight(text, "\r\n")
		if len(text) < 3 {
			return r, fmt.Errorf("no reply: %q", text)
		}
		r.code, r.lines = text[:3], append(r.lines, text)
		c.spoken = append(c.spoken, line{"S", text})
		if len(text) == 3 || text[3] != '-' {
			return r, nil
		}
	}
}

// startTLS begins TLS after the server's 220. The certificate of the node is self-signed, so it is not verified.
func (c *client) startTLS() error {
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := conn.Handshake(); err != nil {
		return err
	}
	c.conn, c.r = conn, bufio.NewReader(conn)
	c.spoken = append(c.spoken, line{"-", tls.VersionName(conn.ConnectionState().Version) + " from here on"})
	return nil
}

// close sends QUIT and closes the connection. Errors are ignored.
func (c *client) close() {
	spoken := c.spoken
	c.say("QUIT")
	c.spoken = spoken // QUIT is not recorded
	c.conn.Close()
}

// A letter is one message to send.
type letter struct {
	helo    string
	reverse string
	forward string
	octets  string // with CRLF, unstuffed
	tls     bool
	chunked bool // BDAT instead of DATA
}

// send sends a letter to the server in one connection. It returns the reply that decided, the verb that was answered
// with it, and all that was spoken.
func send(addr string, l letter) (decided reply, verb string, spoken []line, err error) {
	c, err := dial(addr)
	if err != nil {
		return reply{}, "", nil, err
	}
	defer func() {
		c.close()
		spoken = c.spoken
	}()
	if _, err = c.say("EHLO %s", l.helo); err != nil {
		return reply{}, "EHLO", nil, err
	}
	if l.tls {
		if r, err := c.say("STARTTLS"); err != nil || !r.ok() {
			return r, "STARTTLS", nil, err
		}
		if err = c.startTLS(); err != nil {
			return reply{}, "STARTTLS", nil, err
		}
		if r, err := c.say("EHLO %s", l.helo); err != nil || !r.ok() {
			return r, "EHLO", nil, err
		}
	}
	for _, command := range []string{"MAIL FROM:<" + l.reverse + ">", "RCPT TO:<" + l.forward + ">"} {
		if r, err := c.say("%s", command); err != nil || !r.ok() {
			return r, command[:4], nil, err
		}
	}
	if l.chunked {
		decided, err = c.octets(fmt.Sprintf("BDAT %d LAST\r\n%s", len(l.octets), l.octets),
			fmt.Sprintf("BDAT %d LAST, and that many octets", len(l.octets)))
		return decided, "BDAT", nil, err
	}
	if r, err := c.say("DATA"); err != nil || !r.ok() {
		return r, "DATA", nil, err
	}
	stuffed := strings.ReplaceAll("\r\n"+l.octets, "\r\n.", "\r\n..")[2:]
	decided, err = c.octets(stuffed+".\r\n", fmt.Sprintf("(%d octets) and a dot", len(l.octets)))
	return decided, "the dot", nil, err
}
