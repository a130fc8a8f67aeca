// Package ingresstest has what the tests of ingress put in the place of the world: a DNS and a store in memory, rules,
// and relays that keep or forget what is delivered to them.
//
// It owns answers that a test writes down. It refuses to know what is tested with them. Only tests may import it.
//
// Invariants: the zero Store, Relay and Sink and an empty Zone are ready for use; all are safe for concurrent use as
// long as the test does not change a Zone or the fields of a Relay meanwhile.
package ingresstest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/world"
)

var (
	_ world.Resolver = Zone{}
	_ world.Resolver = Blocked{}
	_ world.Resolver = TXT(nil)
	_ world.Resolver = Net{}
	_ world.Store    = (*Store)(nil)
)

// A Zone is a DNS as a map from a question to its answers. A question is a type and a name, such as "MX example.net" or
// "PTR 203.0.113.9"; the name alone is one for TXT records. The types are A, which holds addresses of both families,
// MX, PTR and TXT. "*" is the question for TXT records of every name that is not there. What is not there has no
// records, and every name exists. Three answers are failures, alone or behind others:
//
//   - ServFail: the look-up fails; the other answers are some of the addresses.
//   - Hang: the look-up ends with its context.
//   - NXDomain: the name does not exist; Exists asks for it by the name alone.
type Zone map[string][]string

// The answers of a Zone that are failures.
const (
	ServFail = "SERVFAIL"
	Hang     = "HANG"
	NXDomain = "NXDOMAIN"
)

// ErrServFail is the error of a look-up whose answer is ServFail.
var ErrServFail = errors.New("SERVFAIL")

// TTL is how long the answers of LookupA hold.
const TTL = time.Minute

// Records reads the records of a suite: lines of a name, white space and a record, perhaps in quotes. One that begins
// with ~~ is a failure, and NXDOMAIN is none.
func Records(text []byte) Zone {
	z := Zone{}
	for line := range strings.Lines(string(text)) {
		name, record, ok := strings.Cut(strings.TrimSpace(line), " ")
		record = strings.Trim(strings.TrimSpace(record), `"`)
		if ok && name != "#" && record != NXDomain {
			if strings.HasPrefix(record, "~~") {
				record = ServFail
			}
			z[strings.ToLower(name)] = []string{record}
		}
	}
	return z
}

func (z Zone) find(ctx context.Context, question string) ([]string, error) {
	answers, failure := z[question], ""
	if n := len(answers); n > 0 {
		switch last := answers[n-1]; last {
		case ServFail, Hang, NXDomain:
			answers, failure = answers[:n-1], last
		}
	}
	switch failure {
	case ServFail:
		return answers, ErrServFail
	case Hang:
		<-ctx.Done()
		return answers, ctx.Err()
	}
	return answers, nil
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// LookupTXT returns the TXT records of a name.
func (z Zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	question := canonical(name)
	if _, ok := z[question]; !ok {
		question = "TXT " + question
	}
	if _, ok := z[question]; !ok {
		question = "*"
	}
	return z.find(ctx, question)
}

// LookupMX returns the MX hosts of a domain.
func (z Zone) LookupMX(ctx context.Context, name string) ([]string, error) {
	return z.find(ctx, "MX "+canonical(name))
}

// LookupAddrs returns the addresses of a name, with an error perhaps some of them.
func (z Zone) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error) {
	found, err := z.find(ctx, "A "+canonical(name))
	return addrs(found), err
}

// LookupSameFamily returns the addresses of a name in the family of another address, none of them with an error.
func (z Zone) LookupSameFamily(ctx context.Context, name string, as netip.Addr) ([]netip.Addr, error) {
	found, err := z.LookupAddrs(ctx, name)
	if err != nil {
		return nil, err
	}
	return sameFamily(found, as), nil
}

func sameFamily(found []netip.Addr, as netip.Addr) []netip.Addr {
	is4 := as.Unmap().Is4()
	return slices.DeleteFunc(slices.Clone(found), func(a netip.Addr) bool { return a.Unmap().Is4() != is4 })
}

// LookupPTR returns the names that an address maps to.
func (z Zone) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	return z.find(ctx, "PTR "+addr.String())
}

