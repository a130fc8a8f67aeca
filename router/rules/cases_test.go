package rules

import (
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestCases_AliasRules: aliases as the users of forwarders write them.
func TestCases_AliasRules(t *testing.T) {
	table := mustParse(t, `domain hosted.example subaddress=+
info@hosted.example           info-target@dest.example
me@hosted.example             me+fixed@dest.example
a+b@hosted.example            plusliteral@dest.example
/(.+)-list/@hosted.example    $1@dest.example
/(?P<n>s\d+)/@hosted.example  num-${1}@dest.example
bücher@hosted.example         books@dest.example
two@hosted.example            x@dest.example, y@dest.example
two2@hosted.example           x@dest.example, x@dest.example
chain@hosted.example          info@hosted.example
@hosted.example               catchall@dest.example
same@xn--bcher-kva.example    idn@dest.example
only@nocatch.example          only@dest.example
@trailing.example             trailing@dest.example
`)
	to := func(local string) string { return "<" + local + "@dest.example> by mx:dest.example" }
	const (
		relaying = "550 5.7.1 Relaying denied"
		routed   = "550 5.1.3 Source routing in the local part is not accepted"
		unknown  = "550 5.1.1 No such user here"
		ops      = "<ops@elsewhere.example> by mx:elsewhere.example"
		bad      = "a path that cannot be read"
	)
	catchall := to("catchall")
	for _, tt := range []struct{ name, rcpt, want string }{
		{"a literal", "info@hosted.example", to("info-target")},
		{"a literal in capitals", "INFO@HOSTED.EXAMPLE", to("info-target")},
		{"a tag", "info+tag@hosted.example", to("info-target")},
		{"two tags", "info+a+b@hosted.example", to("info-target")},
		{"an empty tag", "info+@hosted.example", to("info-target")},
		{"a target with a tag of its own", "me@hosted.example", to("me+fixed")},
		{"a target with a tag of its own keeps no other", "me+x@hosted.example", to("me+fixed")},
		{"a literal with a tag", "a+b@hosted.example", to("plusliteral")},
		{"a literal with a tag and a second tag", "a+b+c@hosted.example", to("plusliteral")},
		{"its name without the tag is the catch-all's", "a@hosted.example", catchall},
		{"its name with another tag too", "a+c@hosted.example", catchall},
		{"a separator at the start is no tag", "+info@hosted.example", catchall},
		{"a regex", "team-list@hosted.example", to("team")},
		{"a regex sees the tag", "team-list+x@hosted.example", catchall},
		{"a regex whose group is empty", "-list@hosted.example", catchall},
		{"a regex that matches twice", "team-list-list@hosted.example", to("team-list")},
		{"a group with a name, by its number", "s123@hosted.example", to("num-s123")},
		{"a group with a name keeps its case", "S123@hosted.example", to("num-S123")},
		{"a regex takes no part of a name", "as123x@hosted.example", catchall},
		{"quotes that nothing needs", `"info"@hosted.example`, to("info-target")},
		{"a backslash that nothing needs", `"in\fo"@hosted.example`, to("info-target")},
		{"dots count", "i.n.f.o@hosted.example", catchall},
		{"our own address literal", "info@[127.0.0.1]", relaying},
		{"a blank behind it", "info@hosted.example ", bad},
		{"postmaster before the catch-all", "postmaster@hosted.example", ops},
		{"abuse before the catch-all", "abuse@hosted.example", ops},
		{"postmaster with a tag is the catch-all's", "Postmaster+x@hosted.example", catchall},
		{"postmaster alone", "Postmaster", ops},
		{"two targets", "two@hosted.example", "<x@dest.example> <y@dest.example> by mx:dest.example"},
		{"one target twice", "two2@hosted.example", to("x")},
		{"an alias of an alias", "chain@hosted.example", to("info-target")},
		{"an alias of an alias with a tag", "chain+t@hosted.example", to("info-target")},
		{"an A-label", "same@xn--bcher-kva.example", to("idn")},
		{"an A-label in capitals", "same@XN--BCHER-KVA.example", to("idn")},
		{"its U-label", "same@bücher.example", to("idn")},
		{"a U-label for a local part", "bücher@hosted.example", to("books")},
		{"no such user where nothing catches", "other@nocatch.example", unknown},
		{"a tag where none is taken off", "only+x@nocatch.example", unknown},
		{"a subdomain", "x@sub.hosted.example", relaying},
		{"a catch-all alone", "x@trailing.example", to("trailing")},
		{"an address before a regex's end", "a%b@dest.example-list@hosted.example", bad},
		{"a percent to a catch-all that keeps nothing", "user%dest.example@hosted.example", catchall},
		{"a bang path in a group", "user!x-list@hosted.example", routed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := bad
			if p, err := mail.ParsePath(tt.rcpt, true); err == nil {
				got = answer(table.Route(mail.Query{Forward: p}, nil))
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
