package rules

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"
)

// A mistake is a line as people write it who come from Postfix, Exim, sendmail, a web form or another file format.
// Line is the text of the third line of a file, at is the column that is named, words what the complaint has to say.
type mistake struct {
	name, line string
	at         int
	words      string
}

// wrongLines are refused.
var wrongLines = []mistake{
	// Patterns.
	{"a local part alone", "info x@t.example", 1, `"info" has no domain: write info@`},
	{"a domain alone, as in Postfix", "example.com x@t.example", 1, `"example.com" is a domain: write @example.com`},
	{"a domain with its dot, as in Postfix", ".example.com x@t.example", 1, "are written @*.example.com"},
	{"all domains below another", "@.example.com x@t.example", 1, "are written @*.example.com"},
	{"a star for a label", "info@*.example.com x@t.example", 1, "are written @*.example.com"},
	{"all domains", "@*.com x@t.example", 1, `all domains of "com" would be hosted here`},
	{"a star for all domains", "@* x@t.example", 1, "not a domain name"},
	{"a star within a label", "@a*.example.com x@t.example", 1, "not a domain name"},
	{"a star for everything", "* x@t.example", 1, "a star alone is no pattern"},
	{"a star for a local part", "*@h.example x@t.example", 1, "a star alone is no pattern: write @h.example"},
	{"a colon as in aliases", "info@h.example: x@t.example", 1, "no colon stands behind a pattern"},
	{"a colon with blanks as in Exim", "info@h.example : x@t.example", 16, "no colon stands in front of a target"},
	{"an arrow", "info@h.example -> x@t.example", 16, `no "->" stands in front of a target`},
	{"an arrow of two strokes", "info@h.example => x@t.example", 16, `no "=>" stands in front of a target`},
	{"an equals sign", "info@h.example = x@t.example", 16, `no "=" stands in front of a target`},
	{"a comma between pattern and target", "info@h.example,x@t.example", 15, "one pattern stands on a line"},
	{"a semicolon behind the pattern", "info@h.example; x@t.example", 1, "no semicolon"},
	{"angle brackets", "<info@h.example> x@t.example", 1, "without angle brackets"},
	{"a mailto", "mailto:info@h.example x@t.example", 1, "without mailto:"},
	{"a display name", `"Info Desk" <info@h.example> x@t.example`, 1, "a display name"},
	{"quotes around the whole", `"info@h.example" x@t.example`, 1, "quotes stand around the local part alone"},
	{"apostrophes around the whole", "'info@h.example' x@t.example", 1, "apostrophes"},
	{"two at-signs", "info@@h.example x@t.example", 1, "two at-signs"},
	{"two dots", "info@h..example x@t.example", 1, "two dots in a row"},
	{"two dots in the local part", "in..fo@h.example x@t.example", 1, "two dots in a row"},
	{"a dot at the end", "info@h.example. x@t.example", 1, "a dot at its end"},
	{"a dot at the start", ".info@h.example x@t.example", 1, "a dot at the start"},
	{"no local part and no domain", "@ x@t.example", 1, "has no domain"},
	{"no domain", "info@ x@t.example", 1, "has no domain"},
	{"a no-break space", "info@h.example\u00a0x@t.example", 1, "U+00A0"},
	{"a wide at-sign", "info＠h.example x@t.example", 1, "U+FF20"},
	{"octets of Latin-1", "m\xfcller@h.example x@t.example", 1, "not UTF-8"},
	{"a JSON object", `{"info@h.example": "x@t.example"}`, 1, "JSON"},
	{"a YAML list", "- info@h.example: x@t.example", 1, "YAML"},
	{"a JSON end", "},", 1, "JSON"},
	{"another file", "include more.txt", 1, "a folder"},
	{"another file, with an exclamation mark", "!include more.txt", 1, "a folder"},

	// Comments.
	{"a comment with two slashes", "// old rules", 1, "a comment begins with #"},
	{"a comment with a semicolon", "; old rules", 1, "a comment begins with #"},
	{"a comment with two dashes", "-- old rules", 1, "a comment begins with #"},
	{"a comment as in C", "/* old rules */", 1, "a comment begins with #"},
	{"two slashes behind the target", "info@h.example x@t.example // old", 28, "a comment begins with #"},
	{"a semicolon behind the target", "info@h.example x@t.example ; old", 28, "a comment begins with #"},
	{"no blank in front of a comment", "info@h.example x@t.example#old", 16, "a blank in front of #"},

	// Domain lines.
	{"domain in capitals", "DOMAIN g.example", 1, "write domain in small letters"},
	{"domain mistyped", "doman g.example", 1, "did you mean domain"},
	{"domain in the plural", "domains g.example", 1, "did you mean domain"},
	{"domain with an at-sign", "domain @g.example", 8, "without @"},
	{"domain with an address", "domain info@g.example", 8, "a domain, not an address"},
	{"domain with a star", "domain *.g.example", 8, "their options stand behind @*.g.example"},
	{"domain with a URL", "domain https://g.example/", 8, "a URL"},
	{"two domains", "domain g.example f.example", 18, "one domain stands on a line"},
	{"two domains with a comma", "domain g.example, f.example", 17, "one domain stands on a line"},
	{"a domain with a target", "domain g.example x@t.example", 18, "a domain line has options alone"},
	{"a domain in quotes", `domain "g.example"`, 8, "without quotes"},
	{"a domain with a dot at the end", "domain g.example.", 8, "a dot at its end"},

	// Regexes.
	{"a regex as in Postfix", `/^sales.*@h\.example$/ x@t.example`, 1, "a regex ends in /@ and a domain"},
	{"a regex without a domain", "/sales/ x@t.example", 1, "a regex ends in /@ and a domain"},
	{"a look-ahead", "/(?!x).*/@h.example x@t.example", 1, "RE2 has no look-ahead"},
	{"a back-reference", `/(a)\1/@h.example x@t.example`, 1, "RE2 has no back-references"},
	{"a regex without an end of its group", "/(a/@h.example x@t.example", 1, "missing closing )"},
	{"a group as in sed", `/(.*)/@h.example \1@t.example`, 18, "a group is written $1"},
	{"a group without a regex", "info@h.example $1@t.example", 16, "this pattern has no groups"},
	{"a group in a domain", "/(.*)/@h.example x@$1.example", 18, "in the local part only"},
	{"a regex for a domain of nobody", "/a/@g.example x@t.example", 1, "a regex hosts no domain"},

	// Actions.
	{"no target", "info@h.example", 1, "a pattern without a target"},
	{"drop in capitals", "info@h.example DROP", 16, "write drop in small letters"},
	{"discard", "info@h.example discard", 16, `no action "discard": write drop`},
	{"discard as in Postfix", "info@h.example discard:", 16, "write drop"},
	{"the null device", "info@h.example /dev/null", 16, "write drop"},
	{"the black hole of Exim", "info@h.example :blackhole:", 16, "write drop"},
	{"reject in capitals", "info@h.example REJECT", 16, "write reject in small letters"},
	{"reject without a code", "info@h.example reject", 16, "reject needs a reply code 5yz"},
	{"reject with a text alone", "info@h.example reject No such user", 23, "reject needs a reply code 5yz"},
	{"reject with an enhanced code alone", "info@h.example reject 5.1.1 No", 23,
		"the reply code stands first: reject 550 5.1.1"},
	{"reject with a code for later", "info@h.example reject 450 Later", 23, "tempfail"},
	{"reject with a colon", "info@h.example reject: No", 16, "no colon"},
	{"reject mistyped", "info@h.example rejcet 550 No", 16, "did you mean reject"},
	{"bounce", "info@h.example bounce", 16, `no action "bounce": write reject 550`},
	{"a code alone", "info@h.example 550 No such user", 16, "write reject 550"},
	{"a code for later alone", "info@h.example 450 Later", 16, "write tempfail 450"},
	{"fail as in Exim", "info@h.example :fail: No such user", 16, "write reject 550"},
	{"error as in sendmail", "info@h.example error:nouser 550 No such user", 16, "write reject 550"},
	{"defer", "info@h.example defer", 16, `no action "defer": write tempfail 450`},
	{"forward", "info@h.example forward x@t.example", 16, "the target stands there without a word"},
	{"failover", "info@h.example failover x@t.example, y@t.example", 16, "write try"},
	{"accept", "info@h.example accept", 16, "no action \"accept\""},
	{"try with one target", "info@h.example try x@t.example", 20, "try needs two targets"},
	{
		"a target at our SRS domain", "info@h.example bob@srs.example.net", 1,
		"lies in a domain of ours, and no rule takes it",
	},
	{
		"one of two targets at our own name", "info@h.example x@t.example, bob@MX1.example.net", 1,
		"lies in a domain of ours, and no rule takes it",
	},
	{"drop with an option", "info@h.example drop srs=never", 21, "after drop"},

	// Targets.
	{"a user of this machine", "info@h.example alice", 16, `"alice" has no domain`},
	{"a host", "info@h.example mail.t.example", 16, "a host is written smtp://mail.t.example"},
	{"a host and a port", "info@h.example mail.t.example:2525", 16, "a host is written smtp://mail.t.example:2525"},
	{"an address of IPv4", "info@h.example 192.0.2.7", 16, "an IP address is written smtp://192.0.2.7"},
	{"an address of IPv4 and a port", "info@h.example 192.0.2.7:25", 16,
		"an IP address is written smtp://192.0.2.7:25"},
	{"an address in brackets", "info@h.example [192.0.2.7]", 16, "an IP address is written smtp://192.0.2.7"},
	{"an address in brackets and a port", "info@h.example [192.0.2.7]:26", 16, "is written smtp://192.0.2.7:26"},
	{"an address of IPv6", "info@h.example 2001:db8::7", 16, "an IP address is written smtp://[2001:db8::7]"},
	{"an address of IPv6 and a port", "info@h.example [2001:db8::7]:26", 16, "is written smtp://[2001:db8::7]:26"},
	{"this machine", "info@h.example localhost", 16, "a host is written smtp://localhost"},
	{"a transport of Postfix", "info@h.example smtp:[mail.t.example]:2525", 16, "write smtp://mail.t.example:2525"},
	{"a relay of Postfix", "info@h.example relay:mail.t.example", 16, "write smtp://mail.t.example"},
	{"a socket of Postfix", "info@h.example lmtp:unix:/run/lmtp", 16, "write lmtp+unix:/run/lmtp"},
	{"a socket with slashes", "info@h.example lmtp+unix://run/lmtp", 16, "write lmtp+unix:/run/lmtp"},
	{"one slash", "info@h.example smtp:/mail.t.example", 16, "two slashes"},
	{"a scheme mistyped", "info@h.example stmp://mail.t.example", 16, `did you mean smtp`},
	{"a web address", "info@h.example https://t.example/hook", 16, `unknown scheme "https"`},
	{"a path behind a host", "info@h.example smtp://mail.t.example/", 16, "no path stands behind a host"},
	{"a port out of range", "info@h.example smtp://mail.t.example:70000", 16, "a port is a number from 1 to 65535"},
	{"IPv6 without brackets", "info@h.example smtp://2001:db8::1", 16, "an IPv6 address stands in brackets"},
	{"IPv4 in brackets", "info@h.example smtp://[192.0.2.1]", 16, "in brackets stands an IPv6 address"},
	{"a host with a star", "info@h.example smtp://*.t.example", 16, "no host name"},
	{"a password", "info@h.example smtps://u:p@mail.t.example", 16, "a password belongs into the credentials file"},
	{"a user without TLS", "info@h.example smtp://u@mail.t.example", 16, "under smtps:// and submission:// only"},
	{"another domain for all of this one", "@g.example @t.example", 12, "/(.*)/@"},
	{"a program", "info@h.example |/usr/bin/procmail", 16, "no mail is given to a program"},
	{"a program in quotes", `info@h.example "|/usr/bin/procmail"`, 16, "no mail is given to a program"},
	{"a file", "info@h.example /var/mail/alice", 16, "no mail is written to a file"},
	{"a list of another file", "info@h.example :include:/etc/list", 16, "no targets are read from another file"},
	{"a mailto for a target", "info@h.example mailto:x@t.example", 16, "without mailto:"},
	{"angle brackets for a target", "info@h.example <x@t.example>", 16, "without angle brackets"},
	{"a display name of a target", "info@h.example Alice <x@t.example>", 16, `"Alice" has no domain`},
	{"quotes around a target", `info@h.example "x@t.example"`, 16, "quotes stand around the local part alone"},
	{"an at-sign too many", "info@h.example x@y@t.example", 16, "two at-signs"},
	{"targets with a blank", "info@h.example x@t.example y@t.example", 28, "targets are separated by commas"},
	{"targets with a semicolon", "info@h.example x@t.example;y@t.example", 16, "targets are separated by commas"},
	{"targets with a semicolon and a blank", "info@h.example x@t.example; y@t.example", 16,
		"targets are separated by commas"},
	{"targets with and", "info@h.example x@t.example and y@t.example", 28, "targets are separated by commas"},
	{"targets in brackets", "info@h.example [x@t.example, y@t.example]", 16, "no brackets stand around targets"},
	{"a comma too many", "info@h.example x@t.example,", 27, "a target is missing"},
	{"two commas", "info@h.example x@t.example,, y@t.example", 28, "a target is missing"},
	{"a port behind an address", "info@h.example x@t.example:25", 16, "no port stands behind an address"},

	// Options.
	{"an option in front of the target", "info@h.example srs=never x@t.example", 16,
		"options stand behind the targets"},
	{"blanks around the equals sign", "info@h.example x@t.example srs = never", 28, "no blanks stand around ="},
	{"a colon in an option", "info@h.example x@t.example srs:never", 28, "write srs=never"},
	{"dashes in front of an option", "info@h.example x@t.example --srs=never", 28, "write srs=never"},
	{"an option in capitals", "info@h.example x@t.example SRS=never", 28, "did you mean srs"},
	{"an option with a hyphen", "info@h.example x@t.example require-auth=yes", 28, "did you mean require_auth"},
	{"an option mistyped", "info@h.example x@t.example drmac=off", 28, "did you mean dmarc"},
	{"an option of Postfix", "domain g.example recipient_delimiter=+", 18, "did you mean subaddress"},
	{"an option that is none", "info@h.example x@t.example colour=red", 28, "the options are srs, seal, dmarc"},
	{"a value in capitals", "info@h.example x@t.example srs=Never", 28, "did you mean never"},
	{"a switch for a value", "info@h.example x@t.example srs=off", 28, "it is one of auto, always, never"},
	{"a value mistyped", "info@h.example x@t.example dmarc=enfroce", 28, "did you mean enforce"},
	{"an option without a value", "info@h.example x@t.example srs=", 28, "it is one of auto, always, never"},
	{"options with a comma", "info@h.example x@t.example srs=never,seal=never", 28, "options are separated by blanks"},
	{"two characters for a separator", "domain g.example subaddress=+-", 18, "it is one of !#$%"},
	{"an option twice", "info@h.example x@t.example srs=never srs=auto", 38, "is given twice"},
	{"an option of a rule on a domain", "domain g.example routing=keep", 18, "routing stands on a rule only"},

	// Lines that contradict others.
	{"the same address twice", "ONE@h.example y@t.example", 1, "the same pattern stands at r:2"},
	{"the same domain twice", "domain H.example", 8, "was given at r:1"},
	{"an alias of itself", "info@h.example info@h.example", 1, "the aliases loop"},
	{"a target here that no rule takes", "info@h.example nobody@h.example", 1, "no rule takes it"},
	{"this node itself", "info@h.example smtp://mx1.example.net", 1, "is this node itself"},

	// What only a closer look finds.
	{"drop beside a target", "info@h.example x@t.example, drop", 29, "drop stands alone"},
	{"reject beside a target", "info@h.example x@t.example, reject 550 No", 29, "reject stands alone"},
	{"try inside of try", "info@h.example try try x@t.example, y@t.example", 20, "try stands alone"},
	{"an address of IPv4 that is none", "info@h.example smtp://192.0.2.300", 16, "neither a host name nor"},
	{"an address of IPv4 that is short", "info@h.example smtp://192.0.2", 16, "neither a host name nor an IP address"},
	{"an address of IPv4 as one number", "info@h.example smtp://2130706433", 16, "neither a host name"},
	{"an address of many hosts", "info@h.example smtp://224.0.0.1", 16, "is no address of one host"},
	{"an address of all hosts", "info@h.example smtp://255.255.255.255", 16, "is no address of one host"},
	{"an address of IPv6 with a zone", "info@h.example smtp://[2001:db8::1%eth0]", 16, "in brackets stands"},
	{"an address of IPv6 that is not closed", "info@h.example smtp://[2001:db8::1", 16, "in brackets stands"},
	{"port 0", "info@h.example smtp://h.example:0", 16, "a port is a number from 1 to 65535"},
	{"two ports", "info@h.example smtp://h.example:25:26", 16, "an IPv6 address stands in brackets"},
	{"an address in brackets that is none", "info@h.example x@[192.0.2.300]", 16, "in brackets stands an IP"},
	{"an address of IPv6 without its tag", "info@h.example x@[2001:db8::1]", 16, "[IPv6:2001:db8::1]"},
	{"a label that begins with a hyphen", "info@h.example x@-t.example", 16, "begins or ends with a hyphen"},
	{"a label that is too long", "info@h.example x@" + strings.Repeat("a", 64) + ".example", 16, "than 63 octets"},
	{"an A-label that is none", "info@h.example x@xn--zz.example", 16, "IDNA"},
	{"an empty regex", "//@h.example x@t.example", 1, "an empty regex matches no address"},
	{"the same regex in another case", "/B+/@h.example x@t.example\n/b+/@h.example y@t.example", 1, "the same pattern"},
	{"a CR inside of a line", "info@h.example x@t.example\rb@h.example", 27, "control character"},
	{"a line as in a shell", "info@h.example x@t.example \\", 28, "options are key=value"},
	{"two aliases that loop", "info@h.example info@h.example, x@t.example", 1, "the aliases loop"},
	{"a catch-all of itself", "@h.example x@h.example", 1, "the aliases loop"},
	{"a line without end", "info@h.example " + strings.Repeat("x", 17000), 1, "longer than 16384 octets"},
	{"an enhanced code of another class", "info@h.example reject 550 4.1.1 No", 23, "the class of 4.1.1"},
}

