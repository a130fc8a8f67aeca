package smtpclient

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

func newParser() *parser { return &parser{maxLine: 2048, maxLines: 100, maxOctets: 16 << 10} }

// Replies are read as RFC 5321 writes them.
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
		{"too long a line", "250 " + strings.Repeat("x", 2043) + "\r\n", "", errReplyLength},
		{"a line that never ends", strings.Repeat("2", 3000), "", errReplyLength},
		{"too many lines", strings.Repeat("250-a\r\n", 101), "", errReplyLength},
		{"too many octets", strings.Repeat("250-"+strings.Repeat("x", 1000)+"\r\n", 20), "", errReplyLength},
		{"codes that differ", "250-a\r\n251 b\r\n", "", errReplyCode},
		{"1yz", "150 a\r\n", "", errReplySyntax},
		{"6yz", "650 a\r\n", "", errReplySyntax},
		{"no code", "hello there\r\n", "", errReplySyntax},
		{"an empty line", "\r\n", "", errReplySyntax},
		{"a fourth digit", "2500 a\r\n", "", errReplySyntax},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, r, done, err := newParser().feed([]byte(tc.in + "250 next\r\n"))
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

// FuzzReply holds that a reply does not depend on how its octets were split, and that what is accepted is bounded and
// sane.
func FuzzReply(f *testing.F) {
	f.Add([]byte("250-a\r\n250 2.1.0 b\r\n354 x\r\n"), uint8(3))
	f.Add([]byte("550-5.1.1 no\n550 5.1.1 such"), uint8(1))
	f.Add([]byte("\r\n"), uint8(0))
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
				if r.code < 200 || r.code > 599 || len(r.text) > 16<<10 || strings.Count(string(r.text), "\n") > 99 ||
					p.partial() {
					t.Fatalf("accepted %+v", r)
				}
				if r.class() == 3 && r.enhanced != (mail.EnhancedCode{}) {
					t.Fatalf("3yz with an enhanced code: %+v", r)
				}
				all = append(all, result{show(r), nil})
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
