package peer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// An opening is the content of open.
type opening struct {
	d           mail.Delivery
	forward     mail.Path
	traceparent string
	budget      time.Duration // 0 if not stated
}

// append appends the content of open. The Site is left out, because the owner determines it.
func (o *opening) append(f fields) fields {
	d := &o.d
	f = f.number(fTransport, int64(d.NextHop.Transport)).text(fHost, d.NextHop.Host).number(fPort,
		int64(d.NextHop.Port)).text(fUser, d.NextHop.User)
	f = f.text(fReverseLocal, d.Reverse.Local).text(fReverseDomain, d.Reverse.Domain)
	f = f.text(fOwnLocal, d.Own.Local).text(fOwnDomain, d.Own.Domain)
	f = f.number(fSize, d.Params.Size).number(fBody, int64(d.Params.Body)).flag(fUTF8, d.Params.SMTPUTF8).number(fExtra,
		int64(d.Extra))
	f = f.text(fDomain, d.RecipientDomain).flag(fFavoured, d.Favoured).flag(fChosen, d.Chosen)
	f = f.text(fTrace, traceID(d.Trace))
	f = f.flag(fRequireTLS, d.Params.RequireTLS).flag(fWaived, d.TLS.Waived).number(fLeastTLS, int64(d.TLS.Least))
	if d.Client.IsValid() {
		f = f.text(fClient, d.Client.String())
	}
	if d.Addr.IsValid() {
		f = f.text(fAddr, d.Addr.String())
	}
	if r := d.Origin; r != nil {
		f = f.number(fOriginBy, int64(r.By)).number(fOriginPort, int64(r.Addr.Port())).text(fOriginName, r.Name)
		f = f.text(fOriginHelo, r.Helo).flag(fOriginESMTP, r.ESMTP).flag(fOriginUnknown, !r.Addr.IsValid())
	}
	f = f.number(fSeal, int64(d.Seal)).number(fEightBit, int64(d.EightBit)).text(fTraceparent, o.traceparent)
	return appendRecipient(f, o.forward, o.budget)
}

// traceID returns the octets of id, "" for the zero TraceID.
func traceID(id mail.TraceID) string {
	if id.IsZero() {
		return ""
	}
	return string(id[:])
}

