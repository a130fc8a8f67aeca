package wire

import (
	"strconv"

	"github.com/millrace/millrace/router/mail"
)

// The replies of the engine itself. They are never changed.
var (
	okReset          = mail.NewReply(250, 0, 0, "OK")
	okSender         = mail.NewReply(250, 1, 0, "OK")
	okRecipient      = mail.NewReply(250, 1, 5, "OK")
	startData        = mail.NewReply(354, 0, 0, "End data with <CR><LF>.<CR><LF>")
	bye              = mail.NewReply(221, 0, 0, "Bye")
	help             = mail.NewReply(214, 0, 0, "See RFC 5321")
	cannotVerify     = mail.NewReply(252, 5, 0, "Cannot verify, but will take a message and try")
	startTLS         = mail.NewReply(220, 0, 0, "Start TLS")
	unknownCommand   = mail.NewReply(500, 5, 1, "Unknown command")
	notImplemented   = mail.NewReply(502, 5, 1, "Command not implemented")
	lineTooLong      = mail.NewReply(500, 5, 2, "Command line too long")
	lineNotCRLF      = mail.NewReply(500, 5, 2, "A command line ends with CRLF")
	lineControls     = mail.NewReply(500, 5, 2, "Control characters in command")
	noParameters     = mail.NewReply(501, 5, 4, "Command takes no parameters")
	helloFirst       = mail.NewReply(503, 5, 1, "EHLO first")
	helloArgument    = mail.NewReply(501, 5, 4, "Your name is missing or malformed")
	nestedMail       = mail.NewReply(503, 5, 1, "A transaction is already open")
	mailFirst        = mail.NewReply(503, 5, 1, "MAIL first")
	rcptFirst        = mail.NewReply(503, 5, 1, "RCPT first")
	noRecipients     = mail.NewReply(554, 5, 1, "No valid recipients")
	noRecipientNow   = mail.NewReply(451, 5, 1, "No recipient could be accepted now")
	tooManyRcpts     = mail.NewReply(452, 5, 3, "Too many recipients")
	tooManyMessages  = mail.NewReply(421, 5, 3, "Too many messages on this connection")
	chunksRunning    = mail.NewReply(503, 5, 1, "A message is being sent with BDAT")
	vrfySyntax       = mail.NewReply(501, 5, 4, "Syntax: VRFY mailbox")
	chunkSyntax      = mail.NewReply(501, 5, 4, "Syntax: BDAT size [LAST]")
	tooBig           = mail.NewReply(552, 3, 4, "Message too big")
	bareLine         = mail.NewReply(550, 6, 11, "Message has a bare CR or LF")
	wideLine         = mail.NewReply(554, 6, 0, "Message has a line that is too long")
	badReversePath   = mail.NewReply(501, 1, 7, "Malformed reverse-path")
	badForwardPath   = mail.NewReply(501, 1, 3, "Malformed forward-path")
	mailSyntax       = mail.NewReply(501, 5, 4, "Syntax: MAIL FROM:<reverse-path> [parameters]")
	rcptSyntax       = mail.NewReply(501, 5, 4, "Syntax: RCPT TO:<forward-path>")
	needsUTF8        = mail.NewReply(553, 6, 7, "Address needs SMTPUTF8")
	unknownParameter = mail.NewReply(555, 5, 4, "Unknown parameter")
	twiceParameter   = mail.NewReply(501, 5, 4, "Parameter given twice")
	badParameter     = mail.NewReply(501, 5, 4, "Malformed parameter value")
	noBinaryMIME     = mail.NewReply(504, 5, 4, "BINARYMIME is not offered")
	refusedClient    = mail.NewReply(503, 5, 1, "No service for you here")
	noTLS            = mail.NewReply(502, 5, 1, "STARTTLS is not offered")
	alreadyTLS       = mail.NewReply(503, 5, 1, "TLS is already active")
	tlsNotLast       = mail.NewReply(503, 5, 1, "STARTTLS must be the last command of a batch")
	welcome          = mail.NewReply(235, 7, 0, "Welcome")
	tlsFirst         = mail.NewReply(530, 7, 0, "Must issue a STARTTLS command first")
	authFirst        = mail.NewReply(530, 7, 0, "Authentication required")
	authInside       = mail.NewReply(503, 5, 1, "AUTH inside a transaction")
	loggedIn         = mail.NewReply(503, 5, 1, "You are logged in already")
	noMechanism      = mail.NewReply(504, 5, 4, "PLAIN and LOGIN are offered")
	loginSyntax      = mail.NewReply(501, 5, 2, "Malformed login")
	loginCancelled   = mail.NewReply(501, 7, 0, "Login cancelled")
	noXclient        = mail.NewReply(550, 7, 0, "XCLIENT is not for you")
	xclientInside    = mail.NewReply(503, 5, 1, "XCLIENT inside a transaction")
	xclientSyntax    = mail.NewReply(501, 5, 4, "Malformed XCLIENT attribute")

	tooManyConnections = mail.NewReply(421, 7, 0, "Too many connections, try again later")
	tooManyErrors      = mail.NewReply(421, 7, 0, "Too many errors")
	tooManyRefused     = mail.NewReply(421, 7, 0, "Too many refused recipients")
	tooManyPutOff      = mail.NewReply(421, 7, 0, "Too many deferred recipients")
	tooMuchJunk        = mail.NewReply(421, 7, 0, "Too many commands without a message")
	shuttingDown       = mail.NewReply(421, 3, 2, "Shutting down, try again")
	noMemory           = mail.NewReply(452, 3, 1, "Too much mail in transit, try again later")
	idleTooLong        = mail.NewReply(421, 4, 2, "Waited too long for you")
	gaveWay            = mail.NewReply(421, 3, 2, "Place needed for others, try again later")
	localError         = mail.NewReply(421, 3, 0, "Local error, try again later")
	notTaken           = mail.NewReply(451, 3, 0, "Local error, try again later")
	noHTTP             = mail.NewReply(554, 5, 1, "This is an SMTP server")
	noPlainTLS         = mail.NewReply(554, 5, 1, "Say EHLO and STARTTLS before TLS")
	noProxyHere        = mail.NewReply(421, 7, 0, "No PROXY header is taken from you")
	proxyExpected      = mail.NewReply(421, 7, 0, "A PROXY header is missing or malformed")
)

