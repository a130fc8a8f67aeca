package migrate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/leaf/network"
)

// The severities of a finding.
const (
	NetworkError   = "error"
	NetworkWarning = "warning"
)

// A NetworkFinding is what is wrong with a network that may connect or relay.
type NetworkFinding struct {
	Severity string `json:"severity"` // NetworkError or NetworkWarning
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Message  string `json:"message"`
}

// String returns a finding as a line.
func (f NetworkFinding) String() string {
	switch {
	case f.Line > 0:
		return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Message)
	case f.File != "":
		return f.File + ": " + f.Message
	}
	return f.Message
}

// A listedNetwork is an entry of a list of networks.
type listedNetwork struct {
	text   string
	prefix netip.Prefix
	not    bool // an exception
	file   string
	line   int
}

// A networkCheck is a check under way.
type networkCheck struct {
	ours     []netip.Addr
	entries  []listedNetwork
	findings []NetworkFinding
	relays   bool // who is listed may relay
	inMain   bool // the list stands in main.cf, where IPv6 has brackets
}

// CheckNetworks returns what is wrong with networks in a file for mail of addresses of ours: main.cf with mynetworks, a
// list of networks, or a table of the type cidr. A network that mail of ours does not come from, and one that lets
// others in, is a finding.
func CheckNetworks(file string, ours []netip.Addr) ([]NetworkFinding, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	c := &networkCheck{ours: ours, relays: true}
	lines := logicalLines(text)
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s: has no network", file)
	}
	if isMainCF(lines) {
		err = c.readMain(file)
	} else {
		c.readList(file, lines)
	}
	if err != nil {
		return nil, err
	}
	for i := range c.entries {
		c.judge(&c.entries[i])
	}
	c.judgeOurs(file)
	return c.findings, nil
}

// isMainCF reports whether lines are those of main.cf.
func isMainCF(lines []logical) bool {
	for _, l := range lines {
		name, _, ok := strings.Cut(l.text, "=")
		if ok && strings.TrimSpace(name) == "mynetworks" {
			return true
		}
	}
	return false
}

// readMain reads mynetworks of main.cf.
func (c *networkCheck) readMain(file string) error {
	cf, err := readMainCF([]string{file})
	if err != nil {
		return err
	}
	if !cf.isSet("mynetworks") {
		return errors.New(file + ": mynetworks is empty: no network is trusted")
	}
	c.inMain = true
	c.relays = false
	for _, name := range []string{"smtpd_relay_restrictions", "smtpd_recipient_restrictions"} {
		value := cf.value(name)
		isDefault := !cf.isSet(name) && name == "smtpd_relay_restrictions"
		c.relays = c.relays || isDefault || strings.Contains(value, "permit_mynetworks")
	}
	p := cf.set["mynetworks"]
	for _, word := range cf.list("mynetworks") {
		kind, name, ok := strings.Cut(strings.TrimPrefix(word, "!"), ":")
		switch {
		case strings.HasPrefix(word, "/"):
			c.readFile(p, word)
		case ok && kind == "cidr":
			c.readFile(p, cf.path(name))
		case ok && (textTypes[kind] || strings.HasPrefix(name, "/")):
			c.add(NetworkWarning, p.file, p.line, word+" is a table, and was not read: name its text")
		default:
			c.entry(word, p.file, p.line)
		}
	}
	return nil
}

// readFile reads a file that mynetworks names.
func (c *networkCheck) readFile(p parameter, name string) {
	text, err := readFile(name)
	if err != nil {
		c.add(NetworkError, p.file, p.line, err.Error())
		return
	}
	was := c.inMain
	c.inMain = false
	c.readList(name, logicalLines(text))
	c.inMain = was
}

// readList reads a list of networks, or a table whose first words they are.
func (c *networkCheck) readList(file string, lines []logical) {
	for _, l := range lines {
		all := words(l.text)
		for i, word := range all {
			if i > 0 && !looksLikeNetwork(word) { // what the table says of the network in front of it
				if strings.EqualFold(word, "reject") || strings.EqualFold(word, "dunno") {
					c.entries[len(c.entries)-1].not = true
				}
				break
			}
			c.entry(word, file, l.number)
		}
	}
}

// looksLikeNetwork reports whether a word is meant as a network and not as an action.
func looksLikeNetwork(word string) bool {
	return strings.ContainsAny(word, ".:/[") && strings.ContainsAny(word, "0123456789:")
}

// entry adds a network.
func (c *networkCheck) entry(word, file string, line int) {
	e := listedNetwork{text: word, file: file, line: line}
	text, not := strings.CutPrefix(word, "!")
	e.not = not
	prefix, why := parseNetwork(text, c.inMain)
	if why != "" {
		c.add(NetworkError, file, line, Plain(word)+": "+why)
	}
	e.prefix = prefix
	c.entries = append(c.entries, e)
}

