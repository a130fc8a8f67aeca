package node

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/tlspolicy"
)

// hostAuthorities are those that sign the certificates of the hosts we send to. A reload swaps them whole.
type hostAuthorities struct {
	all    *tlspolicy.Authorities            // of each host that has none of its own; nil: the system's
	pinned map[string]*tlspolicy.Authorities // of fixed next hops, by their hosts in lower case
}

// readHostAuthorities reads egress.ca, whose authorities stand beside those of the system, and those of single next
// hops, which stand alone. The error is Problems.
func readHostAuthorities(c *config.Config) (*hostAuthorities, error) {
	out := &hostAuthorities{pinned: make(map[string]*tlspolicy.Authorities)}
	var wrong config.Problems
	if c.Egress.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a machine without any
		}
		if out.all, err = readHostAuthority(c, "egress.ca", c.Egress.CA, pool); err != nil {
			wrong = wrong.Join(err)
		}
	}
	for i, one := range c.Egress.Certificates {
		if one.CA == "" {
			continue
		}
		of, err := readHostAuthority(c, fmt.Sprintf("egress.certificates[%d].ca", i), one.CA, x509.NewCertPool())
		wrong = wrong.Join(err)
		out.pinned[strings.ToLower(one.Host)] = of
	}
	if len(wrong) > 0 {
		return out, wrong
	}
	return out, nil
}

// readHostAuthority adds the certificates of a file to pool. The error is Problems.
func readHostAuthority(c *config.Config, key string, file config.File, pool *x509.CertPool) (*tlspolicy.Authorities,
	error) {
	text, why := readCertificates(file, func(one *x509.Certificate) string {
		pool.AddCert(one)
		return ""
	})
	if why != "" {
		return nil, config.Problems{c.Problem(key, why)}
	}
	sum := sha256.Sum256(text)
	return &tlspolicy.Authorities{Pool: pool, Number: binary.BigEndian.Uint64(sum[:]) | 1}, nil // 0 is the system
}

// hostAuthorities returns those that sign for a fixed next hop at a host, or for MX hosts if it is "", and reports
// whether they are written down for that host.
func (f *files) hostAuthorities(host string) (_ *tlspolicy.Authorities, pinned bool) {
	all := f.believed.Load()
	if of := all.pinned[strings.ToLower(host)]; of != nil {
		return of, true
	}
	return all.all, false
}
