package mail

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"time"
)

// A SpanID names a step of a trace, as W3C trace context does. The zero SpanID names none.
type SpanID [8]byte

// NewSpanID returns a random SpanID.
func NewSpanID() (id SpanID) {
	binary.NativeEndian.PutUint64(id[:], rand.Uint64()|1) // never zero
	return id
}

// A Parent is the span of another program, or of another node, that a trace goes on from.
type Parent struct {
	Trace   TraceID
	Span    SpanID
	Sampled bool // it is kept there
}

// parentSize is the octets of a Parent in version 00 of W3C trace context.
const parentSize = 55

// ParseParent reads the value of traceparent of W3C trace context. Of versions that are to come the part is read that
// is known. It reports whether s is one.
func ParseParent(s string) (p Parent, ok bool) {
	if len(s) < parentSize || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Parent{}, false
	}
	var version, flags [1]byte
	for _, part := range []struct {
		out []byte
		in  string
	}{{version[:], s[:2]}, {p.Trace[:], s[3:35]}, {p.Span[:], s[36:52]}, {flags[:], s[53:55]}} {
		if !decodeLowerHex(part.out, part.in) {
			return Parent{}, false
		}
	}
	switch {
	case version[0] == 0xff, p.Trace.IsZero(), p.Span == SpanID{}:
		return Parent{}, false
	case version[0] == 0 && len(s) != parentSize, len(s) > parentSize && s[parentSize] != '-':
		return Parent{}, false
	}
	p.Sampled = flags[0]&1 != 0
	return p, true
}

// decodeLowerHex decodes hexadecimal digits in lower case, the only ones that W3C trace context has.
func decodeLowerHex(out []byte, s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	_, err := hex.Decode(out, []byte(s))
	return err == nil
}

// String returns p as the value of traceparent, "" for the zero Parent.
func (p Parent) String() string {
	if p == (Parent{}) {
		return ""
	}
	b := make([]byte, 0, parentSize)
	b = append(hex.AppendEncode(append(b, "00-"...), p.Trace[:]), '-')
	b = append(hex.AppendEncode(b, p.Span[:]), "-00"...)
	if p.Sampled {
		b[parentSize-1] = '1'
	}
	return string(b)
}

// A StepKind says what a Step is.
type StepKind uint8

// The kinds of Step: those of the node that has the client, and behind StepMX those on the way to a next hop.
const (
	StepConnect StepKind = iota // of the connection, before its first transaction
	StepScore                   // the wait for the verdict on the client
	StepSPF                     // the check of the client's reverse-path and name
	StepRoute                   // the rules
	StepRates                   // the wait for the store's answer about a recipient
	StepHook                    // a hook is asked where mail for a recipient goes
	StepReceive                 // the message, from our 354 to its last octet
	StepAuth                    // the wait for DKIM, DMARC and ARC at the end of the message
	StepFilter                  // what a content filter was waited for
	StepRefused                 // a moment: a command was refused
	StepMX                      // hosts and Site of a next hop
	StepPool                    // the wait for a session
	StepDial                    // a session is opened
	StepTried                   // a host, or an address of one, that did not serve the message
	StepTLS                     // the handshake of a session that was opened
	StepRcpt                    // MAIL, with the first recipient, and RCPT
	StepReplay                  // MAIL and the accepted recipients again, on another session
	StepPlace                   // the wait for a place to stream
	StepSend                    // the message, from DATA to its last octet
	StepLedger                  // the ledger is asked
	StepDot                     // the end of data, and the wait for the reply to it
	StepKinds   = int(StepDot) + 1
)

var stepNames = [StepKinds]string{
	"connect", "score", "spf", "route", "rates", "hook", "receive", "auth", "filter", "refused", "mx", "pool", "dial",
	"tried", "tls", "rcpt", "replay", "place", "send", "ledger", "dot",
}

// String returns the kind's name in lower case.
func (k StepKind) String() string {
	if int(k) < StepKinds {
		return stepNames[k]
	}
	return "unknown"
}

// A Step is a part of a transaction that its trace shows. It holds no pointer, so that writing one down costs little:
// what few steps have stands in a Note.
type Step struct {
	Kind  StepKind
	Open  bool          // it has not ended
	Above int16         // the index of the step that it is a part of; -1 for none
	note  int16         // the place of its Note, from 1; 0 for none
	Began time.Duration // since Steps.Start
	Took  time.Duration
}

// A Note is what is known of few steps.
type Note struct {
	Err  error // what the step ended with; nil for success
	Host string
	Addr netip.AddrPort
	Text string // the command that was refused, or the cause of what did not serve
}

// maxSteps bounds what Steps hold. What does not fit is counted.
const maxSteps = 64

