package auth

import (
	"strconv"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// appendResults appends the text of our Authentication-Results field, nothing if there is no result. Without a
// judgement it has the results of SPF alone.
func (m *Message) appendResults(dst []byte, j *judgement) []byte {
	if m.evidence.env.Client.Trusted {
		return dst
	}
	w := resultsWriter{dst: dst, id: m.a.cfg.AuthservID, empty: true, e: &m.evidence}
	w.spf()
	if j != nil && m.body != nil {
		var base *dkim.Signature
		if m.mode == mail.ModePredict {
			base = &m.evidence.signatures[m.forecast.base]
		}
		w.dkim(base, m.body.Unverified())
		w.dmarc(j)
		if m.wantsARC() {
			w.arc(&m.arc)
		}
	}
	return w.dst
}

// A resultsWriter writes the text behind the colon of an Authentication-Results field (RFC 8601 section 2.2), each
// result on a line of its own. That of go-msgauth is not used because it sorts properties by name, does not fold, knows
// no comments and does not escape backslashes in quoted strings.
type resultsWriter struct {
	dst   []byte
	id    string // our authserv-id
	empty bool   // nothing was written yet
	e     *evidence
}

// spf writes the results of both identities. That of the null reverse-path is HELO's.
func (w *resultsWriter) spf() {
	if w.e.env.SPF == nil {
		return
	}
	reverse, helo := &w.e.spf.Mail, &w.e.spf.Helo
	null := w.e.env.Reverse.IsNull()
	if !null {
		w.method("spf", spfWord(reverse))
		if reverse.Result != spf.Pass {
			w.comment(reverse.Reason)
		}
		w.mailbox("smtp.mailfrom", w.e.env.Reverse, reverse.Domain)
	}
	if null || helo.Result != spf.None {
		w.method("spf", spfWord(helo))
		if helo.Result != spf.Pass {
			w.comment(helo.Reason)
		}
		w.property("smtp.helo", helo.Domain)
	}
}

// spfWord returns the keyword of a result. RFC 8601 section 2.7.2 has no word for what we did not evaluate but that of
// a local policy.
func spfWord(i *spf.Identity) string {
	if i.IsUnevaluated() {
		return dkim.Policy.String()
	}
	return i.Result.String()
}

// dkim writes the result of each signature that was verified, with the properties that tell it from others (RFC 6008).
// Before the body has come, a signature passes if it agrees with base, which predicts the body; nil predicts nothing.
// Unverified is the number of further signatures.
func (w *resultsWriter) dkim(base *dkim.Signature, unverified int) {
	for i := range w.e.signatures {
		s := &w.e.signatures[i]
		r := w.e.result(i)
		if base != nil && agrees(s, base) {
			r = dkim.Pass
		}
		if r == dkim.TempError && isUnevaluated(s.Cause) {
			r = dkim.Policy // the nearest word: we would not look further
		}
		w.method("dkim", r.String())
		switch {
		case r == dkim.Pass:
			w.comment(strconv.Itoa(s.KeyBits) + "-bit key")
		case s.Result == dkim.Pending:
			w.comment("body not checked")
		default:
			w.comment(s.Reason)
		}
		w.property("header.d", s.Domain)
		w.property("header.s", s.Selector)
		w.property("header.a", s.Algorithm.String())
		if b := s.HeaderB(); isBase64(b) {
			w.property("header.b", b)
		}
	}
	switch {
	case unverified > 0:
		w.method("dkim", dkim.Policy.String())
		w.comment(strconv.Itoa(unverified) + " more signatures not checked")
	case len(w.e.signatures) == 0:
		w.method("dkim", "none")
	}
}

func isBase64(s string) bool {
	for i := range len(s) {
		if c := s[i]; !ascii.IsLetDig(c) && c != '+' && c != '/' && c != '=' {
			return false
		}
	}
	return true
}

// dmarc writes the result with the author domain, the policy that it publishes, the one that applies to this message,
// and what overrode it.
func (w *resultsWriter) dmarc(j *judgement) {
	if !w.e.wantsDMARC() {
		return
	}
	r := &j.dmarc
	w.method("dmarc", r.Result.String())
	var about []string
	if r.Policy != "" {
		about = append(about, "p="+r.Policy)
	}
	if r.Result != dmarc.Pass && r.Reason != "" {
		about = append(about, r.Reason)
	}
	if len(j.overrides) > 0 {
		about = append(about, "not enforced: "+strings.Join(j.overrides, ", "))
	}
	w.comment(strings.Join(about, ", "))
	w.property("header.from", r.Author)
	if r.Result == dmarc.Fail {
		w.property("policy.dmarc", r.Disposition.String())
	}
}

// arc writes the result of the chain as RFC 8617 section 10.2 has it. It writes nothing for a chain whose keys cannot
// be had now, because the RFC has no word for that.
func (w *resultsWriter) arc(r *arc.Result) {
	if r.CV == arc.TempError {
		return
	}
	w.method("arc", r.CV.String())
	if r.CV == arc.Fail {
		w.comment(r.Reason)
	}
	if r.CV == arc.Pass {
		w.property("header.oldest-pass", strconv.Itoa(r.OldestPass))
	}
	if a := w.e.env.Client.Addr; a.IsValid() {
		w.property("smtp.remote-ip", a.Unmap().WithZone("").String())
	}
}

// method begins a result. The authserv-id comes with the first one, so that a field without results is empty.
func (w *resultsWriter) method(name, result string) {
	if w.empty {
		w.dst = append(w.dst, w.id...)
		w.empty = false
	}
	w.dst = append(w.dst, ";\r\n\t"...)
	w.dst = append(append(append(w.dst, name...), '='), result...)
}

// comment adds a comment of our own words; "" adds nothing. A semicolon becomes a comma, because readers that do not
// know comments split there.
func (w *resultsWriter) comment(text string) {
	if text == "" {
		return
	}
	w.dst = append(w.dst, " ("...)
	for i := range len(text) {
		c := text[i]
		switch {
		case c == ';':
			c = ','
		case c < ' ' || c > '~' || c == '(' || c == ')' || c == '\\':
			c = ' '
		}
		w.dst = append(w.dst, c)
	}
	w.dst = append(w.dst, ')')
}

// property adds a property whose value is any printable ASCII, quoted where it is no token. It adds nothing for "" and
// for what is not printable.
func (w *resultsWriter) property(name, value string) {
	quoted := false
	for i := range len(value) {
		switch c := value[i]; {
		case c < ' ' || c > '~':
			return
		case !isToken(c):
			quoted = true
		}
	}
	if value == "" {
		return
	}
	w.name(name)
	if !quoted {
		w.dst = append(w.dst, value...)
		return
	}
	w.dst = append(w.dst, '"')
	for i := range len(value) {
		if c := value[i]; c == '"' || c == '\\' {
			w.dst = append(w.dst, '\\')
		}
		w.dst = append(w.dst, value[i])
	}
	w.dst = append(w.dst, '"')
}

func (w *resultsWriter) name(name string) {
	w.dst = append(append(append(w.dst, ' '), name...), '=')
}

// mailbox adds an address as RFC 8601 section 2.2 has it in a property, without quotes: the domain alone where the
// local part would need them.
func (w *resultsWriter) mailbox(name string, p mail.Path, domain string) {
	if isDotAtom(p.Local) && isName(p.Domain) {
		w.name(name)
		w.dst = p.AppendTo(w.dst)
		return
	}
	w.property(name, domain)
}

// isDotAtom reports whether s is a Dot-string (RFC 5321 section 4.1.2) in ASCII.
func isDotAtom(s string) bool {
	atom := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.' && atom > 0:
			atom = 0
		case ascii.IsLetDig(c), strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0:
			atom++
		default:
			return false
		}
	}
	return atom > 0
}
