package filter

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"github.com/millrace/millrace/router/mail"
)

// The milter protocol in version 6, as libmilter has it: packets of a length in four octets, a letter, and data. It is
// spoken here: the libraries that there are write each chunk of a body in two writes and allocate for it, take packets
// of half a gigabyte, panic at an empty one and know neither a deadline for a whole answer nor an end of ctx.

// The letters of commands.
const (
	milterNegotiate = 'O'
	milterMacro     = 'D'
	milterConnect   = 'C'
	milterHelo      = 'H'
	milterMail      = 'M'
	milterRcpt      = 'R'
	milterData      = 'T'
	milterHeader    = 'L'
	milterEOH       = 'N'
	milterBody      = 'B'
	milterEnd       = 'E'
	milterQuit      = 'Q'
)

// The letters of answers, and of the changes that are asked for before the last answer.
const (
	milterContinue   = 'c'
	milterAccept     = 'a'
	milterDiscard    = 'd'
	milterReject     = 'r'
	milterTempfail   = 't'
	milterReply      = 'y'
	milterSkip       = 's'
	milterProgress   = 'p'
	milterShutdown   = '4'
	milterAddRcpt    = '+'
	milterAddRcpt2   = '2'
	milterDelRcpt    = '-'
	milterNewBody    = 'b'
	milterAddField   = 'h'
	milterInsField   = 'i'
	milterNewField   = 'm'
	milterNewFrom    = 'e'
	milterQuarantine = 'q'
)

// The flags by which a filter leaves out steps (no) or its answers to them (mute), and others.
const (
	noConnect  = 1 << 0
	noHelo     = 1 << 1
	noMail     = 1 << 2
	noRcpt     = 1 << 3
	noBody     = 1 << 4
	noHeader   = 1 << 5
	noEOH      = 1 << 6
	muteHeader = 1 << 7
	noUnknown  = 1 << 8
	noData     = 1 << 9
	maySkip    = 1 << 10

	muteConnect = 1 << 12
	muteHelo    = 1 << 13
	muteMail    = 1 << 14
	muteRcpt    = 1 << 15
	muteData    = 1 << 16
	muteUnknown = 1 << 17
	muteEOH     = 1 << 18
	muteBody    = 1 << 19
	leadSpace   = 1 << 20 // values of fields come with the blank behind the colon

	// offered are all of these. Filters are not told of refused recipients.
	offered = noConnect | noHelo | noMail | noRcpt | noBody | noHeader | noEOH | muteHeader | noUnknown | noData |
		maySkip | muteConnect | muteHelo | muteMail | muteRcpt | muteData | muteUnknown | muteEOH | muteBody | leadSpace
	// changes are all that a filter can ask for. They are offered, because filters do not start without those that they
	// may need, and what comes of each is decided when it is asked for.
	changes = 1<<8 - 1
)

const (
	milterVersion = 6
	// milterChunk is the most data of a packet with octets of the message, and milterField that of one with a field.
	// What is longer in a field is cut: libmilter takes no more.
	milterChunk = 65535
	milterField = 60 << 10
	// maxPacket and maxBodyPacket bound the data of an answer in octets, of one that is read and of one with a new
	// body.
	maxPacket     = 64 << 10
	maxBodyPacket = 1 << 20
)

var errMilter = errors.New("it does not speak the milter protocol")

// A milterScan is a message at a milter: one connection, which begins with CONNECT and ends with its answer.
type milterScan struct {
	conn     net.Conn
	in       *bufio.Reader
	envelope *Envelope
	version  uint32
	steps    uint32 // the flags that it wants
	out      []byte // the packet that is composed
	rcpts    int    // recipients that it took
	said     Answer // what stands for the message
	decided  bool   // no more is said of it
	skip     bool   // it needs no more fields, or no more of the body
	broken   bool   // the dialogue is out of step

	section
	vec    net.Buffers // octets of the body that go out with the next packet
	queue  int         // how many
	packet net.Buffers // the packet that goes out with them
}

