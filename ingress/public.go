package ingress

import (
	"errors"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// publicRefusal gives a refusal as a stranger may read it.
func publicRefusal(err error, forward mail.Path, route mail.Route) *mail.Refusal {
	var r *mail.Refusal
	if !errors.As(err, &r) {
		return &mail.Refusal{Reply: mail.ReplyFor(err), Reason: "local error", Cause: err}
	}
	public := *r
	public.Cause = err
	public.Reply = publicReply(r.Reply, r.Host, forward, route)
	return &public
}

// publicReply gives a next hop's reply as a stranger may read it: as it is, or, where a rule rewrote the recipient, with
// the destination's address and domain replaced by what the client wrote itself and its host by nothing.
func publicReply(r mail.Reply, host string, forward mail.Path, route mail.Route) mail.Reply {
	how := route.Policy.UpstreamText
	if how == mail.UpstreamTextDefault {
		how = mail.UpstreamTextFull
		if route.Rewrote {
			how = mail.UpstreamTextRedact
		}
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
	for _, f := range route.Forwards {
		r.Text = replaceFold(r.Text, f.String(), forward.String())
	}
	if host != "" {
		r.Text = replaceFold(r.Text, host, "")
	}
	for _, f := range route.Forwards {
		if !strings.EqualFold(f.Domain, forward.Domain) {
			r.Text = replaceFold(r.Text, f.Domain, forward.Domain)
		}
	}
	if route.NextHop.Host != "" && !strings.EqualFold(route.NextHop.Host, forward.Domain) {
		r.Text = replaceFold(r.Text, route.NextHop.Host, "")
	}
	return r
}

// replaceFold replaces each occurrence of old in s, in any case of ASCII letters.
func replaceFold(s, old, new string) string {
	if old == "" || len(s) < len(old) {
		return s
	}
	lower, want := asciiLower(s), asciiLower(old)
	i := strings.Index(lower, want)
	if i < 0 {
		return s
	}
	var b strings.Builder
	for i >= 0 {
		b.WriteString(s[:i])
		b.WriteString(new)
		s, lower = s[i+len(old):], lower[i+len(old):]
		i = strings.Index(lower, want)
	}
	b.WriteString(s)
	return b.String()
}

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
