package ingress

import (
	"strings"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// redact replaces whole addresses first, then hosts, then what is left of the addresses' parts. What is put in is a
// placeholder until the end, so that it is not replaced again.
func redact(text, host string, rcpts []message.Recipient) string {
	var put []string // by placeholder
	placeholder := func(i int) string { return string([]byte{0, byte(i>>7) | 0x80, byte(i) | 0x80}) }
	replace := func(old, new string) {
		if replaced := replaceWord(text, old, placeholder(len(put))); replaced != text {
			text, put = replaced, append(put, new)
		}
	}
	each := func(do func(forward, target mail.Path)) {
		for i := range rcpts {
			for _, f := range rcpts[i].Route.Forwards {
				do(rcpts[i].Forward, f)
			}
		}
	}
	each(func(forward, target mail.Path) {
		replace(target.String(), forward.String())
		replace(mail.Path{Local: target.LocalPart(), Domain: target.Domain}.String(), forward.String())
	})
	replace(host, "")
	each(func(forward, target mail.Path) {
		if !strings.EqualFold(target.Domain, forward.Domain) {
			replace(target.Domain, forward.Domain)
		}
		if local := target.LocalPart(); len(local) >= minLocal && !strings.EqualFold(local, forward.LocalPart()) {
			replace(local, forward.LocalPart())
		}
	})
	for i := range rcpts {
		if h := rcpts[i].Route.NextHop.Host; !strings.EqualFold(h, rcpts[i].Forward.Domain) {
			replace(h, "")
		}
	}
	for i, new := range put {
		text = strings.ReplaceAll(text, placeholder(i), new)
	}
	return text
}

// minLocal is the length from which a local part that stands alone is replaced: a shorter one is any word.
const minLocal = 3

// replaceWord replaces each occurrence of old in s that is no part of a longer word, in any case of ASCII letters.
func replaceWord(s, old, new string) string {
	if old == "" || len(s) < len(old) {
		return s
	}
	lower, want := ascii.Fold(s), ascii.Fold(old)
	i := strings.Index(lower, want)
	if i < 0 {
		return s
	}
	var b strings.Builder
	from := 0
	for i >= 0 {
		end := i + len(want)
		b.WriteString(s[from:i])
		if i > 0 && ascii.IsLetDig(s[i-1]) && !isEscape(s[:i]) || end < len(s) && ascii.IsLetDig(s[end]) {
			b.WriteString(s[i:end])
		} else {
			b.WriteString(new)
		}
		from = end
		if i = strings.Index(lower[from:], want); i >= 0 {
			i += from
		}
	}
	b.WriteString(s[from:])
	return b.String()
}

// isEscape reports whether s ends in an at sign as URLs and quoted-printable write it.
func isEscape(s string) bool { return strings.HasSuffix(s, "%40") || strings.HasSuffix(s, "=40") }
