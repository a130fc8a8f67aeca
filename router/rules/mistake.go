package rules

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/near"
	"github.com/millrace/millrace/router/mail"
)

// The functions of this file are asked only about a word that the parser did not take, or that is not ASCII. They
// return the words for what people write who come from elsewhere, or "" where they know none.

// Words that stand in more than one complaint.
const (
	beginsComment  = "a comment begins with #"
	noWildDomain   = "no line is for all domains below another: each one has lines of its own"
	allBelow       = "all domains below another are written @*."
	needsBrackets  = "is an IP address: write "
	groupIsWritten = "a group is written $1, and needs a regex as its pattern"
	withCommas     = "targets are separated by commas"
)

// oddSign returns what is wrong with the first sign of s that looks like another one or like none.
func oddSign(s string) string {
	if ascii.Is(s) {
		return ""
	}
	if !utf8.ValidString(s) {
		return "is not UTF-8: save the file as UTF-8"
	}
	for _, r := range s {
		code := strings.ToUpper(strconv.FormatInt(int64(r), 16))
		code = "U+" + strings.Repeat("0", max(0, 4-len(code))) + code
		switch {
		case r < utf8.RuneSelf, r == '\u200c', r == '\u200d': // the joiners belong to some scripts
		case strings.ContainsRune("‘’‚‛“”„‟«»‹›", r):
			return "has typographic quotes (" + code + "), which are letters like others here"
		case strings.ContainsRune("‐‑‒–—―−", r):
			return "has a typographic dash (" + code + ") and no hyphen"
		case strings.ContainsRune("＠﹫", r):
			return "has " + code + " in place of @"
		case unicode.IsSpace(r):
			return "has a blank that is none here (" + code + ")"
		case unicode.Is(unicode.Cf, r):
			return "has an invisible character (" + code + ")"
		}
	}
	return ""
}

// isComment reports whether a word opens a comment in other languages.
func isComment(word string) bool {
	return strings.HasPrefix(word, "//") || strings.HasPrefix(word, "/*") || strings.HasPrefix(word, "--") &&
		strings.Trim(word, "-") == "" || word == ";" || word == "rem" || word == "REM"
}

// patternMistake returns what is wrong with a word that is no pattern, and with what follows it.
func patternMistake(word, rest string) string {
	plain := strings.TrimRight(word, ":;")
	switch {
	case isComment(word), word[0] == ';':
		return beginsComment
	case strings.TrimLeft(ascii.Fold(word), "!$@#") == "include":
		return "no line reads another file: let routes name a folder, whose files *.txt are read"
	case strings.ContainsRune("{}[]", rune(word[0])):
		return "this is JSON: a line has a pattern, a blank and a target"
	case word == "-" || strings.HasPrefix(word, "---"):
		return "this is YAML: a line has a pattern, a blank and a target"
	case word == "*":
		return "a star alone is no pattern: write @ and one of your domains for all its addresses"
	case ascii.EqualFold(word, "domain"):
		return "write domain in small letters"
	case ascii.EqualFold(word, "block"):
		return "write block in small letters"
	case ascii.EqualFold(word, "relay"):
		return "write relay in small letters"
	case strings.HasPrefix(word, ".") && !strings.Contains(word, "@"), strings.HasPrefix(word, "*."):
		return allBelow + strings.TrimLeft(word, "*.")
	case word[0] == '"' && strings.Contains(rest, "<"), strings.HasPrefix(trimBlank(rest), "<"):
		return "this is a display name: the address stands alone, without angle brackets"
	}
	if why := AddressMistake(word); why != "" {
		return why
	}
	switch {
	case strings.Contains(word, "@"):
		return ""
	case plain != word:
		return "no colon and no semicolon stands behind a pattern, and " + quote(plain) + " has no domain"
	case near.Word(word, []string{"domain"}) != "":
		return "did you mean domain"
	case strings.Contains(word, ".") && mail.IsDomain(word):
		return quote(word) + " is a domain: write @" + word + " for all its addresses, or domain " + word +
			" to host it"
	}
	return quote(word) + " has no domain: write " + word + "@ and one of your domains"
}

