package smtpclient

import (
	"bytes"
	"errors"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// What keeps octets of the server from being a reply.
var (
	errReplySyntax = errors.New("reply without a code")
	errReplyLength = errors.New("reply that does not end")
	errReplyOpen   = errors.New("reply is not complete")
)

// A reply is one reply of the server. text belongs to the parser and lasts until its next feed.
type reply struct {
	code     int // 200 to 599
	enhanced mail.EnhancedCode
	text     []byte // lines separated by "\n", without code and enhanced code
}

func (r reply) class() int { return r.code / 100 }

// mail returns the reply as a value of its own. The code is as it came, 421 included.
func (r reply) mail() mail.Reply {
	return mail.Reply{Code: r.code, Enhanced: r.enhanced, Text: string(r.text)}
}

// A parser reads replies (RFC 5321 section 4.2) from octets that come in any pieces, as a person would who knows that
// servers are careless: a line with a code and then anything but "-" ends the reply, and its code is that of the reply,
// whatever the lines before it had. But no line of a refusal makes a success of it: a text that begins with a number
// would lose a message. Lines without a code are text, blank lines before the reply are skipped, and lines
// may end in a bare LF. What is over the limits is cut: the server chooses a reply's length, but not how much of our
// memory it takes. A server that does not come to an end is an error.
type parser struct {
	maxLine, maxLines, maxOctets int // of the text that is kept
	endless                      int // octets of one reply

	line   []byte // an incomplete line, cut at maxLine
	lines  int    // of the reply, those that were cut off included
	octets int
	reply  reply // its code is 0 while no line had one
	better bool  // the last line would end a refusal as a success
}

// partial reports whether a reply has begun and not ended.
func (p *parser) partial() bool { return p.lines > 0 || len(p.line) > 0 }

// feed reads octets up to the end of one reply. It returns the number of octets it took, which is less than len(b) only
// where a reply ended or an error was found. The reply lasts until the next feed.
func (p *parser) feed(b []byte) (n int, r reply, done bool, err error) {
	for n < len(b) {
		line := b[n:]
		end := bytes.IndexByte(line, '\n')
		if end >= 0 {
			line = line[:end+1]
		}
		n += len(line)
		if p.octets += len(line); p.octets > p.endless {
			return n, reply{}, false, errReplyLength
		}
		if end < 0 {
			p.begin(line)
			return n, reply{}, false, nil
		}
		if len(p.line) > 0 {
			p.begin(line)
			line = p.line
		}
		done = p.take(line)
		p.line = p.line[:0]
		if done {
			return n, p.end(), true, nil
		}
	}
	return n, reply{}, false, nil
}

// refuses reports whether a line of the reply so far is one of a refusal. Before its first line, what is kept is the
// reply before it, which may be another connection's: the buffers are shared.
func (p *parser) refuses() bool { return p.lines > 0 && p.reply.class() >= 4 }

// begin keeps a part of a line.
func (p *parser) begin(part []byte) {
	p.line = append(p.line, part[:min(len(part), p.maxLine-len(p.line))]...)
}

// end returns the reply and makes ready for the next.
func (p *parser) end() reply {
	p.line, p.lines, p.octets, p.better = p.line[:0], 0, 0, false
	return p.reply
}

// take reads one line and reports whether it was the last of its reply.
func (p *parser) take(line []byte) (last bool) {
	line = trimEnd(line[:min(len(line), p.maxLine)])
	if p.lines == 0 {
		if len(bytes.TrimLeft(line, " \t")) == 0 {
			return false
		}
		p.reply = reply{text: p.reply.text[:0]}
	}
	code, text, ok := cutCode(line)
	p.better = ok && code < 400 && p.refuses()
	if !ok || p.better {
		p.keep(line)
		return false
	}
	if code/100 != p.reply.class() {
		p.reply.enhanced = mail.EnhancedCode{}
	}
	p.reply.code = code
	if e, rest, ok := cutEnhanced(text, line[0]); ok {
		p.reply.enhanced, text = e, rest
	}
	p.keep(text)
	return len(line) == 3 || line[3] != '-'
}

// keep adds a line to the text, as far as that may grow.
func (p *parser) keep(line []byte) {
	if p.lines++; p.lines > p.maxLines {
		return
	}
	if p.lines > 1 {
		line = line[:min(len(line), max(0, p.maxOctets-len(p.reply.text)-1))]
		p.reply.text = append(p.reply.text, '\n')
	}
	p.reply.text = append(p.reply.text, line...)
}

// behind adds a line that came behind the end of the last reply to its text, unless its code is another one. It reports
// whether it did.
func (p *parser) behind(line []byte) bool {
	line = trimEnd(line[:min(len(line), p.maxLine)])
	if code, text, ok := cutCode(line); ok {
		if code != p.reply.code {
			return false
		}
		line = text
		if _, rest, ok := cutEnhanced(text, byte(code/100)+'0'); ok {
			line = rest
		}
	}
	p.lines = 1 + bytes.Count(p.reply.text, []byte{'\n'})
	p.keep(line)
	p.lines = 0
	return true
}

// lacksEnd reports whether what has come can be read and only its end is missing: a last line without its line end,
// lines that have no code but an enhanced one, or a refusal that ends in another code.
func (p *parser) lacksEnd() bool {
	if len(p.line) > 3 {
		code, _, ok := cutCode(p.line)
		return ok && p.line[3] != '-' && (code >= 400 || !p.refuses())
	}
	if len(p.line) > 0 || p.lines == 0 {
		return false
	}
	_, _, _, ok := cutClass(p.reply.text)
	return p.better || p.reply.code == 0 && ok
}

// ending returns the reply that has come, where nothing more will come: closed tells that the connection has ended. A
// reply whose lines have no code has that of its enhanced code, whose first digit decides (RFC 5321 section 4.2.1):
// "2.0.0 ok". A bare number is none: it may be a date or a count. The error is errReplySyntax where there is no code,
// and errReplyOpen where no reply has begun or a line of it is missing.
func (p *parser) ending(closed bool) (reply, error) {
	lacks := p.lacksEnd()
	switch {
	case lacks && len(p.line) > 0, closed && len(p.line) == 3 && hasCode(p.line):
		if !p.take(p.line) {
			return reply{}, errReplyOpen
		}
		return p.end(), nil
	case lacks && p.better:
		return p.end(), nil
	case len(p.line) > 0 || p.lines == 0 || p.reply.code != 0:
		return reply{}, errReplyOpen
	case !lacks:
		return reply{}, errReplySyntax
	}
	class, e, rest, _ := cutClass(p.reply.text)
	p.reply.code = class*100 + 50
	p.reply.enhanced, p.reply.text = e, append(p.reply.text[:0], rest...)
	return p.end(), nil
}

// cutClass reads an enhanced status code from the start of text where no code stands before it.
func cutClass(text []byte) (class int, e mail.EnhancedCode, rest []byte, ok bool) {
	text = bytes.TrimLeft(text, " \t")
	if len(text) == 0 || text[0] < '2' || text[0] > '5' {
		return 0, e, nil, false
	}
	e, rest, ok = cutEnhanced(text, text[0])
	return int(text[0] - '0'), e, rest, ok
}

// trimEnd returns the line without its line end.
func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'})
}

