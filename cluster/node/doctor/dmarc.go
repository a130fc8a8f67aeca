package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
)

// A walk notes the names that a tree walk asks for.
type walk struct {
	world.Resolver
	mu    sync.Mutex
	steps []string
}

// LookupTXT asks, and notes what was found.
func (w *walk) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := w.Resolver.LookupTXT(ctx, name)
	found := "no record"
	if policies := (textAnswer{texts: texts}).beginning("v=DMARC1"); len(policies) > 0 {
		found = shownAll(policies)
	}
	if err != nil {
		found = "not known: " + shown(err.Error())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, name+": "+found)
	return texts, err
}

// dmarc looks at the policy of a domain, as RFC 9989 finds it.
func (au *authentication) dmarc(ctx context.Context, name string) []Finding {
	at := "_dmarc." + name
	f := Finding{Check: "DMARC", Name: at, State: Ready, Expected: at + `. TXT "` + dmarcRecord(name) + `"`}
	answer := au.txt(ctx, at)
	if answer.err != nil {
		return []Finding{unknown("DMARC", at, f.Expected, answer.err)}
	}
	w := &walk{Resolver: au.Plain()}
	result := discovered(ctx, w, name)
	f.Steps = w.steps
	if result.PolicyDomain != "" {
		f.Steps = append(f.Steps, fmt.Sprintf("the policy is that of %s (%s=%s); the organizational domain is %s",
			shown(result.PolicyDomain), result.Tag, result.Requested, shown(result.Organization)))
	}
	if answer.alias != "" {
		f.Steps = append(f.Steps, at+" is an alias of "+shown(answer.alias))
	}
	var records, meant []string
	for _, t := range answer.texts {
		switch {
		case isDMARC(t):
			records = append(records, t)
		case isMeantDMARC(t):
			meant = append(meant, t)
		}
	}
	f.Found = shownAll(append(slices.Clone(records), meant...))
	switch {
	case len(records) > 1:
		f.State, f.Fault = Misconfigured, "dmarc-several"
		f.Reason = "Of several records none counts (RFC 9989 section 4.10): the domain has no policy."
		f.Fix = "Remove all but one: " + at + `. TXT "` + shown(mergeDMARC(records)) + `"`
		return []Finding{f}
	case len(records) == 1:
		return []Finding{au.policyText(ctx, f, name, records[0], result)}
	case len(meant) > 0:
		f.State, f.Fault = Misconfigured, "dmarc-malformed"
		f.Reason = "A record has to begin with v=DMARC1, in these letters, and a semicolon; this one counts for " +
			"nothing."
		f.Fix = "Write " + at + `. TXT "` + shown(correctedDMARC(meant[0])) + `"`
		return []Finding{f}
	}
	return []Finding{au.noDMARC(ctx, f, name, answer, result)}
}

// discovered returns the policy that a receiver finds for a domain.
func discovered(ctx context.Context, w *walk, name string) dmarc.Result {
	e, err := dmarc.New(dmarc.Config{Resolver: w})
	if err != nil {
		return dmarc.Result{}
	}
	l := e.Begin(ctx, name)
	defer l.Close()
	return l.Evaluate(ctx, spf.Results{}, nil)
}

// noDMARC is the finding of a domain without a record of its own.
func (au *authentication) noDMARC(ctx context.Context, f Finding, name string, answer textAnswer,
	result dmarc.Result) Finding {
	if result.PolicyDomain != "" && result.PolicyDomain != name {
		f.Found = "no record of its own"
		f.Expected = ""
		return f
	}
	f.State, f.Fault, f.Found = Unconfigured, "dmarc-missing", "no DMARC record"
	f.Reason = "Forgers may use the domain, no reports tell of it, and large destinations ask senders for a policy."
	f.Fix = "Publish " + f.Expected
	if len(answer.texts) > 0 {
		f.Found += ", but " + shownAll(answer.texts)
	}
	if answer.alias != "" {
		f.State, f.Fault = Misconfigured, "dmarc-alias"
		f.Reason = f.Name + " is an alias of " + shown(answer.alias) + ", which has no DMARC record."
		f.Fix = "Have the record published at " + shown(answer.alias) + ", or replace the alias: " + f.Expected
		return f
	}
	if wrong := au.doubled(ctx, f.Name, name, "v=DMARC1"); wrong != "" {
		f.State, f.Fault = Misconfigured, "dmarc-doubled"
		f.Reason = "The record stands at " + wrong + ": its name was written without the last dot."
		f.Fix = "Write the name with a dot at its end: " + f.Name + "."
		return f
	}
	if own := au.txt(ctx, name).beginning("v=DMARC1"); len(own) > 0 {
		f.State, f.Fault, f.Found = Misconfigured, "dmarc-elsewhere", shownAll(own)
		f.Reason = "The record stands at " + name + " itself, where no receiver looks."
		f.Fix = "Move it to " + f.Name + `. TXT "` + shown(own[0]) + `"`
	}
	return f
}

