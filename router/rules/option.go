package rules

import (
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// options are the key=value pairs of one line. They are comparable, so that lines with equal options share one.
type options struct {
	policy mail.DomainPolicy
	set    optionSet
	via    string // mail.NextHop.Proxy of the next hops of the line
	alias  string // the domain whose rules hold for the one of the line, in canonical form
	schedule
}

// An optionSet has a bit for each option that was written.
type optionSet uint32

const (
	setSRS optionSet = 1 << iota
	setSeal
	setDMARC
	setQuarantine
	setRequireAuth
	setEightBit
	setUpstreamText
	setMixed
	setSubaddress
	setRouting
	setLend
	setComplaints
	setClient
	setVia
	setEnabled
	setAfter
	setUntil
	setTag
	setDots
	setMessageSize
	setAlias
	setFilter
)

// setSchedule are the options of which a schedule is made.
const setSchedule = setEnabled | setAfter | setUntil

// optionKeys are the keys and their values. The values of an enumeration are in the order of its constants.
var optionKeys = []struct {
	key    string
	bit    optionSet
	values []string // nil if it is not an enumeration
	put    func(*mail.DomainPolicy, int)
}{
	{"srs", setSRS, []string{"auto", "always", "never"}, func(p *mail.DomainPolicy, v int) { p.SRS = mail.SRS(v) }},
	{"seal", setSeal, []string{"auto", "always", "never"}, func(p *mail.DomainPolicy, v int) { p.Seal = mail.Seal(v) }},
	{"dmarc", setDMARC, []string{"enforce", "report", "off"}, func(p *mail.DomainPolicy, v int) {
		p.DMARC = mail.DMARC(v)
	}},
	{"quarantine", setQuarantine, []string{"forward", "refuse"}, func(p *mail.DomainPolicy, v int) {
		p.Quarantine = mail.Quarantine(v)
	}},
	{"require_auth", setRequireAuth, []string{"report", "no", "yes"}, func(p *mail.DomainPolicy, v int) {
		p.RequireAuth = mail.RequireAuth(v)
	}},
	{"eightbit", setEightBit, []string{"send", "refuse"}, func(p *mail.DomainPolicy, v int) {
		p.EightBit = mail.EightBit(v)
	}},
	{"upstream_text", setUpstreamText, []string{"redact", "full", "code"}, func(p *mail.DomainPolicy, v int) {
		p.UpstreamText = mail.UpstreamTextRedact + mail.UpstreamText(v)
	}},
	{"mixed", setMixed, []string{"accept", "reject"}, func(p *mail.DomainPolicy, v int) { p.Mixed = mail.Mixed(v) }},
	{"subaddress", setSubaddress, nil, func(p *mail.DomainPolicy, v int) { p.Subaddress = byte(v) }},
	{"routing", setRouting, []string{"keep"}, func(p *mail.DomainPolicy, _ int) { p.RoutingKeep = true }},
	{"complaints", setComplaints, []string{"no", "yes"}, func(p *mail.DomainPolicy, v int) { p.Complaints = v == 1 }},
	{"client", setClient, []string{"untold", "xforward", "xclient"}, func(p *mail.DomainPolicy, v int) {
		p.Client = mail.Client(v)
	}},
	{"tag", setTag, []string{"drop", "keep"}, func(p *mail.DomainPolicy, v int) { p.Tag = mail.Tag(v) }},
	{"dots", setDots, []string{"count", "ignore"}, func(p *mail.DomainPolicy, v int) { p.Dots = mail.Dots(v) }},
	{"filter", setFilter, []string{"on", "report", "off"}, func(p *mail.DomainPolicy, v int) {
		p.Filter = mail.Filter(v)
	}},
	// What follows has no values of an enumeration, or none that a policy has: see parse.
	{"via", setVia, nil, nil},
	{"alias_of", setAlias, nil, nil},
	{"message_size", setMessageSize, nil, nil},
	{"enabled", setEnabled, []string{"yes", "no"}, nil},
	{"after", setAfter, nil, nil},
	{"until", setUntil, nil, nil},
	// That it was written is all that it says: no message is treated in another way for it.
	{"lend", setLend, []string{"anybody"}, func(*mail.DomainPolicy, int) {}},
}

// add parses one key=value, which is followed by rest. why is what is wrong with it, or "".
func (o *options) add(word, rest string) (why string) {
	key, value, found := strings.Cut(word, "=")
	if !found {
		return optionMistake(word, rest)
	}
	for _, k := range optionKeys {
		if k.key != key {
			continue
		}
		if o.set&k.bit != 0 {
			return "option " + key + " is given twice"
		}
		if k.put == nil {
			if why = o.parse(key, value, k.values); why == "" {
				o.set |= k.bit
			}
			return why
		}
		v, ok := slices.Index(k.values, value), true
		if k.values == nil {
			v, ok = subaddressChar(value)
		}
		if v < 0 || !ok {
			return valueMistake(key, value, k.values)
		}
		k.put(&o.policy, v)
		o.set |= k.bit
		return ""
	}
	return optionMistake(word, rest)
}

// parse parses the value of an option that is no part of a policy. values are those of an enumeration, else nil.
func (o *options) parse(key, value string, values []string) (why string) {
	switch key {
	case "via":
		o.via, why = parseProxy(value)
	case "alias_of":
		return o.parseAlias(value)
	case "message_size":
		o.policy.MessageSize, why = parseSize(value)
	case "after":
		o.after, why = parseTime(key, value)
	case "until":
		o.until, why = parseTime(key, value)
	default:
		if !slices.Contains(values, value) {
			return valueMistake(key, value, values)
		}
		o.disabled = value == "no"
	}
	return why
}

// parseAlias parses the value of alias_of.
func (o *options) parseAlias(value string) (why string) {
	if _, literal := mail.LiteralAddr(value); !literal && !mail.IsDomain(value) {
		if value == "" {
			return "option alias_of names a domain that is hosted here"
		}
		return "alias_of: " + DomainMistake(value)
	}
	name, ok := canonicalDomain(value)
	if !ok {
		return "alias_of: " + quote(value) + ": not a domain name that IDNA knows"
	}
	o.alias = name
	return ""
}

// sizeUnits are the units of a size, as the configuration has them.
var sizeUnits = []struct {
	name   string
	octets int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

// minMessage is what a message may have in any case (RFC 5321 section 4.5.3.1.7).
const minMessage = 64 << 10

// parseSize parses a number of octets.
func parseSize(value string) (octets uint32, why string) {
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(value, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 32)
		switch {
		case err != nil || !isNumber(digits):
			return 0, "option message_size has no value " + quote(value) + ": a size is written 25MiB or 65536"
		case n*unit.octets < minMessage:
			return 0, "message_size is below the 64 KiB that RFC 5321 section 4.5.3.1.7 asks for"
		}
		if n > math.MaxUint32/unit.octets {
			return 0, "message_size is above 4 GiB"
		}
		return uint32(n * unit.octets), ""
	}
	return 0, ""
}

// expects returns the values of an option in words.
func expects(values []string) string {
	if values == nil {
		return "it is one of " + separators + " or none"
	}
	return "it is one of " + strings.Join(values, ", ")
}

// proxyPort is the port of a SOCKS5 proxy that none is written for (RFC 1928 section 3).
const proxyPort = 1080

// parseProxy parses the proxy that a next hop is reached by.
func parseProxy(value string) (proxy, why string) {
	scheme, rest, ok := strings.Cut(value, "://")
	switch {
	case !ok:
		return "", "option via names a proxy, such as via=socks5://127.0.0.1:1055"
	case !ascii.EqualFold(scheme, "socks5"):
		return "", "option via knows proxies of SOCKS5 alone, socks5://host:port"
	case strings.Contains(rest, "@"):
		return "", "a proxy is asked without a user"
	}
	host, port, why := parseHost(rest, proxyPort)
	if why != "" {
		return "", "the proxy: " + why
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), ""
}

// subaddressChar parses a separator: one printable ASCII character that is allowed unquoted in a local part and is
// neither letter, digit nor dot. "none" removes the domain's for one rule.
func subaddressChar(value string) (int, bool) {
	if value == "none" {
		return 0, true
	}
	if len(value) != 1 || separatorBit(value[0]) == 0 {
		return 0, false
	}
	return int(value[0]), true
}

// separators are the characters that may separate a name from its tag.
const separators = "!#$%&'*+-/=?^_`{|}~"

// separatorBit returns the bit of a separator in a set of them, 0 for other characters.
func separatorBit(c byte) uint32 {
	n := strings.IndexByte(separators, c)
	if n < 0 {
		return 0
	}
	return 1 << n
}

// over returns base with what o sets replaced.
func (o options) over(base mail.DomainPolicy) mail.DomainPolicy {
	if o.set == 0 {
		return base
	}
	p := o.policy
	if o.set&setSRS != 0 {
		base.SRS = p.SRS
	}
	if o.set&setSeal != 0 {
		base.Seal = p.Seal
	}
	if o.set&setDMARC != 0 {
		base.DMARC = p.DMARC
	}
	if o.set&setQuarantine != 0 {
		base.Quarantine = p.Quarantine
	}
	if o.set&setRequireAuth != 0 {
		base.RequireAuth = p.RequireAuth
	}
	if o.set&setEightBit != 0 {
		base.EightBit = p.EightBit
	}
	if o.set&setUpstreamText != 0 {
		base.UpstreamText = p.UpstreamText
	}
	if o.set&setMixed != 0 {
		base.Mixed = p.Mixed
	}
	if o.set&setSubaddress != 0 {
		base.Subaddress = p.Subaddress
	}
	if o.set&setRouting != 0 {
		base.RoutingKeep = p.RoutingKeep
	}
	if o.set&setComplaints != 0 {
		base.Complaints = p.Complaints
	}
	if o.set&setClient != 0 {
		base.Client = p.Client
	}
	if o.set&setTag != 0 {
		base.Tag = p.Tag
	}
	if o.set&setDots != 0 {
		base.Dots = p.Dots
	}
	if o.set&setFilter != 0 {
		base.Filter = p.Filter
	}
	if o.set&setMessageSize != 0 {
		base.MessageSize = p.MessageSize
	}
	return base
}
