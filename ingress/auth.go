package ingress

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// An authentication is what a transaction knows of its message's authentication. The zero value is that of a message
// that nobody judges.
type authentication struct {
	spf      *spf.Check    // begun at MAIL; nil: not checked
	message  *auth.Message // begun at the end of the header section; nil: not judged
	sheet    *sheet        // message keeps octets of it
	finished bool
	refusal  *mail.Refusal // what message was refused with
}

// A sheet holds a header section, without the dots that were added to it, and the fields that are put above it.
type sheet struct{ header, fields []byte }

// maxSheet is what of a sheet is kept for the next message.
const maxSheet = 32 << 10

// sheets are those of a Server.
type sheets struct {
	pool sync.Pool
	lent atomic.Int64 // octets
}

func (p *sheets) take() *sheet {
	if s, ok := p.pool.Get().(*sheet); ok {
		p.lent.Add(s.size())
		return s
	}
	return &sheet{}
}

// grown counts what a sheet has grown by since it had size octets.
func (p *sheets) grown(s *sheet, size int64) { p.lent.Add(s.size() - size) }

func (p *sheets) give(s *sheet) {
	p.lent.Add(-s.size())
	if s.size() > maxSheet {
		return
	}
	s.header, s.fields = s.header[:0], s.fields[:0]
	p.pool.Put(s)
}

func (s *sheet) size() int64 { return int64(cap(s.header) + cap(s.fields)) }

// asks reports whether a policy wants messages to be judged at all. With neither DMARC nor require_auth nothing is
// looked at and no results are written.
func asks(p mail.DomainPolicy) bool {
	return p.DMARC != mail.DMARCOff || p.RequireAuth != mail.RequireAuthNo
}

// asked reports whether a recipient's policy wants the message to be judged.
func (s *session) asked() bool {
	if s.cfg.Auth == nil || s.trusted {
		return false
	}
	for i := range s.t.rcpts {
		if asks(s.t.rcpts[i].route.Policy) {
			return true
		}
	}
	return false
}

// beginSPF begins the check of SPF for the transaction, once. Only strangers are judged.
func (s *session) beginSPF(ctx context.Context) {
	if s.cfg.SPF != nil && !s.trusted && !s.client.Unknown && s.t.auth.spf == nil {
		s.t.auth.spf = s.cfg.SPF.Begin(ctx, s.client.Addr.Addr().Unmap(), s.client.Helo, s.t.reverse)
	}
}

// closeAuth ends what is under way for the transaction and awaits it.
func (s *session) closeAuth() {
	a := &s.t.auth
	if a.message != nil {
		a.message.Close()
	}
	if a.sheet != nil {
		s.sheets.give(a.sheet)
	}
	if a.spf != nil {
		a.spf.Close()
	}
	*a = authentication{}
}

// signs reports whether mail on this route may be signed. Where the next hop is a fixed place it is known to us or to
// the rule's author and judges us by other means, so that only the MX hosts of a domain are worth a signature by
// default.
func (s *session) signs(route *mail.Route) bool {
	if s.cfg.Auth == nil || !s.cfg.Auth.MaySign() {
		return false
	}
	switch route.Policy.Seal {
	case mail.SealAlways:
		return true
	case mail.SealNever:
		return false
	}
	return route.NextHop.Transport == mail.MX
}

// The octets that our fields take beside ownFields, about: results, and with signatures an ARC set and two
// DKIM-Signature fields of RSA with 2048 bits.
const (
	resultFields    = 1 << 10
	signatureFields = 5 << 10
)

// extra is about what our fields take above a message on this route.
func (s *session) extra(route *mail.Route) int {
	signs := s.signs(route)
	switch {
	case signs:
		return ownFields + resultFields + signatureFields
	case s.cfg.Auth != nil && !s.trusted:
		return ownFields + resultFields
	}
	return ownFields
}

