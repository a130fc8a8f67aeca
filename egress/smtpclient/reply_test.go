package smtpclient

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

func newParser() *parser {
	return &parser{maxLine: maxReplyLine, maxLines: maxReplyLines, maxOctets: maxReplyOctets, endless: maxReply}
}

// Replies are read as RFC 5321 writes them, and as a person reads those that it does not know.
func TestParser(t *testing.T) {
	for _, tc := range []struct {
		name, in, want string
		err            error
	}{
		{"one line", "250 ok\r\n", "250 0.0 ok", nil},
		{"a bare LF ends a line", "250 ok\n", "250 0.0 ok", nil},
		{"a code alone", "250\r\n", "250 0.0 ", nil},
		{"several lines", "250-a\r\n250-b\r\n250 c\r\n", "250 0.0 a|b|c", nil},
		{"an enhanced code is stripped", "550 5.1.1 no\r\n", "550 1.1 no", nil},
		{
			"from every line, and the last counts", "550-5.1.1 no\r\n550-plain\r\n550 5.7.26 such\r\n",
			"550 7.26 no|plain|such", nil,
		},
		{"one without text", "250 2.0.0\r\n", "250 0.0 ", nil},
		{"one of another class stays", "450 5.7.1 no\r\n", "450 0.0 5.7.1 no", nil},
		{"an address is not one", "550 5.6.7.8 no\r\n", "550 0.0 5.6.7.8 no", nil},
		{"four digits are not one", "550 5.6.7890 no\r\n", "550 0.0 5.6.7890 no", nil},
		{"a long line", "250 " + strings.Repeat("x", 2042) + "\r\n", "250 0.0 " + strings.Repeat("x", 2042), nil},
		{
			"too long a line is cut", "250 " + strings.Repeat("x", 9000) + "\r\n",
			"250 0.0 " + strings.Repeat("x", 2044), nil,
		},
		{
			"too many lines are cut", strings.Repeat("250-a\r\n", 500) + "550 b\r\n",
			"550 0.0 " + strings.Repeat("a|", 99) + "a", nil,
		},
		{
			"too many octets are cut", strings.Repeat("550-"+strings.Repeat("x", 999)+"\r\n", 20) + "550 5.7.1 y\r\n",
			"550 7.1 " + strings.Repeat(strings.Repeat("x", 999)+"|", 16) + strings.Repeat("x", 384) + "||||", nil,
		},
		{"a line that never ends", strings.Repeat("2", 2<<20), "", errReplyLength},
		{"a reply that never ends", strings.Repeat("250-a\r\n", 1<<18), "", errReplyLength},
		{"blank lines that never end", strings.Repeat("\r\n", 1<<20), "", errReplyLength},
		{"of codes that differ the last counts", "250-scanned\r\n251 b\r\n", "251 0.0 scanned|b", nil},
		{"also of classes", "250-2.0.0 scanned\r\n550 5.7.1 spam\r\n", "550 7.1 scanned|spam", nil},
		{
			"no line of a refusal makes a success of it", "550-5.7.1 Blocked:\r\n250 messages an hour\r\n550 bye\r\n",
			"550 7.1 Blocked:|250 messages an hour|bye", nil,
		},
		{
			"nor does an address", "550-5.7.1 Blocked:\r\n203.0.113.5 is listed\r\n550 bye\r\n",
			"550 7.1 Blocked:|203.0.113.5 is listed|bye", nil,
		},
		{
			"whatever stands before it", "203.0.113.5\r\n250,000\r\n250/251\r\n220) x\r\n554 bye\r\n",
			"554 0.0 203.0.113.5|250,000|250/251|220) x|bye", nil,
		},
		{"and the other's enhanced code does not", "250-2.1.5 scanned\r\n550 spam\r\n", "550 0.0 scanned|spam", nil},
		{
			"a line without a code is text", "250-2.0.0 ok\r\nqueued as 4711\r\n250 bye\r\n",
			"250 0.0 ok|queued as 4711|bye", nil,
		},
		{"also as the first", "hello there\r\n250 ok\r\n", "250 0.0 hello there|ok", nil},
		{"so is 1yz", "150 wait\r\n250 ok\r\n", "250 0.0 150 wait|ok", nil},
		{"and 6yz", "650 wait\r\n250 ok\r\n", "250 0.0 650 wait|ok", nil},
		{
			"and a fourth digit", "550-no\r\n5551234 is our number\r\n550 bye\r\n",
			"550 0.0 no|5551234 is our number|bye", nil,
		},
		{"and a blank line inside", "550-no\r\n\r\n550 bye\r\n", "550 0.0 no||bye", nil},
		{"an empty line before it is skipped", "\r\n \r\n\n220 dest\r\n", "220 0.0 dest", nil},
		{"a tab ends it", "550\t5.1.1 no\r\n", "550 1.1 no", nil},
		{"so does a letter", "550no such user\r\n", "550 0.0 no such user", nil},
		{"or a colon", "550: no such user\r\n", "550 0.0 : no such user", nil},
		{"an enhanced code behind two blanks", "550  5.1.1 no\r\n", "550 1.1 no", nil},
		{"behind a number sign", "550 #5.1.0 Address rejected.\r\n", "550 1.0 Address rejected.", nil},
		{"before a colon", "550 5.1.1: no such user\r\n", "550 1.1 no such user", nil},
		{"octets above 127", "550 5.1.1 Empf\xe4nger\r\n", "550 1.1 Empf\xe4nger", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := []byte(tc.in + "250 next\r\n")
			n, r, done, err := newParser().feed(in)
			if tc.err != nil {
				if !errors.Is(err, tc.err) {
					t.Fatalf("got %v", err)
				}
				return
			}
			got := show(r)
			if err != nil || !done || n != len(tc.in) || got != tc.want {
				t.Errorf("got %q, %d of %d octets, %v", got, n, len(tc.in), err)
			}
		})
	}
}

