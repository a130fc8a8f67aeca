package peer

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A piece is a part of a message as data and commit carry it: the form, the time that is left for opening the message
// and for committing it, the number of dots, their offsets, and octets to the end of the frame.
type piece struct {
	octets mail.Octets
	open   time.Duration // 0 if not stated
	commit time.Duration // 0 if not stated
}

// pieceHead is the length of what precedes the offsets of a piece.
const pieceHead = 1 + 4 + 4 + 4

// endOfData follows the octets of a Stuffed message in memory, so that they can be sent on in one write; see
// mail.Octets.
const endOfData = ".\r\n"

// appendHead appends what precedes the octets of a piece. The offsets of its dots count from the octet at from.
func (p *piece) appendHead(b []byte, dots []uint32, from int) []byte {
	b = append(b, byte(p.octets.Form))
	b = binary.BigEndian.AppendUint32(b, millis(p.open))
	b = binary.BigEndian.AppendUint32(b, millis(p.commit))
	b = binary.BigEndian.AppendUint32(b, uint32(len(dots)))
	for _, d := range dots {
		b = binary.BigEndian.AppendUint32(b, d-uint32(from))
	}
	return b
}

func millis(d time.Duration) uint32 {
	return uint32(min(max(d/time.Millisecond, 0), math.MaxUint32))
}

// nextFrame returns how many of the left octets from the offset from on fit into one frame, and how many dots these
// have. sent is the number of dots before from.
func (p *piece) nextFrame(from, left, sent int) (n, dots int) {
	n = min(left, maxPiece)
	dots = p.octets.DotsBelow(from+n) - sent
	if n+4*dots > maxPiece {
		n = min(left, maxPiece/5) // fits even if each octet is a dot
		dots = p.octets.DotsBelow(from+n) - sent
	}
	return n, dots
}

// parsePiece reads a piece. Its octets are in b, its segment is in segments, and its dots reuse the memory of dots.
func parsePiece(b []byte, segments *[1][]byte, dots []uint32) (piece, error) {
	if len(b) < pieceHead || b[0] > byte(mail.Plain) {
		return piece{}, errFrame
	}
	p := piece{
		octets: mail.Octets{Form: mail.Form(b[0])},
		open:   time.Duration(binary.BigEndian.Uint32(b[1:])) * time.Millisecond,
		commit: time.Duration(binary.BigEndian.Uint32(b[5:])) * time.Millisecond,
	}
	n := int64(binary.BigEndian.Uint32(b[9:]))
	b = b[pieceHead:]
	if 4*n > int64(len(b)) {
		return piece{}, errFrame
	}
	offsets, text := b[:4*n], b[4*n:]
	dots = dots[:0]
	for ; len(offsets) > 0; offsets = offsets[4:] {
		d := binary.BigEndian.Uint32(offsets)
		if int64(d) >= int64(len(text)) || text[d] != '.' || len(dots) > 0 && d <= dots[len(dots)-1] {
			return piece{}, errFrame
		}
		dots = append(dots, d)
	}
	p.octets.Dots = dots
	if len(text) > 0 {
		segments[0] = text
		p.octets.Segments = segments[:]
	}
	return p, nil
}
