package mail

import (
	"iter"
	"net"
	"slices"
)

// A Form says whether dots are added to the lines of a message.
type Form uint8

// The forms.
const (
	Stuffed Form = iota // as after DATA: a line that opens with a dot has one added (RFC 5321 section 4.5.2)
	Plain               // as in BDAT chunks: nothing is added
)

// Octets are octets of a message as they were read from the wire, with the offsets of the dots that open a line. The
// scanner that read them found the dots. Offsets count from the first octet of the first segment through all segments,
// added dots included, and ascend. In the form Stuffed an offset is that of the added dot, which is the first of two.
//
// The last segment of a Stuffed message may have the octets ".CRLF" within its capacity, right behind its length, as
// they were read. A caller that sends the end of data with the message may reslice.
type Octets struct {
	Segments net.Buffers
	Dots     []uint32
	Form     Form
}

// A Span is a part of a message, from the octet at From to the one before To.
type Span struct{ From, To int }

// Len returns the number of octets in all segments, added dots included.
func (o Octets) Len() int {
	n := 0
	for _, s := range o.Segments {
		n += len(s)
	}
	return n
}

// LenAs returns the number of octets of o in the form to.
func (o Octets) LenAs(to Form) int {
	n := o.Len()
	switch {
	case o.Form == to:
		return n
	case to == Plain:
		return n - len(o.Dots)
	}
	return n + len(o.Dots)
}

// added returns the offsets of the added dots.
func (o Octets) added() []uint32 {
	if o.Form == Plain {
		return nil
	}
	return o.Dots
}

// Plain yields the octets of o without the added dots, in slices that are not empty. It allocates nothing.
func (o Octets) Plain() iter.Seq[[]byte] { return o.PlainFrom(0) }

// PlainFrom yields what Plain does, from the offset from on, which counts added dots.
func (o Octets) PlainFrom(from int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		dots := o.added()
		base := 0
		for _, s := range o.Segments {
			at := max(from-base, 0) // within s
			for at < len(s) {
				for len(dots) > 0 && int(dots[0]) < base+at {
					dots = dots[1:]
				}
				end, next := len(s), len(s)
				if len(dots) > 0 && int(dots[0]) < base+len(s) {
					end = int(dots[0]) - base
					next = end + 1
				}
				if end > at && !yield(s[at:end]) {
					return
				}
				at = next
			}
			base += len(s)
		}
	}
}

// AppendPlain appends to b the first n octets of o without the added dots. n counts these dots.
func (o Octets) AppendPlain(b []byte, n int) []byte {
	dots := o.added()
	at := 0
	for _, s := range o.Segments {
		s = s[:min(len(s), n-at)]
		from := 0
		for len(dots) > 0 && int(dots[0])-at < len(s) {
			i := int(dots[0]) - at
			b = append(b, s[from:i]...)
			from, dots = i+1, dots[1:]
		}
		b = append(b, s[from:]...)
		at += len(s)
	}
	return b
}

// addedDot is what Slices puts before a line that opens with a dot. It is never written to.
var addedDot = []byte(".")

// Slices appends to vec the slices of o in the form to. No slice is empty, and no octet is copied: a dot that the form
// adds is a slice of its own.
func (o Octets) Slices(vec [][]byte, to Form) [][]byte {
	if o.Form == to || len(o.Dots) == 0 {
		for _, s := range o.Segments {
			if len(s) > 0 {
				vec = append(vec, s)
			}
		}
		return vec
	}
	at, dots := 0, o.Dots // at: the offset of the segment's first octet
	for _, s := range o.Segments {
		from := 0
		for len(dots) > 0 && int(dots[0])-at < len(s) {
			i := int(dots[0]) - at
			if i > from {
				vec = append(vec, s[from:i])
			}
			from, dots = i, dots[1:]
			if to == Plain {
				from++
				continue
			}
			vec = append(vec, addedDot)
		}
		if from < len(s) {
			vec = append(vec, s[from:])
		}
		at += len(s)
	}
	return vec
}