// doubtfulLines load and are warned of.
var doubtfulLines = []mistake{
	{"a target without a dot", "info@h.example x@localhost", 16, `the domain "localhost" has no dot`},
	{"an IP address for a domain", "info@h.example x@192.0.2.7", 16, "write x@[192.0.2.7]"},
	{"typographic quotes around the pattern", "“info@h.example” x@t.example", 1, "typographic quotes"},
	{"a typographic dash in a domain", "info@h–x.example x@t.example", 1, "typographic dash"},
	{"typographic quotes around a target", "info@h.example “x@t.example”", 16, "typographic quotes"},
	{"typographic quotes in a target", "info@h.example “x”@t.example", 16, "typographic quotes"},
	{"a typographic apostrophe in a pattern", "o’brien@h.example x@t.example", 1, "typographic quotes"},
	{"an invisible character", "info@h.example \u200bx@t.example", 16, "an invisible character (U+200B)"},
	{"a no-break space at the start", "\u00a0info@h.example x@t.example", 1, "U+00A0"},
	{"the same target twice", "info@h.example x@t.example, X@t.example, x@T.example", 42, "stands there twice"},
	{"a group as in sendmail", "info@h.example %1@t.example", 16, "a group is written $1"},
	{"a domain that no rule serves", "domain g.example", 8, "no rule serves it"},
	{"a regex behind one for all", "/.*/@h.example x@t.example\n/a.*/@h.example y@t.example", 1,
		"no address gets here: the regex at r:3 takes all before it"},
	{"a catch-all behind a regex for all", "/(.+)/@h.example x@t.example\n@h.example y@t.example", 1,
		"no address gets here"},
	{"a regex that takes what it makes", "/(.*)/@h.example a$1@h.example", 1, "the aliases may loop"},
	{"the port of TLS for SMTP", "info@h.example smtp://h.example:465", 16, "write smtps://"},
	{"the port of submission for TLS", "info@h.example smtps://h.example:587", 16, "STARTTLS"},
	{"the port of SMTP for LMTP", "info@h.example lmtp://h.example:25", 16, "write smtp://"},
	{"a domain that ends in a number", "info@h.example x@t.123", 16, "ends in a number"},
	{"a group by its name", "/(?P<n>.+)x/@h.example $n@t.example", 24, "a group is written $1"},
	{"a postmaster that is thrown away", "Postmaster@h.example drop", 1, "each domain takes mail to postmaster"},
	{"reports of abuse that are refused", "abuse@h.example reject 550 5.1.1 No", 1, "each domain takes mail to abuse"},
	{"a domain that is an IP address", "domain 192.0.2.7\n@192.0.2.7 x@t.example", 8, "write [192.0.2.7]"},
}

