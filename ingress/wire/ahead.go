package wire

import (
	"bytes"

	"github.com/millrace/millrace/router/mail"
)

// Ahead gives the forward-paths of the RCPT commands that stand directly behind the present one, because the client
// sent them in one group (RFC 2920), in their order and read as they will be: what may be asked about all of them can
// be asked at once. It is for Session.Rcpt. Nothing is consumed, and each of them is still given to Session.Rcpt in its
// turn; a command that the engine will refuse by itself, such as one with a malformed path, is left out.
//
// It looks at max commands at most, at none behind the first that is no RCPT, and only at those that have been read
// already, whole. Without any it gives nil and allocates nothing.
func (cl *Client) Ahead(max int) []mail.Path {
	if cl.conn == nil {
		return nil
	}
	return cl.conn.ahead(max)
}

func (c *conn) ahead(max int) (paths []mail.Path) {
	rest := c.buf[c.r:c.w]
	for range max {
		line, after, ok := cutLine(rest)
		if !ok {
			break
		}
		verb, arg := cutVerb(line)
		if !bytes.EqualFold(verb, []byte("RCPT")) {
			break
		}
		rest = after
		if hasControls(line) {
			continue
		}
		if p, fault := parseRcpt(arg, c.utf8); fault == nil {
			if paths == nil {
				paths = make([]mail.Path, 0, min(max, 1+bytes.Count(after, []byte("\n"))))
			}
			paths = append(paths, p)
		}
	}
	return paths
}

// cutLine cuts the first command line, without its CRLF, from b. It is none if it is not whole, too long, or does not
// end in CRLF.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' || i+1 > maxCommandLine {
		return nil, nil, false
	}
	return b[:i-1], b[i+1:], true
}
