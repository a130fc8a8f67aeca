package doctor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
)

// tlsPolicies examines what domains ask of the TLS of hosts that send to them: MTA-STS and TLS-RPT.
type tlsPolicies struct {
	names
	web  *hook.Client // fetches policies
	port string       // of the servers of policies with a colon before it; "": that of HTTPS
}

// reports looks at where reports about TLS go (RFC 8460).
func (t *tlsPolicies) reports(ctx context.Context, name string) []Finding {
	at := "_smtp._tls." + name
	f := Finding{Check: "TLS-RPT", Name: at, State: Ready, Expected: at + `. TXT "` + reportsRecord(name) + `"`}
	answer := t.txt(ctx, at)
	if answer.err != nil {
		return []Finding{unknown("TLS-RPT", at, f.Expected, answer.err)}
	}
	meant := answer.beginning("v=TLSRPT")
	f.Found = shownAll(meant)
	switch {
	case len(meant) == 0:
		f.Found = "no record"
		if wrong := t.doubled(ctx, at, name, "v=TLSRPT"); wrong != "" {
			f.State, f.Fault = Misconfigured, "tlsrpt-doubled"
			f.Reason = "The record stands at " + wrong + ": its name was written without the last dot."
			f.Fix = "Write the name with a dot at its end: " + at + "."
			return []Finding{f}
		}
		f.Fix = "For reports about TLS towards this node publish " + f.Expected
		return []Finding{f}
	case len(meant) > 1:
		f.State, f.Fault = Misconfigured, "tlsrpt-several"
		f.Reason = "Of several records none counts (RFC 8460 section 3)."
		f.Fix = "Remove all but one."
		return []Finding{f}
	}
	f.Expected = ""
	if why := wrongReports(meant[0]); why != "" {
		f.State, f.Fault, f.Reason = Misconfigured, "tlsrpt-malformed", why
		f.Fix = "Write " + at + `. TXT "` + reportsRecord(name) + `", with your own address.`
	}
	return []Finding{f}
}

// wrongReports returns what is wrong with a record of TLS-RPT, "" if nothing is.
func wrongReports(record string) string {
	version, rest, _ := strings.Cut(record, ";")
	if strings.TrimRight(version, " \t") != "v=TLSRPTv1" {
		return "A record begins with v=TLSRPTv1 and a semicolon."
	}
	for part := range strings.SplitSeq(rest, ";") {
		name, value, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		if strings.Trim(name, " \t") != "rua" {
			continue
		}
		for uri := range strings.SplitSeq(value, ",") {
			uri = strings.ToLower(strings.Trim(uri, " \t"))
			if !strings.HasPrefix(uri, "mailto:") && !strings.HasPrefix(uri, "https://") {
				return fmt.Sprintf("%q is neither mailto: nor https://.", shown(uri))
			}
			if strings.HasPrefix(uri, "mailto:") && !strings.Contains(uri, "@") {
				return fmt.Sprintf("%q has no address.", shown(uri))
			}
		}
		return ""
	}
	return "It has no rua=, so that reports go nowhere."
}

// A Policy is what a policy of MTA-STS says (RFC 8461 section 3.2).
type Policy struct {
	Mode   string // "enforce", "testing" or "none"
	MaxAge int    // in seconds
	MX     []string
}

// maxPolicy bounds the octets of a policy.
const maxPolicy = 64 << 10

// maxAge is the longest that a policy may be kept, in seconds.
const maxAge = 31557600