// parseOpening reads the content of open.
func parseOpening(f fields) (o opening, err error) {
	d, unknown := &o.d, false
	for len(f) > 0 {
		var name byte
		var v []byte
		if name, v, f, err = f.next(); err != nil {
			return o, err
		}
		switch name {
		case fTransport:
			d.NextHop.Transport = mail.Transport(asEnum(v))
		case fHost:
			d.NextHop.Host = string(v)
		case fPort:
			d.NextHop.Port = uint16(asNumber(v))
		case fUser:
			d.NextHop.User = string(v)
		case fReverseLocal:
			d.Reverse.Local = string(v)
		case fReverseDomain:
			d.Reverse.Domain = string(v)
		case fOwnLocal:
			d.Own.Local = string(v)
		case fOwnDomain:
			d.Own.Domain = string(v)
		case fSize:
			d.Params.Size = max(0, asNumber(v))
		case fBody:
			d.Params.Body = mail.BodyType(asEnum(v))
		case fUTF8:
			d.Params.SMTPUTF8 = true
		case fRequireTLS:
			d.Params.RequireTLS = true
		case fWaived:
			d.TLS.Waived = true
		case fLeastTLS:
			d.TLS.Least = asEnum(v)
		case fExtra:
			d.Extra = int(min(max(0, asNumber(v)), 1<<20))
		case fDomain:
			d.RecipientDomain = string(v)
		case fFavoured:
			d.Favoured = true
		case fChosen:
			d.Chosen = true
		case fTrace:
			copy(d.Trace[:], v)
		case fClient:
			if d.Client, err = netip.ParsePrefix(string(v)); err != nil {
				return o, errors.Join(errFrame, err)
			}
		case fAddr:
			if d.Addr, err = netip.ParseAddr(string(v)); err != nil {
				return o, errors.Join(errFrame, err)
			}
		case fSeal:
			d.Seal = mail.Seal(asEnum(v))
		case fEightBit:
			d.EightBit = mail.EightBit(asEnum(v))
		case fOriginBy, fOriginPort, fOriginName, fOriginHelo, fOriginESMTP, fOriginUnknown:
			unknown = unknown || name == fOriginUnknown
			o.setOrigin(name, v)
		case fTraceparent:
			o.traceparent = string(v[:min(len(v), traceparentSize)])
		case fForwardLocal:
			o.forward.Local = string(v)
		case fForwardDomain:
			o.forward.Domain = string(v)
		case fBudget:
			o.budget = asBudget(v)
		}
	}
	if r := d.Origin; r != nil && !unknown && d.Addr.IsValid() {
		r.Addr = netip.AddrPortFrom(d.Addr, r.Addr.Port())
	} else if r != nil {
		r.Addr = netip.AddrPort{}
	}
	switch {
	// A path of a socket is a different socket on each node.
	case d.NextHop.Transport >= mail.LMTPUnix || d.NextHop.Host == "":
		return o, fmt.Errorf("%w: next hop %d %q", errFrame, d.NextHop.Transport, d.NextHop.Host)
	case d.Origin != nil && (d.Origin.By == mail.ClientUntold || d.Origin.By > mail.ClientXclient):
		return o, fmt.Errorf("%w: an option that is not known", errFrame)
	case d.Params.Body > mail.Body8BitMIME || d.Seal > mail.SealNever || d.EightBit > mail.EightBitRefuse:
		return o, fmt.Errorf("%w: an option that is not known", errFrame)
	}
	if err := cmp.Or(checkPath(d.Reverse), checkPath(d.Own)); err != nil {
		return o, err
	}
	return o, checkForward(o.forward)
}

// setOrigin sets a field of what the next hop is told of the client. Its address is that of the delivery.
func (o *opening) setOrigin(name byte, v []byte) {
	if o.d.Origin == nil {
		o.d.Origin = new(mail.Origin)
	}
	r := o.d.Origin
	switch name {
	case fOriginBy:
		r.By = mail.Client(asEnum(v))
	case fOriginPort:
		r.Addr = netip.AddrPortFrom(netip.Addr{}, uint16(asNumber(v)))
	case fOriginName:
		r.Name = string(v)
	case fOriginHelo:
		r.Helo = string(v)
	case fOriginESMTP:
		r.ESMTP = true
	}
}

// asEnum returns the number of an enum that v encodes. It is 255, which no enum has, if it is out of range.
func asEnum(v []byte) uint8 {
	n := asNumber(v)
	if n < 0 || n > 255 {
		return 255
	}
	return uint8(n)
}

// asBudget returns the time that v encodes in milliseconds, at most an hour.
func asBudget(v []byte) time.Duration {
	return time.Duration(min(max(asNumber(v), 0), int64(time.Hour/time.Millisecond))) * time.Millisecond
}

// appendRecipient appends the content of rcpt.
func appendRecipient(f fields, forward mail.Path, budget time.Duration) fields {
	return appendBudget(f.text(fForwardLocal, forward.Local).text(fForwardDomain, forward.Domain), budget)
}

// parseRecipient reads the content of rcpt.
func parseRecipient(f fields) (forward mail.Path, budget time.Duration, err error) {
	for len(f) > 0 {
		var name byte
		var v []byte
		if name, v, f, err = f.next(); err != nil {
			return forward, 0, err
		}
		switch name {
		case fForwardLocal:
			forward.Local = string(v)
		case fForwardDomain:
			forward.Domain = string(v)
		case fBudget:
			budget = asBudget(v)
		}
	}
	return forward, budget, checkForward(forward)
}

// appendBudget appends the content of renew, which open and rcpt have as well.
func appendBudget(f fields, budget time.Duration) fields {
	return f.number(fBudget, int64(budget/time.Millisecond))
}

