package doctor

import (
	"context"
	"net/netip"
	"strings"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/domain"
)

// names asks the DNS.
type names struct{ *dns.Resolver }

// A textAnswer is what a name has of TXT records.
type textAnswer struct {
	texts []string
	alias string // what the name is an alias of, "" if it is none
	err   error  // a failure, which says nothing of what is there
}

// txt returns the TXT records of a name.
func (n names) txt(ctx context.Context, name string) textAnswer {
	texts, meta, err := n.LookupTXT(ctx, name)
	if dns.NotFound(err) {
		err = nil
	}
	return textAnswer{texts, aliasOf(name, meta), err}
}

// beginning returns the texts that begin with a version, in any case and with what blanks stand before it.
func (a textAnswer) beginning(version string) (texts []string) {
	for _, t := range a.texts {
		plain := strings.ToLower(strings.Trim(t, "\"' \t"))
		if strings.HasPrefix(plain, strings.ToLower(version)) {
			texts = append(texts, t)
		}
	}
	return texts
}

// aliasOf returns the name that has the records, if it is another one.
func aliasOf(name string, m dns.Meta) string {
	if m.Name == "" || m.Name == domain.Canonical(name) {
		return ""
	}
	return m.Name
}

// addrs returns the addresses of a name. No addresses without an error are a definite answer.
func (n names) addrs(ctx context.Context, name string) (addrs []netip.Addr, alias string, err error) {
	found, meta, err := n.LookupAddrs(ctx, name)
	if dns.NotFound(err) {
		err = nil
	}
	return append(append(addrs, found.V4...), found.V6...), aliasOf(name, meta), err
}

// apex returns the zone that a name lies in and its name servers. Without an error and a name it cannot be told.
func (n names) apex(ctx context.Context, name string) (zone string, servers []string, err error) {
	for zone = name; strings.Contains(zone, "."); _, zone, _ = strings.Cut(zone, ".") {
		found, _, err := n.LookupData(ctx, zone, "NS")
		switch {
		case dns.NotFound(err):
			continue
		case err != nil:
			return zone, nil, err
		}
		for _, host := range found {
			servers = append(servers, domain.Canonical(host))
		}
		return zone, servers, nil
	}
	return "", nil, nil
}

// doubled returns the name with the domain twice that a record has whose name was written without its last dot, if
// there are TXT records of that version.
func (n names) doubled(ctx context.Context, name, zone, version string) string {
	wrong := name + "." + zone
	if len(n.txt(ctx, wrong).beginning(version)) == 0 {
		return ""
	}
	return wrong
}

// unknown is the finding of what could not be asked.
func unknown(check, name, expected string, err error) Finding {
	return Finding{
		Check: check, Name: name, State: Unknown, Fault: "no-answer", Expected: expected, Found: shown(err.Error()),
		Reason: "The name servers fail, which says nothing of what is there.",
		Fix: "Have the name servers of the zone answer for " + name + ", and look again. Publish nothing for it " +
			"before: a record may be there.",
	}
}
