package auth

import (
	"bytes"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// A scan is what one pass over a header section finds.
type scan struct {
	removals    []mail.Span
	fields      int
	signatures  int  // DKIM-Signature fields
	arc         bool // there is a field of an ARC set
	bodyChanged bool // the fields admit that the body is not what was signed
	disguised   bool // a field is From or Authentication-Results to some readers and not to others
	blankLine   bool // a line of blanks came by, which ends the header section for some readers
	from        dkim.Field
	messageID   dkim.Field
}

// ownRemovals is how many removals are expected; for more of them the header section is read again to count them.
const ownRemovals = 4

// read reads all fields of a header section. Id is our authserv-id in lower case.
func (s *scan) read(header []byte, id string) {
	at, removals := 0, 0
	last := -1 // where the last removal ends
	for f := range dkim.Fields(header) {
		if s.field(f, id) {
			if at != last {
				removals++
			}
			last = at + len(f)
			if removals <= ownRemovals {
				s.remove(at, last)
			}
		}
		at += len(f)
	}
	if removals > ownRemovals {
		s.rescan(header, id, removals)
	}
}

// rescan collects the given number of removals in one allocation.
func (s *scan) rescan(header []byte, id string, removals int) {
	s.removals = make([]mail.Span, 0, removals)
	at := 0
	for f := range dkim.Fields(header) {
		if f.Is("Authentication-Results") && pretends(f.Body(), id) {
			s.remove(at, at+len(f))
		}
		at += len(f)
	}
}

// remove adds a span to the removals. A span that touches the last one extends it.
func (s *scan) remove(from, to int) {
	if n := len(s.removals); n > 0 && s.removals[n-1].To == from {
		s.removals[n-1].To = to
		return
	}
	if s.removals == nil {
		s.removals = make([]mail.Span, 0, ownRemovals)
	}
	s.removals = append(s.removals, mail.Span{From: from, To: to})
}

// field records what one field tells and reports whether it is to be removed.
func (s *scan) field(f dkim.Field, id string) (remove bool) {
	s.fields++
	switch {
	case !disguised(f):
		s.disguised = s.disguised || s.blankLine && f.Is("From")
	case s.marked(f):
		s.from = f
	default:
		s.disguised = true
	}
	s.blankLine = s.blankLine || hasBlankLine(f)
	switch f[0] | 0x20 {
	case 'a':
		switch {
		case f.Is("Authentication-Results"):
			return pretends(f.Body(), id)
		case hasPrefixFold(f, "arc-"):
			s.arc = s.arc || f.Is("ARC-Seal") || f.Is("ARC-Message-Signature") || f.Is("ARC-Authentication-Results")
		}
	case 'd':
		if f.Is("DKIM-Signature") {
			s.signatures++
		}
	case 'f':
		if s.from == nil && f.Is("From") {
			s.from = f
		}
	case 'm':
		switch {
		case s.messageID == nil && f.Is("Message-ID"):
			s.messageID = f
		case f.Is("Mailing-List"):
			s.bodyChanged = true
		}
	case 'l', 'p', 'x':
		s.shape(f)
	}
	return false
}

// disguised reports whether some readers take a field for From or for Authentication-Results that is neither of them
// here: by a name with an octet before the colon that no name has (RFC 5322 section 2.2), such as a line end, which
// these readers skip, or because it stands behind a NUL. Such a field would show an author that was not judged, or
// results that were not removed.
func disguised(f dkim.Field) bool { return misnamed(f) || hidden(f) }

// marked reports whether a field is From behind a byte order mark that begins the message, which package dmarc reads as
// From as well. Scripts write such messages.
func (s *scan) marked(f dkim.Field) bool {
	plain, ok := bytes.CutPrefix(f, []byte("\ufeff"))
	return ok && s.fields == 1 && dkim.Field(plain).Is("From") && !hidden(f)
}

func misnamed(f dkim.Field) bool {
	var name [len("Authentication-Results")]byte
	n, odd := 0, false
	for _, c := range f {
		switch {
		case c == ':':
			return odd && (bytes.EqualFold(name[:n], []byte("From")) && !f.Is("From") ||
				bytes.EqualFold(name[:n], []byte("Authentication-Results")) && !f.Is("Authentication-Results"))
		case c < 33 || c > 126:
			odd = true
		case n == len(name):
			return false
		default:
			name[n] = c
			n++
		}
	}
	return false
}

// hidden reports whether one of those fields stands within f behind a NUL, which ends a line for some readers.
func hidden(f dkim.Field) bool {
	for {
		i := bytes.IndexByte(f, 0)
		if i < 0 {
			return false
		}
		f = f[i+1:]
		if f.Is("From") || f.Is("Authentication-Results") {
			return true
		}
	}
}

// hasBlankLine reports whether a line of a folded field is of blanks alone.
func hasBlankLine(f dkim.Field) bool {
	for {
		i := bytes.IndexByte(f, '\n')
		if i < 0 || i+1 == len(f) {
			return false
		}
		if f = f[i+1:]; len(bytes.TrimLeft(f, " \t")) == 0 || bytes.HasPrefix(bytes.TrimLeft(f, " \t"),
			[]byte("\r\n")) {
			return true
		}
	}
}

// shape records signs of software that changes bodies.
//
// The body may have been changed after it was signed if there is any field that lists add, any "Precedence", or a field
// of software that looked for spam or viruses, converted the body or took parts out: such software adds footers and
// wraps messages. List-Unsubscribe alone is no sign of a list: newsletters have it. A wrong guess costs a prediction,
// and nothing else: these fields prove nothing, so that nothing else follows from them.
func (s *scan) shape(f dkim.Field) {
	switch {
	case f.Is("Precedence"):
		s.bodyChanged = true
	case f.Is("List-Unsubscribe"), f.Is("List-Unsubscribe-Post"):
	default:
		for _, prefix := range bodyChangedPrefixes {
			// The third letter settles nearly every comparison.
			if len(f) > 2 && f[2]|0x20 == prefix[2]|0x20 && hasPrefixFold(f, prefix) {
				s.bodyChanged = true
				return
			}
		}
	}
}

// bodyChangedPrefixes are the beginnings of the names of fields that lists and body-changing software add, in lower
// case.
var bodyChangedPrefixes = [...]string{
	"list-", "x-mailman-", "x-beenthere", "x-mailing-list", "x-list", "x-loop", "x-no-archive", // lists
	"x-content-filtered-by", "x-converted-to-plain-text", "x-mime-autoconverted", // parts taken out, 8 bits made 7
	"x-spam-", "x-virus-", "x-antivirus", "x-amavis-", "x-disclaimer", "x-footer", // filters and footers
}

// hasPrefixFold reports whether s begins with prefix in any case. prefix is in lower case.
func hasPrefixFold(s []byte, prefix string) bool {
	return len(s) >= len(prefix) && bytes.EqualFold(s[:len(prefix)], []byte(prefix))
}