func show(r reply) string {
	m := r.mail()
	code := mail.Reply{Code: m.Code}.String()[:3]
	e := strings.Fields(mail.Reply{Code: 200, Enhanced: m.Enhanced}.String())[1]
	return code + " " + e[2:] + " " + strings.ReplaceAll(m.Text, "\n", "|")
}

// readBefore returns a parser that has read something before, to its end or not, and is made ready for the next reply.
func readBefore(t *testing.T, octets string) *parser {
	t.Helper()
	p := newParser()
	for b := []byte(octets); len(b) > 0; {
		n, _, _, err := p.feed(b)
		if err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	p.end()
	return p
}

// A reply of which the end is missing is read, once nothing more comes, where a person could read it, and whatever the
// replies before it were, on this connection and on the one that had the buffers before.
func TestParser_Ending(t *testing.T) {
	before := []string{
		"", "250 2.0.0 ok\r\n", "550 5.1.1 no such user\r\n", "451 4.2.1 later\r\n", "354 go\r\n",
		"550-no\r\n250 ok\r\n",
		"250-half", "2.0.0 ok\r\n", "220 a\r\n421 4.7.0 bye\r\n",
	}
	for _, tc := range []struct {
		in             string
		silent, closed string // what is read where nothing more comes, and where the connection has ended
		soon           bool   // which is not waited for any longer than it must
	}{
		{"", "open", "open", false},
		{"\r\n", "open", "open", false},
		{"2", "open", "open", false},
		{"25", "open", "open", false},
		{"250", "open", "250 0.0 ", false}, // "-" may come
		{"250-ok", "open", "open", false},
		{"250-ok\r\n", "open", "open", false},
		{"250-ok\r\n25", "open", "open", false},
		{"250-ok\r\n250", "open", "250 0.0 ok|", false},
		{"250 2.0.0 ok", "250 0.0 ok", "250 0.0 ok", true},
		{"550 5.7.1 spam\r", "550 7.1 spam", "550 7.1 spam", true},
		{"250-scanned\r\n550 no", "550 0.0 scanned|no", "550 0.0 scanned|no", true},
		{"2500 ok", "open", "open", false},
		{"2.0.0 ok\r\n", "250 0.0 ok", "250 0.0 ok", true},
		{" 5.7.1 spam\r\nyes\r\n", "550 7.1 spam|yes", "550 7.1 spam|yes", true},
		{"2 ok\r\n", "no code", "no code", false},
		{"2026-11-30 06:00:00 the scanner is slow\r\n", "no code", "no code", false},
		{"2 recipients\r\n", "no code", "no code", false},
		{"203.0.113.5 is slow\r\n", "no code", "no code", false},
		{"550-no\r\n250 ok\r\n", "550 0.0 no|250 ok", "550 0.0 no|250 ok", true},
		{"550-no\r\n250 ok\r\nmore\r\n", "open", "open", false},
		{"550-no\r\n250 ok", "open", "open", false},
		{"550-no\r\n250", "open", "open", false},
		{"2.0.0 ok\r\n25", "open", "open", false},
		{"OK\r\n", "no code", "no code", false},
		{"150 wait\r\n", "no code", "no code", false},
	} {
		for i := range 2 * len(before) {
			closed, want := i%2 == 1, tc.silent
			if closed {
				want = tc.closed
			}
			p := readBefore(t, before[i/2])
			if _, _, done, err := p.feed([]byte(tc.in)); done || err != nil {
				t.Fatalf("%q: done %v, %v", tc.in, done, err)
			}
			if p.lacksEnd() != tc.soon {
				t.Errorf("%q behind %q: only the end is missing: got %v", tc.in, before[i/2], p.lacksEnd())
			}
			r, err := p.ending(closed)
			got := ""
			switch {
			case errors.Is(err, errReplyOpen):
				got = "open"
			case err != nil:
				got = "no code"
			default:
				got = show(r)
			}
			if got != want {
				t.Errorf("%q behind %q, closed %v: got %q, want %q", tc.in, before[i/2], closed, got, want)
			}
		}
	}
}

// What stands behind a reply is text of it, unless it has a code of its own.
func TestParser_Behind(t *testing.T) {
	for _, tc := range []struct{ in, behind, want string }{
		{"250 dest\r\n", "250-SIZE 1000\r\n250 HELP\r\n", "250 0.0 dest|SIZE 1000|HELP"},
		{"550 5.7.1 no\r\n", "your address is listed\n", "550 7.1 no|your address is listed"},
		{"250 2.0.0 ok\r\n", "250 2.0.0 ok\r\n", "250 0.0 ok|ok"},
		{"250 2.0.0 ok\r\n", "421 4.4.2 bye\r\n", "250 0.0 ok"},
	} {
		p := newParser()
		if _, _, done, err := p.feed([]byte(tc.in)); !done || err != nil {
			t.Fatalf("%q: done %v, %v", tc.in, done, err)
		}
		for line := range strings.SplitAfterSeq(tc.behind, "\n") {
			if line != "" {
				p.behind([]byte(line))
			}
		}
		if got := show(p.reply); got != tc.want || p.partial() {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

// FuzzReply holds that a reply does not depend on how its octets were split, and that what is accepted is bounded and
// sane.
func FuzzReply(f *testing.F) {
	f.Add([]byte("250-a\r\n250 2.1.0 b\r\n354 x\r\n"), uint8(3))
	f.Add([]byte("550-5.1.1 no\n550 5.1.1 such"), uint8(1))
	f.Add([]byte("\r\n"), uint8(0))
	f.Add([]byte("250-ok\r\nqueued\r\n550\tno\r\n2.0.0 ok\r\n25"), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		type result struct {
			text string
			err  error
		}
		run := func(step int) (all []result) {
			p := newParser()
			for b := in; len(b) > 0; {
				n, r, done, err := p.feed(b[:min(step, len(b))])
				if err != nil {
					return append(all, result{"", err})
				}
				b = b[n:]
				if !done {
					continue
				}
				if r.code < 200 || r.code > 599 || len(r.text) > maxReplyOctets || p.partial() ||
					strings.Count(string(r.text), "\n") > 99 {
					t.Fatalf("accepted %+v", r)
				}
				if r.class() == 3 && r.enhanced != (mail.EnhancedCode{}) {
					t.Fatalf("3yz with an enhanced code: %+v", r)
				}
				all = append(all, result{show(r), nil})
			}
			for _, closed := range []bool{false, true} {
				again := *p
				again.line, again.reply.text = slices.Clone(p.line), slices.Clone(p.reply.text)
				r, err := again.ending(closed)
				if err == nil && (r.code < 200 || r.code > 599 || len(r.text) > maxReplyOctets || again.partial()) {
					t.Fatalf("accepted at the end: %+v", r)
				}
				if p.lacksEnd() && errors.Is(err, errReplyOpen) {
					t.Fatalf("%q: no more is waited for than the end, and it is open", in)
				}
				text := ""
				if err == nil {
					text = show(r)
				}
				all = append(all, result{text, err})
			}
			return all
		}
		whole, pieces := run(len(in)+1), run(int(step)+1)
		if len(whole) != len(pieces) {
			t.Fatalf("got %v in one, %v in pieces", whole, pieces)
		}
		for i := range whole {
			if whole[i] != pieces[i] {
				t.Fatalf("got %v in one, %v in pieces", whole[i], pieces[i])
			}
		}
	})
}

// Extensions are read in any case.
func TestParseExtensions(t *testing.T) {
	got := parseExtensions("mx.test hello\npipelining\nSize 1000\nAUTH=LOGIN\nAuth PLAIN " +
		"XOAUTH2\nSTARTTLS\nx-unknown a b\nCHUNKING\n8bitmime\nSMTPUTF8\nREQUIRETLS\nENHANCEDSTATUSCODES\nLIMITS " +
		"MAILMAX=7 RCPTMAX=x RCPTMAX=-1")
	want := Extensions{
		Keywords: ESMTP | Pipelining | Chunking | EightBitMIME | SMTPUTF8 | StartTLS | RequireTLS |
			EnhancedStatusCodes | Size | AuthPlain | AuthLogin,
		Size: 1000, MailMax: 7,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := parseExtensions("PIPELINING"); got != (Extensions{Keywords: ESMTP}) {
		t.Errorf("the first line is the server's name: got %+v", got)
	}
}

// FuzzEHLO holds that keywords are read without regard to case and limits never negative.
func FuzzEHLO(f *testing.F) {
	f.Add("mx\nSIZE 100\nAUTH PLAIN\nLIMITS RCPTMAX=1")
	f.Add("mx\nsize -1\nSIZE 99999999999999999999")
	f.Fuzz(func(t *testing.T, text string) {
		x := parseExtensions(text)
		if x.Size < 0 || x.MailMax < 0 || x.RcptMax < 0 || x.Size > 0 && !x.Has(Size) {
			t.Fatalf("got %+v", x)
		}
		ascii := strings.Map(func(r rune) rune {
			if r > 127 {
				return 'u'
			}
			return r
		}, text)
		if up, low := parseExtensions(strings.ToUpper(ascii)), parseExtensions(strings.ToLower(ascii)); up != low {
			t.Fatalf("got %+v in upper case, %+v in lower", up, low)
		}
	})
}
