package policy_test

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// The names of our fields above a message that is not signed, one whose author's own signature passes, and one that had
// none that is aligned.
const (
	namesUnsealed = "Received Authentication-Results"
	namesARC      = "Received ARC-Seal ARC-Message-Signature ARC-Authentication-Results Authentication-Results"
	// Two keys of the relay, one of the hosted domain.
	namesAll    = namesARC + " DKIM-Signature DKIM-Signature DKIM-Signature"
	notAccepted = "550 5.7.26"
	triedLater  = "451 4.7.0"
)

// A policyCase is a message and what becomes of it, whatever its size.
type policyCase struct {
	name    string
	mail    authMail // without octets
	author  string
	fields  string                           // above From
	dress   func(header, body string) string // signs it; nil leaves it unsigned
	want    string                           // what the reply begins with
	auth    string                           // is in Event.Auth of the message when it is held
	results string                           // is in our Authentication-Results field when it is held
	over    string                           // the override that is recorded
	rewrite func(header string) string       // takes the place of the header section
}

func policyCases(t testing.TB, r authRecords) []policyCase {
	signed := func(domain string) func(string, string) string {
		return func(header, body string) string { return signedBy(t, domain, header, body, dkim.Relaxed) }
	}
	replayed := func(domain string) func(string, string) string { // a good header section, another body
		return func(header, body string) string { return signedBy(t, domain, header, body+"more\r\n", dkim.Relaxed) }
	}
	lost := func(domain string) func(string, string) string {
		return func(header, body string) string {
			return strings.Replace(signedBy(t, domain, header, body, dkim.Relaxed), "s=s;", "s=lost;", 1)
		}
	}
	sealed := func(domain, results string) func(string, string) string {
		return func(header, body string) string { return chainedBy(t, r, domain, header, body, domain+"; "+results) }
	}
	const list = "List-Id: <l.esp.example>\r\nList-Post: <mailto:l@esp.example>\r\n"
	stranger := authMail{client: authStranger, reverse: "a@esp.example"}
	to := func(address string) authMail {
		return authMail{client: authStranger, reverse: "a@esp.example", to: address}
	}
	return []policyCase{
		// DMARC, p=reject.
		{
			name: "reject: neither SPF nor DKIM", mail: stranger, author: "reject.example",
			want: notAccepted + " The DMARC policy of reject.example rejects", auth: "spf=fail dkim=none dmarc=fail",
		},
		{
			name: "reject: SPF is aligned", mail: authMail{reverse: "a@reject.example"}, author: "reject.example",
			want: "250", auth: "spf=pass dkim=none dmarc=pass",
		},
		{
			name: "reject: SPF passes for another domain", mail: authMail{reverse: "a@esp.example"},
			author: "reject.example", want: notAccepted, auth: "spf=pass dkim=none dmarc=fail",
		},
		{
			name: "reject: SPF of a subdomain is aligned", mail: authMail{reverse: "a@sub.parent.example"},
			author: "parent.example", want: "250", auth: "dmarc=pass",
		},
		{
			name: "reject: DKIM is aligned", mail: stranger, author: "reject.example", dress: signed("reject.example"),
			want: "250", auth: "spf=fail dkim=pass dmarc=pass",
		},
		{
			name: "reject: DKIM of another domain", mail: stranger, author: "reject.example",
			dress: signed("esp.example"), want: notAccepted, auth: "dkim=pass dmarc=fail",
		},
		{
			name: "reject: DKIM over another body", mail: stranger, author: "reject.example",
			dress: replayed("reject.example"), want: notAccepted, auth: "dkim=fail dmarc=fail",
		},
		{
			name: "reject: a signature without a key", mail: stranger, author: "reject.example",
			dress: signed("keyless.example"), want: notAccepted, auth: "dkim=permerror dmarc=fail",
		},
		{
			name: "reject: strict alignment, a subdomain signs", mail: stranger, author: "strict.example",
			dress: signed("esp.example"), want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "reject: a subdomain by sp", mail: stranger, author: "sub.parent.example", want: notAccepted,
			auth: "dmarc=fail",
		},
		{
			name: "reject: a subdomain that does not exist by np", mail: stranger, author: "no.parent.example",
			want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "reject: p=none of the parent itself", mail: stranger, author: "parent.example", want: "250",
			auth: "dmarc=fail",
		},
		{
			name: "reject: the null sender", mail: authMail{client: authStranger, helo: "client.example"},
			author: "reject.example", want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "reject: the null sender of a host that is aligned", mail: authMail{helo: "reject.example"},
			author: "reject.example", want: "250", auth: "dmarc=pass",
		},
		// What a hosted domain wants.
		{
			name: "dmarc=report", mail: to("info@report.example"), author: "reject.example", want: "250",
			auth: "dmarc=fail", results: "dmarc=fail (p=reject",
		},
		{name: "dmarc=off", mail: to("info@off.example"), author: "reject.example", want: "250", auth: "spf=fail"},
		{name: "another domain enforces", mail: to("info@no.example"), author: "reject.example", want: notAccepted},
		{
			name: "postmaster", mail: to("postmaster@x.example"), author: "reject.example", want: "250",
			results: "dmarc=fail",
		},
		{name: "abuse", mail: to("Abuse@yes.example"), author: "reject.example", want: "250"},
		{name: "postmaster without a domain", mail: to("Postmaster"), author: "reject.example", want: "250"},
		{
			name: "a trusted client", mail: authMail{client: authTrusted, reverse: "a@esp.example"},
			author: "reject.example", want: "250",
		},
		// Other policies.
		{
			name: "none", mail: stranger, author: "none.example", want: "250", auth: "dmarc=fail",
			results: "policy.dmarc=none",
		},
		{name: "no policy", mail: stranger, author: "nothing.example", want: "250", auth: "dmarc=none"},
		{
			name: "quarantine", mail: stranger, author: "quarantine.example", want: "250", auth: "dmarc=fail",
			results: "policy.dmarc=quarantine",
		},
		{
			name: "quarantine=refuse", mail: to("info@refuse.example"), author: "quarantine.example",
			want: notAccepted + " The DMARC policy of quarantine.example quarantines",
		},
		{
			name: "quarantine=refuse and an aligned signature", mail: to("info@refuse.example"),
			author: "quarantine.example", dress: signed("quarantine.example"), want: "250",
		},
		{
			name: "t=y of reject is quarantine", mail: stranger, author: "tested.example", want: "250",
			auth: "dmarc=fail", results: "policy.dmarc=quarantine",
		},
		{
			name: "t=y of reject where quarantine is refused", mail: to("info@refuse.example"),
			author: "tested.example", want: notAccepted,
		},
		{
			name: "t=y of quarantine is none", mail: to("info@refuse.example"), author: "testedq.example", want: "250",
			results: "policy.dmarc=none",
		},
		{
			name: "pct=0 of reject counts for nothing", mail: stranger, author: "pct.example", want: notAccepted,
			auth: "dmarc=fail",
		},
		{
			name: "nor does pct=0 of quarantine", mail: to("info@refuse.example"), author: "pctq.example",
			want: notAccepted,
		},
		// What speaks for a client.
		{
			name: "fields of a list, and SPF passes for any domain", mail: authMail{reverse: "l-bounces@esp.example"},
			author: "reject.example", fields: list, want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "a list that is named, by SPF", mail: authMail{reverse: "l-bounces@list.example"},
			author: "reject.example", want: "250", auth: "dmarc=fail arc=none (list)", over: "list",
			results: "not enforced: list",
		},
		{
			name: "a list that is named, by DKIM", mail: stranger, author: "reject.example",
			dress: signed("list.example"), want: "250", auth: "dmarc=fail arc=none (list)", over: "list",
		},
		{
			name: "a list that is named, SPF fails", mail: authMail{client: authStranger, reverse: "l@list.example"},
			author: "reject.example", fields: list, want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "a list without a reverse-path", mail: authMail{helo: "list.example"}, author: "reject.example",
			fields: list, want: notAccepted,
		},
		{
			name: "a newsletter is no list", mail: authMail{reverse: "l@esp.example"}, author: "reject.example",
			fields: "List-Unsubscribe: <https://esp.example>\r\n", want: notAccepted,
		},
		{
			name: "a trusted sealer that saw it pass", mail: stranger, author: "reject.example",
			dress: sealed("sealer.example", "dmarc=pass header.from=reject.example"), want: "250",
			auth: "dmarc=fail arc=pass (trusted ARC sealer)", over: "trusted ARC sealer",
		},
		{
			name: "a trusted sealer that saw it fail", mail: stranger, author: "reject.example",
			dress: sealed("sealer.example", "dmarc=fail header.from=reject.example"), want: notAccepted,
			auth: "arc=pass",
		},
		{
			name: "a trusted sealer that saw another author pass", mail: stranger, author: "reject.example",
			dress: sealed("sealer.example", "dmarc=pass header.from=esp.example"), want: notAccepted,
		},
		{
			name: "a sealer whom nobody trusts", mail: stranger, author: "reject.example",
			dress: sealed("other.example", "dmarc=pass header.from=reject.example"), want: notAccepted,
			auth: "arc=pass",
		},
		{name: "a trusted sealer's set above another body", mail: stranger, author: "reject.example",
			dress: func(h, b string) string {
				return sealed("sealer.example", "dmarc=pass")(h, b+"more\r\n")
			}, want: notAccepted, auth: "arc=fail"},
		// Authors.
		{
			name: "several From fields, one of them forged", mail: stranger, author: "none.example",
			fields: "From: b@reject.example\r\n", want: notAccepted,
		},
		{
			name: "a From field that cannot be read in one way", mail: authMail{reverse: "a@reject.example"},
			author: "none.example", rewrite: authors("Scanner @ Home, Ltd <a@reject.example.>"), want: "250",
			auth: "dmarc=pass",
		},
		{
			name: "several authors, one of them forged", mail: authMail{reverse: "a@esp.example"},
			author: "none.example", rewrite: authors("a@esp.example, b@reject.example"), want: notAccepted,
		},
		{
			name: "several authors, none of them with a policy", mail: authMail{reverse: "a@esp.example"},
			author: "none.example", rewrite: authors("a@esp.example, b@nothing.example"), want: "250",
		},
		{
			name: "an author in an encoded word", mail: stranger, author: "none.example",
			rewrite: authors("=?utf-8?q?a=40reject.example?="), want: notAccepted,
		},
		{name: "no From field", mail: stranger, author: "none.example", rewrite: func(h string) string {
			return h[strings.Index(h, "To:"):]
		}, want: "250", auth: "dmarc=permerror"},
		{
			name: "a From field without an address", mail: stranger, author: "none.example",
			rewrite: authors("MAILER-DAEMON <>"), want: "250",
		},
		// require_auth.
		{
			name:   "require_auth=yes: nothing",
			mail:   authMail{client: authStranger, reverse: "a@nothing.example", to: "info@yes.example"},
			author: "nothing.example", want: notAccepted + " This message is not authenticated",
			auth: "unauthenticated",
		},
		{
			name: "require_auth=report: nothing", mail: authMail{client: authStranger, reverse: "a@nothing.example"},
			author: "nothing.example", want: "250", auth: "unauthenticated",
		},
		{
			name:   "require_auth=no: nothing",
			mail:   authMail{client: authStranger, reverse: "a@nothing.example", to: "info@no.example"},
			author: "nothing.example", want: "250",
		},
		{
			name: "require_auth=yes: SPF", mail: authMail{reverse: "a@esp.example", to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		{
			name:   "require_auth=yes: SPF of HELO",
			mail:   authMail{helo: "esp.example", reverse: "a@nothing.example", to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		{
			name: "require_auth=yes: DKIM of any domain", mail: to("info@yes.example"), author: "nothing.example",
			dress: signed("esp.example"), want: "250",
		},
		{
			name: "require_auth=yes: DKIM over another body", mail: to("info@yes.example"), author: "nothing.example",
			dress: replayed("esp.example"), want: notAccepted,
		},
		{
			name: "require_auth=yes: a trusted sealer", mail: to("info@yes.example"), author: "nothing.example",
			dress: sealed("sealer.example", "none"), want: "250",
		},
		{
			name: "require_auth=yes: the null sender", mail: authMail{client: authStranger, to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		{
			name: "require_auth=yes: postmaster", mail: to("postmaster@yes.example"), author: "nothing.example",
			want: "250",
		},
		{name: "require_auth=yes: abuse", mail: to("abuse@yes.example"), author: "nothing.example", want: "250"},
		{
			name:   "require_auth=yes: a trusted client",
			mail:   authMail{client: authTrusted, reverse: "a@nothing.example", to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		// DNS that says SERVFAIL.
		{name: "temperror: the policy", mail: stranger, author: "nopolicy.example", want: triedLater},
		{
			name: "temperror: the policy, for postmaster", mail: to("postmaster@x.example"), author: "nopolicy.example",
			want: "250",
		},
		{
			name: "temperror: the policy, where it is only reported", mail: to("info@report.example"),
			author: "nopolicy.example", want: "250",
		},
		{
			name: "temperror: the key", mail: stranger, author: "reject.example", dress: lost("reject.example"),
			want: triedLater,
		},
		{
			name: "temperror: the key, where SPF does", mail: authMail{reverse: "a@reject.example"},
			author: "reject.example", dress: lost("reject.example"), want: "250",
		},
		{
			name: "temperror: the key of p=none", mail: stranger, author: "none.example", dress: lost("none.example"),
			want: "250",
		},
		{name: "temperror: SPF", mail: authMail{reverse: "a@nospf.example"}, author: "nospf.example", want: triedLater},
		{
			name: "temperror: SPF, where DKIM does", mail: authMail{reverse: "a@nospf.example"},
			author: "nospf.example", dress: signed("nospf.example"), want: "250",
		},
		{
			name: "temperror: SPF of another domain", mail: authMail{reverse: "a@nospf.example"},
			author: "reject.example", want: notAccepted,
		},
		{
			name: "temperror: require_auth", mail: authMail{reverse: "a@nospf.example", to: "info@yes.example"},
			author: "nothing.example", want: triedLater,
		},
		{name: "temperror: the key of a trusted sealer", mail: stranger, author: "reject.example",
			dress: func(h, b string) string {
				return strings.ReplaceAll(sealed("sealer.example", "dmarc=pass")(h, b), "s=s;", "s=lost;")
			}, want: triedLater},
	}
}

// authors takes another From field.
func authors(list string) func(string) string {
	return func(header string) string {
		from := strings.Index(header, "From:")
		end := from + strings.Index(header[from:], "\r\n")
		return header[:from] + "From: " + list + header[end:]
	}
}
