package rules

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestTable_Blocks: a block refuses a sender at the recipients that it names, and no other mail.
func TestTable_Blocks(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"domain h.example subaddress=+ dots=ignore",
		"in.fo@h.example x@t.example",
		"desk@h.example if from=@vip.example y@t.example",
		"desk@h.example x@t.example",
		"postmaster@h.example x@t.example",
		"@h.example x@t.example",
		"@g.example x@t.example",
		"@*.w.example x@t.example",
		"alias@g.example info@h.example",
		"block all@spam.example",
		"block @h-only.example for=@h.example",
		"block @*.below.example for=info@h.example  # and a comment",
		"block Bücher@BÜCHER.example for=desk@h.example",
		"block @pm.example for=postmaster@h.example",
		"block @w-only.example for=@*.w.example",
		"once@h.example if from=@vip.example y@t.example",
		"once@h.example x@t.example after=2020-01-01T00:00Z",
		"own@h.example if from=@vip.example y@t.example subaddress=none",
		"block a@once.example for=once@h.example",
		"block a@once.example for=own@h.example",
		"block @*.bücher.example",
		"abuse@h.example if from=@vip.example y@t.example",
		"block @pm.example for=abuse@h.example",
	}, "\n"))
	const x, no = "<x@t.example> by mx:t.example", "550 5.7.1 This recipient takes no mail from this sender"
	for _, tt := range []struct{ from, rcpt, want string }{
		{"all@spam.example", "info@h.example", no},
		{"ALL@SPAM.example", "any@g.example", no},
		{"other@spam.example", "info@h.example", x},
		{"all@spam.example", "a@foo.w.example", no},
		{"all@spam.example", "postmaster@h.example", x},
		{"a@h-only.example", "info@h.example", no},
		{"a@h-only.example", "info@g.example", x},
		{"a@h-only.example", "alias@g.example", x},
		{"a@sub.below.example", "info@h.example", no},
		{"a@sub.below.example", "i.n.f.o+tag@h.example", no},
		{"a@below.example", "info@h.example", x},
		{"a@sub.below.example", "desk@h.example", x},
		{"bücher@xn--bcher-kva.example", "desk@h.example", no},
		{"a@pm.example", "postmaster@h.example", no},
		{"a@w-only.example", "a@b.w.example", no},
		{"a@once.example", "once@h.example", no}, // though the catch-all takes it
		{"a@once.example", "o.nce+tag@h.example", no},
		{"b@once.example", "once@h.example", x},
		{"a@once.example", "own@h.example", no},
		{"a@once.example", "own+tag@h.example", x},
		{"a@once.example", "any@h.example", x},
		{"a@pm.example", "abuse@h.example", no},
		{"a@b.bücher.example", "any@h.example", no},
		{"a@xn--0.xn--bcher-kva.example", "any@h.example", no}, // no name in IDNA, and one in DNS
		{"a@xn--0。bücher。example", "any@h.example", no},
		{"a@xn--0.b.bücher.example", "any@h.example", no},
		{"a@xn--bcher-kva.example", "any@h.example", x},
		{"a@xn--0.example", "any@h.example", x},
		{"", "info@h.example", x},
		{"all@spam.example", "a@foreign.example", "550 5.7.1 Relaying denied"},
	} {
		q := mail.Query{Forward: parsePath(t, tt.rcpt)}
		if tt.from != "" {
			q.Reverse = parsePath(t, tt.from)
		}
		if got := answer(table.Route(q, nil)); got != tt.want {
			t.Errorf("from %q to %s: %s, want %s", tt.from, tt.rcpt, got, tt.want)
		}
	}
	var steps Steps
	_, err := table.Route(mail.Query{
		Reverse: parsePath(t, "a@h-only.example"), Forward: parsePath(t, "info@h.example"), Trusted: true,
	}, &steps)
	var refusal *mail.Refusal
	var rule *RuleError
	if !errors.As(err, &refusal) || refusal.Reason != ReasonBlocked || !errors.As(err, &rule) ||
		rule.Rule.String() != "routes.txt:11 block @h-only.example for=@h.example" ||
		steps.List[len(steps.List)-1] != rule.Rule.String()+" refuses this sender" {
		t.Errorf("%v, %q", err, steps.List)
	}
	if len(table.Warnings()) != 0 {
		t.Errorf("%q", table.Warnings())
	}
}

// TestParse_Blocks: what is wrong with a block is named, and one that another contains is warned of.
func TestParse_Blocks(t *testing.T) {
	const host = "domain h.example\ninfo@h.example x@t.example\ndomain b.example alias_of=h.example\n" +
		"@*.w.example drop\n"
	for _, tt := range [][2]string{
		{"block", "block without a sender"},
		{"block # nothing", "block without a sender"},
		{"block <>", "5:7: block <> would refuse all bounces"},
		{"block spam.example", "5:7: block: \"spam.example\" is a domain: write @spam.example"},
		{"block *@spam.example", "write @ and the domain for all its senders"},
		{"block a@x.example, b@x.example", "one sender stands on a line"},
		{"block a@x.example b@x.example", "5:19: one sender stands on a line"},
		{"block a@x.example info", "one sender stands on a line"},
		{"block a@x.example for=", "for= names one of your addresses"},
		{"block a@x.example for=@h.example for=@h.example", "for is given twice"},
		{"block a@x.example for=h.example", "5:19: for=h.example: write @ in front of a domain"},
		{"block a@x.example for=@g.example", "5:19: for=@g.example: g.example is not hosted here"},
		{"block a@x.example for=@b.example", "b.example is an alias of h.example: write that"},
		{"block a@x.example for=desk@h.example", "no line has this address as its pattern"},
		{"block a@x.example for=@a.w.example", "a.w.example is hosted by @*.w.example: write for=@*.w.example"},
		{"block a@x.example for=@*.h.example", "*.h.example is not hosted here"},
		{"block a@x.example\nblock A@X.example", "6:7: this sender is blocked at r:5"},
		{"Block a@x.example", "write block in small letters"},
	} {
		line, want := tt[0], tt[1]
		_, err := Parse("r", strings.NewReader(host+line), testConfig())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	for _, tt := range [][2]string{
		{"block a@x.example for=@h.example", "block a@x.example"},
		{"block a@x.example", "block @x.example"},
		{"block a@b.x.example for=info@h.example", "block @*.x.example for=@h.example"},
		{"block @b.c.x.example", "block @*.x.example"},
		{"block @*.b.x.example", "block @*.x.example"},
	} {
		line, wider := tt[0], tt[1]
		table, err := Parse("r", strings.NewReader(host+line+"\n"+wider), testConfig())
		if err != nil || len(table.Warnings()) != 1 ||
			table.Warnings()[0].String() != "r:5:7: no mail gets here: r:6 blocks more" {
			t.Errorf("%q: %v", line, err)
		}
	}
}