// AddressMistake returns what is wrong with a word, which is not empty, that may be meant as an address. It returns ""
// if it knows no more of it.
func AddressMistake(word string) string {
	local, domain, _ := cutAt(word)
	inside := strings.Trim(word, `"`)
	switch {
	case strings.HasPrefix(ascii.Fold(word), "mailto:"):
		return quote(word) + ": write the address without mailto:"
	case strings.ContainsAny(word[:1], "<") || strings.HasSuffix(word, ">"):
		return quote(word) + ": write the address without angle brackets"
	case word[0] == '"' && word[len(word)-1] == '"' && strings.Contains(inside, "@"):
		return quote(word) + ": quotes stand around the local part alone: write " + inside
	case word[0] == '\'' && word[len(word)-1] == '\'':
		return quote(word) + ": write the address without apostrophes"
	}
	if why := oddSign(word); why != "" {
		return quote(word) + " " + why
	}
	switch {
	case strings.HasSuffix(word, ":"):
		return "no colon stands behind a pattern: a blank parts it from its target"
	case strings.HasSuffix(word, ";"):
		return "no semicolon stands behind a pattern or a target: targets are separated by commas"
	case strings.HasPrefix(domain, ".") && local == "", strings.HasPrefix(domain, "*."):
		return allBelow + strings.TrimLeft(domain, "*.")
	case strings.HasSuffix(word, "@"):
		return quote(word) + " has no domain behind the @"
	case strings.Contains(word, `\`) && strings.Trim(local, `\0123456789`) == "":
		return groupIsWritten
	case strings.Contains(domain, ";"), strings.Contains(local, ";") && strings.Contains(local, "@"):
		return quote(word) + ": " + withCommas
	case strings.Count(word, "@") > 1 && !strings.Contains(word, `"`) && word[0] != '@':
		return quote(word) + " has two at-signs"
	case strings.Contains(word, ".."):
		return quote(word) + " has two dots in a row"
	case strings.HasPrefix(word, "."), strings.HasPrefix(domain, "."):
		return quote(word) + " has a dot at the start"
	case strings.HasSuffix(local, ".") && domain != "":
		return quote(word) + " has a dot in front of the @"
	case strings.HasSuffix(domain, "."):
		return quote(word) + " has a dot at its end"
	case strings.Contains(domain, "#"):
		return quote(word) + ": a comment needs a blank in front of #"
	case strings.Contains(domain, ":") && domain[0] != '[':
		return quote(word) + ": no port stands behind an address: a host is written smtp://host:port"
	}
	return ""
}

// cutAt splits an address at its last @.
func cutAt(word string) (local, domain string, found bool) {
	n := strings.LastIndexByte(word, '@')
	if n < 0 {
		return word, "", false
	}
	return word[:n], word[n+1:], true
}

// DomainMistake returns what is wrong with a word, which is not empty, that is no domain name.
func DomainMistake(word string) string {
	if why := oddSign(word); why != "" {
		return quote(word) + " " + why
	}
	switch {
	case strings.HasPrefix(word, "@"):
		return "write the domain without @"
	case strings.HasPrefix(word, "*."), strings.HasPrefix(word, "."):
		return noWildDomain
	case strings.Contains(word, "://"):
		return "this is a URL: write the domain alone"
	case strings.Contains(word, "@"):
		return "here stands a domain, not an address"
	case strings.ContainsAny(word, `"'`):
		return "write the domain without quotes"
	case strings.Contains(word, ".."):
		return "the name has two dots in a row"
	case strings.HasSuffix(word, "."):
		return "the name has a dot at its end, which is left out"
	case strings.HasSuffix(word, ":"), strings.HasSuffix(word, ";"):
		return "nothing stands behind the name but options"
	case strings.Contains(word, "#"):
		return "a comment needs a blank in front of #"
	case len(word) > mail.MaxDomain:
		return "the name is longer than " + strconv.Itoa(mail.MaxDomain) + " octets"
	case strings.Contains(word, ":"):
		return "here stands a domain without a port"
	case strings.ContainsAny(word, " \t\r\n"):
		return "the name has a blank in it"
	}
	for label := range strings.SplitSeq(word, ".") {
		switch {
		case len(label) > 63:
			return "the part " + quote(label) + " is longer than 63 octets"
		case strings.HasPrefix(label, "-"), strings.HasSuffix(label, "-"):
			return "the part " + quote(label) + " begins or ends with a hyphen"
		}
	}
	return "not a domain name"
}

// actions are the words of other programs for what is done here, in lower case, each with the form that is right.
var actions = map[string]string{
	"discard": "drop", "blackhole": "drop", ":blackhole:": "drop", "devnull": "drop", "/dev/null": "drop",
	"null": "drop", "none": "drop", "ignore": "drop", "delete": "drop", "trash": "drop", "discard:": "drop",
	"dev-null": "drop", "noreply": "drop", "nowhere": "drop",

	"bounce": "reject 550", "fail": "reject 550", ":fail:": "reject 550", "deny": "reject 550", "error": "reject 550",
	"refuse": "reject 550", "block": "reject 550", "nouser": "reject 550", "error:": "reject 550",
	"error:nouser": "reject 550", "unknown": "reject 550", "disable": "reject 550", "disabled": "reject 550",

	"defer": "tempfail 450", ":defer:": "tempfail 450", "defer_if_permit": "tempfail 450", "retry": "tempfail 450",
	"delay": "tempfail 450", "hold": "tempfail 450", "greylist": "tempfail 450", "tempreject": "tempfail 450",
	"defer:": "tempfail 450", "retry:": "tempfail 450",

	"failover": "try", "fallback": "try", "first": "try",
}

// actionMistake returns what is wrong with a word that may be meant as an action.
func actionMistake(word string) string {
	verbs := []string{"drop", "reject", "tempfail", "try"}
	small := ascii.Fold(word)
	for _, verb := range verbs {
		switch {
		case word == verb:
			return verb + " stands alone: it is no target beside others"
		case small == verb:
			return "write " + verb + " in small letters"
		case strings.TrimRight(small, ":;=") == verb:
			return "no colon and nothing but a blank stands behind " + verb
		}
	}
	if right := actions[small]; right != "" {
		return "there is no action " + quote(word) + ": write " + right + behindCode(right)
	}
	switch small {
	case "forward", "forward:", "redirect", "redirect:", "alias", "copy", "cc", "to", "deliver", "relay", "send",
		"route", "accept:", "virtual", "dunno":
		return "there is no action " + quote(word) + ": the target stands there without a word in front"
	case "accept", "ok", "permit", "allow", "keep", "store", "local", "allow:", "ok:":
		return "there is no action " + quote(word) + ": mail is accepted where a target or a next hop takes it"
	case "->", "=>", "=", ":", "-->", ">", "→", ":=", "<-", "|":
		return "no " + colonOr(word) + " stands in front of a target: a blank parts it from its pattern"
	}
	if len(word) == 3 && (word[0] == '5' || word[0] == '4') && ascii.IsDigit(word[1]) && ascii.IsDigit(word[2]) {
		verb := map[byte]string{'5': "reject ", '4': "tempfail "}[word[0]]
		return "a reply code has its action in front: write " + verb + word + behindCode(verb)
	}
	if verb := near.Word(word, verbs); verb != "" && !strings.ContainsAny(word, "@:/.=") {
		return "there is no action " + quote(word) + ": did you mean " + verb
	}
	return ""
}

// behindCode returns what stands behind the code of a reply.
func behindCode(form string) string {
	if strings.HasPrefix(form, "reject") || strings.HasPrefix(form, "tempfail") {
		return " and a text"
	}
	return ""
}

// colonOr returns a sign as it is named in a complaint.
func colonOr(sign string) string {
	if sign == ":" {
		return "colon"
	}
	return quote(sign)
}

// targetMistake returns what is wrong with a word that is no target.
func targetMistake(word string) string {
	if why := actionMistake(word); why != "" {
		return why
	}
	key, _, isOption := strings.Cut(word, "=")
	bare := strings.Trim(word, `"`)
	switch {
	case isComment(word):
		return beginsComment
	case isOption && near.Word(strings.TrimLeft(key, "-"), optionNames()) != "":
		return "options stand behind the targets"
	case strings.HasPrefix(bare, "|"), strings.HasPrefix(word, "program:"), strings.HasPrefix(word, "pipe:"):
		return "no mail is given to a program: a next hop of LMTP can be one that does"
	case strings.HasPrefix(word, ":include:"):
		return "no targets are read from another file"
	case strings.HasPrefix(bare, "/"), strings.HasPrefix(word, "./"), strings.HasPrefix(word, "~"),
		strings.HasPrefix(word, "maildir:"):
		return "no mail is written to a file: lmtp+unix:/path is a mail store's socket"
	}
	if why := hostMistake(word); why != "" {
		return why
	}
	switch {
	case word[0] == '[', word[0] == '{', word[0] == '(':
		return "no brackets stand around targets, which are separated by commas"
	case word[0] == '@':
		return quote(word) + ": a source route or a domain is no target: to keep the local part write " +
			"/(.*)/@ and the domain as the pattern, $1" + word + " as the target"
	}
	if why := AddressMistake(word); why != "" {
		return why
	}
	if !strings.Contains(word, "@") {
		return quote(word) + " has no domain: a target is an address or a next hop such as smtp://host:25"
	}
	return ""
}

// hostMistake returns the right form of a target that is the address or the name of a host.
func hostMistake(word string) string {
	if a, err := netip.ParseAddrPort(word); err == nil {
		return quote(word) + ": an IP address is written smtp://" + a.String()
	}
	host, port := word, ""
	if inside, tail, ok := strings.Cut(strings.TrimPrefix(word, "["), "]"); ok && word[0] == '[' {
		host, port = inside, tail
	}
	if a, err := netip.ParseAddr(strings.TrimPrefix(host, "IPv6:")); err == nil && a.Zone() == "" {
		text := a.String()
		if a.Is6() {
			text = "[" + text + "]"
		}
		return quote(word) + ": an IP address is written smtp://" + text + port
	}
	name, port, found := strings.Cut(host, ":")
	if mail.IsDomain(name) && (strings.Contains(name, ".") || name == "localhost") && (!found || isNumber(port)) {
		return quote(word) + ": a host is written smtp://" + host
	}
	return ""
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// schemeMistake returns what is wrong with a next hop that has no "://", or one of another program.
func schemeMistake(word string) string {
	scheme, rest, _ := strings.Cut(word, ":")
	switch scheme = ascii.Fold(scheme); scheme {
	case "lmtp":
		if socket, ok := strings.CutPrefix(rest, "unix:"); ok {
			return quote(word) + ": write lmtp+unix:/" + strings.TrimLeft(socket, "/")
		}
		return quote(word) + ": write lmtp://" + transportHost(strings.TrimPrefix(rest, "inet:"))
	case "unix":
		return quote(word) + ": write lmtp+unix:/" + strings.TrimLeft(rest, "/")
	case "smtp", "relay", "esmtp", "smtps", "submission":
		if strings.HasPrefix(rest, "/") {
			return "next hop " + quote(word) + ": two slashes stand behind the colon"
		}
		if scheme == "relay" || scheme == "esmtp" {
			scheme = "smtp"
		}
		return quote(word) + ": write " + scheme + "://" + transportHost(withoutPassword(rest))
	}
	return targetMistake(word)
}

// transportHost returns the host of a transport of Postfix, whose brackets mean that no MX is looked up.
func transportHost(s string) string {
	inside, tail, ok := strings.Cut(strings.TrimPrefix(s, "["), "]")
	if !ok {
		return s
	}
	if a, err := netip.ParseAddr(strings.TrimPrefix(inside, "IPv6:")); err == nil && a.Is6() {
		return "[" + a.String() + "]" + tail
	}
	return inside + tail
}

// optionNames returns the keys of all options.
func optionNames() []string {
	names := make([]string, len(optionKeys))
	for i, k := range optionKeys {
		names[i] = k.key
	}
	return names
}

// otherOptions are names of other programs for options.
var otherOptions = map[string]string{
	"recipient_delimiter": "subaddress", "separator": "subaddress", "plus": "subaddress",
	"size": "message_size", "max_size": "message_size", "message_size_limit": "message_size",
	"arc": "seal", "dkim": "seal", "sign": "seal", "spf": "require_auth", "auth": "require_auth", "rewrite": "srs",
}

// optionMistake returns what is wrong with a word that stands where an option does.
func optionMistake(word, rest string) string {
	key, _, found := strings.Cut(word, "=")
	plain, isDashed := strings.CutPrefix(word, "--")
	name, setting, isColon := strings.Cut(word, ":")
	switch {
	case isComment(word), word[0] == ';', strings.HasPrefix(word, "//"):
		return beginsComment
	case isDashed && found:
		return "write " + plain
	case found:
		return "unknown option " + quote(key) + optionMeant(key)
	case strings.HasPrefix(rest, "=") && near.Word(word, optionNames()) != "", word == "=":
		return "no blanks stand around =: write " + strings.TrimRight(word, "=") + "=value"
	case isColon && near.Word(name, optionNames()) != "" && !strings.Contains(word, "@"):
		return "write " + name + "=" + setting
	case ascii.EqualFold(word, "and"), ascii.EqualFold(word, "or"), word == "&", word == "+", word == ";":
		return "unexpected " + quote(word) + ": " + withCommas
	case strings.ContainsAny(word, "@:,"):
		return "unexpected " + quote(word) + ": " + withCommas + ", options are key=value"
	}
	return "unexpected " + quote(word) + ": options are key=value"
}

// optionMeant returns the option that was probably meant by key, or all of them, as the end of a complaint.
func optionMeant(key string) string {
	meant := otherOptions[ascii.Fold(key)]
	if meant == "" {
		meant = near.Word(key, optionNames())
	}
	if meant != "" {
		return "; did you mean " + meant
	}
	return "; the options are " + strings.Join(optionNames(), ", ")
}

// valueMistake returns what is wrong with a value of an option, whose values are nil if it is no enumeration.
func valueMistake(key, value string, values []string) string {
	why := "option " + key + " has no value " + quote(value) + ": " + expects(values)
	if strings.Contains(value, ",") {
		why += ", and options are separated by blanks"
	}
	if meant := near.Word(value, values); meant != "" {
		why += "; did you mean " + meant
	}
	return why
}

// literalOf returns the address literal of an address.
func literalOf(a netip.Addr) string {
	if a.Is6() {
		return "[IPv6:" + a.String() + "]"
	}
	return "[" + a.String() + "]"
}
