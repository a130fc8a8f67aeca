package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A kind is the kind of a frame. A frame is its kind in one octet, the length of what follows in four, most significant
// first, and that many octets. The numbers are the protocol's: they are never used again for anything else.
type kind uint8

const (
	hello  kind = 1 // first on both sides: versions and name
	open   kind = 2 // a transaction begins, with its first recipient
	rcpt   kind = 3 // a further recipient
	renew  kind = 4 // mail.Transaction.Renew
	lend   kind = 5 // mail.Transaction.Lend
	wanted kind = 6 // mail.Transaction.Wanted
	// a piece of the message, not answered; what is refused before the end of data is told by refused, once
	data     kind = 7
	commit   kind = 8  // the last piece and the end of data
	abort    kind = 9  // ends the transaction undelivered
	ping     kind = 10 // answered by pong, at once, whatever else is waited for
	pong     kind = 11 // a sign of life, also unasked
	done     kind = 12 // an answer: it is done
	refused  kind = 13 // an answer: a mail.Refusal
	outcomes kind = 14 // the answer to commit
	goodbye  kind = 15 // the server begins no further transaction on this connection
)

const (
	frameHeader = 5
	// maxFields bounds a frame of fields, and maxPiece the octets of a piece together with its offsets of dots. What is
	// larger is sent in several. It has room for the largest first piece of a session, which is held whole.
	maxFields = 256 << 10
	maxPiece  = 96 << 10
	// maxText bounds the text of a reply and maxCause the text for the operator, in octets.
	maxText  = 16 << 10
	maxCause = 2 << 10
	// maxRecipients bounds the recipients of a transaction, and so the outcomes of its commit.
	maxRecipients = 10000
)

var errFrame = errors.New("malformed frame")

// header appends the header of a frame of n octets.
func header(b []byte, k kind, n int) []byte {
	b = append(b, byte(k))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// parseHeader reads the header of a frame.
func parseHeader(b *[frameHeader]byte) (kind, int, error) {
	k, n := kind(b[0]), binary.BigEndian.Uint32(b[1:])
	var most uint32
	switch k {
	case data, commit:
		most = pieceHead + maxPiece
	case hello, open, rcpt, renew, done, refused, outcomes:
		most = maxFields
	case lend, wanted, abort, ping, pong, goodbye:
	default:
		return 0, 0, fmt.Errorf("%w: kind %d", errFrame, b[0])
	}
	if n > most {
		return 0, 0, fmt.Errorf("%w: kind %d of %d octets", errFrame, k, n)
	}
	return k, int(n), nil
}

// frame appends a frame of fields to b.
func frame(b []byte, k kind, write func(fields) fields) []byte {
	at := len(b)
	b = write(header(b, k, 0))
	header(b[:at], k, len(b)-at-frameHeader)
	return b
}

// The names of fields; the numbers are the protocol's. A reader passes over those that it does not know, so that a
// later version can add some.
const (
	fVersionMin     = 1
	fVersionMax     = 2
	fNode           = 3
	fLeaving        = 4 // this side takes no transaction
	fAnswers        = 5 // the kind of the frame that this one answers
	fYes            = 6
	fBegun          = 7 // though its recipient is refused, the transaction of open stands
	fUTF8Offered    = 8
	fTransport      = 10
	fHost           = 11
	fPort           = 12
	fUser           = 13
	fReverseLocal   = 14
	fReverseDomain  = 15
	fForwardLocal   = 16
	fForwardDomain  = 17
	fSize           = 18
	fBody           = 19
	fUTF8           = 20
	fExtra          = 21
	fDomain         = 22
	fClient         = 23
	fFavoured       = 24
	fTrace          = 25
	fSeal           = 26
	fEightBit       = 27
	fBudget         = 28 // milliseconds
	fTraceparent    = 29
	fCode           = 40
	fSubject        = 41
	fDetail         = 42
	fText           = 43
	fID             = 44
	fReason         = 45
	fAboutUs        = 46
	fCause          = 47
	fTLS            = 48
	fReused         = 49
	fInDoubt        = 50
	fWait           = 51 // nanoseconds
	fRecipients     = 52 // the end of one outcome, and for how many recipients in a row it is
	fieldHead       = 3
	traceparentSize = 55 // octets, in version 00 of W3C trace context
)

// fields are a frame's fields as they are written: a name in one octet, a length in two, the value. What is empty or
// zero is left out.
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

// next takes one field off f, which is not empty.
func (f fields) next() (name byte, value []byte, rest fields, err error) {
	if len(f) < fieldHead {
		return 0, nil, nil, errFrame
	}
	n := fieldHead + int(binary.BigEndian.Uint16(f[1:]))
	if len(f) < n {
		return 0, nil, nil, errFrame
	}
	return f[0], f[fieldHead:n], f[n:], nil
}

// asNumber reads a number. One of the wrong length is zero.
func asNumber(v []byte) int64 {
	if len(v) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}