// Steps are the steps of one transaction, or of its way to one next hop, in the order in which they began. The methods
// of nil Steps do nothing. They are used by one goroutine at a time.
type Steps struct {
	Start   time.Time // where the times of steps count from; the begin of the first one where it was not set
	Parent  Parent    // what the steps are part of, as the next node is told
	Failed  bool      // a step did not succeed
	List    []Step
	Dropped int // steps that found no room

	notes []Note
	under int16 // the innermost step that is open, and 1; 0 for none
	first [10]Step
}

// since returns t as steps have it.
func (s *Steps) since(t time.Time) time.Duration {
	if s.Start.IsZero() {
		s.Start = t
	}
	return t.Sub(s.Start)
}

// now returns the present as steps have it.
func (s *Steps) now() time.Duration {
	if s.Start.IsZero() {
		s.Start = time.Now()
	}
	return time.Since(s.Start)
}

// add adds a step, and returns its index; -1 if it found no room.
func (s *Steps) add(kind StepKind, open bool, began, took time.Duration) int {
	if len(s.List) == maxSteps {
		s.Dropped++
		return -1
	}
	if s.List == nil {
		s.List = s.first[:0]
	}
	s.List = append(s.List, Step{Kind: kind, Open: open, Above: s.under - 1, Began: began, Took: took})
	return len(s.List) - 1
}

// enter begins a step.
func (s *Steps) enter(kind StepKind, began time.Duration) int {
	at := s.add(kind, true, began, 0)
	if at >= 0 {
		s.under = int16(at) + 1
	}
	return at
}

// Has reports whether there is a step of a kind.
func (s *Steps) Has(kind StepKind) bool {
	for i := range s.List {
		if s.List[i].Kind == kind {
			return true
		}
	}
	return false
}

// Enter begins a step, inside of the one that was entered last and not left. It returns what Leave is to be told.
func (s *Steps) Enter(kind StepKind) int {
	if s == nil {
		return -1
	}
	return s.enter(kind, s.now())
}

// EnterAt is Enter where it is known when the step began.
func (s *Steps) EnterAt(kind StepKind, began time.Time) int {
	if s == nil {
		return -1
	}
	return s.enter(kind, s.since(began))
}

// isOpen reports whether there is a step that has not ended.
func (s *Steps) isOpen(at int) bool { return s != nil && at >= 0 && s.List[at].Open }

// Leave ends a step, and those inside of it that were not. err is what it ended with, nil for success. To leave it
// again does nothing.
func (s *Steps) Leave(at int, err error) {
	if s.isOpen(at) {
		s.leave(at, s.now(), err)
	}
}

// LeaveAfter is Leave where it is known how long the step took.
func (s *Steps) LeaveAfter(at int, took time.Duration, err error) {
	if s.isOpen(at) {
		s.leave(at, s.List[at].Began+took, err)
	}
}

// Next ends a step with success, if it is open, and begins another one at that moment.
func (s *Steps) Next(at int, kind StepKind) int {
	if s == nil {
		return -1
	}
	now := s.now()
	if s.isOpen(at) {
		s.leave(at, now, nil)
	}
	return s.enter(kind, now)
}

func (s *Steps) leave(at int, now time.Duration, err error) {
	for i := at; i < len(s.List); i++ {
		if step := &s.List[i]; step.Open {
			step.Open, step.Took = false, now-step.Began
		}
	}
	if s.under = s.List[at].Above + 1; err != nil {
		s.Failed = true
		s.noteOf(at).Err = err
	}
}

// noteOf returns the Note of a step, which is made where there is none.
func (s *Steps) noteOf(at int) *Note {
	step := &s.List[at]
	if step.note == 0 {
		s.notes = append(s.notes, Note{})
		step.note = int16(len(s.notes))
	}
	return &s.notes[step.note-1]
}

// Note returns what is known of a step besides its times. It is zero for most.
func (s *Steps) Note(at int) Note {
	if n := s.List[at].note; n > 0 {
		return s.notes[n-1]
	}
	return Note{}
}

// At says which host a step is about.
func (s *Steps) At(at int, host string, addr netip.AddrPort) {
	if s != nil && at >= 0 {
		n := s.noteOf(at)
		n.Host, n.Addr = host, addr
	}
}

// Add adds a step that is over.
func (s *Steps) Add(kind StepKind, began time.Time, took time.Duration, n Note) {
	if s == nil {
		return
	}
	s.Failed = s.Failed || n.Err != nil || kind == StepTried
	if at := s.add(kind, false, s.since(began), took); at >= 0 && n != (Note{}) {
		*s.noteOf(at) = n
	}
}

// busy returns how long the steps took that are no part of others.
func (s *Steps) busy() (all time.Duration) {
	for i := range s.List {
		if s.List[i].Above < 0 {
			all += s.List[i].Took
		}
	}
	return all
}

// reset forgets all steps.
func (s *Steps) reset() {
	clear(s.notes)
	s.Start, s.Parent, s.Failed, s.List, s.Dropped, s.under = time.Time{}, Parent{}, false, s.List[:0], 0, 0
	s.notes = s.notes[:0]
}
