package score

import (
	"context"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// Mail takes the reverse-path of a mail transaction and begins its signals; those of the transaction before are
// forgotten. check is the session's check of SPF, nil if there is none; it must not be closed before Verdict, the next
// Mail or Close. Mail waits for nothing.
func (k *Score) Mail(reverse mail.Path, check SPF) {
	f := found{k: k, from: fromEntries}
	domain := plainName(reverse.Domain)
	var allow *entry
	var from source
	if !k.final() {
		if domain != "" {
			allow = k.s.allow.domain.find(domain)
			if block := k.s.block.domain.find(domain); block != nil {
				f.block(block)
			}
		}
		from = k.sources(domain, check)
	}
	g := k.begin(atMail, from)
	k.mu.Lock()
	k.merge(atMail, &f)
	k.mu.Unlock()
	k.start(atMail, g, fromMX, func(ctx context.Context, f *found) { k.askMX(ctx, f, domain) })
	k.start(atMail, g, fromSPF, func(ctx context.Context, f *found) { k.askSPF(ctx, f, check, domain, allow) })
	k.start(atMail, g, fromSenderLists, func(ctx context.Context, f *found) {
		f.list(k.s.cfg.Lists.AskDomain(ctx, domain))
	})
}

// sources gives what is asked about a reverse-path.
func (k *Score) sources(domain string, check SPF) (from source) {
	if check != nil && k.addr.IsValid() {
		from |= fromSPF
	}
	kind, _ := classify(domain)
	if domain == "" || kind != heloName && kind != heloBare {
		return from // an address literal, or a name that DNS writes otherwise
	}
	if k.s.cfg.Resolver != nil {
		from |= fromMX
	}
	if k.s.domainLists {
		from |= fromSenderLists
	}
	return from
}

// askMX looks whether an answer to the reverse-path could be delivered (RFC 5321 section 5.1).
func (k *Score) askMX(ctx context.Context, f *found, domain string) {
	shown := printable(domain, mostName)
	hosts, err := k.s.cfg.Resolver.LookupMX(ctx, domain)
	switch {
	case err != nil:
		f.miss("sender-domain")
		return
	case len(hosts) == 1 && strings.Trim(hosts[0], ".") == "":
		f.speak(sigSenderNullMX, "the sender's domain "+shown+" has a null MX and takes no mail")
		return
	case len(hosts) > 0:
		f.see(shown + " has an MX")
		return
	}
	addrs, err := k.s.cfg.Resolver.LookupAddrs(ctx, domain)
	switch {
	case len(addrs) > 0:
		f.see(shown + " has an address")
	case err != nil:
		f.miss("sender-domain")
	default:
		f.speak(sigSenderDomain, "the sender's domain "+shown+" has neither an MX nor an address")
	}
}

// askSPF waits for the result of SPF. That of a null reverse-path is about the name in EHLO; that it has no record is
// no sign of anything.
func (k *Score) askSPF(ctx context.Context, f *found, check SPF, domain string, allow *entry) {
	result, checked := check.Wait(ctx)
	shown := printable(checked, mostName)
	switch result {
	case "pass":
		if allow != nil && plainName(checked) == domain {
			f.allow(allow)
		}
	case "fail":
		f.speak(sigSPFFail, "SPF of "+shown+" says that it does not send for it")
	case "softfail":
		f.speak(sigSPFSoftFail, "SPF of "+shown+" says that it should not send for it")
	case "none":
		if domain != "" {
			f.speak(sigSPFNone, "the sender's domain "+shown+" has no SPF")
		}
	case "permerror":
		f.speak(sigSPFPermError, "SPF of "+shown+" cannot be read")
	case "neutral":
	default:
		f.miss("spf")
		return
	}
	f.see("SPF of " + shown + " is " + printable(result, 20))
}
