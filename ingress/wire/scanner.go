package wire

import "bytes"

// maxTextLine is the most that a line of a message may hold without its CRLF (RFC 5321 section 4.5.3.1.6).
const maxTextLine = 998

// A scanState says which octet stands before the next one to be scanned.
type scanState uint8

const (
	inLine   scanState = iota
	afterCR            // a CR in or at the end of a line
	atStart            // CRLF, or nothing yet: a line begins
	afterDot           // CRLF "."; only in the form Stuffed
	afterEnd           // CRLF "." CR; only in the form Stuffed
)

// A scanner walks the octets of one message, each of them once, in the pieces in which they were read. Its results do
// not depend on where these end.
type scanner struct {
	plain  bool      // the form is Plain: there is no end of data to find
	masks  bool      // the processor finds line ends in blocks
	state  scanState // begins as atStart
	bare   bool      // a CR without LF or an LF without CR was seen before the end
	line   int64     // octets of the line begun, without CRLF
	widest int64     // octets of the longest line
	long   int       // lines over maxTextLine
	dots   int64     // dots that open a line, the one of the end of data not counted
}

func newScanner(plain bool) scanner { return scanner{plain: plain, masks: hasMasks, state: atStart} }

// scan walks p, which follows what was scanned before and stands at offset base of its piece. It appends the offset of
// each dot that opens a line to dots, and returns the number of octets up to the end of data, CRLF.CRLF included, and
// true; or len(p) and false. After true it must not be called again.
//
// Short lines are found in blocks, where the processor can. In each other line it looks for the CR only, and counts the
// LFs of all these lines at once: where there are more LFs than CRLFs, one was bare.
func (s *scanner) scan(p []byte, base int, dots []uint32) (n int, end bool, _ []uint32) {
	i, pairs := 0, 0
	from, lfs := 0, 0            // where octets begin whose LFs are not counted yet, and the LFs counted
	blocks := s.masks && !s.bare // look in blocks at the next turn
	wide := false                // lines were too long for that
	for i < len(p) && !end {
		switch s.state {
		case atStart:
			s.state = inLine
			if p[i] != '.' {
				continue
			}
			dots = append(dots, uint32(base+i))
			s.dots++
			if !s.plain {
				s.state = afterDot
				s.line++
				i++
			}
		case inLine:
			if blocks {
				var used int
				var why blockEnd
				used, why, dots = s.blocks(p[i:], base+i, dots)
				lfs += bytes.Count(p[from:i], []byte{'\n'})
				i += used
				from = i
				blocks, wide = false, why == atLong
				continue
			}
			j := bytes.IndexByte(p[i:], '\r')
			if j < 0 {
				s.line += int64(len(p) - i)
				i = len(p)
				continue
			}
			s.line += int64(j)
			i += j + 1
			s.state = afterCR
			if i < len(p) && p[i] == '\n' { // as nearly always: not another turn for it
				i++
				pairs++
				blocks = wide && s.line <= shortLine
				s.endLine()
				if i < len(p) && p[i] != '.' {
					s.state = inLine
				}
			}
		case afterCR:
			if p[i] != '\n' {
				s.bare = true
				s.line++
				s.state = inLine
				continue
			}
			i++
			pairs++
			s.endLine()
		case afterDot:
			s.state = inLine
			if p[i] == '\r' {
				i++
				s.state = afterEnd
			}
		case afterEnd:
			if p[i] != '\n' {
				s.bare = true
				s.line++
				s.state = inLine
				continue
			}
			i++
			pairs++
			end = true
			s.dots--
			dots = dropLast(dots)
		}
	}
	if lfs+bytes.Count(p[from:i], []byte{'\n'}) != pairs {
		s.bare = true
	}
	return i, end, dots
}

// finish tells a scanner of the form Plain that the message has ended.
func (s *scanner) finish() {
	if s.state == afterCR {
		s.bare = true
	}
	if s.state != atStart {
		s.endLine()
	}
}

func (s *scanner) endLine() {
	if s.line > maxTextLine {
		s.long++
	}
	s.widest = max(s.widest, s.line)
	s.line = 0
	s.state = atStart
}

// width returns the octets of the longest line so far, the unfinished one included.
func (s *scanner) width() int64 { return max(s.widest, s.line) }

func dropLast(dots []uint32) []uint32 {
	if len(dots) == 0 {
		return dots // it stood in an earlier call's slice
	}
	return dots[:len(dots)-1]
}