// openMilter connects, negotiates, and tells of the client, the reverse-path and the recipients that there are.
func (f *Filter) openMilter(ctx context.Context, e *Envelope) (Scan, error) {
	conn, err := f.dial(ctx, f.cfg.Milter)
	if err != nil {
		return nil, err
	}
	s := &milterScan{conn: conn, in: bufio.NewReaderSize(conn, 1024), envelope: e}
	s.section.field = s.tellField
	err = s.within(ctx, func() error {
		if err := s.negotiate(); err != nil {
			return err
		}
		for _, step := range []func() error{s.connect, s.helo, s.mail} {
			if err := step(); err != nil || s.decided {
				return err
			}
		}
		for _, forward := range e.Forwards {
			a, err := s.rcpt(forward)
			if err != nil || s.decided {
				return err
			}
			if a.Action >= Tempfail && !forward.IsPostmasterOrAbuse() {
				s.change(a)
				return nil
			}
		}
		return nil
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// change takes what the filter says of a recipient that was taken before: the message cannot go to the others alone.
func (s *milterScan) change(a Answer) {
	if a.Action == Reject && len(s.envelope.Forwards) > 1 {
		a = Answer{Action: Tempfail}
	}
	s.said, s.decided = a, true
}

// within is within for the connection. An error ends the dialogue.
func (s *milterScan) within(ctx context.Context, do func() error) error {
	err := within(ctx, s.conn, do)
	s.broken = s.broken || err != nil
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) {
		return errClosed
	}
	return err
}

// send sends a packet.
func (s *milterScan) send(command byte, data []byte) error {
	s.out = binary.BigEndian.AppendUint32(s.out[:0], uint32(1+len(data)))
	s.out = append(append(s.out, command), data...)
	_, err := s.conn.Write(s.out)
	return err
}

// read reads a packet. Its data stand until the next one is read; those of a new body are dropped.
func (s *milterScan) read() (letter byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return 0, nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:])) - 1
	letter = head[4]
	switch {
	case n < 0 || n > maxBodyPacket || n > maxPacket && letter != milterNewBody:
		return 0, nil, errMilter
	case letter == milterNewBody:
		_, err = s.in.Discard(int(n))
		return letter, nil, err
	}
	data = make([]byte, n)
	_, err = io.ReadFull(s.in, data)
	return letter, data, err
}

// negotiate agrees on version and steps.
func (s *milterScan) negotiate() error {
	var offer [12]byte
	binary.BigEndian.PutUint32(offer[0:], milterVersion)
	binary.BigEndian.PutUint32(offer[4:], changes)
	binary.BigEndian.PutUint32(offer[8:], offered)
	if err := s.send(milterNegotiate, offer[:]); err != nil {
		return err
	}
	letter, data, err := s.read()
	if err != nil {
		return err
	}
	if letter != milterNegotiate || len(data) < 12 {
		return errMilter
	}
	s.version = binary.BigEndian.Uint32(data)
	s.steps = binary.BigEndian.Uint32(data[8:]) &^ (7 << 28) // sizes of chunks, which stay the least one
	if s.version < 2 || s.version > milterVersion || s.steps&^offered != 0 {
		return errMilter
	}
	if s.version < 4 {
		s.steps |= noData
	}
	return nil
}

// macros sends the macros of a command, those that say something.
func (s *milterScan) macros(command byte, pairs ...string) error {
	data := []byte{command}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			data = appendText(appendText(data, pairs[i]), pairs[i+1])
		}
	}
	if len(data) == 1 {
		return nil
	}
	return s.send(milterMacro, data)
}

// appendText appends a text and the NUL that ends it.
func appendText[T string | []byte](b []byte, s T) []byte {
	for i := range len(s) {
		if s[i] != 0 {
			b = append(b, s[i])
		}
	}
	return append(b, 0)
}

// ask sends a command and reads the answer, unless the filter leaves out the step (no) or its answer (mute).
func (s *milterScan) ask(command byte, data []byte, no, mute uint32) (letter byte, answer []byte, err error) {
	if s.steps&no != 0 {
		return milterContinue, nil, nil
	}
	if err := s.send(command, data); err != nil {
		return 0, nil, err
	}
	if s.steps&mute != 0 {
		return milterContinue, nil, nil
	}
	for {
		letter, answer, err = s.read()
		if err != nil || letter != milterProgress {
			return letter, answer, err
		}
	}
}

// step is ask for a step after which the message may be decided on.
func (s *milterScan) step(command byte, data []byte, no, mute uint32) error {
	letter, answer, err := s.ask(command, data, no, mute)
	if err != nil {
		return err
	}
	a, last, err := answerOf(letter, answer)
	if err == nil && last {
		s.said.Action, s.said.Reply, s.decided = a.Action, a.Reply, true
	}
	return err
}

// answerOf returns what an answer says, and whether it is the last one about a message.
func answerOf(letter byte, data []byte) (a Answer, last bool, err error) {
	switch letter {
	case milterContinue, milterSkip:
		return Answer{}, false, nil
	case milterAccept:
		return Answer{}, true, nil
	case milterDiscard:
		return Answer{Action: Discard}, true, nil
	case milterReject:
		return Answer{Action: Reject}, true, nil
	case milterTempfail, milterShutdown:
		return Answer{Action: Tempfail}, true, nil
	case milterReply:
		a.Reply = replyOf(textOf(data), mail.Reply{})
		switch a.Reply.Class() {
		case 4:
			a.Action = Tempfail
		case 5:
			a.Action = Reject
		default:
			return Answer{}, false, errMilter
		}
		return a, true, nil
	}
	return Answer{}, false, errMilter
}

// textOf returns a text without the NUL that ends it, and what stands behind that.
func textOf(data []byte) string {
	for i, c := range data {
		if c == 0 {
			return string(data[:i])
		}
	}
	return string(data)
}