// LookupA returns the addresses of a name and TTL.
func (z Zone) LookupA(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	found, err := z.find(ctx, "A "+canonical(name))
	if err != nil {
		return nil, 0, err
	}
	return addrs(found), TTL, nil
}

// Exists reports whether the zone does not deny a name.
func (z Zone) Exists(ctx context.Context, name string) (bool, error) {
	_, err := z.find(ctx, canonical(name))
	return err != nil || !slices.Contains(z[canonical(name)], NXDomain), err
}

func addrs(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// A TXT is a DNS that has TXT records alone, which the function finds. Every name exists.
type TXT func(ctx context.Context, name string) ([]string, error)

// LookupTXT calls the function.
func (f TXT) LookupTXT(ctx context.Context, name string) ([]string, error) { return f(ctx, name) }

// LookupMX returns no hosts.
func (TXT) LookupMX(context.Context, string) ([]string, error) { return nil, nil }

// LookupAddrs returns no addresses.
func (TXT) LookupAddrs(context.Context, string) ([]netip.Addr, error) { return nil, nil }

// LookupSameFamily returns no addresses.
func (TXT) LookupSameFamily(context.Context, string, netip.Addr) ([]netip.Addr, error) {
	return nil, nil
}

// LookupPTR returns no names.
func (TXT) LookupPTR(context.Context, netip.Addr) ([]string, error) { return nil, nil }

// LookupA returns no addresses.
func (TXT) LookupA(context.Context, string) ([]netip.Addr, time.Duration, error) {
	return nil, TTL, nil
}

// Exists reports true.
func (TXT) Exists(context.Context, string) (bool, error) { return true, nil }

// A Blocked is a DNS that answers no question for TXT records before its context ends.
type Blocked struct {
	Zone
	Asked chan<- struct{} // takes a token for each question for TXT records; nil takes none
}

// LookupTXT returns the error of ctx when it ends.
func (b Blocked) LookupTXT(ctx context.Context, _ string) ([]string, error) {
	if b.Asked != nil {
		select {
		case b.Asked <- struct{}{}:
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// A Net asks a real server with the standard library, which keeps nothing and tells no TTL.
type Net struct {
	Resolver *net.Resolver
	TTL      time.Duration // how long the answers of LookupA hold
}

// At returns a Net that asks the server at an address.
func At(address string) Net {
	return Net{&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}, TTL}
}

// unlessNotFound returns err, or nil if it says that there is no such name or no such record.
func unlessNotFound(err error) error {
	var not *net.DNSError
	if errors.As(err, &not) && not.IsNotFound {
		return nil
	}
	return err
}

// LookupTXT returns the TXT records of a name.
func (n Net) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := n.Resolver.LookupTXT(ctx, canonical(name)+".")
	return texts, unlessNotFound(err)
}

// LookupMX returns the MX hosts of a domain.
func (n Net) LookupMX(ctx context.Context, name string) ([]string, error) {
	records, err := n.Resolver.LookupMX(ctx, canonical(name)+".")
	var hosts []string
	for _, r := range records {
		hosts = append(hosts, r.Host)
	}
	return hosts, unlessNotFound(err)
}

func (n Net) lookup(ctx context.Context, network, name string) ([]netip.Addr, error) {
	found, err := n.Resolver.LookupNetIP(ctx, network, canonical(name)+".")
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, unlessNotFound(err)
}

// LookupAddrs returns the addresses of a name in both families.
func (n Net) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error) {
	return n.lookup(ctx, "ip", name)
}

// LookupSameFamily returns the addresses of a name in the family of another address.
func (n Net) LookupSameFamily(ctx context.Context, name string, as netip.Addr) ([]netip.Addr, error) {
	found, err := n.lookup(ctx, "ip", name)
	return sameFamily(found, as), err
}

// LookupPTR returns the names that an address maps to.
func (n Net) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	names, err := n.Resolver.LookupAddr(ctx, addr.String())
	return names, unlessNotFound(err)
}

// LookupA returns the A records of a name.
func (n Net) LookupA(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	found, err := n.lookup(ctx, "ip4", name)
	return found, n.TTL, err
}

// Exists is not told by the standard library; it reports true.
func (Net) Exists(context.Context, string) (bool, error) { return true, nil }