// isDMARC reports whether a text is a policy record: its first tag is v=DMARC1.
func isDMARC(text string) bool {
	first, _, _ := strings.Cut(text, ";")
	name, value, ok := strings.Cut(first, "=")
	return ok && strings.EqualFold(strings.TrimRight(name, " \t"), "v") && strings.Trim(value, " \t") == "DMARC1"
}

// isMeantDMARC reports whether a text that is no policy record was meant as one.
func isMeantDMARC(text string) bool {
	plain := strings.ToLower(strings.ReplaceAll(strings.Trim(text, "\"' \t"), " ", ""))
	return strings.Contains(plain, "dmarc") || strings.HasPrefix(plain, "p=")
}

// correctedDMARC returns what a text that was meant as a policy probably says.
func correctedDMARC(text string) string {
	text = strings.ReplaceAll(strings.Trim(text, "\"' \t"), `\;`, ";")
	var tags []string
	for t := range strings.FieldsFuncSeq(text, func(r rune) bool {
		return r == ';' || r == ',' &&
			!strings.Contains(text, ";")
	}) {
		name, value, ok := strings.Cut(t, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if ok && name != "v" && name != "" {
			tags = append(tags, name+"="+strings.TrimSpace(value))
		}
	}
	if !slices.ContainsFunc(tags, func(t string) bool { return strings.HasPrefix(t, "p=") }) {
		tags = append([]string{"p=none"}, tags...)
	}
	return "v=DMARC1; " + strings.Join(tags, "; ")
}

// A tag is one of a policy record.
type tag struct{ name, value string }

// tagsOf returns the tags of a policy record behind its version, and the first part that is none.
func tagsOf(record string) (tags []tag, none string) {
	_, rest, _ := strings.Cut(record, ";")
	for part := range strings.SplitSeq(rest, ";") {
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(strings.Trim(name, " \t"))
		switch {
		case strings.Trim(part, " \t") == "":
		case !ok || name == "":
			none = cmp.Or(none, strings.Trim(part, " \t"))
		default:
			tags = append(tags, tag{name, strings.Trim(value, " \t")})
		}
	}
	return tags, none
}

// without returns a policy record without some tags, and with more of them.
func without(record string, names []string, more ...string) string {
	tags, _ := tagsOf(record)
	out := []string{"v=DMARC1"}
	for _, t := range tags {
		if !slices.Contains(names, t.name) {
			out = append(out, t.name+"="+t.value)
		}
	}
	return strings.Join(append(out, more...), "; ")
}

// mergeDMARC returns one record in place of several: the mildest policy, so that no mail is refused by the merge alone,
// and all addresses for reports.
func mergeDMARC(records []string) string {
	policies := []string{"none", "quarantine", "reject"}
	milder := func(a, b string) int {
		return slices.Index(policies, policyOf(a)) - slices.Index(policies, policyOf(b))
	}
	best := slices.MinFunc(records, milder)
	var reports []string
	for _, r := range records {
		tags, _ := tagsOf(r)
		for _, t := range tags {
			if t.name != "rua" {
				continue
			}
			for uri := range strings.SplitSeq(t.value, ",") {
				if uri = strings.Trim(uri, " \t"); !slices.Contains(reports, uri) {
					reports = append(reports, uri)
				}
			}
		}
	}
	if len(reports) == 0 {
		return without(best, []string{"pct", "rf", "ri"})
	}
	return without(best, []string{"pct", "rf", "ri", "rua"}, "rua="+strings.Join(reports, ","))
}

// policyOf returns p= of a record.
func policyOf(record string) string {
	tags, _ := tagsOf(record)
	for _, t := range tags {
		if t.name == "p" {
			return strings.ToLower(t.value)
		}
	}
	return ""
}

// policyText looks at what the one policy record of a domain says.
func (au *authentication) policyText(ctx context.Context, f Finding, name, record string, result dmarc.Result) Finding {
	f.Expected = ""
	tags, none := tagsOf(record)
	set := func(fault, reason, fix string) Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return f
	}
	publish := func(record string) string { return "Publish in its place: " + f.Name + `. TXT "` + shown(record) + `"` }
	values := make(map[string]string)
	for _, t := range tags {
		if _, twice := values[t.name]; twice {
			return set("dmarc-twice", t.name+"= stands twice, and only the first counts.", "Remove one of them.")
		}
		values[t.name] = t.value
	}
	if none != "" {
		return set("dmarc-malformed", fmt.Sprintf("%q is no tag: one is name=value, and semicolons stand between them.",
			shown(none)), "Correct it, or leave it out: "+publish(without(record, nil)))
	}
	policy := strings.ToLower(values["p"])
	for _, t := range tags {
		if !validTag(t) {
			reason := shown(t.name+"="+t.value) + " has a value that does not exist"
			switch t.name {
			case "p", "sp", "np":
				return set("dmarc-policy", reason+": the whole record counts as p=none.",
					t.name+"= is none, quarantine or "+
						"reject. "+publish(without(record, []string{t.name}, t.name+"=none")))
			case "psd":
				return set("dmarc-psd", reason+" here: psd=y is for public suffixes, as registries have them.",
					publish(without(record, []string{"psd"})))
			}
			return set("dmarc-value", reason+", and is ignored.", "Correct "+
				"it. "+publish(without(record, []string{t.name})))
		}
	}
	if policy == "" {
		return set("dmarc-policy", "It has no p=, and counts as p=none.", publish(without(record, nil, "p=none")))
	}
	if pct, ok := values["pct"]; ok && pct != "100" && policy != "none" {
		fixed := without(record, []string{"pct", "rf", "ri"})
		if values["t"] == "" {
			fixed = without(record, []string{"pct", "rf", "ri", "t"}, "t=y")
		}
		return set("dmarc-pct", "pct="+shown(pct)+" is obsolete (RFC 9989): the policy applies to all mail, not to "+
			"a part of it.",
			"t=y asks receivers to apply a step less while you try: "+publish(fixed)+" Without t=y it applies in full.")
	}
	for _, kind := range []string{"rua", "ruf"} {
		if bad := au.reporting(ctx, f, name, kind, values[kind], result.Organization); bad != nil {
			return *bad
		}
	}
	f.Fix = strings.Join(dmarcAdvice(record, values, policy, publish), " ")
	return f
}