// ParsePolicy parses a policy. Fields that are not known do not count.
func ParsePolicy(body []byte) (Policy, error) {
	var p Policy
	seen := make(map[string]bool)
	for line := range strings.Lines(string(body)) {
		line = strings.TrimRight(line, "\r\n \t")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.Trim(name, " \t")), strings.Trim(value, " \t")
		if !ok {
			return p, fmt.Errorf("the line %q is no field", shown(line))
		}
		if seen[name] && name != "mx" {
			continue // RFC 8461 section 3.2: the first counts
		}
		seen[name] = true
		switch name {
		case "version":
			if value != "STSv1" {
				return p, errors.New("version is not STSv1")
			}
		case "mode":
			p.Mode = value
			if value != "enforce" && value != "testing" && value != "none" {
				return p, errors.New("mode is none of enforce, testing and none")
			}
		case "max_age":
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 || n > maxAge {
				return p, errors.New("max_age is no number of seconds up to a year")
			}
			p.MaxAge = n
		case "mx":
			if !domain.IsName(strings.TrimPrefix(value, "*."), domain.MaxName) {
				return p, fmt.Errorf("mx: %q is no host", shown(value))
			}
			p.MX = append(p.MX, domain.Canonical(value))
		}
	}
	for _, name := range []string{"version", "mode", "max_age"} {
		if !seen[name] {
			return p, errors.New("it has no " + name)
		}
	}
	if len(p.MX) == 0 && p.Mode != "none" {
		return p, errors.New("it has no mx")
	}
	return p, nil
}

// PolicyOf returns the policy that a node serves for a domain, and whether it serves one.
func PolicyOf(c *config.Config, name string) (p Policy, ok bool) {
	if c.Public == nil || c.Public.MTASTS == nil {
		return Policy{}, false
	}
	m := c.Public.MTASTS
	if len(m.Domains) > 0 && !slices.ContainsFunc(m.Domains, func(d string) bool {
		return domain.Canonical(d) == domain.Canonical(name)
	}) {
		return Policy{}, false
	}
	return Policy{Mode: m.Mode, MaxAge: int(time.Duration(m.MaxAge).Seconds()), MX: m.MX}, true
}

// Text returns the policy as it is served.
func (p *Policy) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: STSv1\r\nmode: %s\r\n", p.Mode)
	for _, host := range p.MX {
		fmt.Fprintf(&b, "mx: %s\r\n", domain.Canonical(host))
	}
	fmt.Fprintf(&b, "max_age: %d\r\n", p.MaxAge)
	return b.String()
}

// Record returns the text of the TXT record that tells senders of the policy. Its id is another one for each other
// policy.
func (p *Policy) Record() string {
	sum := sha256.Sum256([]byte(p.Text()))
	return "v=STSv1; id=" + hex.EncodeToString(sum[:10])
}

// Allows reports whether a policy names a host, or all of its siblings.
func (p *Policy) Allows(host string) bool {
	_, above, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(p.MX, func(m string) bool {
		wild, ok := strings.CutPrefix(m, "*.")
		return m == host || ok && wild == above
	})
}

// policy looks at MTA-STS (RFC 8461).
func (t *tlsPolicies) policy(ctx context.Context, name string) []Finding {
	at := "_mta-sts." + name
	f := Finding{Check: "MTA-STS", Name: at, State: Ready}
	answer := t.txt(ctx, at)
	if answer.err != nil {
		return []Finding{unknown("MTA-STS", at, "", answer.err)}
	}
	meant := answer.beginning("v=STS")
	f.Found = shownAll(meant)
	set := func(fault, reason, fix string) []Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return []Finding{f}
	}
	switch {
	case len(meant) == 0:
		f.Found = "no record"
		if wrong := t.doubled(ctx, at, name, "v=STS"); wrong != "" {
			return set("sts-doubled", "The record stands at "+wrong+": its name was written without the last dot.",
				"Write the name with a dot at its end: "+at+".")
		}
		return []Finding{f}
	case len(meant) > 1:
		return set("sts-several", "Of several records none counts (RFC 8461 section 3.1).", "Remove all but one.")
	}
	if why := wrongSTS(meant[0]); why != "" {
		return set("sts-malformed", why,
			"Write "+at+`. TXT "v=STSv1; id=20260101000000", with another id at each change.`)
	}
	return []Finding{t.fetched(ctx, f, name)}
}

// wrongSTS returns what is wrong with a record of MTA-STS, "" if nothing is.
func wrongSTS(record string) string {
	version, rest, _ := strings.Cut(record, ";")
	if strings.TrimRight(version, " \t") != "v=STSv1" {
		return "A record begins with v=STSv1 and a semicolon."
	}
	for part := range strings.SplitSeq(rest, ";") {
		name, id, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		if strings.Trim(name, " \t") != "id" {
			continue
		}
		id = strings.Trim(id, " \t")
		if id == "" || len(id) > 32 || strings.ContainsFunc(id, func(r rune) bool {
			return r > 127 ||
				!ascii.IsLetDig(byte(r))
		}) {
			return fmt.Sprintf("id=%s is not 1 to 32 letters and digits.", shown(id))
		}
		return ""
	}
	return "It has no id=."
}

