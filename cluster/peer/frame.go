package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A kind is the kind of a frame. A frame is its kind in one octet, the length of its content in four, most significant
// octet first, and the content. The numbers are part of the protocol and never used again for another kind.
type kind uint8

const (
	hello    kind = 1  // the first frame on both sides, with versions and name
	open     kind = 2  // begins a transaction, with its first recipient
	rcpt     kind = 3  // a further recipient
	renew    kind = 4  // mail.Transaction.Renew
	lend     kind = 5  // mail.Transaction.Lend
	wanted   kind = 6  // mail.Transaction.Wanted
	data     kind = 7  // a piece of the message; answered only by refused, once, if it is refused before its end
	commit   kind = 8  // the last piece and the end of data
	abort    kind = 9  // ends the transaction undelivered
	ping     kind = 10 // answered by pong at once, even while another answer is due
	pong     kind = 11 // a sign of life, also unasked
	done     kind = 12 // an answer of success
	refused  kind = 13 // an answer with a mail.Refusal
	outcomes kind = 14 // the answer to commit
	goodbye  kind = 15 // the server begins no further transaction on this connection
	attempt  kind = 16 // what the ledger knows the message by; before commit and not answered; from version 2 on
	question kind = 17 // what an administrator asks of the node, outside a transaction; from version 3 on
)

const (
	frameHeader = 5 // octets
	// maxFields bounds a frame of fields in octets. maxPiece bounds the octets of a piece and the offsets of its dots.
	// A larger piece is sent in several frames. A frame has room for the largest first piece of a message, which is
	// held.
	maxFields = 256 << 10
	maxPiece  = 96 << 10
	// maxText bounds the text of a reply and maxCause the text of a cause, in octets.
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

// parseHeader returns the kind of a frame and the length of its content. The error is errFrame for an unknown kind and
// for a length above the kind's bound.
func parseHeader(b *[frameHeader]byte) (kind, int, error) {
	k, n := kind(b[0]), binary.BigEndian.Uint32(b[1:])
	var limit uint32
	switch k {
	case data, commit:
		limit = pieceHead + maxPiece
	case hello, open, rcpt, renew, done, refused, outcomes, attempt, question:
		limit = maxFields
	case lend, wanted, abort, ping, pong, goodbye:
	default:
		return 0, 0, fmt.Errorf("%w: kind %d", errFrame, b[0])
	}
	if n > limit {
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

// The names of fields. The numbers are part of the protocol. A reader ignores names that it does not know, so that a
// later version can add some.
const (
	fVersionMin     = 1
	fVersionMax     = 2
	fNode           = 3
	fLeaving        = 4 // the sender accepts no transaction
	fAnswers        = 5 // the kind of the frame that this one answers
	fYes            = 6
	fBegun          = 7 // the recipient of open is refused, but the transaction has begun
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
	fAddr           = 30 // of the client
	fOwnLocal       = 31
	fOwnDomain      = 32
	fChosen         = 33
	fOriginBy       = 34 // how the next hop is told of the client, as all up to fOriginUnknown
	fOriginPort     = 35
	fOriginName     = 36
	fOriginHelo     = 37
	fOriginESMTP    = 38
	fOriginUnknown  = 39
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
	fRecipients     = 52 // ends an outcome; the number of neighbouring recipients that it is for
	fNotTaken       = 53 // the peer does not carry out transactions with this next hop
	fUnreached      = 54 // of a refusal: no destination made it, and nothing was delivered
	fMessage        = 60 // the name of the message in the ledger
	fEntries        = 61 // those of the entries of one recipient, with blanks between them
	fProved         = 62
	fBrief          = 63
	fEntry          = 64
	fAgain          = 65
	fSite           = 70 // of the owner's way to the destination, as all up to fTryTook
	fSentLocal      = 71 // the reverse-path that was sent
	fSentDomain     = 72
	fTakenHost      = 73
	fTakenAddr      = 74
	fTakenSource    = 75
	fTakenTLS       = 76
	fTakenCipher    = 77
	fTakenExchange  = 78
	fTakenVerified  = 79
	fTakenKind      = 80
	fTryHost        = 81
	fTryAddr        = 82
	fTryCause       = 83
	fTryTook        = 84 // nanoseconds; ends what did not serve the message
	fContent        = 90 // of a question, and of its answer
	fRequireTLS     = 91 // what the message demands of TLS, as all up to fLeastTLS; from version 4 on
	fWaived         = 92
	fLeastTLS       = 93
	fTakenPolicy    = 94 // what a report says of the session, as all up to fTryResult
	fTakenResult    = 95
	fTryPolicy      = 96
	fTryResult      = 97
	fieldHead       = 3  // octets
	traceparentSize = 55 // octets, in version 00 of W3C trace context
)

// fields are encoded fields of a frame: a name in one octet, a length in two, the value. Empty and zero values are left
// out.
type fields []byte

// text appends a text, of which 65535 octets at most are written.
func (f fields) text(name byte, s string) fields {
	if s == "" {
		return f
	}
	s = s[:min(len(s), math.MaxUint16)]
	f = append(f, name)
	f = binary.BigEndian.AppendUint16(f, uint16(len(s)))
	return append(f, s...)
}

// number appends a number in 8 octets, most significant octet first.
func (f fields) number(name byte, n int64) fields {
	if n == 0 {
		return f
	}
	f = append(f, name, 0, 8)
	return binary.BigEndian.AppendUint64(f, uint64(n))
}

// flag appends a field with the value 1 if v is true.
func (f fields) flag(name byte, v bool) fields {
	if !v {
		return f
	}
	return append(f, name, 0, 1, 1)
}

// next returns the first field of f, which is not empty, and the rest.
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

// asNumber returns the number that v encodes, or 0 if v has the wrong length.
func asNumber(v []byte) int64 {
	if len(v) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}