// parseNetwork reads a network as Postfix does. why is what is wrong with it; the prefix may be valid nevertheless, as
// it was probably meant.
func parseNetwork(word string, inMain bool) (p netip.Prefix, why string) {
	text := strings.NewReplacer("[", "", "]", "").Replace(word)
	addr, bits, sized := strings.Cut(text, "/")
	a, err := netip.ParseAddr(addr)
	switch {
	case err != nil:
		return p, networkMistake(addr)
	case a.Is6() && inMain && !strings.Contains(word, "["):
		why = "IPv6 stands in brackets in main.cf: write [" + addr + "]" + strings.TrimPrefix(text, addr)
	case a.Zone() != "":
		return p, "has a zone, which no network has"
	}
	if !sized {
		return netip.PrefixFrom(a, a.BitLen()), why
	}
	p, err = netip.ParsePrefix(text)
	switch {
	case strings.Contains(bits, "."):
		return p, "a mask is written as the number of its bits, such as /24"
	case err != nil:
		return p, fmt.Sprintf("/%s is no number from 0 to %d", Plain(bits), a.BitLen())
	case p.Masked() != p:
		return p.Masked(), "has bits set behind the mask, which Postfix refuses: write " + p.Masked().String() +
			", or " +
			a.String() + " for the one address"
	}
	return p, why
}

// networkMistake returns what is wrong with a word that is no address.
func networkMistake(word string) string {
	switch {
	case strings.Contains(word, "-"):
		return "is a range: write networks, as in 192.0.2.0/28"
	case strings.Contains(word, "*"):
		return "a star is no wildcard: write 192.0.2.0/24 for 192.0.2.*"
	case word == "":
		return "a blank in front of the slash, or nothing"
	case strings.Trim(word, "0123456789.") != "":
		return "is no address: names are not looked up"
	case strings.Count(word, ".") < 3:
		return "has fewer than four numbers: write them all, as in 192.0.2.0/24"
	}
	return "is no address: each of four numbers is 0 to 255, without zeros in front"
}

// add adds a finding.
func (c *networkCheck) add(severity, file string, line int, message string) {
	c.findings = append(c.findings, NetworkFinding{severity, file, line, message})
}

// cloudflareWeb are the networks of Cloudflare's proxies for the web, as it publishes them; its Email Routing sends
// from cloudflareMail.
var (
	cloudflareWeb = prefixes("173.245.48.0/20 103.21.244.0/22 103.22.200.0/22 103.31.4.0/22 141.101.64.0/18 " +
		"108.162.192.0/18 190.93.240.0/20 188.114.96.0/20 197.234.240.0/22 198.41.128.0/17 162.158.0.0/15 " +
		"104.16.0.0/13 " +
		"104.24.0.0/14 172.64.0.0/13 131.0.72.0/22 2400:cb00::/32 2606:4700::/32 2803:f800::/32 2405:b500::/32 " +
		"2405:8100::/32 2a06:98c0::/29 2c0f:f248::/32")
	cloudflareMail = prefixes("104.30.0.0/19 2405:8100:c000::/38")
	docker         = prefixes("172.16.0.0/12")
)

// prefixes parses networks of this program.
func prefixes(text string) (all []netip.Prefix) {
	for _, word := range strings.Fields(text) {
		all = append(all, netip.MustParsePrefix(word))
	}
	return all
}

// overlaps reports whether a network overlaps one of a list.
func overlaps(all []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(all, p.Overlaps)
}

// The widest public networks that are a warning and no error: those of one site.
const widest4, widest6 = 24, 48

// judge says whom a network lets in.
func (c *networkCheck) judge(e *listedNetwork) {
	p := e.prefix
	if !p.IsValid() || e.not {
		return
	}
	may := "may connect"
	if c.relays {
		may = "may relay"
	}
	say := func(severity, text string) { c.add(severity, e.file, e.line, Plain(e.text)+": "+text) }
	others := !p.IsSingleIP()
	kind, _ := network.Special(p.Addr())
	isPublic := kind == "" || kind == network.Documentation
	switch {
	case p.Bits() == 0:
		say(NetworkError, "everybody "+may)
	case p.Addr().IsLoopback():
	case overlaps(docker, p):
		say(NetworkWarning, "behind Docker's proxy strangers come from such an address: if smtpd runs in a container, "+
			"everybody "+may)
	case !isPublic:
	case overlaps(cloudflareMail, p):
		say(NetworkError, "Cloudflare's Email Routing sends mail of all its customers from there: each "+may)
	case overlaps(cloudflareWeb, p):
		say(NetworkError, "is of Cloudflare's proxies for the web, which all its customers have: each "+may+
			", and no mail comes from there")
	case others && (p.Addr().Is4() && p.Bits() < widest4 || p.Addr().Is6() && p.Bits() < widest6):
		say(NetworkError, "is wider than the network of one site: who has an address in it "+may)
	case others:
		say(NetworkWarning, "holds other addresses than ours: who has one "+may)
	case !isOurs(c.ours, p):
		say(NetworkWarning, "is no address of ours: remove it with the host that had it")
	}
}

// isOurs reports whether an address of ours is in a network.
func isOurs(ours []netip.Addr, p netip.Prefix) bool { return slices.ContainsFunc(ours, p.Contains) }

// judgeOurs finds addresses of ours that are in no network: of a list, the first that has an address counts.
func (c *networkCheck) judgeOurs(file string) {
	if len(c.ours) == 0 {
		c.add(NetworkWarning, "", 0, "it is not known where mail of ours comes from: -c or --ip says it")
	}
	for _, a := range c.ours {
		at := slices.IndexFunc(c.entries, func(e listedNetwork) bool {
			return e.prefix.IsValid() &&
				e.prefix.Contains(a)
		})
		if at < 0 || c.entries[at].not {
			c.add(NetworkError, file, 0, a.String()+" is in no network: mail of ours from there is not taken")
		}
	}
}