// AppendAs appends to b the octets of o in the form to.
func (o Octets) AppendAs(b []byte, to Form) []byte {
	dots := o.Dots
	if o.Form == to {
		dots = nil
	}
	at := 0
	for _, s := range o.Segments {
		from := 0
		for len(dots) > 0 && int(dots[0])-at < len(s) {
			i := int(dots[0]) - at
			b = append(b, s[from:i]...)
			from, dots = i, dots[1:]
			if to == Plain {
				from++
				continue
			}
			b = append(b, '.')
		}
		b = append(b, s[from:]...)
		at += len(s)
	}
	return b
}

// Join returns o followed by rest. All are of one form. No octet is copied and o is not changed.
func (o Octets) Join(rest ...Octets) Octets {
	if len(rest) == 0 {
		return o
	}
	segments, dots := len(o.Segments), len(o.Dots)
	for _, r := range rest {
		segments += len(r.Segments)
		dots += len(r.Dots)
	}
	all := Octets{
		Segments: slices.Grow(o.Segments[:len(o.Segments):len(o.Segments)], segments-len(o.Segments)),
		Dots:     slices.Grow(o.Dots[:len(o.Dots):len(o.Dots)], dots-len(o.Dots)),
		Form:     o.Form,
	}
	at := o.Len()
	for _, r := range rest {
		all.Segments = append(all.Segments, r.Segments...)
		for _, d := range r.Dots {
			all.Dots = append(all.Dots, d+uint32(at))
		}
		at += r.Len()
	}
	return all
}

// DotsBelow returns the number of dots before offset.
func (o Octets) DotsBelow(offset int) int {
	n := len(o.Dots)
	if n == 0 || int(o.Dots[n-1]) < offset {
		return n
	}
	n, _ = slices.BinarySearch(o.Dots, uint32(offset))
	return n
}

// Without returns o without the octets of spans, which ascend and do not overlap. The offsets of spans count from the
// octet at from on and do not count added dots. No octet is copied and o is not changed.
func (o Octets) Without(from int, spans []Span) Octets {
	if len(spans) == 0 {
		return o
	}
	spans = o.onTheWire(from, spans)
	kept := Octets{Form: o.Form}
	at := 0
	left := spans
	for _, s := range o.Segments {
		end := at + len(s)
		for at < end {
			for len(left) > 0 && left[0].To <= at {
				left = left[1:]
			}
			stop, skip := end, false
			if len(left) > 0 {
				if skip = left[0].From <= at; skip {
					stop = min(end, left[0].To)
				} else {
					stop = min(end, left[0].From)
				}
			}
			if !skip {
				// The slice keeps its capacity: the end of data may stand behind the last segment.
				kept.Segments = append(kept.Segments, s[len(s)-(end-at):len(s)-(end-stop)])
			}
			at = stop
		}
	}
	gone := 0 // octets left out before the dot
	for _, d := range o.Dots {
		for len(spans) > 0 && spans[0].To <= int(d) {
			gone += spans[0].To - spans[0].From
			spans = spans[1:]
		}
		if len(spans) > 0 && spans[0].From <= int(d) {
			continue
		}
		kept.Dots = append(kept.Dots, d-uint32(gone))
	}
	return kept
}

// onTheWire returns spans with offsets that count added dots. A dot that was added before the first octet of a span
// belongs to the span. One that was added before the first octet behind it does not.
func (o Octets) onTheWire(from int, spans []Span) []Span {
	out := make([]Span, len(spans))
	dots := o.added()
	added := 0 // dots before the offset
	wire := func(offset int) int {
		for added < len(dots) && int(dots[added])-added-from < offset {
			added++
		}
		return offset + from + added
	}
	for i, s := range spans {
		out[i].From = wire(s.From)
		out[i].To = wire(s.To)
	}
	return out
}