// terms say for what the authentication of a recipient's message may refuse it. The zero value is: for nothing.
type terms struct {
	reject     bool // its author domain's policy is reject
	quarantine bool // or quarantine
	required   bool // nothing authenticates it
	exempt     bool // it would be refused, but for the recipient
}

// terms gives those of a recipient. A trusted client's mail is not judged, so all terms are alike.
func (s *session) terms(r *recipient) terms {
	if s.cfg.Auth == nil || s.trusted {
		return terms{}
	}
	p := &r.route.Policy
	t := terms{reject: p.DMARC == mail.DMARCEnforce, required: p.RequireAuth == mail.RequireAuthYes}
	t.quarantine = t.reject && p.Quarantine == mail.QuarantineRefuse
	if t != (terms{}) && IsPostmaster(r.forward) {
		return terms{exempt: true}
	}
	return t
}

// sameTerms reports whether a recipient can share the transaction as far as authentication goes: a message is refused
// or accepted for all of its recipients, so those for whom one message could be refused and accepted are kept apart.
// Whether it is signed has to be the same as well, because so are the fields; sameDelivery sees to that. Recipients in
// several hosted domains do share a transaction: their message only lacks the signature of the hosted domain, while
// most senders come with a recipient that was put off no sooner than minutes later.
func (s *session) sameTerms(forward mail.Path, route mail.Route) bool {
	r := s.t.foremost()
	return r == nil || s.terms(r) == s.terms(&recipient{forward, route})
}

// foremost gives the first of the recipients that are relayed, nil when there is none.
func (t *transaction) foremost() *recipient {
	for i := range t.rcpts {
		if t.rcpts[i].route.Action != mail.Drop {
			return &t.rcpts[i]
		}
	}
	return nil
}

// IsPostmaster reports whether a recipient is called postmaster or abuse: if it is ours, it must be reachable whatever
// is thought of the message or its client (RFC 5321 section 4.5.1, RFC 2142). A stranger reaches nobody else's, so that
// the local part decides.
func IsPostmaster(forward mail.Path) bool {
	local := forward.LocalPart()
	return strings.EqualFold(local, "postmaster") || forward.Domain != "" && strings.EqualFold(local, "abuse")
}

// hosted gives the hosted domain of the relayed recipients, "" if it is none or several.
func (t *transaction) hosted() string {
	domain := ""
	for i := range t.rcpts {
		r := &t.rcpts[i]
		switch {
		case r.route.Action == mail.Drop:
		case r.route.Rule == (mail.Rule{}):
			return ""
		case domain == "":
			domain = strings.ToLower(r.forward.Domain)
		case !strings.EqualFold(domain, r.forward.Domain):
			return ""
		}
	}
	return domain
}

// envelope gives what authentication has to know beside the message. All recipients have the same terms, so the first
// one stands for them.
func (s *session) envelope(signing bool) auth.Envelope {
	t := s.t
	r := t.foremost()
	var client netip.Addr
	if !s.client.Unknown {
		client = s.client.Addr.Addr().Unmap()
	}
	allowed, knownGood := s.spokenFor()
	return auth.Envelope{
		Client:  auth.Client{Addr: client, Trusted: s.trusted, Allowed: allowed, KnownGood: knownGood},
		Reverse: t.reverse,
		SPF:     t.auth.spf,
		Exempt:  s.terms(r).exempt,
		Hosted:  t.hosted(),
		Policy:  r.route.Policy,
		Seal:    signing,
	}
}

// appendHeader takes the first n octets of o into the header section.
func (s *session) appendHeader(a *authentication, o mail.Octets, n int) {
	if a.sheet == nil {
		a.sheet = s.sheets.take()
	}
	size := a.sheet.size()
	if n > cap(a.sheet.header)-len(a.sheet.header) { // doubled, so that what is outgrown is no more than what is kept
		a.sheet.header = slices.Grow(a.sheet.header, max(n, len(a.sheet.header)))
	}
	a.sheet.header = o.AppendPlain(a.sheet.header, n)
	s.sheets.grown(a.sheet, size)
}