// reasonOf returns the reason of a refusal that the engine decides on by itself, a fixed word to count by.
func reasonOf(r mail.Reply) string {
	switch r {
	case shuttingDown:
		return "drain"
	case gaveWay:
		return "gave way"
	case idleTooLong:
		return "idle"
	case tooManyMessages:
		return "messages"
	case tooManyRcpts:
		return "too many recipients"
	case noRecipients, noRecipientNow:
		return "no recipient"
	case tooBig:
		return "size"
	case bareLine:
		return "bare CR or LF"
	case wideLine:
		return "line"
	case notTaken, localError:
		return "local error"
	case noMemory:
		return "hold budget"
	}
	return "protocol"
}

// refusal returns an error that mail.ReplyFor turns into r.
func refusal(r mail.Reply, reason string) *mail.Refusal {
	return &mail.Refusal{Reply: r, Reason: reason}
}

// appendGreeting appends the 220, which has no enhanced code (RFC 2034 section 4).
func (c *Config) appendGreeting(b []byte) []byte {
	b = append(b, "220 "...)
	b = append(b, c.Hostname...)
	return append(b, " ESMTP\r\n"...)
}

// appendEHLO appends the reply to EHLO, which has no enhanced codes either. secure reports that TLS is active, xclient
// that the client may use XCLIENT, traced that it may name a trace.
func (c *Config) appendEHLO(b []byte, secure, xclient, traced bool) []byte {
	b = append(b, "250-"...)
	b = append(b, c.Hostname...)
	b = append(b, "\r\n250-PIPELINING\r\n250-SIZE "...)
	b = strconv.AppendInt(b, c.MessageSize, 10)
	b = append(b, "\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n"...)
	if c.TLS != nil && !secure {
		b = append(b, "250-STARTTLS\r\n"...)
	}
	if c.RequireTLS && secure {
		b = append(b, "250-REQUIRETLS\r\n"...)
	}
	if c.Login != nil && secure {
		b = append(b, "250-AUTH PLAIN LOGIN\r\n"...)
	}
	if xclient {
		b = append(b, "250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"...)
	}
	if traced {
		b = append(append(append(b, "250-"...), traceKeyword...), "\r\n"...)
	}
	b = append(b, "250-LIMITS RCPTMAX="...)
	b = strconv.AppendInt(b, int64(c.Recipients), 10)
	if most := c.Places.limits.Messages; most > 0 {
		b = append(b, " MAILMAX="...)
		b = strconv.AppendInt(b, int64(most), 10)
	}
	return append(b, "\r\n250 ENHANCEDSTATUSCODES\r\n"...)
}

// appendHELO appends the reply to HELO.
func (c *Config) appendHELO(b []byte) []byte {
	b = append(b, "250 "...)
	b = append(b, c.Hostname...)
	return append(b, "\r\n"...)
}
