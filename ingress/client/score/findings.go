package score

import (
	"net/netip"
	"slices"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxText bounds a reason's text in octets, so that the address before it and the page behind it have room in a
	// reply.
	maxText = 280
	// maxName bounds a name in a text in octets.
	maxName = 120
)

// Findings are what one source brings. They belong to the goroutine of the source until it reports them.
type findings struct {
	q       *inquiry
	from    source
	reasons []mail.Reason
	unheard []string
	doubts  []dnsbl.Gap // lists that were not heard
	rest    *dnsbl.Rest // what they may still say; nil: nothing
	allowed Purposes    // for which an allow list speaks for the client
	entry   *entry      // the first one that does; nil without one
	entries string      // of the lists that spoke; see mail.Verdict
	proved  string      // the domain that its name proves
	passes  string      // the domain for which SPF passes

	// For Explain only: the answer of the source, and the locations of the entries that spoke.
	seen, allowedBy, blockedBy string
}

// speak lets a signal speak with its configured weight. It makes text fit for a reply.
func (f *findings) speak(sig signal, text string) { f.weigh(sig, f.q.s.weights[sig], text) }

// weigh lets a signal speak with a weight. A signal of weight 0 does not speak.
func (f *findings) weigh(sig signal, weight float64, text string) {
	if weight == 0 {
		return
	}
	f.reasons = append(f.reasons,
		mail.Reason{Name: catalogue[sig].name, Weight: weight, Text: printable(text, maxText)})
	if !f.q.looking() {
		f.q.s.spoke[sig].Add(1)
	}
}

// miss notes that the answer of the source could not be known.
func (f *findings) miss() {
	f.unheard = append(f.unheard, f.from.unheard())
	f.q.missed(f.from)
}

// see keeps the answer of the source, for Explain.
func (f *findings) see(text string) {
	if f.q.looking() {
		f.seen = text
	}
}

// allow lets entries of the allow list speak.
func (f *findings) allow(g grant) {
	f.allowed |= g.purposes()
	for _, e := range g {
		if e == nil {
			continue
		}
		f.entries = e.addTo(f.entries)
		if f.entry == nil {
			f.entry = e
		}
	}
	if e := g[scoreIndex]; e != nil {
		f.allowedBy = e.location
		f.speak(sigAllow, e.text("allowed here"))
	}
}

// block lets an entry of the block list speak.
func (f *findings) block(e *entry) {
	f.blockedBy, f.entries = e.location, e.addTo(f.entries)
	f.speak(sigBlock, e.text("blocked here"))
}

// list lets lists speak that have the client's address, or what the client says. rest is what they may still say.
func (f *findings) list(hits []dnsbl.Hit, missing []dnsbl.Gap, rest *dnsbl.Rest) {
	f.rest = rest
	f.hear(hits, missing)
	if len(missing) > 0 {
		f.q.missed(f.from)
	}
}

// hear is list for what is said for the first time or after all.
func (f *findings) hear(hits []dnsbl.Hit, missing []dnsbl.Gap) {
	for _, hit := range hits {
		text := "listed by " + hit.Zone + " (code " + hit.Code.String() + ")"
		switch {
		case hit.Domain != "":
			f.weigh(sigDomainList, hit.Weight, hit.Domain+" "+text)
		case hit.Weight < 0:
			f.weigh(sigDNSWL, hit.Weight, text)
		default:
			f.weigh(sigDNSBL, hit.Weight, text)
		}
	}
	f.doubts = missing
	for _, gap := range missing {
		f.unheard = append(f.unheard, f.from.unheard()+" "+gap.Zone)
	}
	f.see("not listed")
}

// isClient reports whether the client's address is one of addrs.
func (f *findings) isClient(addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == f.q.addr })
}