// beginMessage begins to judge the message whose header section is complete.
func (s *session) beginMessage(ctx context.Context, signing bool) error {
	a := &s.t.auth
	m, err := s.cfg.Auth.Begin(ctx, s.envelope(signing), a.sheet.header)
	if err != nil {
		return err
	}
	a.message = m
	return nil
}

// hash takes octets of the body, from offset from of o on.
func (a *authentication) hash(o mail.Octets, from int) {
	if a.message != nil && !a.finished {
		a.message.WriteOctets(o, from)
	}
}

// finish ends the body, and gives the refusal of a message that is not to be passed on.
func (s *session) finish(ctx context.Context) error {
	a := &s.t.auth
	if a.message == nil || a.finished {
		return nil
	}
	a.finished = true
	ctx, span := s.child(ctx, "smtp.auth")
	v := a.message.Finish(ctx)
	s.t.event.Auth = v.Summary
	for _, o := range v.Overrides {
		s.anomaly("authentication overridden", errors.New(o))
	}
	if v.Mismatch {
		s.foretoldWrong(ctx)
	}
	if v.Refusal == nil {
		endChild(span, nil)
		return nil
	}
	a.refusal = v.Refusal
	endChild(span, v.Refusal)
	return v.Refusal
}

// hopeless gives the refusal of a message that it will get whatever its body is, so that the next hop need not see it.
func (s *session) hopeless(ctx context.Context) error {
	if s.t.auth.message.Refusal(ctx) == nil {
		return nil
	}
	return s.finish(ctx)
}

// How long a message is not foretold again after it was foretold wrongly, and how long nothing is that has the same
// signing domain and comes from the same client network after that happened twice.
const (
	messageMark = 5 * 24 * time.Hour
	signerMark  = 24 * time.Hour
)

// predicts reports whether the message may be signed over the hash that one of its signatures foretells. That takes a
// store that knows of earlier failures: without it a sender whose messages change on their way could be put off for
// ever, by one node after the other.
func (s *session) predicts(ctx context.Context) bool {
	m := s.t.auth.message
	if s.cfg.Marks == nil || !m.Predict(ctx) {
		return false
	}
	message, domain := m.PredictKey()
	keys := append(s.marks("message", message), s.marks("signer twice", s.signer(domain))...)
	marked, all := s.cfg.Marks.Marked(ctx, keys...)
	return all && !slices.Contains(marked, true)
}

// foretoldWrong remembers that the body was not what the signature said.
func (s *session) foretoldWrong(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	message, domain := s.t.auth.message.PredictKey()
	signer := s.signer(domain)
	shared := s.cfg.Marks.Mark(ctx, s.marks("message", message)[0], messageMark)
	key := s.marks("signer", signer)
	if marked, _ := s.cfg.Marks.Marked(ctx, key...); slices.Contains(marked, true) {
		key = s.marks("signer twice", signer)
	}
	s.cfg.Marks.Mark(ctx, key[0], signerMark)
	if shared {
		s.anomaly("body hash foretold wrongly", nil)
	} else {
		s.anomaly("body hash foretold wrongly", errNotShared)
	}
}

var errNotShared = errors.New("only this node remembers it")

// signer names a signing domain whose messages come from the client's network.
func (s *session) signer(domain string) string {
	return clientNetwork(s.client.Addr.Addr()).String() + " " + domain
}

// marks gives the keys in the store that text has under each key of ours, the current one's first. What is marked
// cannot be read from them.
func (s *Server) marks(kind, text string) []string {
	out := make([]string, len(s.cfg.MarkKeys))
	for i, key := range s.cfg.MarkKeys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(kind))
		mac.Write([]byte{0})
		mac.Write([]byte(text))
		out[i] = "predict:" + hex.EncodeToString(mac.Sum(nil)[:16])
	}
	return out
}
