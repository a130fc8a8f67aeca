package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// spf looks at the SPF record of a domain. With ours it has to let our addresses pass.
func (au *authentication) spf(ctx context.Context, name string, ours bool) []Finding {
	audit := spf.NewAudit(ctx, au.Plain(), name)
	f := Finding{Check: "SPF", Name: name, State: Ready, Steps: audit.Tree}
	if ours {
		f.Expected = name + `. TXT "` + au.mta.passing(ctx, name) + `"`
	}
	if len(audit.Records) > 0 {
		f.Found = shownAll(audit.Records)
		f.Steps = append(f.Steps, fmt.Sprintf("%d of %d look-ups", audit.Lookups, spf.MaxLookups))
	}
	var wrong []Finding
	for _, fault := range audit.Faults {
		if bad, ok := spfFault(f, audit, fault); ok {
			wrong = append(wrong, bad)
		}
	}
	if slices.ContainsFunc(wrong, func(f Finding) bool { return f.State == Misconfigured }) {
		return wrong
	}
	switch {
	case audit.Err != nil:
		return append(wrong, unknown("SPF", name, f.Expected, audit.Err))
	case len(audit.Records) == 0 && len(wrong) == 0:
		return []Finding{noSPF(f, ours)}
	case ours:
		if bad := au.passes(ctx, f, name, audit); bad != nil {
			return append(wrong, *bad)
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return []Finding{f}
}

// noSPF is the finding of a domain without a record.
func noSPF(f Finding, ours bool) Finding {
	f.Found = "no SPF record"
	if ours {
		f.State, f.Fault = Unconfigured, "spf-missing"
		f.Reason = "Mail that leaves in this name does not pass SPF: large destinations refuse it or file it as spam."
		f.Fix = "Publish " + f.Expected
		return f
	}
	f.Fix = "No mail needs it here. If the domain never sends, " +
		"publish " + f.Name + `. TXT "v=spf1 -all"; if it sends ` +
		"elsewhere, what that sender asks for."
	return f
}

// passing returns the record by which our addresses pass for a domain.
func (m *mta) passing(ctx context.Context, name string) string {
	sending := m.sending(ctx, name)
	for _, host := range []string{name, domain.Canonical(m.node.Hostname)} {
		addrs, _, _ := m.addrs(ctx, host)
		isOther := func(a netip.Addr) bool { return !slices.Contains(addrs, a) }
		switch {
		case slices.ContainsFunc(sending, isOther):
		case host != name:
			return "v=spf1 a:" + host + " -all"
		case host == domain.Canonical(m.node.Hostname) || m.says(ctx, name):
			return "v=spf1 a -all"
		}
	}
	return "v=spf1 " + strings.Join(m.mechanisms(ctx, name), " ") + " -all"
}

// says reports whether a name is one that destinations are told in EHLO.
func (m *mta) says(ctx context.Context, name string) bool {
	return slices.ContainsFunc(m.said(m.seen(ctx)), func(s string) bool { return domain.Canonical(s) == name })
}

// sending returns the addresses from which mail of a name leaves: those from which it is said in EHLO, for which SPF is
// asked about bounces, and all if it is said from none.
func (m *mta) sending(ctx context.Context, name string) []netip.Addr {
	addrs := m.seen(ctx)
	for _, said := range m.said(addrs) {
		if domain.Canonical(said) == name {
			return m.saying(ctx, said, addrs)
		}
	}
	return addrs
}

// mechanisms returns the addresses from which mail of a name leaves as mechanisms.
func (m *mta) mechanisms(ctx context.Context, name string) (out []string) {
	for _, a := range m.sending(ctx, name) {
		out = append(out, mechanism(a))
	}
	return out
}

func mechanism(a netip.Addr) string {
	if a.Is4() {
		return "ip4:" + a.String()
	}
	return "ip6:" + a.String()
}

// passes returns what is wrong with a record by which our addresses are to pass, nil if nothing is.
func (au *authentication) passes(ctx context.Context, f Finding, name string, audit *spf.Audit) *Finding {
	checker, err := spf.New(spf.Config{Resolver: au.Plain()})
	if err != nil {
		return nil
	}
	var failed []netip.Addr
	for _, a := range au.mta.sending(ctx, name) {
		c := checker.Begin(ctx, a, name, mail.Path{Local: "postmaster", Domain: name})
		result := c.Results(ctx).Mail
		c.Close()
		switch result.Result {
		case spf.Pass:
		case spf.TempError:
			u := unknown("SPF", name, f.Expected, fmt.Errorf("%s: %s", a, result.Reason))
			return &u
		default:
			failed = append(failed, a)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	add := make([]string, len(failed))
	for i, a := range failed {
		add[i] = mechanism(a)
	}
	f.State, f.Fault = Misconfigured, "spf-omits"
	f.Reason = "It does not let pass " + join(failed) + ", from which our mail leaves: it is refused or filed as spam."
	f.Fix = "Publish in its place: " + name + `. TXT "` + shown(withTerms(audit.Records[0], add)) + `"`
	return &f
}

// withTerms returns a record with more terms, which stand first.
func withTerms(record string, terms []string) string {
	version, rest, _ := strings.Cut(record, " ")
	out := version + " " + strings.Join(terms, " ")
	if rest = strings.TrimSpace(rest); rest != "" {
		out += " " + rest
	}
	return out
}

// withoutTerm returns a record without a term.
func withoutTerm(record, term string) string {
	var kept []string
	for t := range strings.SplitSeq(record, " ") {
		if t != term && t != "" {
			kept = append(kept, t)
		}
	}
	return strings.Join(kept, " ")
}

// ended returns a record that ends in another way.
func ended(record, end string) string {
	var kept []string
	for t := range strings.SplitSeq(record, " ") {
		if l := strings.ToLower(strings.TrimLeft(t, "+-?~")); t != "" && l != "all" {
			kept = append(kept, t)
		}
	}
	return strings.Join(append(kept, end), " ")
}

// spfFault returns the finding of a fault. It is false for what is not the domain's to change.
func spfFault(f Finding, audit *spf.Audit, fault spf.Fault) (Finding, bool) {
	own := fault.Domain == f.Name
	f.State = Misconfigured
	publish := func(record string) {
		f.Fix = "Publish in its place: " + f.Name + `. TXT "` + shown(record) + `"`
	}
	whose := "the record of " + shown(fault.Domain)
	record := ""
	if len(audit.Records) > 0 {
		record = audit.Records[0]
	}
	switch fault.Flaw {
	case spf.Several:
		f.Fault = "spf-several"
		f.Reason = shown(fault.Domain) + " has more than one SPF record, which is an error: none of them counts " +
			"(RFC 7208 " +
			"section 4.5)."
		if own {
			f.Fix = "Remove all of them and publish one that says what they say: " + f.Name + `. TXT "` +
				shown(spf.Merge(audit.Records)) + `"`
		} else {
			f.Fix = "Ask who runs " + shown(fault.Domain) + " to merge them; until then " +
				"remove " + shown(fault.Term) + "."
		}
	case spf.NotRecord:
		if !own {
			return f, false
		}
		f.Fault, f.Found = "spf-malformed", shown(fault.Term)
		f.Reason = `This is no SPF record: one begins with "v=spf1" and a blank.`
		f.Fix = "Remove it."
		if record == "" {
			f.Fix = "Write it as " + f.Name + `. TXT "` + shown(corrected(fault.Term)) + `"`
		}
	case spf.Syntax:
		f.Fault = "spf-syntax"
		f.Reason = fmt.Sprintf("No receiver can read %q in %s, and then none of it counts.", shown(fault.Term), whose)
		f.Fix = fmt.Sprintf("Correct or remove %q.", shown(fault.Term))
		if own {
			f.Fix = fmt.Sprintf("Correct %q, or leave it out: %s. TXT \"%s\"", shown(fault.Term), f.Name,
				shown(withoutTerm(record, fault.Term)))
		}
	case spf.TooMany:
		f.Fault = "spf-lookups"
		f.Reason = fmt.Sprintf("It needs %d look-ups, and %d are allowed: receivers take it for an error (RFC 7208 "+
			"section "+
			"4.6.4).", audit.Lookups, spf.MaxLookups)
		f.Fix = "Remove what is not used any more, or write ip4: and ip6: in place of names. " + costs(audit)
	case spf.TooVoid:
		f.Fault = "spf-void"
		f.Reason = fmt.Sprintf("%d of its look-ups find nothing, and two are allowed (RFC 7208 section "+
			"4.6.4).", audit.Void)
		f.Fix = "Remove what leads nowhere: " + void(audit)
	case spf.TooManyMX:
		f.Fault = "spf-mx"
		f.Reason = fmt.Sprintf("%q stands for more than ten hosts, which is an error.", shown(fault.Term))
		f.Fix = "Write the networks of these hosts in its place (ip4:, ip6:)."
	case spf.Loop:
		f.Fault = "spf-loop"
		f.Reason = fmt.Sprintf("%q in %s leads back to a record that is being read: receivers take it for an error.",
			shown(fault.Term), whose)
		f.Fix = removal(f.Name, record, fault)
	case spf.Dead:
		f.Fault = "spf-dead"
		f.Reason = fmt.Sprintf("%q in %s leads to a domain without an SPF record, which is an "+
			"error.", shown(fault.Term), whose)
		f.Fix = removal(f.Name, record, fault)
	case spf.PassAll:
		f.Fault = "spf-all"
		f.Reason = fmt.Sprintf("%q in %s lets all hosts of the world send in this name.", shown(fault.Term), whose)
		f.Fix = removal(f.Name, record, fault)
		if own && strings.TrimLeft(strings.ToLower(fault.Term), "+") == "all" {
			publish(ended(record, "-all"))
		}
	case spf.Wide:
		f.Fault = "spf-wide"
		f.Reason = fmt.Sprintf("%q in %s is a network of millions of hosts of others.", shown(fault.Term), whose)
		f.Fix = "Write the networks that send in its place."
	case spf.NoEnd:
		f.Fault = "spf-end"
		f.Reason = "It says nothing of other hosts, so that it keeps no forger out."
		publish(ended(record, "-all"))
	case spf.AfterAll:
		if !own {
			return f, false
		}
		f.Fault = "spf-after-all"
		f.Reason = fmt.Sprintf(`%q does not count: nothing behind "all" does.`, shown(fault.Term))
		if strings.HasPrefix(fault.Term, "redirect=") {
			f.Fix = "Remove it, or remove \"all\"."
			break
		}
		publish(ended(record, lastAll(record)))
	case spf.Void:
		f.State = Ready
		f.Fix = fmt.Sprintf("Remove %q from %s: it leads nowhere.", shown(fault.Term), whose)
		return f, own && audit.Void <= 2
	case spf.Discouraged:
		f.State = Ready
		f.Fix = fmt.Sprintf("Write ip4:, ip6: or a: in place of %q: many receivers do not ask it (RFC 7208 section "+
			"5.5).",
			shown(fault.Term))
		return f, own
	}
	return f, true
}

// removal returns how to be rid of a term.
func removal(name, record string, fault spf.Fault) string {
	if fault.Domain != name {
		return fmt.Sprintf("Ask who runs %s to correct %q, or remove from the record of %s what leads there.",
			shown(fault.Domain), shown(fault.Term), name)
	}
	return fmt.Sprintf("Correct %q, or leave it out: %s. TXT \"%s\"", shown(fault.Term), name,
		shown(withoutTerm(record, fault.Term)))
}

// lastAll returns the "all" of a record, "-all" without one.
func lastAll(record string) string {
	for t := range strings.SplitSeq(strings.ToLower(record), " ") {
		if strings.TrimLeft(t, "+-?~") == "all" {
			return t
		}
	}
	return "-all"
}

// corrected returns what a text that was meant as a record probably says.
func corrected(text string) string {
	text = strings.Trim(text, "\"' \t")
	at := strings.IndexByte(strings.ToLower(text), '1')
	if at < 0 {
		return "v=spf1 -all"
	}
	rest := strings.TrimLeft(text[at+1:], " \t,;:\"'")
	return strings.TrimSpace("v=spf1 " + strings.NewReplacer(",", " ", ";", " ").Replace(rest))
}

// costs returns how many look-ups each term costs.
func costs(audit *spf.Audit) string {
	var out []string
	for _, c := range audit.Costs {
		out = append(out, fmt.Sprintf("%s costs %d", shown(c.Term), c.Lookups))
	}
	return "Of the look-ups, " + strings.Join(out, ", ") + "."
}

// void returns the terms that find nothing.
func void(audit *spf.Audit) string {
	var out []string
	for _, f := range audit.Faults {
		if f.Flaw == spf.Void {
			out = append(out, shown(f.Term)+" in the record of "+shown(f.Domain))
		}
	}
	return strings.Join(out, ", ")
}
