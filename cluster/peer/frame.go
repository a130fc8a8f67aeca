package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A kind is the kind of a frame. A frame is its kind in one octet, the length of what follows in four, most significant
// first, and that many octets: fields for all kinds but data and commit.
type kind uint8

const (
	hello  kind = iota + 1 // first on both sides: versions
	open                   // a transaction begins; answered
	rcpt                   // a recipient; answered
	renew                  // mail.Lender.Renew; answered
	lend                   // mail.Lender.Lend; answered
	wanted                 // mail.Lender.Wanted; answered
	data                   // a piece of the message; TCP holds back who sends too fast. What is refused is told by refused, once
	commit                 // the last piece and the end of data; answered by outcomes
	abort                  // ends the transaction undelivered; answered
	ping                   // answered by pong, at once, whatever else is waited for
	pong
	done     // the answer: it is done
	refused  // the answer: a Refusal. After data it may come unasked
	outcomes // the answer to commit
	goodbye  // the server takes no further transaction on this connection
)

const (
	frameHeader = 5
	// maxFields bounds a frame of fields, and maxPiece the octets in one. A piece that is larger is cut in two.
	maxFields = 64 << 10
	maxPiece  = 512 << 10
	// maxOutcomes bounds the outcomes of a commit: one for each recipient.
	maxOutcomes = 4096
	// maxDots bounds the dots of a piece: at least a line end stands between two.
	maxDots = maxPiece / 2
)

var errFrame = errors.New("malformed frame")

// header gives the header of a frame of n octets.
func header(b []byte, k kind, n int) []byte {
	b = append(b, byte(k))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// readHeader reads the header of a frame.
func readHeader(r io.Reader, b *[frameHeader]byte) (kind, int, error) {
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, 0, err
	}
	k, n := kind(b[0]), binary.BigEndian.Uint32(b[1:])
	most := uint32(maxFields)
	if k == data || k == commit {
		most = maxPiece + 4*maxDots
	}
	if k == 0 || n > most {
		return 0, 0, fmt.Errorf("%w: kind %d of %d octets", errFrame, k, n)
	}
	return k, int(n), nil
}

// The names of fields. A reader passes over those it does not know, so that a later version can add some.
const (
	fVersionMin = iota + 1
	fVersionMax
	fNode
	fReverseLocal
	fReverseDomain
	fForwardLocal
	fForwardDomain
	fTransport
	fHost
	fPort
	fUser
	fSize
	fBody
	fUTF8
	fExtra
	fDomain
	fClient
	fFavoured
	fTrace
	fSeal
	fEightBit
	fBudget
	fForm
	fTraceparent
	fYes
	fCode
	fSubject
	fDetail
	fText
	fReason
	fAboutUs
	fCause
	fTLS
	fReused
	fInDoubt
	fWait
	fNext // the end of one outcome
)

// A fields is a frame's fields as they are written: a name in one octet, a length in two, the value.
type fields []byte

func (f fields) text(name byte, s string) fields {
	if s == "" {
		return f
	}
	s = s[:min(len(s), math.MaxUint16)]
	f = append(f, name)
	f = binary.BigEndian.AppendUint16(f, uint16(len(s)))
	return append(f, s...)
}

func (f fields) number(name byte, n int64) fields {
	if n == 0 {
		return f
	}
	f = append(f, name, 0, 8)
	return binary.BigEndian.AppendUint64(f, uint64(n))
}

func (f fields) flag(name byte, v bool) fields {
	if !v {
		return f
	}
	return append(f, name, 0, 1, 1)
}

// next takes one field off f.
func (f fields) next() (name byte, value []byte, rest fields, err error) {
	if len(f) < 3 {
		return 0, nil, nil, errFrame
	}
	n := int(binary.BigEndian.Uint16(f[1:]))
	if len(f) < 3+n {
		return 0, nil, nil, errFrame
	}
	return f[0], f[3 : 3+n], f[3+n:], nil
}

// each gives all fields to take. Numbers of the wrong length are an error.
func (f fields) each(take func(name byte, value []byte)) error {
	for len(f) > 0 {
		name, value, rest, err := f.next()
		if err != nil {
			return err
		}
		take(name, value)
		f = rest
	}
	return nil
}