// hasCode reports whether the line begins with the three digits of a reply. Behind them no digit may stand, and none of
// ".,/)", with which a number in a text goes on: an address, an amount, a date.
func hasCode(line []byte) bool {
	return len(line) >= 3 && line[0] >= '2' && line[0] <= '5' && ascii.IsDigit(line[1]) && ascii.IsDigit(line[2]) &&
		(len(line) == 3 || !ascii.IsDigit(line[3]) && bytes.IndexByte([]byte(".,/)"), line[3]) < 0)
}

// cutCode returns the code of a line and the text behind it, without what separates them.
func cutCode(line []byte) (code int, text []byte, ok bool) {
	if !hasCode(line) {
		return 0, nil, false
	}
	text = line[3:]
	if len(text) > 0 && (text[0] == ' ' || text[0] == '-' || text[0] == '\t') {
		text = text[1:]
	}
	return int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0'), text, true
}

// cutEnhanced reads an enhanced status code (RFC 3463 section 2) from the start of text, also behind a "#" and before
// one of ":,;", as some servers write it. One whose class is not the reply's stays in the text, where it can still be
// read: a Reply cannot hold it.
func cutEnhanced(text []byte, class byte) (e mail.EnhancedCode, rest []byte, ok bool) {
	text = bytes.TrimPrefix(bytes.TrimLeft(text, " \t"), []byte{'#'})
	if len(text) < 5 || text[0] != class || class == '3' || text[1] != '.' {
		return e, nil, false
	}
	subject, text := cutNumber(text[2:])
	if len(text) == 0 || text[0] != '.' {
		return e, nil, false
	}
	detail, text := cutNumber(text[1:])
	if subject < 0 || detail < 0 {
		return e, nil, false
	}
	if len(text) > 0 && bytes.IndexByte([]byte(":,;"), text[0]) >= 0 {
		text = text[1:]
	}
	if len(text) > 0 && text[0] != ' ' && text[0] != '\t' {
		return e, nil, false
	}
	if len(text) > 0 {
		text = text[1:]
	}
	return mail.EnhancedCode{Subject: uint16(subject), Detail: uint16(detail)}, text, true
}

// cutNumber reads one to three digits. The number is -1 where there is no digit.
func cutNumber(b []byte) (int, []byte) {
	n, i := 0, 0
	for i < len(b) && i < 3 && ascii.IsDigit(b[i]) {
		n = n*10 + int(b[i]-'0')
		i++
	}
	if i == 0 {
		return -1, b
	}
	return n, b[i:]
}
