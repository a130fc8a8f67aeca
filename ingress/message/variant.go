package message

import (
	"slices"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/router/mail"
)

// A variant is the first piece of a message for the next hops that want less of our signatures than others do.
type variant struct {
	want  auth.Want
	piece mail.Octets
}

// composeOthers composes the first piece of a message for each next hop that wants less than the most.
func composeOthers(m *Message) error {
	for i := range m.Recipients {
		r := &m.Recipients[i]
		want, _ := m.wants(r, m.Reputation.Trusted)
		if r.Route.Action == mail.Drop || want == m.window.most || m.others.has(want) {
			continue
		}
		fields, err := m.auth.FieldsFor(m.appendTop(nil), want)
		if err != nil {
			return err
		}
		noteSigned(m, want)
		fields = m.window.parted(append(fields, m.lacked...))
		m.others = append(m.others, variant{want, m.window.beside(fields, m.auth.Removals())})
	}
	return nil
}

// variants are those of one message.
type variants []variant

// has reports whether there is a piece for next hops that want so much.
func (v variants) has(want auth.Want) bool {
	return slices.ContainsFunc(v, func(one variant) bool { return one.want == want })
}

// noteSigned notes what a message was signed with last, for the next hops that want so much.
func noteSigned(m *Message, want auth.Want) {
	var s mail.Sealed
	s.Signed, s.Unsigned = m.auth.Signed()
	for i := range m.Recipients {
		r := &m.Recipients[i]
		w, why := m.wants(r, m.Reputation.Trusted)
		if w == want && r.Route.Action != mail.Drop {
			s.Wanted = why
			m.up.Sealed(r.Member, s)
		}
	}
}
