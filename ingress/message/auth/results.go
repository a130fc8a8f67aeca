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

// A resultsWriter writes what stands behind the colon of an Authentication-Results field (RFC 8601 section 2.2), each
// result on a line of its own. It is our own because that of go-msgauth sorts properties by name, folds nothing, knows
// no comments and does not escape backslashes in quoted strings.
type resultsWriter struct {
	dst   []byte
	id    string
	empty bool // nothing was written yet
}

// method begins a result. The authserv-id comes with the first one, so that a field without results is none.
func (w *resultsWriter) method(name, result string) {
	if w.empty {
		w.dst = append(w.dst, w.id...)
		w.empty = false
	}
	w.dst = append(w.dst, ";\r\n\t"...)
	w.dst = append(append(append(w.dst, name...), '='), result...)
}

// comment adds a comment of our own words, "" adds none. It has no semicolon, at which readers cut that do not know
// comments.
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

// property adds a property whose value is any printable ASCII, quoted where it is no token; "" and what is not
// printable add none.
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
	if isDotAtom(p.Local) && isDomainName(p.Domain) {
		w.name(name)
		w.dst = p.AppendTo(w.dst)
		return
	}
	w.property(name, domain)
}

// isDotAtom tells a Dot-string (RFC 5321 section 4.1.2) in ASCII.
func isDotAtom(s string) bool {
	atom := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.' && atom > 0:
			atom = 0
		case ascii.IsAlpha(c), ascii.IsDigit(c), strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0:
			atom++
		default:
			return false
		}
	}
	return atom > 0
}

// appendResults appends what our Authentication-Results field says, nothing if it has nothing to say. Without a judgement
// that is what SPF found.
func (m *Message) appendResults(dst []byte, j *judgement) []byte {
	if m.env.Client.Trusted {
		return dst
	}
	w := resultsWriter{dst: dst, id: m.a.cfg.AuthservID, empty: true}
	m.writeSPF(&w)
	if j != nil && m.body != nil {
		m.writeDKIM(&w)
		m.writeDMARC(&w, j)
		m.writeARC(&w)
	}
	return w.dst
}

// writeSPF names both identities. That of the null reverse-path is HELO's.
func (m *Message) writeSPF(w *resultsWriter) {
	if m.env.SPF == nil {
		return
	}
	reverse, helo := &m.spf.Mail, &m.spf.Helo
	null := m.env.Reverse.IsNull()
	if !null {
		w.method("spf", reverse.Result.String())
		if reverse.Result != spf.Pass {
			w.comment(reverse.Reason)
		}
		w.mailbox("smtp.mailfrom", m.env.Reverse, reverse.Domain)
	}
	if null || helo.Result != spf.None {
		w.method("spf", helo.Result.String())
		if helo.Result != spf.Pass {
			w.comment(helo.Reason)
		}
		w.property("smtp.helo", helo.Domain)
	}
}

// writeDKIM names each signature that was looked at, with what tells it from others (RFC 6008). Before the body came, one
// passes if it agrees with the one that foretells the body.
func (m *Message) writeDKIM(w *resultsWriter) {
	for i := range m.signatures {
		s := &m.signatures[i]
		r := m.result(i)
		if m.mode == mail.ModePredict && s.HeaderVerified && m.agrees(i) {
			r = dkim.Pass
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
	switch more := m.body.Unverified(); {
	case more > 0:
		w.method("dkim", dkim.Policy.String())
		w.comment(strconv.Itoa(more) + " more signatures not checked")
	case len(m.signatures) == 0:
		w.method("dkim", "none")
	}
}

func isBase64(s string) bool {
	for i := range len(s) {
		if c := s[i]; !ascii.IsAlpha(c) && !ascii.IsDigit(c) && c != '+' && c != '/' && c != '=' {
			return false
		}
	}
	return true
}

// writeDMARC names the author domain, the policy it publishes, and the one that applies to this message; and what spoke
// against it.
func (m *Message) writeDMARC(w *resultsWriter, j *judgement) {
	if !m.asksDMARC() {
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

// writeARC names the chain as RFC 8617 section 10.2 has it. A chain whose keys could not be had has no word there, and none
// is said.
func (m *Message) writeARC(w *resultsWriter) {
	if !m.asksARC() || m.arc.CV == arc.TempError {
		return
	}
	w.method("arc", m.arc.CV.String())
	if m.arc.CV == arc.Fail {
		w.comment(m.arc.Reason)
	}
	if m.arc.CV == arc.Pass {
		w.property("header.oldest-pass", strconv.Itoa(m.arc.OldestPass))
	}
	if a := m.env.Client.Addr; a.IsValid() {
		w.property("smtp.remote-ip", a.Unmap().WithZone("").String())
	}
}
