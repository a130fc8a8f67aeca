package feedback

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// TestShipped_Match: what the big providers say is reacted to.
func TestShipped_Match(t *testing.T) {
	for _, c := range []struct {
		site     mail.Site
		code     int
		enhanced [2]uint16
		text     string
		want     string
	}{
		{
			"google", 421, [2]uint16{7, 28},
			"our system has detected an unusual rate of unsolicited mail originating from your ip address.",
			"slower 50% for 10m0s",
		},
		{"google", 421, [2]uint16{7, 0}, "ip address has been temporarily rate limited.", "slower 50% for 10m0s"},
		{
			"google", 450, [2]uint16{2, 1},
			"the user you are trying to contact is receiving mail at a rate that prevents additional messages: " +
				"message rate limit", "nothing",
		},
		{
			"google", 421, [2]uint16{7, 28},
			"gmail has detected an unusual rate of unsolicited mail containing one of your url domains.", "nothing",
		},
		{"google", 550, [2]uint16{7, 28}, "unusual rate", "nothing"},
		{
			"microsoft365", 451, [2]uint16{7, 500}, "server busy. please try again later from [192.0.2.1].",
			"slower 50% for 10m0s",
		},
		{
			"microsoft365", 451, [2]uint16{7, 652},
			"the mail server [192.0.2.1] has exceeded the maximum number of connections.", "fewer sessions",
		},
		{
			"outlook", 451, [2]uint16{7, 650},
			"the mail server [192.0.2.1] has been temporarily rate limited due to ip reputation.",
			"slower 50% for 30m0s",
		},
		{
			"outlook", 421, [2]uint16{},
			"rp-001 (snt004-mc1f43) unfortunately, some messages from 192.0.2.1 weren't sent.", "slower 50% for 30m0s",
		},
		{"mx.example", 421, [2]uint16{}, "rp-001", "nothing"},
		{
			"yahoo", 421, [2]uint16{7, 0},
			"[tss04] messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
			"slower 50% for 30m0s",
		},
		{
			"yahoo", 421, [2]uint16{7, 1}, "[ts03] all messages from 192.0.2.1 will be permanently deferred",
			"suspend 15m0s",
		},
		{"mx.example", 421, [2]uint16{7, 0}, "mx.example error: too many connections from 192.0.2.1", "fewer sessions"},
		{"mx.example", 450, [2]uint16{7, 1}, "<x>: recipient address rejected: greylisted", "nothing"},
	} {
		got, ok := Shipped().Match(c.site, c.code, mail.EnhancedCode{Subject: c.enhanced[0], Detail: c.enhanced[1]},
			c.text)
		if got.String() != c.want || ok != (c.want != "nothing") {
			t.Errorf("%s %d %q: got %s, want %s", c.site, c.code, c.text, got, c.want)
		}
	}
}

// TestShipped_Sites: every shipped rule names a shipped Site.
func TestShipped_Sites(t *testing.T) {
	known, others := mx.ShippedProviders(), mx.ShippedProviders().Limits("*")
	for _, r := range Shipped().rules {
		if r.site != "" && known.Limits(r.site) == others {
			t.Errorf("no site %s", r.site)
		}
	}
}

// TestTable_Match: the first rule that matches counts.
func TestTable_Match(t *testing.T) {
	table, err := Parse("f", "4yz * a \"one  Thing\" -> nothing\n\n# x\n4yz * * \"one thing\" -> suspend 5m\n")
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := table.Match("a", 450, mail.EnhancedCode{}, "just one thing"); ok {
		t.Errorf("got %v", a)
	}
	if a, ok := table.Match("b", 450, mail.EnhancedCode{}, "just one thing"); !ok ||
		a != (Action{Kind: Suspend, For: 5 * time.Minute}) {
		t.Errorf("got %v", a)
	}
	if _, ok := (*Table)(nil).Match("b", 450, mail.EnhancedCode{}, ""); ok {
		t.Error("no rules match")
	}
}

