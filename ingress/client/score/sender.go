package score

import (
	"context"
	"strings"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// Mail takes the reverse-path of a mail transaction and begins its signals. Those of the transaction before are
// dropped. check is the session's check of SPF; nil disables its signals. It must not be closed before Verdict, the
// next Mail or Close. Mail waits for nothing.
func (k *Score) Mail(reverse mail.Path, check SPF) {
	q := &k.inquiry
	f := findings{q: q, from: fromEntries}
	sender := domain.Canonical(reverse.Domain)
	var allow grant
	var from source
	if !q.final() {
		if sender != "" {
			allow = q.s.allow.name(sender, domainPatterns)
			if block := q.s.block.domain.find(sender); block != nil {
				f.block(block)
			}
		}
		from = q.senderSources(sender, check)
	}
	g := q.begin(atMail, from)
	q.mu.Lock()
	q.merge(atMail, &f)
	q.mu.Unlock()
	q.start(atMail, g, fromMX, func(ctx context.Context, f *findings) { f.askMX(ctx, sender) })
	q.start(atMail, g, fromSPF, func(ctx context.Context, f *findings) { f.askSPF(ctx, check, sender, allow) })
	q.start(atMail, g, fromSenderLists, func(ctx context.Context, f *findings) {
		f.list(q.s.cfg.Lists.AskDomain(ctx, sender))
	})
}

// senderSources returns the sources about a reverse-path with the domain sender.
func (q *inquiry) senderSources(sender string, check SPF) (from source) {
	if check != nil && q.addr.IsValid() {
		from |= fromSPF
	}
	kind, _ := classify(sender)
	if sender == "" || kind != heloName && kind != heloBare {
		return from // an address literal, or a name that DNS writes otherwise
	}
	if q.s.cfg.Resolver != nil {
		from |= fromMX
	}
	if q.s.domainLists {
		from |= fromSenderLists
	}
	return from
}

// askMX checks whether an answer to the reverse-path could be delivered (RFC 5321 section 5.1).
func (f *findings) askMX(ctx context.Context, sender string) {
	shown := printable(sender, maxName)
	hosts, err := f.q.s.cfg.Resolver.LookupMX(ctx, sender)
	switch {
	case err != nil:
		f.miss()
		return
	case len(hosts) == 1 && strings.Trim(hosts[0], ".") == "":
		f.speak(sigSenderNullMX, "the sender's domain "+shown+" has a null MX and takes no mail")
		return
	case len(hosts) > 0:
		f.see(shown + " has an MX")
		return
	}
	addrs, err := f.q.s.cfg.Resolver.LookupAddrs(ctx, sender)
	switch {
	case len(addrs) > 0:
		f.see(shown + " has an address")
	case err != nil:
		f.miss()
	default:
		f.speak(sigSenderDomain, "the sender's domain "+shown+" has neither an MX nor an address")
	}
}

// askSPF waits for the result of SPF. For a null reverse-path the result is about the name in EHLO, and that it has no
// record says nothing.
func (f *findings) askSPF(ctx context.Context, check SPF, sender string, allow grant) {
	result, checked := check.Wait(ctx)
	shown := printable(checked, maxName)
	switch result {
	case "pass":
		f.passes = domain.Canonical(checked)
		if allow != (grant{}) && domain.Canonical(checked) == sender {
			f.allow(allow)
		}
	case "fail":
		f.speak(sigSPFFail, "SPF of "+shown+" says that it does not send for it")
	case "softfail":
		f.speak(sigSPFSoftFail, "SPF of "+shown+" says that it should not send for it")
	case "none":
		if sender != "" {
			f.speak(sigSPFNone, "the sender's domain "+shown+" has no SPF")
		}
	case "permerror":
		f.speak(sigSPFPermError, "SPF of "+shown+" cannot be read")
	case "neutral":
	default:
		f.miss()
		return
	}
	f.see("SPF of " + shown + " is " + printable(result, 20))
}
