package account

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// The ways by which a destination was verified.
const (
	ByLink  = "link"
	ByAdmin = "admin"
	ByTXT   = "txt"
	ByFile  = "file"
)

// A Proof is what the owner of a host publishes to show that mail may be sent there: one of a TXT record and a file.
type Proof struct {
	Host  string `json:"-"`
	Token string `json:"token"` // is to be published: it is random, and no secret
	TXT   string `json:"txt"`   // the name of the record
	URL   string `json:"url"`   // of the file, of which the token is a line
}

// provable are the schemes of next hops whose host can have an owner of its own.
var provable = []string{"smtp", "smtps", "submission", "lmtp"}

// internalNames are the top-level domains of hosts that are not those of the public DNS.
var internalNames = []string{"localhost", "local", "internal", "home.arpa", "lan", "onion"}

// Proof returns what the owner of a destination publishes to have it verified. ok is false for what no publication
// proves: an address, whose owner gets a letter, a socket, an IP address, a login, and a name of no public domain.
func (d *Destination) Proof() (p Proof, ok bool) {
	u, err := url.Parse(d.Address)
	if err != nil || !slices.Contains(provable, u.Scheme) || u.User != nil || u.Path+u.RawQuery+u.Fragment != "" {
		return Proof{}, false
	}
	host := ascii.Fold(strings.TrimSuffix(u.Hostname(), "."))
	labels := strings.Split(host, ".")
	last := cmp.Or(labels[len(labels)-1], "0")
	if _, err := netip.ParseAddr(host); err == nil || !ascii.Is(host) || !mail.IsDomain(host) || len(labels) < 2 ||
		last[0] >= '0' && last[0] <= '9' { // which some resolvers read as an address
		return Proof{}, false
	}
	for _, name := range internalNames {
		if strings.HasSuffix(host, "."+name) {
			return Proof{}, false
		}
	}
	return Proof{
		Host: host, Token: "millrace-destination=" + hashOf("destination " + d.ID)[:idDigits],
		TXT: "_millrace." + host, URL: "https://" + host + "/.well-known/millrace.txt",
	}, true
}

// A provedHosts is the hosts of the destinations that their owners proved. Their names are the owners', who may point
// them anywhere: mail for them goes to public addresses alone.
type provedHosts map[string]bool

// provedIn returns the hosts of lists. Those of before stay, for a rule may be in force for a moment longer than its
// destination, unless one who runs the relay verified such a destination.
func provedIn(destinations []Destination, before provedHosts) provedHosts {
	next := make(provedHosts, len(before))
	for host := range before {
		next[host] = true
	}
	for i := range destinations {
		if p, ok := destinations[i].Proof(); ok && (destinations[i].How == ByTXT || destinations[i].How == ByFile) {
			next[p.Host] = true
		}
	}
	for i := range destinations {
		if p, ok := destinations[i].Proof(); ok && destinations[i].How == ByAdmin {
			delete(next, p.Host)
		}
	}
	return next
}

// IsProved reports whether a host is one whose owner proved it, so that mail for it goes to public addresses alone. It
// takes no lock.
func (a *Account) IsProved(host string) bool {
	return a.lists.current.Load().proved[ascii.Fold(strings.TrimSuffix(host, "."))]
}
