package rules

import "strings"

// A cursor is the place in the text where a builder parses. What is wrong or in doubt is noted with that place.
type cursor struct {
	mistakes

	file  int
	line  int
	start int // offset of the line in the text
	end   int // offset of its end, as it is trimmed
	at    int // offset of the word that is parsed: what is wrong is wrong there

	now  int64 // of Config.Now in seconds since 1970; 0 without one
	most int64 // Config.MessageSize
}

// fail adds an error of the line that is parsed, at the word that is parsed.
func (cur *cursor) fail(why string) {
	cur.errs.add(&Error{
		File: cur.t.files[cur.file], Line: cur.line, Column: cur.column(cur.start, cur.at), Reason: why,
		order: cur.file,
	})
}

// warnHere adds a warning about the word that is parsed.
func (cur *cursor) warnHere(why string) {
	cur.addWarning(Warning{
		File: cur.t.files[cur.file], Line: cur.line, Column: cur.column(cur.start, cur.at), Reason: why,
	})
}

// offset returns the offset of s in the text. s reaches to the end of the line.
func (cur *cursor) offset(s string) uint32 { return uint32(cur.end - len(s)) }

// mark notes that the word is parsed that s begins with. s reaches to the end of the line.
func (cur *cursor) mark(s string) { cur.at = cur.end - len(s) }

// doubt warns of signs in a word that look like others.
func (cur *cursor) doubt(word string) {
	if why := oddSign(word); why != "" {
		cur.warnHere(quote(word) + " " + why)
	}
}

// parseOptions parses key=value pairs up to the end of the line or a comment.
func (cur *cursor) parseOptions(s string) (o options, why string) {
	for s = trimBlank(s); s != "" && s[0] != '#'; s = trimBlank(s) {
		cur.mark(s)
		n := strings.IndexAny(s, " \t")
		if n < 0 {
			n = len(s)
		}
		if why := o.add(s[:n], trimBlank(s[n:])); why != "" {
			return options{}, why
		}
		cur.doubtOption(s[:n], &o)
		s = s[n:]
	}
	return o, ""
}

// doubtOption warns of an option that was read into o and means nothing now: a time that is over, and a size that the
// node does not take.
func (cur *cursor) doubtOption(word string, o *options) {
	switch key, _, _ := strings.Cut(word, "="); {
	case key == "until" && cur.now > 0 && o.until <= cur.now:
		cur.warnHere(quote(word) + " is over: the line is as if it were not there")
	case key == "message_size" && cur.most > 0 && int64(o.policy.MessageSize) > cur.most:
		cur.warnHere(quote(word) + " is above limits.message_size of the configuration, which holds for all messages")
	}
}