// parseBudget reads the content of renew.
func parseBudget(f fields) (budget time.Duration, err error) {
	for len(f) > 0 {
		var name byte
		var v []byte
		if name, v, f, err = f.next(); err != nil {
			return 0, err
		}
		if name == fBudget {
			budget = asBudget(v)
		}
	}
	return budget, nil
}

// checkPath returns an error unless a path from another node has the syntax that a client's path has to have.
func checkPath(p mail.Path) error {
	q, err := mail.ParsePath(p.String(), true)
	if err == nil && q != p {
		err = mail.ErrPathSyntax
	}
	if err != nil {
		return fmt.Errorf("%w: path: %w", errFrame, err)
	}
	return nil
}

// checkForward returns an error unless p is a forward-path; see checkPath.
func checkForward(p mail.Path) error {
	if p.IsNull() {
		return fmt.Errorf("%w: no forward-path", errFrame)
	}
	return checkPath(p)
}

// An answer is the content of done, refused and outcomes. A Refusal is an outcome without some fields.
type answer struct {
	mail.Outcome
	to         kind // the kind of frame that is answered
	reason     string
	yes        bool
	begun      bool
	utf8       bool
	lack       lack
	recipients int // the number of recipients that the outcome is for; 0 until its last field was read
}

// A lack is why a peer refuses what no destination has refused.
type lack uint8

// The lacks. The zero value is that of any other refusal.
const (
	notTaken  lack = iota + 1 // it does not take transactions with this next hop
	unreached                 // it did not get as far as a destination
)

// appendRefusal appends an error in the form of a refusal.
func appendRefusal(f fields, err error) fields {
	r := &mail.Refusal{Reply: mail.ReplyFor(err), Cause: err}
	var refusal *mail.Refusal
	if errors.As(err, &refusal) {
		r = &mail.Refusal{
			Reply: r.Reply, Reason: refusal.Reason, Host: refusal.Host, AboutUs: refusal.AboutUs, Cause: refusal.Cause,
			Unreached: refusal.Unreached,
		}
	}
	return appendReply(f, r.Reply, maxText).text(fReason, r.Reason).text(fHost, r.Host).flag(fAboutUs,
		r.AboutUs).flag(fUnreached, r.Unreached).text(fCause, causeText(r.Cause))
}

// causeText returns the text of an error, shortened to maxCause octets, and "" for nil.
func causeText(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	return s[:min(len(s), maxCause)]
}

// appendReply appends a reply, with at most limit octets of its text.
func appendReply(f fields, r mail.Reply, limit int) fields {
	f = f.number(fCode, int64(r.Code)).number(fSubject, int64(r.Enhanced.Subject)).number(fDetail,
		int64(r.Enhanced.Detail))
	return f.text(fText, r.Text[:min(len(r.Text), limit)]).text(fID, traceID(r.ID))
}

// setField sets a field of an answer.
func (a *answer) setField(name byte, v []byte) {
	switch name {
	case fAnswers:
		a.to = kind(asEnum(v))
	case fYes:
		a.yes = true
	case fBegun:
		a.begun = true
	case fUTF8Offered:
		a.utf8 = true
	case fNotTaken:
		a.lack = notTaken
	case fUnreached:
		a.lack = unreached
	case fCode:
		a.Reply.Code = int(min(max(asNumber(v), 0), 1000))
	case fSubject:
		a.Reply.Enhanced.Subject = uint16(asNumber(v))
	case fDetail:
		a.Reply.Enhanced.Detail = uint16(asNumber(v))
	case fText:
		a.Reply.Text = string(v)
	case fID:
		copy(a.Reply.ID[:], v)
	case fReason:
		a.reason = string(v)
	case fHost:
		a.Host = string(v)
	case fAboutUs:
		a.AboutUs = true
	case fCause:
		a.Cause = errors.New(string(v))
	case fTLS:
		a.TLS = string(v)
	case fReused:
		a.Reused = true
	case fInDoubt:
		a.InDoubt = true
	case fWait:
		a.Wait = time.Duration(max(0, asNumber(v)))
	case fEntry:
		copy(a.Entry[:], v)
	case fAgain:
		a.Again = true
	case fRecipients:
		a.recipients = int(min(max(asNumber(v), 1), maxRecipients))
	}
}

