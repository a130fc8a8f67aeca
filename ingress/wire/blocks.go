package wire

import "math/bits"

const (
	blockOctets = 64
	maxBlocks   = 8 // looked at by one call

	// shortLine is up to what length lines are looked for in blocks. Of longer ones a search for the next CR is faster.
	shortLine = maxBlocks * blockOctets
)

// A lineMask has a bit for each octet of a block, the first one lowest: whether it is a CR, and whether an LF.
type lineMask struct{ cr, lf uint64 }

// A blockEnd says why blocks has stopped.
type blockEnd uint8

const (
	atEnd   blockEnd = iota // fewer octets than a block are left
	atLong                  // in a line that is long
	atOther                 // where octets have to be looked at one by one: an end of data perhaps, or a bare CR or LF
)

// blocks scans p as scan does, in whole blocks, for as long as each CR and LF in it is one of a CRLF and no end of data
// begins. The state is inLine: the octet before p is no CR, and a dot that opens a line and is the first of p is among
// the dots. It returns how many octets were scanned.
func (s *scanner) blocks(p []byte, base int, dots []uint32) (int, blockEnd, []uint32) {
	var m [maxBlocks]lineMask
	start := -int(s.line) // of the line
	at, carry := 0, uint64(0)
	why := atEnd
batches:
	for len(p)-at >= blockOctets {
		n := min((len(p)-at)/blockOctets, maxBlocks)
		masks(&p[at], n, &m)
		found := uint64(0)
		for k := range m[:n] {
			cr, lf := m[k].cr, m[k].lf
			if lf != cr<<1|carry {
				why = atOther
				break batches
			}
			found |= lf
			carry = cr >> (blockOctets - 1)
			for ; lf != 0; lf &= lf - 1 {
				end := at + bits.TrailingZeros64(lf)
				s.line = int64(end - 1 - start)
				s.endLine()
				start = end + 1
				if start >= len(p) || p[start] != '.' {
					continue
				}
				if !s.plain && (start+1 >= len(p) || p[start+1] == '\r') {
					return start, atOther, dots
				}
				dots = append(dots, uint32(base+start))
				s.dots++
			}
			at += blockOctets
		}
		if found == 0 && n == maxBlocks {
			why = atLong
			break
		}
	}
	if at == 0 {
		return 0, why, dots
	}
	if start == at && at < len(p) && p[at] == '.' {
		at++ // it is among the dots, and more than an end of data
	}
	switch s.line = int64(at - start); {
	case carry != 0:
		s.line--
		s.state = afterCR
	case s.line > 0:
		s.state = inLine
	default:
		s.line, s.state = 0, atStart
	}
	return at, why, dots
}
