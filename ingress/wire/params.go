package wire

import (
	"errors"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// parseMail parses what follows "MAIL": FROM:, the reverse-path and its parameters. Blanks between the colon and the
// bracket are tolerated, as all servers do, because clients send them against RFC 5321 section 3.3.
func parseMail(arg []byte, maxSize int64, loose mail.Looseness, offered offers) (reverse mail.Path, p mail.Params,
	fault *mail.Reply) {
	s, ok := cutPrefixFold(string(arg), "FROM:")
	if !ok {
		return mail.Path{}, mail.Params{}, &mailSyntax
	}
	// Whether SMTPUTF8 was declared is known only behind the path.
	reverse, rest, err := cutPath(s, loose)
	if err != nil || reverse.IsPostmaster() {
		return mail.Path{}, mail.Params{}, &badReversePath
	}
	if p, fault = parseParams(rest, maxSize, offered); fault != nil {
		return mail.Path{}, mail.Params{}, fault
	}
	if !p.SMTPUTF8 && !reverse.IsASCII() {
		return mail.Path{}, mail.Params{}, &needsUTF8
	}
	return reverse, p, nil
}

// cutPath cuts a path, which may hold octets beyond ASCII, from what stands behind its colon.
func cutPath(s string, loose mail.Looseness) (mail.Path, string, error) {
	return mail.CutPath(strings.TrimLeft(s, " \t"), true, loose)
}

// offers says which parameters of MAIL a client is offered that others are not.
type offers struct {
	trace bool // it may say what its mail is a part of
	tls   bool // it may demand REQUIRETLS
	auth  bool // it may say for whom it sends (RFC 4954 section 5), which is not believed
}

// parseParams parses the parameters of MAIL. Keywords are recognized in any case (RFC 5321 section 4.1.1.11 and 2.4).
func parseParams(s string, maxSize int64, offered offers) (p mail.Params, fault *mail.Reply) {
	var size, body, parent, author bool
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return p, nil
		}
		end := strings.IndexAny(s, " \t")
		if end < 0 {
			end = len(s)
		}
		key, value, hasValue := strings.Cut(s[:end], "=")
		s = s[end:]
		switch {
		case strings.EqualFold(key, "SIZE"):
			if size {
				return p, &twiceParameter
			}
			size = true
			if p.Size, fault = parseSize(value, maxSize); fault != nil {
				return p, fault
			}
		case strings.EqualFold(key, "BODY"):
			if body {
				return p, &twiceParameter
			}
			body = true
			switch {
			case strings.EqualFold(value, "7BIT"):
				p.Body = mail.Body7Bit
			case strings.EqualFold(value, "8BITMIME"):
				p.Body = mail.Body8BitMIME
			case strings.EqualFold(value, "BINARYMIME"):
				return p, &noBinaryMIME
			default:
				return p, &badParameter
			}
		case strings.EqualFold(key, "SMTPUTF8"):
			if p.SMTPUTF8 {
				return p, &twiceParameter
			}
			if hasValue { // RFC 6531 section 3.1: it takes no value
				return p, &badParameter
			}
			p.SMTPUTF8 = true
		case offered.tls && strings.EqualFold(key, "REQUIRETLS"):
			if p.RequireTLS {
				return p, &twiceParameter
			}
			if hasValue { // RFC 8689 section 2: it takes no value
				return p, &badParameter
			}
			p.RequireTLS = true
		case offered.auth && strings.EqualFold(key, "AUTH"):
			if author {
				return p, &twiceParameter
			}
			author = true
		case offered.trace && strings.EqualFold(key, traceKeyword):
			if parent {
				return p, &twiceParameter
			}
			parent = true
			p.Parent, _ = mail.ParseParent(value) // W3C trace context: what cannot be read is ignored
		default:
			return p, &unknownParameter
		}
	}
}

// parseSize parses the value of SIZE, at most 20 digits (RFC 1870 section 3).
func parseSize(s string, maxSize int64) (int64, *mail.Reply) {
	n, err := parseDigits(s)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n > maxSize:
		return 0, &tooBig
	case err != nil:
		return 0, &badParameter
	}
	return n, nil
}

// parseDigits parses 1 to 20 decimal digits and nothing else. The error is strconv.ErrRange if the number does not fit
// in 63 bits, else strconv.ErrSyntax.
func parseDigits(s string) (int64, error) {
	if s == "" || len(s) > 20 {
		return 0, strconv.ErrSyntax
	}
	for i := range len(s) {
		if !ascii.IsDigit(s[i]) {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.ParseInt(s, 10, 64)
}

// parseRcpt parses what follows "RCPT": TO: and the forward-path. No extension that is offered has a parameter for it.
func parseRcpt(arg []byte, smtputf8 bool, loose mail.Looseness) (mail.Path, *mail.Reply) {
	s, ok := cutPrefixFold(string(arg), "TO:")
	if !ok {
		return mail.Path{}, &rcptSyntax
	}
	forward, rest, err := cutPath(s, loose)
	switch {
	case err != nil || forward.IsNull():
		return mail.Path{}, &badForwardPath
	case strings.TrimLeft(rest, " \t") != "":
		return mail.Path{}, &unknownParameter
	case !smtputf8 && !forward.IsASCII():
		return mail.Path{}, &needsUTF8
	}
	return forward, nil
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// traceKeyword is the parameter of MAIL that says, as traceparent of W3C trace context does, what trace a client's mail
// is a part of. It is for those that are listed for it alone: X marks a keyword of a private agreement (RFC 5321
// section 2.2.2).
const traceKeyword = "XTRACEPARENT"