// fetched looks at the policy itself.
func (t *tlsPolicies) fetched(ctx context.Context, f Finding, name string) Finding {
	host := "mta-sts." + name
	f.Expected = "a policy at https://" + host + "/.well-known/mta-sts.txt that names the MX hosts"
	set := func(fault, reason, fix string) Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return f
	}
	addrs, _, err := t.addrs(ctx, host)
	switch {
	case err != nil:
		return unknown("MTA-STS", host, f.Expected, err)
	case len(addrs) == 0:
		return set("sts-host", host+" has no address: the record promises a policy that none can fetch.",
			"Publish an address of a server that has the policy, or remove "+f.Name+".")
	}
	answer, err := t.web.Do(ctx, hook.Request{
		Method: http.MethodGet, URL: "https://" + host + t.port + "/.well-known/mta-sts.txt", Limit: maxPolicy,
	})
	if err != nil {
		return unfetched(f, host, err)
	}
	if answer.Status != http.StatusOK {
		return set("sts-policy", fmt.Sprintf("The server answers %d; a redirect counts for nothing either (RFC "+
			"8461 section 3.3).",
			answer.Status), "Serve the policy at https://"+host+"/.well-known/mta-sts.txt itself.")
	}
	p, err := ParsePolicy(answer.Body)
	if err != nil {
		return set("sts-policy", "The policy cannot be used: "+err.Error()+".", "Correct the policy, then change "+
			"id= in "+f.Name+".")
	}
	f.Found += fmt.Sprintf(" | mode %s, max_age %d, mx %s", p.Mode, p.MaxAge, shownAll(p.MX))
	return t.covers(ctx, f, name, p)
}

// unfetched is the finding of a policy that could not be had.
func unfetched(f Finding, host string, err error) Finding {
	f.State, f.Fault = Misconfigured, "sts-policy"
	f.Reason = "The policy cannot be fetched: " + shown(err.Error()) + "."
	f.Fix = "Have a web server answer https://" + host + "/.well-known/mta-sts.txt, or remove " + f.Name + "."
	var certificate *tls.CertificateVerificationError
	var address *hook.AddressError
	var timeout net.Error
	switch {
	case errors.As(err, &certificate):
		f.Fault = "sts-certificate"
		f.Fix = "Have a certificate for " + host + " that the world trusts, on the server of the policy."
	case errors.As(err, &address):
		f.Fix = "Publish a public address for " + host + "."
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, hook.ErrTooLarge):
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, syscall.ENETUNREACH), errors.Is(err,
		syscall.EHOSTUNREACH):
		f.State = Unknown // it may be our own way out
	}
	return f
}

// covers compares a policy with the MX records of its domain.
func (t *tlsPolicies) covers(ctx context.Context, f Finding, name string, p Policy) Finding {
	if p.Mode == "none" {
		f.Fix = "mode: none asks for nothing. mode: testing is the next stage."
		return f
	}
	records, _, err := t.LookupMX(ctx, name)
	if err != nil && !dns.NotFound(err) {
		return unknown("MTA-STS", name, f.Expected, err)
	}
	var hosts []string
	for _, r := range records {
		if r.Host != "." && !p.Allows(r.Host) {
			hosts = append(hosts, r.Host)
		}
	}
	switch {
	case len(hosts) > 0:
		f.State, f.Fault = Misconfigured, "sts-mx"
		f.Reason = "The policy does not name " + shownAll(hosts) + ": senders that obey it do not deliver there."
		f.Fix = "Add to the policy: mx: " + strings.Join(hosts, ", mx: ") + "; then change id= in " + f.Name + "."
	case p.Mode == "testing":
		f.Fix = "Nothing is held back yet. When the reports of TLS-RPT show no failure, set mode: enforce and " +
			"change id=."
	case p.MaxAge < 86400:
		f.Fix = "max_age is less than a day: an attacker only has to wait. Weeks are usual (604800 and more)."
	}
	return f
}