// goWords are what a complaint may not have: names and phrases of the language that the program is written in.
var goWords = regexp.MustCompile(`(?i)\bnil\b|\bparse[A-Z]|\bstrconv|\bsyntax error|\berror parsing|\bunmarshal|` +
	`\breflect|\bint64\b|\bstring\b|\bstruct\b|\bnetip|%!|invalid syntax|unsupported Perl`)

// TestParse_Mistakes: each wrong line is refused or warned of, at its place, by a text that names the fault.
func TestParse_Mistakes(t *testing.T) {
	const before = "domain h.example\none@h.example x@t.example\n"
	for _, tt := range wrongLines {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("r", strings.NewReader(before+tt.line+"\n"), testConfig())
			var errs *Errors
			if !errors.As(err, &errs) || len(errs.List) != 1 {
				t.Fatalf("%s\ngot %v, want one error with %q", tt.line, err, tt.words)
			}
			compare(t, tt, err.Error())
		})
	}
	for _, tt := range doubtfulLines {
		t.Run(tt.name, func(t *testing.T) {
			table, err := Parse("r", strings.NewReader(before+tt.line+"\n"), testConfig())
			if err != nil || len(table.Warnings()) != 1 {
				t.Fatalf("%s\ngot %v and %v, want one warning with %q", tt.line, err, table, tt.words)
			}
			compare(t, tt, table.Warnings()[0].String())
		})
	}
}

