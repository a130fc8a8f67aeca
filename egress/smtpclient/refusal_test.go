package smtpclient

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

func TestTheTableOfPhrasesParses(t *testing.T) {
	list, err := parsePhrases(refusalsText)
	if err != nil || len(list) < 10 {
		t.Errorf("got %d phrases, %v", len(list), err)
	}
	for _, tc := range []struct{ name, table, want string }{
		{"a line without a colon", "# x\n\nblocked for ever", "line 3: want a provider, a colon and a phrase"},
		{"a provider of two words", "a b: blocked for ever", "line 1: want a provider, a colon and a phrase"},
		{"a phrase that matches by chance", "a: blocked for ever\na: blocked", `line 2: phrase too short: "blocked"`},
	} {
		if _, err := parsePhrases(tc.table); err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestRefusalsAboutUsAreToldFromThoseAboutTheMessage(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	for _, tc := range []struct {
		name string
		r    mail.Reply
		want bool
	}{
		{"no such user", mail.NewReply(550, 1, 1, "no such user"), false},
		{"spam", mail.NewReply(554, 7, 1, "spam message rejected"), false},
		{"too large", mail.NewReply(552, 3, 4, "too large"), false},
		{"a syntax error", mail.NewReply(501, 5, 4, "bad parameter"), true},
		{"authentication required", mail.NewReply(530, 7, 0, "log in first"), true},
		{"MAIL parameters not known", mail.NewReply(555, 5, 4, "BODY?"), true},
		{"the host takes no mail", mail.NewReply(521, 0, 0, "no"), true},
		{"our address", mail.NewReply(550, 7, 1, "Client [192.0.2.7] refused"), true},
		{"our address at the end of a sentence", mail.NewReply(450, 7, 1, "Too much from 192.0.2.7."), true},
		{"our address in another spelling", mail.NewReply(550, 7, 1, "IPv6 2001:0DB8:0:0::0007 is listed"), true},
		{"a longer address", mail.NewReply(550, 7, 1, "192.0.2.77 is listed"), false},
		{"a name that begins like our address", mail.NewReply(550, 7, 1, "192.0.2.7.example.net is unknown"), false},
		{"a provider's phrase, over two lines and in any case", mail.NewReply(421, 7, 28, "Our system has DETECTED an\nunusual rate  of unsolicited mail"), true},
		{"a list's phrase", mail.NewReply(554, 7, 1, "Service unavailable; host is blocked using zen.example"), true},
	} {
		if got := aboutUs(tc.r, own); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

func TestAConfigWithANegativeLimitIsRefused(t *testing.T) {
	c := Config{Stall: -1}
	if err := c.Validate(); err == nil || err.Error() != "stall: is negative" {
		t.Errorf("got %v", err)
	}
	if _, err := Dial(t.Context(), c, Target{}); err == nil {
		t.Error("Dial took it")
	}
}