// TestTable_Before: rules of one's own win.
func TestTable_Before(t *testing.T) {
	own, err := Parse("own", "# ours\n421 4.7.0 a * -> nothing\n421 4.7.1 * * -> suspend 5m\n")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := Parse("shipped", "421 4.7.0 * * -> fewer sessions\n421 4.7.2 b * -> fewer sessions\n")
	if err != nil {
		t.Fatal(err)
	}
	both := own.Before(shipped)
	for _, c := range []struct {
		site   mail.Site
		detail uint16
		want   Kind
	}{{"a", 0, Nothing}, {"b", 0, Fewer}, {"a", 1, Suspend}, {"b", 2, Fewer}} {
		if a, _ := both.Match(c.site, 421, mail.EnhancedCode{Subject: 7, Detail: c.detail}, ""); a.Kind != c.want {
			t.Errorf("%s 4.7.%d: got %v", c.site, c.detail, a)
		}
	}
}

// TestTable_CheckSites: each Site that is wrong is told with its place.
func TestTable_CheckSites(t *testing.T) {
	table, err := Parse("own",
		"# ours\n421 4.7.0  a * -> nothing\n421 4.7.1 * * -> suspend 5m\n421 4.7.2 b * -> nothing\n")
	if err != nil {
		t.Fatal(err)
	}
	err = table.CheckSites("own", func(s mail.Site) error { return errors.New("no site " + string(s)) })
	var wrong *mail.LineErrors
	if !errors.As(err, &wrong) || len(wrong.List) != 2 || wrong.List[0].Error() != "own:2: no site a" ||
		wrong.List[0].Column != 12 || wrong.List[1].Line != 4 || wrong.List[1].Column != 11 {
		t.Errorf("got %v", err)
	}
	if err := table.CheckSites("own", func(mail.Site) error { return nil }); err != nil {
		t.Error(err)
	}
}

// TestParse_AllLines: each part of each line that is wrong is told with its place.
func TestParse_AllLines(t *testing.T) {
	_, err := Parse("f",
		"321 4.7.0 * * -> nothing\n421 4.7.0 * * -> nothing\n421 5.7.0 * \"abc\" -> suspend 2h\nwhat\n"+
			"421 4.7.0 * * -> suspend 5m\n")
	var wrong *mail.LineErrors
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range wrong.List {
		got = append(got, fmt.Sprintf("%d:%d", e.Line, e.Column))
	}
	if want := "1:1 3:5 3:13 3:22 4:1 5:1"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s\n%v", got, want, err)
	}
}

// TestParse_Mistakes: mistakes are told with their line.
func TestParse_Mistakes(t *testing.T) {
	for line, want := range map[string]string{
		"421 4.7.0 *":                                "want CODE",
		"421 4.7.0 * -> nothing":                     "want CODE",
		"321 4.7.0 * * -> nothing":                   "no code",
		"4yz 5.7.0 * * -> nothing":                   "no enhanced",
		"421 * * * -> nothing":                       "says too little",
		"421 * * \"abc\" -> nothing":                 "at least six",
		"421 4.7.0 * * -> slower 100% for 5m":        "not from 1% to 99%",
		"421 4.7.0 * * -> slower 50% for 2h":         "no time",
		"421 4.7.0 * * -> suspend":                   "no action",
		"421 4.7.0 * * -> fewer":                     "no action",
		"421 4.7.0 * \"open ended -> fewer sessions": "no text",
	} {
		_, err := Parse("f", "# first\n"+line)
		if err == nil || !strings.HasPrefix(err.Error(), "f:2: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(shipped)
	f.Add("421 4.7.0 * \"a -> b -> c\" -> slower 5% for 3s")
	f.Add("5yz * x \"\x00\xff text\" -> fewer sessions")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse("f", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("%v has no line", err)
			}
			return
		}
		for _, r := range table.rules {
			site := r.site
			code := max(r.code, r.class*100)
			if _, ok := table.Match(site, code, r.enhanced, r.text); !ok && r.action.Kind != Nothing {
				first, _ := table.Match(site, code, r.enhanced, r.text)
				if first.Kind != Nothing {
					t.Errorf("%+v does not match itself", r)
				}
			}
			again, err := parseAction(strings.Fields(r.action.String()))
			if err != nil || again != r.action {
				t.Errorf("%v is read as %v, %v", r.action, again, err)
			}
		}
	})
}
