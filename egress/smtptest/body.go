package smtptest

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// body collects the octets of a message.
type body struct {
	raw     []byte
	read    int64 // octets that came, those over the limit included
	refused bool  // a Fault has replied already
	faulted bool
}

// data reads a message by DATA.
func (c *session) data(b *Behaviour, step Step) error {
	switch {
	case c.phase == noMail:
		return c.say(step, "503 5.5.1 MAIL first")
	case c.phase >= inBody:
		c.violation("DATA behind BDAT")
		return c.say(step, "503 5.5.1 BDAT has begun")
	case len(c.tx.Forwards) == 0:
		c.violation("DATA without a recipient")
		return c.say(step, "554 5.5.1 No valid recipients")
	}
	if c.in.Buffered() > 0 {
		c.violation("octets behind DATA before 354")
	}
	got, err := c.answer(step, "354 Go ahead")
	if err != nil || got[0] != '3' {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.phase = inBody
	if err := c.readStuffed(b); err != nil {
		return err
	}
	c.tx.Raw = c.bytes.raw
	c.tx.Octets = unstuff(c.bytes.raw)
	return c.ended(b)
}

// readStuffed reads up to CRLF.CRLF, which alone ends the data (RFC 5321 section 4.1.1.4).
func (c *session) readStuffed(b *Behaviour) error {
	const (
		inside = iota // of a line
		cr            // behind a CR
		start         // of a line
		dot           // behind a dot that opened a line
		dotCR         // behind its CR
	)
	state := start
	if err := c.fault(b); err != nil {
		return err
	}
	for {
		o, err := c.in.ReadByte()
		if err != nil {
			return err
		}
		if state == dotCR && o == '\n' {
			c.bytes.raw = c.bytes.raw[:max(0, len(c.bytes.raw)-len(".\r"))]
			return nil
		}
		if err := c.take(b, o); err != nil {
			return err
		}
		switch {
		case o == '\n' && state == cr:
			state = start
		case o == '.' && state == start:
			state = dot
		case o == '\r' && state == dot:
			state = dotCR
		case o == '\r':
			state = cr
		default:
			state = inside
		}
	}
}

// take keeps one octet and lets the Fault happen when its time has come.
func (c *session) take(b *Behaviour, o byte) error {
	c.bytes.read++
	if b.Size <= 0 || c.bytes.read <= b.Size+1024 { // what is over is refused in the end; the margin is for dots
		c.bytes.raw = append(c.bytes.raw, o)
	}
	return c.fault(b)
}

func (c *session) fault(b *Behaviour) error {
	if b.Body == nil || c.bytes.faulted || c.bytes.read < b.Body.After {
		return nil
	}
	c.bytes.faulted = true
	if a := b.Body.Answer; a != (Answer{}) {
		c.bytes.refused = a.Reply != ""
		if _, err := c.perform(a, ""); err != nil {
			return err
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
	if !b.Body.Stall {
		return nil
	}
	<-c.server.done // a session that stalls does not read, so it does not see its client leave
	return errEnd
}

// unstuff removes the dot that opens a line (RFC 5321 section 4.5.2).
func unstuff(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i, o := range raw {
		if o == '.' && (i == 0 || i >= 2 && raw[i-1] == '\n' && raw[i-2] == '\r') {
			continue
		}
		out = append(out, o)
	}
	return out
}

// bdat reads one chunk (RFC 3030 section 2).
func (c *session) bdat(b *Behaviour, step Step, arg string) error {
	size, last, ok := parseChunk(arg)
	if !ok {
		c.violation("malformed " + strconv.Quote(step.Line))
		c.write("501 5.5.4 Malformed BDAT")
		return errEnd // what follows cannot be told from commands
	}
	refuse := ""
	switch {
	case !b.offers("CHUNKING"):
		c.violation("BDAT although CHUNKING was not offered")
		refuse = "502 5.5.1 No BDAT here"
	case c.phase == chunkFailed:
		refuse = "503 5.5.1 An earlier chunk failed"
	case c.phase == noMail || len(c.tx.Forwards) == 0:
		c.violation("BDAT without a recipient")
		refuse = "503 5.5.1 No valid recipients"
	}
	if refuse != "" {
		if _, err := io.CopyN(io.Discard, c.in, size); err != nil {
			return err
		}
		return c.say(step, refuse)
	}
	c.phase = inBody
	for range size {
		o, err := c.in.ReadByte()
		if err != nil {
			return err
		}
		if err := c.take(b, o); err != nil {
			return err
		}
	}
	c.tx.Chunks = append(c.tx.Chunks, int(size))
	if c.bytes.refused {
		c.phase = chunkFailed
		c.bytes.refused = false // the Fault's reply was this chunk's
		return nil
	}
	if last {
		c.tx.Raw, c.tx.Octets = c.bytes.raw, c.bytes.raw
		return c.ended(b)
	}
	got, err := c.answer(step, "250 2.0.0 "+strconv.FormatInt(size, 10)+" octets")
	if err == nil && got[0] != '2' {
		c.phase = chunkFailed
	}
	return err
}

// parseChunk reads the parameters of BDAT.
func parseChunk(arg string) (size int64, last, ok bool) {
	number, rest, _ := strings.Cut(arg, " ")
	size, err := strconv.ParseInt(number, 10, 64)
	if err != nil || size < 0 || rest != "" && !strings.EqualFold(rest, "LAST") {
		return 0, false, false
	}
	return size, rest != "", true
}

// ended answers a true end of data, and records the message before its reply is written.
func (c *session) ended(b *Behaviour) error {
	c.phase = mailOpen // it is whole: clear counts no half
	defer c.clear()
	if c.bytes.refused {
		return nil // replied early
	}
	reply := fmt.Sprintf("250 2.0.0 OK %d octets", len(c.tx.Octets))
	if b.Size > 0 && int64(len(c.tx.Octets)) > b.Size {
		reply = "552 5.3.4 Message too big"
	}
	m := c.transaction()
	m.Time = time.Now()
	steps := []Step{{Verb: Dot, Message: m}}
	if b.LMTP {
		steps = steps[:0]
		for _, f := range c.tx.Forwards {
			steps = append(steps, Step{Verb: Dot, Forward: f, Message: m})
		}
	}
	answers := make([]Answer, len(steps))
	kept := m.Forwards[:0:0]
	for i := range steps {
		answers[i] = c.ask(&steps[i])
		m.Reply = cmp.Or(answers[i].Reply, reply)
		if m.Reply[0] == '2' && !answers[i].Discard {
			kept = append(kept, steps[i].Forward)
		}
	}
	if b.LMTP {
		m.Forwards = kept
	}
	if len(kept) > 0 {
		c.carried++
		c.server.record(m)
	}
	for _, a := range answers {
		if _, err := c.perform(a, reply); err != nil {
			return err
		}
	}
	return nil
}

// auth speaks PLAIN (RFC 4616) and LOGIN.
func (c *session) auth(b *Behaviour, step Step, arg string) error {
	if len(b.Users) == 0 || c.tls == nil {
		c.violation("AUTH although it was not offered")
		return c.say(step, "503 5.5.1 AUTH not offered")
	}
	mechanism, initial, _ := strings.Cut(arg, " ")
	user, password, err := "", "", error(nil)
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		if initial == "" {
			initial, err = c.challenge(b, "")
		}
		parts := strings.Split(decode(initial), "\x00")
		if len(parts) == 3 {
			user, password = parts[1], parts[2]
		}
	case "LOGIN":
		if user, err = c.challenge(b, "Username:"); err == nil {
			password, err = c.challenge(b, "Password:")
		}
		user, password = decode(user), decode(password)
	default:
		return c.say(step, "504 5.5.4 Mechanism unknown")
	}
	if err != nil {
		return err
	}
	reply := "235 2.7.0 Welcome"
	if want, ok := b.Users[user]; !ok || want != password {
		reply = "535 5.7.8 Wrong user or password"
	}
	got, err := c.answer(step, reply)
	if err == nil && got[0] == '2' {
		c.user = user
	}
	return err
}

func (c *session) challenge(b *Behaviour, prompt string) (string, error) {
	c.write("334 " + base64.StdEncoding.EncodeToString([]byte(prompt)))
	if err := c.flush(); err != nil {
		return "", err
	}
	line, err := c.readLine(b)
	if line == "*" {
		return "", errors.Join(errEnd, c.say(Step{Verb: "AUTH", Line: line}, "501 5.7.0 Given up"))
	}
	return line, err
}

func decode(s string) string {
	out, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace([]byte(s))))
	if err != nil {
		return ""
	}
	return string(out)
}
