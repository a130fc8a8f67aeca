package ingress

import (
	"errors"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// publicRefusal gives a refusal as a stranger may read it. about is the recipient it concerns, nil for the whole
// message.
func (t *transaction) publicRefusal(err error, about *recipient) *mail.Refusal {
	var r *mail.Refusal
	if !errors.As(err, &r) {
		return &mail.Refusal{Reply: mail.ReplyFor(err), Reason: "local error", Cause: err}
	}
	public := *r
	public.Cause = err
	public.Reply = t.publicReply(mail.ReplyFor(err), r.Host, about)
	return &public
}

// publicReply gives a next hop's reply as a stranger may read it. Where a rule rewrote a recipient of the transaction,
// the destination's address, local part and domain become what the client wrote itself and its host nothing; recipients
// with another choice share a transaction, and then the choice that tells least counts for all of it.
func (t *transaction) publicReply(r mail.Reply, host string, about *recipient) mail.Reply {
	rcpts := t.rcpts
	if about != nil {
		rcpts = append(slices.Clip(rcpts), *about)
	}
	how := mail.UpstreamTextFull
	for i := range rcpts {
		how = tellsLess(how, upstreamText(&rcpts[i].route))
	}
	switch how {
	case mail.UpstreamTextFull:
		return r
	case mail.UpstreamTextCode:
		r.Text = "The destination said so"
		if r.Class() == 2 {
			r.Text = "OK"
		}
		return r
	}
	r.Text = redact(r.Text, host, rcpts)
	return r
}

func upstreamText(r *mail.Route) mail.UpstreamText {
	switch {
	case r.Action == mail.Drop:
		return mail.UpstreamTextFull
	case r.Policy.UpstreamText != mail.UpstreamTextDefault:
		return r.Policy.UpstreamText
	case r.Rewrote:
		return mail.UpstreamTextRedact
	}
	return mail.UpstreamTextFull
}

func tellsLess(a, b mail.UpstreamText) mail.UpstreamText {
	switch {
	case a == mail.UpstreamTextCode || b == mail.UpstreamTextCode:
		return mail.UpstreamTextCode
	case a == mail.UpstreamTextRedact || b == mail.UpstreamTextRedact:
		return mail.UpstreamTextRedact
	}
	return mail.UpstreamTextFull
}

// redact replaces whole addresses first, then hosts, then what is left of the addresses' parts. What is put in is a
// mark until the end, so that nothing is replaced in it again.
func redact(text, host string, rcpts []recipient) string {
	var given []string
	put := func(old, new string) {
		mark := string([]byte{0, byte(len(given)>>7) | 0x80, byte(len(given)) | 0x80})
		if replaced := replaceWord(text, old, mark); replaced != text {
			text, given = replaced, append(given, new)
		}
	}
	each := func(replace func(forward, target mail.Path)) {
		for i := range rcpts {
			for _, f := range rcpts[i].route.Forwards {
				replace(rcpts[i].forward, f)
			}
		}
	}
	each(func(forward, target mail.Path) {
		put(target.String(), forward.String())
		put(mail.Path{Local: target.LocalPart(), Domain: target.Domain}.String(), forward.String())
	})
	put(host, "")
	each(func(forward, target mail.Path) {
		if !strings.EqualFold(target.Domain, forward.Domain) {
			put(target.Domain, forward.Domain)
		}
		if local := target.LocalPart(); len(local) >= minLocal && !strings.EqualFold(local, forward.LocalPart()) {
			put(local, forward.LocalPart())
		}
	})
	for i := range rcpts {
		if h := rcpts[i].route.NextHop.Host; !strings.EqualFold(h, rcpts[i].forward.Domain) {
			put(h, "")
		}
	}
	for i, new := range given {
		text = strings.ReplaceAll(text, string([]byte{0, byte(i>>7) | 0x80, byte(i) | 0x80}), new)
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
	lower, want := asciiLower(s), asciiLower(old)
	i := strings.Index(lower, want)
	if i < 0 {
		return s
	}
	var b strings.Builder
	from := 0
	for i >= 0 {
		end := i + len(want)
		b.WriteString(s[from:i])
		if i > 0 && isWord(s[i-1]) && !isEscape(s[:i]) || end < len(s) && isWord(s[end]) {
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

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// isEscape reports whether s ends in an at sign as URLs and quoted-printable write it.
func isEscape(s string) bool { return strings.HasSuffix(s, "%40") || strings.HasSuffix(s, "=40") }

// asciiLower keeps the length, which strings.ToLower does not promise.
func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