// connect tells of the client.
func (s *milterScan) connect() error {
	e := s.envelope
	if err := s.macros(milterConnect, "j", e.Hostname, "{daemon_name}", "millrace", "v", "Millrace"); err != nil {
		return err
	}
	a, name := e.Client.Addr().Unmap(), e.Name
	data := []byte{'U'}
	switch {
	case !a.IsValid():
		if name == "" {
			name = "unknown"
		}
	default:
		if name == "" {
			name = "[" + a.String() + "]"
		}
		if data[0] = '4'; a.Is6() {
			data[0] = '6'
		}
		data = appendText(binary.BigEndian.AppendUint16(data, e.Client.Port()), a.String())
	}
	return s.step(milterConnect, append(appendText(nil, name), data...), noConnect, muteConnect)
}

func (s *milterScan) helo() error {
	if err := s.macros(milterHelo, "{tls_version}", s.envelope.TLS); err != nil {
		return err
	}
	return s.step(milterHelo, appendText(nil, s.envelope.Helo), noHelo, muteHelo)
}

func (s *milterScan) mail() error {
	e := s.envelope
	method := ""
	if e.User != "" {
		method = "PLAIN"
	}
	err := s.macros(milterMail, "i", e.Trace.String(), "{auth_type}", method, "{auth_authen}", e.User, "{mail_addr}",
		e.Reverse.String())
	if err != nil {
		return err
	}
	return s.step(milterMail, appendText(nil, "<"+e.Reverse.String()+">"), noMail, muteMail)
}

// rcpt tells of a recipient, and returns what the filter says of it alone.
func (s *milterScan) rcpt(forward mail.Path) (Answer, error) {
	if err := s.macros(milterRcpt, "{rcpt_addr}", forward.String()); err != nil {
		return Answer{}, err
	}
	letter, data, err := s.ask(milterRcpt, appendText(nil, "<"+forward.String()+">"), noRcpt, muteRcpt)
	if err != nil {
		return Answer{}, err
	}
	a, last, err := answerOf(letter, data)
	switch {
	case err != nil:
	case a.Action <= Discard && last:
		s.said.Action, s.decided = a.Action, true
	case a.Action == Accept:
		s.rcpts++
	}
	return a, err
}

// Rcpt tells of a recipient. What is decided about the client or the reverse-path is said of each.
func (s *milterScan) Rcpt(ctx context.Context, forward mail.Path) (a Answer, decided bool, err error) {
	if s.decided {
		return s.said, true, nil
	}
	err = s.within(ctx, func() (err error) { a, err = s.rcpt(forward); return err })
	if s.decided {
		a = s.said
	}
	return a, s.decided, err
}

// data says that the recipients are complete. A filter that took none has nothing to say of the message.
func (s *milterScan) data() error {
	s.section.begun = true
	if s.rcpts == 0 {
		s.decided = true
		return nil
	}
	if err := s.macros(milterData, "i", s.envelope.Trace.String()); err != nil {
		return err
	}
	return s.step(milterData, nil, noData, muteData)
}

// Write passes octets on: fields one by one, and then the body.
func (s *milterScan) Write(ctx context.Context, plain [][]byte) (decided bool, err error) {
	err = s.within(ctx, func() error {
		if !s.section.begun && !s.decided {
			if err := s.data(); err != nil {
				return err
			}
		}
		for _, p := range plain {
			if s.decided {
				return nil
			}
			rest, err := s.section.feed(p)
			if err == nil {
				err = s.body(rest)
			}
			if err != nil {
				return err
			}
		}
		return s.flush()
	})
	return s.decided, err
}

// tellField tells of a field, or with nil of the end of the header section.
func (s *milterScan) tellField(field []byte) error {
	if s.decided {
		return nil
	}
	if field == nil {
		s.skip = false
		return s.step(milterEOH, nil, noEOH, muteEOH)
	}
	if s.skip || s.steps&noHeader != 0 {
		return nil
	}
	named := appendMilterField(nil, field, s.steps&leadSpace != 0)
	letter, data, err := s.ask(milterHeader, named, noHeader, muteHeader)
	if err != nil {
		return err
	}
	return s.goOn(letter, data)
}

// body queues octets of the body, and sends what fills a packet.
func (s *milterScan) body(p []byte) error {
	for len(p) > 0 && !s.decided && !s.skip && s.steps&noBody == 0 {
		n := min(len(p), milterChunk-s.queue)
		s.vec, s.queue = append(s.vec, p[:n]), s.queue+n
		if p = p[n:]; s.queue == milterChunk {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush sends the octets of the body that are queued, and reads the answer.
func (s *milterScan) flush() error {
	if s.queue == 0 || s.decided {
		return nil
	}
	s.out = append(binary.BigEndian.AppendUint32(s.out[:0], uint32(1+s.queue)), milterBody)
	out := append(s.packet[:0], s.out)
	out = append(out, s.vec...)
	s.packet = out
	_, err := out.WriteTo(s.conn)
	clear(s.packet)
	s.vec, s.queue = s.vec[:0], 0
	if err != nil || s.steps&muteBody != 0 {
		return err
	}
	for {
		letter, data, err := s.read()
		switch {
		case err != nil:
			return err
		case letter != milterProgress:
			return s.goOn(letter, data)
		}
	}
}
