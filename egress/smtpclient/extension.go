package smtpclient

import (
	"strconv"
	"strings"
)

// parseExtensions reads the text of a positive reply to EHLO or LHLO (RFC 5321 section 4.1.1.1): the first line names
// the server, each other one is a keyword, in any case, and its parameters. What is not known or malformed is passed
// over.
func parseExtensions(text string) Extensions {
	x := Extensions{ESMTP: true}
	_, text, _ = strings.Cut(text, "\n")
	for line := range strings.SplitSeq(text, "\n") {
		keyword, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(keyword) {
		case "PIPELINING":
			x.Pipelining = true
		case "CHUNKING":
			x.Chunking = true
		case "8BITMIME":
			x.EightBitMIME = true
		case "SMTPUTF8":
			x.SMTPUTF8 = true
		case "STARTTLS":
			x.StartTLS = true
		case "REQUIRETLS":
			x.RequireTLS = true
		case "ENHANCEDSTATUSCODES":
			x.Enhanced = true
		case "SIZE":
			x.SizeOffered = true
			if n, err := strconv.ParseInt(strings.TrimSpace(params), 10, 64); err == nil && n > 0 {
				x.Size = n
			}
		case "AUTH":
			x.parseMechanisms(params)
		case "LIMITS":
			x.parseLimits(params)
		default:
			// as servers wrote it before RFC 2554
			if rest, ok := strings.CutPrefix(strings.ToUpper(keyword), "AUTH="); ok {
				x.parseMechanisms(rest + " " + params)
			}
		}
	}
	return x
}

func (x *Extensions) parseMechanisms(params string) {
	for m := range strings.FieldsSeq(params) {
		x.AuthPlain = x.AuthPlain || strings.EqualFold(m, "PLAIN")
		x.AuthLogin = x.AuthLogin || strings.EqualFold(m, "LOGIN")
	}
}

// parseLimits reads the parameters of LIMITS (RFC 9422).
func (x *Extensions) parseLimits(params string) {
	for p := range strings.FieldsSeq(params) {
		name, value, _ := strings.Cut(p, "=")
		n, err := strconv.Atoi(value)
		if err != nil || n <= 0 {
			continue
		}
		switch strings.ToUpper(name) {
		case "MAILMAX":
			x.MailMax = n
		case "RCPTMAX":
			x.RcptMax = n
		}
	}
}
