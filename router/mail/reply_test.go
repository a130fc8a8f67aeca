package mail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestReply_AppendTo(t *testing.T) {
	id := TraceID{0xab, 15: 1}
	const digits = "ab000000000000000000000000000001"
	tests := []struct {
		name  string
		reply Reply
		want  string
	}{
		{"one line", NewReply(250, 1, 5, "OK"), "250 2.1.5 OK\r\n"},
		{"the class comes from the code", NewReply(451, 3, 0, "Later"), "451 4.3.0 Later\r\n"},
		{"three lines", NewReply(550, 7, 1, "a\nb\nc"), "550-5.7.1 a\r\n550-5.7.1 b\r\n550 5.7.1 c\r\n"},
		{"3yz has no enhanced code", NewReply(354, 0, 0, "Go on"), "354 Go on\r\n"},
		{
			"the id ends the last line", NewReply(550, 1, 1, "a\nb").WithID(id),
			"550-5.1.1 a\r\n550 5.1.1 b id=" + digits + "\r\n",
		},
		{
			"no octet can add a line or command a terminal", NewReply(550, 1, 1, "a\rb\x00\x1b[2Jö"),
			"550 5.1.1 a?b??[2J??\r\n",
		},
		{"a carriage return before a line feed is left out", NewReply(550, 1, 1, "a\r\nb\r"),
			"550-5.1.1 a\r\n550 5.1.1 b\r\n"},
		{"no text", NewReply(250, 0, 0, ""), "250 2.0.0 \r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(tt.reply.AppendTo(nil)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	const page = "; see https://mx.example.net/why?id="
	for _, tt := range []struct {
		name  string
		reply Reply
		page  string
		want  string
	}{
		{"a refusal by policy names the page", NewReply(554, 7, 1, "a\nb").Ours().WithID(id), page,
			"554-5.7.1 a\r\n554 5.7.1 b" + page + digits + "\r\n"},
		{"there is no page", NewReply(554, 7, 1, "a").Ours().WithID(id), "", "554 5.7.1 a id=" + digits + "\r\n"},
		{"the refusal is no policy", NewReply(550, 1, 1, "a").Ours().WithID(id), page,
			"550 5.1.1 a id=" + digits + "\r\n"},
		{"it is the next hop's", NewReply(550, 7, 1, "a").WithID(id), page, "550 5.7.1 a id=" + digits + "\r\n"},
		{"a greeting of users is none", NewReply(235, 7, 0, "Welcome").Ours(), page, "235 2.7.0 Welcome\r\n"},
		{"the text gives way, and not the link", NewReply(554, 7, 1, strings.Repeat("x", 600)).Ours().WithID(id), page,
			"554 5.7.1 " + strings.Repeat("x", 442-len("554 5.7.1 ")) + page + digits + "\r\n"},
	} {
		if got := string(tt.reply.AppendReferring(nil, tt.page)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	long := string(NewReply(550, 999, 999,
		strings.Repeat("x", 600)+"\n"+strings.Repeat("y", 600)).WithID(id).AppendTo(nil))
	lines := strings.SplitAfter(long, "\r\n")
	if len(lines) != 3 || len(lines[0]) != MaxReplyLine || len(lines[1]) != MaxReplyLine ||
		!strings.HasSuffix(lines[1], "y id="+digits+"\r\n") {
		t.Errorf("a long reply is %q", lines)
	}
	if got, want := NewReply(550, 7, 1, "a\nb").WithID(id).String(), "550 5.7.1 a / b id="+digits; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzReply checks that a reply with any text is lines of at most 512 octets of printable ASCII, each with its code,
// the last one with a blank after it.
func FuzzReply(f *testing.F) {
	f.Add(550, uint16(7), uint16(1), "a\nb\r\n\r\n250 OK", true)
	f.Add(250, uint16(0), uint16(0), strings.Repeat("ö\n", 300), false)
	f.Fuzz(func(t *testing.T, code int, subject, detail uint16, text string, withID bool) {
		if code < 200 || code > 599 {
			return
		}
		r := NewReply(code, int(subject), int(detail), text)
		if withID {
			r = r.WithID(TraceID{1})
		}
		lines := strings.SplitAfter(string(r.Ours().AppendReferring(nil, "; see https://a.example/why?id=")), "\r\n")
		if last := len(lines) - 1; lines[last] != "" || last != strings.Count(text, "\n")+1 {
			t.Fatalf("%q", lines)
		}
		for i, line := range lines[:len(lines)-1] {
			sep := "-"
			if i == len(lines)-2 {
				sep = " "
			}
			inside := strings.TrimSuffix(line, "\r\n")
			if len(line) > MaxReplyLine || !strings.HasPrefix(line, fmt.Sprint(code)+sep) ||
				strings.IndexFunc(inside, func(c rune) bool { return c < ' ' || c > '~' }) >= 0 {
				t.Fatalf("%q", line)
			}
		}
	})
}

func TestReplyFor(t *testing.T) {
	noSuchUser := Refuse(550, 1, 1, "No such mailbox", "upstream", errors.New("secret"))
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"a refusal passes through", noSuchUser, "550 5.1.1 No such mailbox"},
		{"wrapping keeps the refusal", fmt.Errorf("mx1.example: %w", noSuchUser), "550 5.1.1 No such mailbox"},
		{"joining keeps the refusal", errors.Join(errors.New("other"), noSuchUser), "550 5.1.1 No such mailbox"},
		{
			"our deadline is transient", fmt.Errorf("pool: %w", context.DeadlineExceeded),
			"451 4.4.1 Destination did not answer in time",
		},
		{
			"a socket's deadline is transient", fmt.Errorf("read: %w", os.ErrDeadlineExceeded),
			"451 4.4.1 Destination did not answer in time",
		},
		{
			"a refusal caused by a deadline is the refusal",
			Refuse(450, 2, 1, "Busy", "busy", context.DeadlineExceeded), "450 4.2.1 Busy",
		},
		{"a cancelled context is transient", context.Canceled, "451 4.3.0 Local error, try again later"},
		{"an unclassified error is transient", errors.New("nil map"), "451 4.3.0 Local error, try again later"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ReplyFor(tt.err).String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	withHost := *noSuchUser
	withHost.Host = "mx1.example"
	if got, want := withHost.Error(), "mx1.example: 550 5.1.1 No such mailbox (secret)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if strings.Contains(string(ReplyFor(&withHost).AppendTo(nil)), "secret") {
		t.Error("the cause goes on the wire")
	}
}

// A next hop is written as in a rules file.
func TestNextHop_String(t *testing.T) {
	tests := []struct {
		nextHop NextHop
		want    string
	}{
		{NextHop{Transport: MX, Host: "h.example"}, "mx:h.example"},
		{NextHop{Transport: SMTP, Host: "h.example"}, "smtp://h.example"},
		{NextHop{Transport: SMTP, Host: "192.0.2.1", Port: 2525}, "smtp://192.0.2.1:2525"},
		{NextHop{Transport: SMTP, Host: "2001:db8::1"}, "smtp://[2001:db8::1]"},
		{NextHop{Transport: LMTP, Host: "2001:db8::1", Port: 24}, "lmtp://[2001:db8::1]:24"},
		{NextHop{Transport: SMTPS, Host: "h.example", User: "u"}, "smtps://u@h.example"},
		{
			NextHop{Transport: Submission, Host: "h.example", Port: 2587, User: "u@x.example"},
			"submission://u%40x.example@h.example:2587",
		},
		{NextHop{Transport: LMTPUnix, Host: "/run/lmtp"}, "lmtp+unix:/run/lmtp"},
	}
	for _, tt := range tests {
		if got := tt.nextHop.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

// A rule is named by its file and line.
func TestRule_String(t *testing.T) {
	if got, want := (Rule{
		Pattern: "@h.example", File: "routes.txt", Line: 7,
	}).String(), "routes.txt:7 @h.example"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := (Rule{Pattern: "postmaster"}).String(), "postmaster"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestParseEnhanced: an enhanced code has three numbers, of one digit and of three at most.
func TestParseEnhanced(t *testing.T) {
	for s, want := range map[string]EnhancedCode{"5.7.26": {7, 26}, "4.0.0": {}, "2.999.001": {999, 1}} {
		if class, e, ok := ParseEnhanced(s); !ok || e != want || class != int(s[0]-'0') {
			t.Errorf("%s: got %d %v %t", s, class, e, ok)
		}
	}
	for _, s := range []string{
		"", "5", "5.7", "5.7.1.1", "55.7.1", "5.1000.1", "5.7.1000", "5..1", "5.7.", "5.+7.1", "a.7.1",
	} {
		if _, _, ok := ParseEnhanced(s); ok {
			t.Errorf("%s is one", s)
		}
	}
}