func asNumber(v []byte) int64 {
	if len(v) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

// appendDelivery writes what open says.
func appendDelivery(f fields, d *mail.Delivery, traceparent string, budget time.Duration) fields {
	f = f.number(fTransport, int64(d.NextHop.Transport)).text(fHost, d.NextHop.Host).number(fPort, int64(d.NextHop.Port)).text(fUser, d.NextHop.User)
	f = f.text(fReverseLocal, d.Reverse.Local).text(fReverseDomain, d.Reverse.Domain)
	f = f.number(fSize, d.Params.Size).number(fBody, int64(d.Params.Body)).flag(fUTF8, d.Params.SMTPUTF8).number(fExtra, int64(d.Extra))
	f = f.text(fDomain, d.RecipientDomain).flag(fFavoured, d.Favoured).text(fTrace, string(d.Trace[:]))
	if d.Client.IsValid() {
		f = f.text(fClient, d.Client.String())
	}
	return f.number(fSeal, int64(d.Seal)).number(fEightBit, int64(d.EightBit)).text(fTraceparent, traceparent).number(fBudget, int64(budget/time.Millisecond))
}

// parseDelivery reads what open says.
func parseDelivery(f fields) (d mail.Delivery, traceparent string, budget time.Duration, err error) {
	var bad error
	err = f.each(func(name byte, v []byte) {
		switch name {
		case fTransport:
			n := asNumber(v)
			if n < 0 || n > int64(mail.LMTPUnix) {
				bad = fmt.Errorf("%w: transport %d", errFrame, n)
				return
			}
			d.NextHop.Transport = mail.Transport(n)
		case fHost:
			d.NextHop.Host = string(v)
		case fPort:
			d.NextHop.Port = uint16(asNumber(v))
		case fUser:
			d.NextHop.User = string(v)
		case fReverseLocal:
			d.Reverse.Local = string(v)
		case fReverseDomain:
			d.Reverse.Domain = string(v)
		case fSize:
			d.Params.Size = max(0, asNumber(v))
		case fBody:
			d.Params.Body = mail.BodyType(asNumber(v))
		case fUTF8:
			d.Params.SMTPUTF8 = true
		case fExtra:
			d.Extra = int(min(max(0, asNumber(v)), 1<<20))
		case fDomain:
			d.RecipientDomain = string(v)
		case fFavoured:
			d.Favoured = true
		case fTrace:
			copy(d.Trace[:], v)
		case fClient:
			if d.Client, bad = netip.ParsePrefix(string(v)); bad != nil {
				bad = errors.Join(errFrame, bad)
			}
		case fSeal:
			d.Seal = mail.Seal(asNumber(v))
		case fEightBit:
			d.EightBit = mail.EightBit(asNumber(v))
		case fTraceparent:
			traceparent = string(v)
		case fBudget:
			budget = asBudget(v)
		}
	})
	if err = errors.Join(err, bad); err != nil {
		return mail.Delivery{}, "", 0, err
	}
	if d.NextHop.Host == "" {
		return mail.Delivery{}, "", 0, fmt.Errorf("%w: no next hop", errFrame)
	}
	if err := checkPath(d.Reverse); err != nil {
		return mail.Delivery{}, "", 0, err
	}
	return d, traceparent, budget, nil
}

// asBudget reads a time that is left, in milliseconds; no more than an hour of it is believed.
func asBudget(v []byte) time.Duration {
	return time.Duration(min(max(asNumber(v), 0), int64(time.Hour/time.Millisecond))) * time.Millisecond
}

// checkPath holds a path from another node to the same syntax as one from a client.
func checkPath(p mail.Path) error {
	q, err := mail.ParsePath(p.String(), true)
	if err == nil && q != p {
		err = mail.ErrPathSyntax
	}
	if err != nil {
		return fmt.Errorf("%w: path: %w", errFrame, err)
	}
	return nil
}

// appendRefusal writes an error as the other side will have it.
func appendRefusal(f fields, err error) fields {
	reply := mail.ReplyFor(err)
	r := &mail.Refusal{Reply: reply}
	var known *mail.Refusal
	if errors.As(err, &known) {
		r = known
	}
	f = appendReply(f, reply).text(fReason, r.Reason).text(fHost, r.Host).flag(fAboutUs, r.AboutUs)
	cause := r.Cause
	if known == nil {
		cause = err
	}
	if cause != nil {
		f = f.text(fCause, short(cause.Error()))
	}
	return f
}

// short bounds a text that goes over the hop for people to read.
func short(s string) string { return s[:min(len(s), 2000)] }

func appendReply(f fields, r mail.Reply) fields {
	return f.number(fCode, int64(r.Code)).number(fSubject, int64(r.Enhanced.Subject)).number(fDetail, int64(r.Enhanced.Detail)).text(fText, r.Text)
}

// An answer is what refused and outcomes say: a Refusal is an outcome without some parts.
type answer struct {
	mail.Outcome
	reason string
}

// take reads one field of an answer and reports whether it was the end of one.
func (a *answer) take(name byte, v []byte) (ended bool) {
	switch name {
	case fCode:
		a.Reply.Code = int(asNumber(v))
	case fSubject:
		a.Reply.Enhanced.Subject = uint16(asNumber(v))
	case fDetail:
		a.Reply.Enhanced.Detail = uint16(asNumber(v))
	case fText:
		a.Reply.Text = string(v)
	case fReason:
		a.reason = string(v)
	case fHost:
		a.Host = string(v)
	case fAboutUs:
		a.AboutUs = true
	case fCause:
		a.Cause = errors.New(string(v))
	case fTLS:
		a.TLS = string(v)
	case fReused:
		a.Reused = true
	case fInDoubt:
		a.InDoubt = true
	case fWait:
		a.Wait = time.Duration(max(0, asNumber(v)))
	case fNext:
		return true
	}
	return false
}

// parseRefusal reads a refusal. What is none is a transient one.
func parseRefusal(f fields) (*mail.Refusal, error) {
	var a answer
	if err := f.each(func(name byte, v []byte) { a.take(name, v) }); err != nil {
		return nil, err
	}
	if c := a.Reply.Class(); c != 4 && c != 5 || a.Reply.Code > 599 {
		return nil, fmt.Errorf("%w: a refusal with %d", errFrame, a.Reply.Code)
	}
	return &mail.Refusal{Reply: a.Reply, Reason: a.reason, Host: a.Host, AboutUs: a.AboutUs, Cause: a.Cause}, nil
}

// appendOutcomes writes what commit came to.
func appendOutcomes(f fields, all []mail.Outcome) fields {
	for i := range all[:min(len(all), maxOutcomes)] {
		o := &all[i]
		f = appendReply(f, mail.Reply{Code: o.Reply.Code, Enhanced: o.Reply.Enhanced, Text: short(o.Reply.Text)})
		f = f.text(fHost, o.Host).text(fTLS, o.TLS).flag(fReused, o.Reused).flag(fInDoubt, o.InDoubt).flag(fAboutUs, o.AboutUs).number(fWait, int64(o.Wait))
		if o.Cause != nil {
			f = f.text(fCause, short(o.Cause.Error()))
		}
		f = append(f, fNext, 0, 0)
		if len(f) > maxFields/2 && i+1 < len(all) { // there is no room for all of them: the rest is the same in all but LMTP
			break
		}
	}
	return f
}

// parseOutcomes reads what commit came to, one outcome for each of want recipients: a frame that had no room for all ends
// in the one that stands for the rest.
func parseOutcomes(f fields, want int, via string) ([]mail.Outcome, error) {
	out := make([]mail.Outcome, 0, want)
	var a answer
	var bad error
	err := f.each(func(name byte, v []byte) {
		if !a.take(name, v) {
			return
		}
		if c := a.Reply.Class(); c < 2 || c > 5 || c == 3 || a.Reply.Code > 599 {
			bad = fmt.Errorf("%w: an outcome with %d", errFrame, a.Reply.Code)
		}
		a.Via = via
		if len(out) < want {
			out = append(out, a.Outcome)
		}
		a = answer{}
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, err
	}
	if len(out) == 0 && want > 0 {
		return nil, fmt.Errorf("%w: no outcome", errFrame)
	}
	for len(out) < want {
		out = append(out, out[len(out)-1])
	}
	return out, nil
}

// appendPieceHead writes what stands before the octets of a piece: form, the time that is left for commit, dots.
func appendPieceHead(b []byte, form mail.Form, budget time.Duration, dots []uint32) []byte {
	b = append(b, byte(form))
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(budget/time.Millisecond, 0), math.MaxUint32)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(dots)))
	for _, d := range dots {
		b = binary.BigEndian.AppendUint32(b, d)
	}
	return b
}

const pieceHead = 9

// parsePiece reads a piece. Its octets lie in b, its dots in room.
func parsePiece(b []byte, room []uint32) (o mail.Octets, form mail.Form, budget time.Duration, err error) {
	if len(b) < pieceHead || b[0] > byte(mail.Plain) {
		return o, 0, 0, errFrame
	}
	form = mail.Form(b[0])
	budget = time.Duration(binary.BigEndian.Uint32(b[1:])) * time.Millisecond
	n := int(binary.BigEndian.Uint32(b[5:]))
	b = b[pieceHead:]
	if n > maxDots || 4*n > len(b) {
		return o, 0, 0, errFrame
	}
	text := b[4*n:]
	o.Dots = room[:0]
	for i := range n {
		d := binary.BigEndian.Uint32(b[4*i:])
		if int64(d) >= int64(len(text)) || text[d] != '.' || i > 0 && d <= o.Dots[i-1] {
			return mail.Octets{}, 0, 0, errFrame
		}
		o.Dots = append(o.Dots, d)
	}
	if len(text) > 0 {
		o.Segments = [][]byte{text}
	}
	return o, form, budget, nil
}
