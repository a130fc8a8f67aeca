package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// goodBits is the size that RFC 8301 section 3.2 advises for RSA keys.
const goodBits = 2048

// dkim looks at the records of keys.
func (au *authentication) dkim(ctx context.Context, keys []Key) (all []Finding) {
	for _, k := range keys {
		all = append(all, au.key(ctx, k))
	}
	return all
}

// key looks at the record of a key.
func (au *authentication) key(ctx context.Context, k Key) Finding {
	name := k.name()
	f := Finding{Check: "DKIM", Name: name, State: Ready}
	publish := "Have the one who signs say what its record is, and publish that."
	if k.Record != "" {
		f.Expected = name + ". TXT " + dkim.ZoneText(k.Record)
		publish = "Publish " + f.Expected
	}
	answer := au.txt(ctx, name)
	if answer.err != nil {
		return unknown("DKIM", name, f.Expected, answer.err)
	}
	var meant []string
	for _, t := range answer.texts {
		if isKeyText(t) {
			meant = append(meant, t)
		}
	}
	f.Found = shownAll(meant)
	if answer.alias != "" {
		f.Steps = []string{name + " is an alias of " + shown(answer.alias)}
	}
	set := func(fault, reason, fix string) Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return f
	}
	switch {
	case len(meant) == 0:
		set("dkim-missing", "What is signed with this key does not verify.", publish)
		f.State, f.Found = Unconfigured, "no key record"
		if len(answer.texts) > 0 {
			f.Found += ", but " + shownAll(answer.texts)
		}
		if wrong := au.doubled(ctx, name, k.Domain, "v=DKIM1"); wrong != "" {
			set("dkim-doubled", "The record stands at "+wrong+": its name was written without the last dot.",
				"Write the name with a dot at its end: "+name+".")
		} else if answer.alias != "" {
			f.Reason = "The name is an alias of " + shown(answer.alias) + ", which has no key record."
			f.Fix = "Have the record published at " + shown(answer.alias) + ", or replace the alias. " + publish
		}
		return f
	case len(meant) > 1:
		return set("dkim-several", "Of several records at one name a verifier takes any (RFC 6376 section 3.6.2.2).",
			"Remove all but one. "+publish)
	}
	f = keyText(f, k, meant[0], publish)
	if f.Fault == "dkim-malformed" && len(answer.texts) > 1 {
		f.Reason += " Beside it stand other records: a long key is one record of several strings, not several records."
	}
	return f
}

// isKeyText reports whether a TXT record was meant as a key.
func isKeyText(t string) bool {
	plain := strings.ToLower(strings.ReplaceAll(strings.Trim(t, "\"' \t"), " ", ""))
	return strings.HasPrefix(plain, "v=dkim") || strings.HasPrefix(plain, "k=") || strings.HasPrefix(plain, "p=") ||
		strings.Contains(plain, ";p=") || strings.HasPrefix(plain, "dkim")
}

// keyText looks at what the one record of a key says.
func keyText(f Finding, k Key, text, publish string) Finding {
	set := func(fault, reason, fix string) Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return f
	}
	public, err := dkim.ParseKeyRecord(text)
	var failure *dkim.Failure
	if errors.As(err, &failure) {
		switch failure.Reason {
		case "key revoked":
			return set("dkim-revoked", "The record says that the key was revoked (an empty p=).",
				publish+" Or, if the key was given up, let the configuration name another.")
		case "key too short":
			return set("dkim-short", "Keys below 1024 bits are refused (RFC 8301 section 3.2).",
				"Make a key of 2048 bits (millrace dkim new) with a selector of its own, and publish its record.")
		case "key not for sha256":
			return set("dkim-hash", "Its h= does not allow SHA-256, and nothing else is verified any more.",
				"Remove h= from the record. "+publish)
		case "key not for mail":
			return set("dkim-service", "Its s= does not allow mail.", "Remove s= from the record. "+publish)
		}
		return set("dkim-malformed", "Verifiers cannot read it: "+failure.Reason+"."+hint(text), publish)
	}
	if err != nil {
		return set("dkim-malformed", "Verifiers cannot read it: "+shown(err.Error())+".", publish)
	}
	switch {
	case k.Record != "" && !samePublic(k.Record, public):
		return set("dkim-other", "The record has another key than the one that signs: what is signed fails.", publish)
	case public.Testing:
		return set("dkim-testing", "t=y says that the domain only tests: verifiers treat its mail as if it were "+
			"not signed.",
			"Remove t=y from the record. "+publish)
	case public.Bits < goodBits && public.Bits != 256:
		f.Fix = fmt.Sprintf("The key has %d bits; 2048 are advised. Make another with a selector of its own: "+
			"millrace dkim new",
			public.Bits)
	}
	return f
}

// hint says what is often wrong with a record that cannot be read.
func hint(text string) string {
	switch {
	case strings.Contains(text, `\;`):
		return ` It has backslashes in front of its semicolons, which belong into a zone file alone.`
	case strings.ContainsAny(text, `"'`):
		return " It has quotes inside, which belong around the strings."
	case strings.Contains(text, "-----"):
		return " It has the lines of a PEM file around the key."
	}
	return ""
}

// samePublic reports whether a record that is to be there has a public key.
func samePublic(record string, public *dkim.PublicKey) bool {
	want, err := dkim.ParseKeyRecord(record)
	if err != nil {
		return false
	}
	a, errA := dkim.KeyRecord(want.Key)
	b, errB := dkim.KeyRecord(public.Key)
	return errA == nil && errB == nil && a == b
}