// validTag reports whether a tag has a value that counts for a domain that is no public suffix.
func validTag(t tag) bool {
	value := strings.ToLower(t.value)
	switch t.name {
	case "p", "sp", "np":
		return value == "none" || value == "quarantine" || value == "reject"
	case "adkim", "aspf":
		return value == "r" || value == "s"
	case "t":
		return value == "y" || value == "n"
	case "psd":
		return value == "n" || value == "u"
	}
	return true
}

// dmarcAdvice returns what would be better in a record in which nothing is wrong: what is obsolete, and the next stage.
func dmarcAdvice(record string, values map[string]string, policy string, publish func(string) string) (out []string) {
	var obsolete []string
	for _, name := range []string{"pct", "rf", "ri"} {
		if _, ok := values[name]; ok {
			obsolete = append(obsolete, name)
		}
	}
	if len(obsolete) > 0 {
		out = append(out, strings.Join(obsolete, ", ")+" is obsolete (RFC 9989) and counts for nothing. "+
			publish(without(record, obsolete)))
	}
	if values["rua"] == "" {
		out = append(out, "Without rua= no reports come: add rua=mailto: and an address that is read.")
	}
	testing := strings.EqualFold(values["t"], "y")
	switch {
	case testing && policy != "none":
		out = append(out, "t=y: receivers apply a step less than p="+policy+". When the reports show no mail of "+
			"yours that "+
			"fails, remove t=y.")
	case policy == "none":
		out = append(out, "Stage 1 of 3: nothing is refused. When two weeks of reports show that your own mail "+
			"passes, go on to "+
			"p=quarantine.")
	case policy == "quarantine":
		out = append(out, "Stage 2 of 3. When two weeks more show none of your mail in quarantine, go on to "+
			"p=reject. Mail "+
			"to lists may suffer: their hosts decide.")
	}
	if sp := values["sp"]; strings.EqualFold(sp, "none") && policy != "none" {
		out = append(out, "sp=none leaves all subdomains to forgers; np=reject protects those that do not exist.")
	}
	return out
}

// reporting looks at where reports go.
func (au *authentication) reporting(ctx context.Context, f Finding, name, kind, list, organization string) *Finding {
	if list == "" {
		return nil
	}
	f.State, f.Fault = Misconfigured, "dmarc-"+kind
	for uri := range strings.SplitSeq(list, ",") {
		uri, _, _ = strings.Cut(strings.Trim(uri, " \t"), "!") // the size of RFC 7489
		scheme, address, _ := strings.Cut(uri, ":")
		local, to, ok := strings.Cut(address, "@")
		if !strings.EqualFold(scheme, "mailto") || !ok || local == "" || !ascii.Is(to) || to == "" {
			f.Reason = fmt.Sprintf("%s has %q, which is no address to which reports are sent.", kind, shown(uri))
			f.Fix = "Write " + kind + "=mailto: and the address, with commas between several."
			return &f
		}
		to, _, _ = strings.Cut(domain.Canonical(to), "?")
		if domain.Within(to, name) || organization != "" && domain.Within(to, organization) {
			continue
		}
		at := name + "._report._dmarc." + to
		answer := au.txt(ctx, at)
		if answer.err == nil && len(answer.beginning("v=DMARC1")) == 0 {
			f.Fault = "dmarc-report"
			f.Reason = fmt.Sprintf("%s does not say that it takes reports about %s, so receivers send none there "+
				"(RFC 9990).",
				shown(to), name)
			f.Fix = "Have " + shown(to) + ` publish ` + shown(at) + `. TXT "v=DMARC1", or name an address in ` + name +
				"."
			return &f
		}
	}
	return nil
}
