package node

import (
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxPostfixText is the most octets of a text from outside in a line of Postfix's form. With the longest addresses
	// such a line has less than 2 KiB, which every syslog daemon takes (RFC 5424 section 6.1).
	maxPostfixText = 400
	// maxPostfixAddress is the most octets of an address or a name, which RFC 5321 section 4.5.3.1 bounds at 256.
	maxPostfixAddress = 256
)

// A postfixLines builds the lines of one event in Postfix's form. Its methods append to the line under way and return
// it, so that a line reads as one expression.
type postfixLines struct {
	journal *journal
	host    string
	pid     string
	b       []byte
	more    bool // a line says how many events were left out
}

func newPostfixLines(j *journal, host string) *postfixLines {
	return &postfixLines{journal: j, host: host, pid: strconv.Itoa(os.Getpid())}
}

// begin begins a line of one of Postfix's daemons.
func (l *postfixLines) begin(e *entry, daemon string) *postfixLines {
	l.b = e.Time.AppendFormat(l.b, timeForm)
	return l.text(" ").text(l.host).text(" postfix/").text(daemon).text("[").text(l.pid).text("]: ")
}

// traced begins a line that has the id of the transaction where Postfix has that of a message in its queue.
func (l *postfixLines) traced(e *entry, daemon string) *postfixLines {
	l.begin(e, daemon)
	l.b = hex.AppendEncode(l.b, e.Trace[:])
	return l.text(": ")
}

// from begins a line about the client.
func (l *postfixLines) from(e *entry, daemon, what string) *postfixLines {
	return l.begin(e, daemon).text(what).client(e)
}

// trace appends the id of a transaction to a line that has none in front, because programs want another word there.
func (l *postfixLines) trace(e *entry) *postfixLines {
	if e.Trace.IsZero() {
		return l
	}
	l.text(" trace=")
	l.b = hex.AppendEncode(l.b, e.Trace[:])
	return l
}

// end ends a line. One of those of an event says how many events were left out before it.
func (l *postfixLines) end(e *entry) {
	if e.more > 0 && !l.more {
		l.more = true
		l.text(" more=").number(int64(e.more))
	}
	l.text("\n")
}

// text appends a text of ours.
func (l *postfixLines) text(s string) *postfixLines {
	l.b = append(l.b, s...)
	return l
}

func (l *postfixLines) number(n int64) *postfixLines {
	l.b = strconv.AppendInt(l.b, n, 10)
	return l
}

// client appends the client as Postfix names one whose name it does not know.
func (l *postfixLines) client(e *entry) *postfixLines {
	return l.text("unknown[").addr(e.Client).text("]")
}

func (l *postfixLines) addr(a netip.Addr) *postfixLines {
	if !a.IsValid() {
		return l.text("unknown")
	}
	l.b = a.Unmap().AppendTo(l.b)
	return l
}

// address appends an address as it stands between angle brackets.
func (l *postfixLines) address(a mail.Path) *postfixLines {
	if a.IsNull() {
		return l
	}
	if l.journal.hashKey != nil {
		return l.text(l.journal.hashed(a.AppendTo(nil))).text("@").name(a.Domain)
	}
	return l.name(a.String())
}

// user appends the user that a client has logged in as, or could not.
func (l *postfixLines) user(e *entry) *postfixLines {
	if l.journal.hashKey != nil { // it may be an address
		return l.text(l.journal.hashed([]byte(e.User)))
	}
	return l.name(misleading.Replace(e.User))
}

// parting are the octets that part the fields of a line for the programs that read it.
var parting = strings.NewReplacer(" ", "?", "<", "?", ">", "?", ",", "?", ";", "?")

// name appends an address or a name from outside, in which nothing can part fields.
func (l *postfixLines) name(s string) *postfixLines {
	return l.foreign(parting.Replace(printable.Text(s)), maxPostfixAddress)
}

// misleading are the octets that a text from outside must not have. A bracket would let fail2ban take an address of its
// own choice for the client.
var misleading = strings.NewReplacer("=", "~", "[", "{", "]", "}")

// outside appends a text from outside.
func (l *postfixLines) outside(s string) *postfixLines {
	return l.foreign(misleading.Replace(l.journal.mask(s)), maxPostfixText)
}

// outcomes are the words by which programs count, anywhere in a line.
var outcomes = strings.NewReplacer("reject:", "reject~:", "reject_warning:", "reject_warning~:", "hold:", "hold~:",
	"discard:", "discard~:", "forwarded as", "forwarded-as")

// foreign appends at most so many octets of s, in which none of outcomes stands. Ours may go on with a colon, so s must
// not end in such a word either.
func (l *postfixLines) foreign(s string, most int) *postfixLines {
	return l.text(strings.TrimSuffix(outcomes.Replace(cut(s, most)+":"), ":"))
}

// reply appends a reply, on one line.
func (l *postfixLines) reply(r mail.Reply) *postfixLines {
	return l.outside(string(r.AppendPlain(nil)))
}

// status appends the code and the enhanced code of a reply.
func (l *postfixLines) status(r mail.Reply) *postfixLines {
	return l.number(int64(r.Code)).text(" ").dsn(r)
}

// dsn appends the enhanced code of a reply.
func (l *postfixLines) dsn(r mail.Reply) *postfixLines {
	return l.number(int64(r.Class())).text(".").number(int64(r.Enhanced.Subject)).
		text(".").number(int64(r.Enhanced.Detail))
}

// seconds appends a time in seconds, always with as many digits.
func (l *postfixLines) seconds(d time.Duration) *postfixLines {
	l.b = strconv.AppendFloat(l.b, d.Seconds(), 'f', 3, 64)
	return l
}

// server appends a host that we spoke with, and where; that of a unix socket has no address.
func (l *postfixLines) server(host string, at netip.AddrPort) *postfixLines {
	l.name(strings.NewReplacer("[", "", "]", "").Replace(host))
	if !at.IsValid() {
		return l
	}
	return l.text("[").addr(at.Addr()).text("]:").number(int64(at.Port()))
}
