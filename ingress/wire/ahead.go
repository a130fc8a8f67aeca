package wire

import (
	"bytes"

	"github.com/millrace/millrace/router/mail"
)

// Ahead returns the forward-paths of the RCPT commands that stand directly behind the present one, because the client
// sent them in one group (RFC 2920), in their order and parsed as they will be: what may be asked about all of them can
// be asked at once. It is for Session.Rcpt. Nothing is consumed, and Session.Rcpt is still called for each of them in
// its turn. A command that the engine will refuse by itself, for example one with a malformed path, is left out.
//
// It looks at most at max commands, only at those that have been read already, whole, and at nothing behind the first
// command that is not RCPT. Without any it returns nil and allocates nothing.
func (cl *Client) Ahead(max int) (paths []mail.Path) {
	c := cl.conn
	if c == nil {
		return nil
	}
	rest := c.in.buf[c.in.r:c.in.w]
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
		if p, fault := parseRcpt(arg, c.tx.utf8, c.srv.cfg.loose()); fault == nil {
			if paths == nil {
				paths = make([]mail.Path, 0, min(max, 1+bytes.Count(after, []byte("\n"))))
			}
			paths = append(paths, p)
		}
	}
	return paths
}

// cutLine cuts the first command line, without its CRLF, from b. It returns false if the line is not whole, too long,
// or does not end in CRLF.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' || i+1 > maxCommandLine {
		return nil, nil, false
	}
	return b[:i-1], b[i+1:], true
}