// parseAnswer reads the content of done or refused. The reply of refused has to be a 4yz or a 5yz.
func parseAnswer(k kind, f fields) (a answer, err error) {
	for len(f) > 0 {
		var name byte
		var v []byte
		if name, v, f, err = f.next(); err != nil {
			return a, err
		}
		a.setField(name, v)
	}
	if c := a.Reply.Class(); k == refused && (c != 4 && c != 5) {
		return a, fmt.Errorf("%w: a refusal with %d", errFrame, a.Reply.Code)
	}
	return a, nil
}

// refusal returns the content of refused.
func (a *answer) refusal() *mail.Refusal {
	return &mail.Refusal{
		Reply: a.Reply, Reason: a.reason, Host: a.Host, AboutUs: a.AboutUs, Cause: a.Cause,
		Unreached: a.lack == unreached,
	}
}

// appendOutcomes appends the content of outcomes. Neighbouring outcomes that are the same are written once. Texts are
// shortened so that all outcomes fit into a frame.
func appendOutcomes(f fields, all []mail.Outcome) fields {
	different := 0
	for i := range all {
		if i == 0 || !sameOutcome(&all[i], &all[i-1]) {
			different++
		}
	}
	room := (maxFields - 1024 - maxLeg) / max(different, 1)
	limit := min(maxText, max(0, room-512)) // octets of text; hosts and numbers are shorter than 512 octets
	for i := 0; i < len(all); {
		o, n := &all[i], 1
		for i+n < len(all) && sameOutcome(o, &all[i+n]) {
			n++
		}
		i += n
		at := len(f)
		f = appendReply(f, o.Reply, limit)
		f = f.text(fHost, o.Host).text(fTLS, o.TLS).flag(fReused, o.Reused).flag(fInDoubt, o.InDoubt).flag(fAboutUs,
			o.AboutUs).number(fWait, int64(o.Wait))
		f = f.text(fEntry, traceID(o.Entry)).flag(fAgain, o.Again)
		if cause := causeText(o.Cause); len(f)-at+len(cause)+2*fieldHead+8 <= room {
			f = f.text(fCause, cause)
		}
		f = f.number(fRecipients, int64(n))
	}
	return f
}

// sameOutcome reports whether two outcomes have the same encoding.
func sameOutcome(a, b *mail.Outcome) bool {
	return a.Reply == b.Reply && a.Host == b.Host && a.TLS == b.TLS && a.Reused == b.Reused && a.InDoubt == b.InDoubt &&
		a.AboutUs == b.AboutUs && a.Wait == b.Wait && a.Entry == b.Entry && a.Again == b.Again &&
		causeText(a.Cause) == causeText(b.Cause)
}

// parseOutcomes reads the content of outcomes. It returns one outcome for each of want recipients, or an error.
func parseOutcomes(f fields, want int, via string) ([]mail.Outcome, error) {
	out := make([]mail.Outcome, 0, want)
	var a answer
	for len(f) > 0 {
		name, v, rest, err := f.next()
		if err != nil {
			return nil, err
		}
		f = rest
		if a.setField(name, v); a.recipients == 0 {
			continue
		}
		if c := a.Reply.Class(); c != 2 && c != 4 && c != 5 || len(out)+a.recipients > want {
			return nil, fmt.Errorf("%w: outcome %d with %d, of %d", errFrame, len(out)+a.recipients, a.Reply.Code, want)
		}
		a.Via = via
		for range a.recipients {
			out = append(out, a.Outcome)
		}
		a = answer{to: a.to}
	}
	if len(out) != want {
		return nil, fmt.Errorf("%w: %d outcomes of %d", errFrame, len(out), want)
	}
	return out, nil
}
