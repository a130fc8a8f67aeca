package filter

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// goOn takes the answer to a field or to a piece of the body.
func (s *milterScan) goOn(letter byte, data []byte) error {
	a, last, err := answerOf(letter, data)
	switch {
	case err != nil:
		return err
	case last:
		s.said.Action, s.said.Reply, s.decided = a.Action, a.Reply, true
	case letter == milterSkip:
		s.skip = true
	}
	return nil
}

// End says that the message has ended, and reads the changes that the filter asks for and its answer.
func (s *milterScan) End(ctx context.Context) (Answer, error) {
	if s.decided {
		return s.said, nil
	}
	err := s.within(ctx, func() error {
		if !s.section.begun {
			if err := s.data(); err != nil {
				return err
			}
		}
		rest, err := s.section.end()
		if err == nil {
			err = s.body(rest)
		}
		if err == nil {
			err = s.flush()
		}
		if err != nil || s.decided {
			return err
		}
		if err := s.macros(milterEnd, "i", s.envelope.Trace.String()); err != nil {
			return err
		}
		if err := s.send(milterEnd, nil); err != nil {
			return err
		}
		return s.readEnd()
	})
	return s.said, err
}

// readEnd reads what follows the end of the message.
func (s *milterScan) readEnd() error {
	out := fields{answer: &s.said, envelope: s.envelope}
	for {
		letter, data, err := s.read()
		if err != nil {
			return err
		}
		switch letter {
		case milterProgress:
		case milterAddRcpt, milterAddRcpt2:
			s.said.refuse("recipient added")
		case milterDelRcpt:
			s.said.refuse("recipient removed")
		case milterNewBody:
			s.said.refuseOnce("body")
		case milterNewFrom:
			s.said.refuse("reverse-path")
		case milterQuarantine:
			s.said.Quarantine = textOf(data)
			if s.said.Quarantine == "" {
				s.said.Quarantine = "no reason"
			}
		case milterAddField, milterInsField, milterNewField:
			if letter != milterAddField {
				if len(data) < 4 {
					return errMilter
				}
				data = data[4:]
			}
			if err := out.addMilterField(letter, data); err != nil {
				return err
			}
		default:
			s.decided = true
			return s.goOn(letter, data)
		}
	}
}

// addMilterField adds a field that a milter wants added, wherever it wants it, or notes that one is not changed.
func (f *fields) addMilterField(letter byte, data []byte) error {
	name, value, ok := bytes.Cut(data, []byte{0})
	if !ok {
		return errMilter
	}
	text := textOf(value)
	switch {
	case letter != milterNewField:
		f.add(string(name), text)
	case !isFieldName(string(name)):
		f.answer.refuse("field with a name that is none")
	case text == "":
		f.answer.refuse("field " + ascii.Fold(string(name)) + " removed")
	default:
		f.answer.refuse("field " + ascii.Fold(string(name)) + " changed")
	}
	return nil
}

// refuseOnce notes a change that comes in several packets.
func (a *Answer) refuseOnce(change string) {
	if n := len(a.Changes); n == 0 || a.Changes[n-1] != change {
		a.refuse(change)
	}
}

// quitTime bounds the farewell to a milter.
const quitTime = 100 * time.Millisecond

// Close ends the dialogue and closes the connection.
func (s *milterScan) Close() {
	if !s.broken {
		_ = s.conn.SetDeadline(time.Now().Add(quitTime))
		_ = s.send(milterQuit, nil)
	}
	s.conn.Close()
}

// appendMilterField appends a field as milters get it: name and value, with LF alone where it is folded and without the
// blank behind the colon, unless they want that.
func appendMilterField(b, field []byte, lead bool) []byte {
	name, value, _ := bytes.Cut(field, []byte{':'})
	b = appendText(b, bytes.TrimRight(name, " \t"))
	value = bytes.TrimRight(value, "\r\n")
	if !lead && len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	return appendText(b, strings.ReplaceAll(string(value), "\r\n", "\n"))
}

// A section reads a header section (RFC 5322 section 2.1) as it goes by, and tells of each field. Of a field it keeps
// milterField octets.
type section struct {
	field   func(field []byte) error // is told of each field, with all of its lines, and with nil of the end
	begun   bool
	ended   bool // what follows is the body
	inLine  bool // the begin of the present line was seen
	lines   int  // of the present field, without the present line
	present []byte
}

// feed reads octets, and returns those of them that are of the body.
func (h *section) feed(p []byte) (body []byte, err error) {
	for len(p) > 0 && !h.ended {
		if !h.inLine {
			h.inLine = true
			if p[0] != ' ' && p[0] != '\t' && len(h.present) > 0 {
				if err := h.tell(); err != nil {
					return nil, err
				}
			}
		}
		end := bytes.IndexByte(p, '\n') + 1
		line := p
		if end > 0 {
			line = p[:end]
		}
		h.present = append(h.present, line[:min(len(line), milterField-len(h.present))]...)
		if p = p[len(line):]; end == 0 {
			return nil, nil
		}
		h.inLine = false
		if h.lines++; h.lines > 1 || bytes.IndexByte(h.present, ':') > 0 {
			continue
		}
		// The first line of what would be a field: it is the empty one that ends the section, or of a text without one.
		text := h.present
		h.present, h.ended = nil, true
		if err := h.field(nil); err != nil {
			return nil, err
		}
		if len(bytes.TrimRight(text, "\r\n")) > 0 {
			p = append(text, p...)
		}
		return p, nil
	}
	return p, nil
}

// tell tells of the present field.
func (h *section) tell() error {
	err := h.field(h.present)
	h.present, h.lines = h.present[:0], 0
	return err
}

// end ends a section whose message has ended, and returns what is of the body: a line that is no field.
func (h *section) end() (body []byte, err error) {
	if h.ended {
		return nil, nil
	}
	h.ended = true
	if bytes.IndexByte(h.present, ':') > 0 {
		if err := h.tell(); err != nil {
			return nil, err
		}
	}
	body = h.present
	return body, h.field(nil)
}