func compare(t *testing.T, want mistake, got string) {
	t.Helper()
	line := 3
	if strings.Contains(want.line, "\n/") || strings.Contains(want.line, "\n@h") { // the second one is wrong
		line = 4
	}
	if !strings.HasPrefix(got, fmt.Sprintf("r:%d:%d: ", line, want.at)) || !strings.Contains(got, want.words) {
		t.Errorf("%s\ngot  %s\nwant r:%d:%d: ...%s...", want.line, got, line, want.at, want.words)
	}
	if word := goWords.FindString(got); word != "" {
		t.Errorf("%s\ngot %s: %q is no word of an administrator", want.line, got, word)
	}
}

// TestParse_WrongFiles: a file that is no text of ours has one complaint, not one a line.
func TestParse_WrongFiles(t *testing.T) {
	const text = "domain h.example\none@h.example x@t.example\n"
	var wide strings.Builder
	for _, u := range utf16.Encode([]rune("\ufeff" + text)) {
		wide.WriteString(string([]byte{byte(u), byte(u >> 8)}))
	}
	for name, tt := range map[string]struct{ text, want string }{
		"UTF-16":               {wide.String(), "r:1:1: the file is UTF-16: save it as UTF-8"},
		"lines that end in CR": {strings.ReplaceAll(text, "\n", "\r"), "r:1:1: the lines end in CR alone: save"},
	} {
		if _, err := Parse("r", strings.NewReader(tt.text), testConfig()); err == nil ||
			!strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	table := mustParse(t, "# nothing yet\n")
	if w := table.Warnings(); len(w) != 1 || w[0].String() != "routes.txt:1:1: there is no rule: all mail is refused" {
		t.Errorf("an empty file: got %v", w)
	}
}

// TestParse_Columns: columns count characters, not octets, behind a byte order mark.
func TestParse_Columns(t *testing.T) {
	for text, want := range map[string]string{
		"\ufeffgröße@h.example alice":    "r:1:17: ",
		"\n \tgröße@h.example\t DROP":    "r:2:20: ",
		"größe@h.example x@t.example x=": "r:1:29: ",
	} {
		if _, err := Parse("r", strings.NewReader(text), testConfig()); err == nil ||
			!strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
