package smtpclient

import (
	"strconv"
	"strings"
)

// A Keyword is an extension that a server can offer, or several.
type Keyword uint16

// The extensions that matter here.
const (
	ESMTP Keyword = 1 << iota // EHLO or LHLO was accepted
	Pipelining
	Chunking
	EightBitMIME
	SMTPUTF8
	StartTLS
	RequireTLS
	EnhancedStatusCodes
	Size // with or without a limit
	AuthPlain
	AuthLogin
)

// Extensions are what a server offered.
type Extensions struct {
	Keywords Keyword
	Size     int64 // the limit of SIZE in octets; 0 if there is no limit
	MailMax  int   // LIMITS MAILMAX and RCPTMAX (RFC 9422); 0 if there is no limit
	RcptMax  int
	Forward  Attributes // of XFORWARD
	Client   Attributes // of XCLIENT
}

// Has reports whether the server offered k, one Keyword.
func (x *Extensions) Has(k Keyword) bool { return x.Keywords&k != 0 }

// parseExtensions returns what is offered by the text of a positive reply to EHLO or LHLO (RFC 5321 section 4.1.1.1):
// the first line names the server, each other one is a keyword, in any case, and its parameters. What is not known or
// malformed is skipped.
func parseExtensions(text string) Extensions {
	x := Extensions{Keywords: ESMTP}
	_, text, _ = strings.Cut(text, "\n")
	for line := range strings.SplitSeq(text, "\n") {
		keyword, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(keyword) {
		case "PIPELINING":
			x.Keywords |= Pipelining
		case "CHUNKING":
			x.Keywords |= Chunking
		case "8BITMIME":
			x.Keywords |= EightBitMIME
		case "SMTPUTF8":
			x.Keywords |= SMTPUTF8
		case "STARTTLS":
			x.Keywords |= StartTLS
		case "REQUIRETLS":
			x.Keywords |= RequireTLS
		case "ENHANCEDSTATUSCODES":
			x.Keywords |= EnhancedStatusCodes
		case "SIZE":
			x.Keywords |= Size
			if n, err := strconv.ParseInt(strings.TrimSpace(params), 10, 64); err == nil && n > 0 {
				x.Size = n
			}
		case "AUTH":
			x.parseMechanisms(params)
		case "XFORWARD":
			x.Forward = parseAttributes(params)
		case "XCLIENT":
			x.Client = parseAttributes(params)
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

// parseMechanisms reads the parameters of AUTH (RFC 4954).
func (x *Extensions) parseMechanisms(params string) {
	for m := range strings.FieldsSeq(params) {
		switch {
		case strings.EqualFold(m, "PLAIN"):
			x.Keywords |= AuthPlain
		case strings.EqualFold(m, "LOGIN"):
			x.Keywords |= AuthLogin
		}
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
