package node

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"github.com/millrace/millrace/cluster/config"
)

// authorities are those whose certificates make a client trusted, by the file that a listener names. A reload swaps
// them whole.
type authorities map[config.File]*x509.CertPool

// readAuthorities reads the files of all listeners. The error is Problems, all of them.
func readAuthorities(c *config.Config) (*authorities, error) {
	all := make(authorities)
	var wrong config.Problems
	for i := range c.Listen {
		l := &c.Listen[i]
		if l.ClientCA == "" {
			continue
		}
		pool, why := readAuthority(l)
		if why != "" {
			wrong = append(wrong, c.Problem(fmt.Sprintf("listen[%d].client_ca", i), why))
		}
		all[l.ClientCA] = pool
	}
	if len(wrong) > 0 {
		return &all, wrong
	}
	return &all, nil
}

// readAuthority reads the file of a listener. why is what is wrong with it, or "".
func readAuthority(l *config.Listener) (pool *x509.CertPool, why string) {
	pool = x509.NewCertPool()
	_, why = readCertificates(l.ClientCA, func(one *x509.Certificate) string {
		if isPublic(one) && !l.ConfirmWide {
			return fmt.Sprintf("%q is an authority that this system trusts: each holder of one of its "+
				"certificates could relay; say confirm_wide: true if it signs for clients of yours alone", one.Subject)
		}
		pool.AddCert(one)
		return ""
	})
	if why != "" {
		return nil, why
	}
	return pool, ""
}

// readCertificates calls take with each certificate of a PEM file until it says what is wrong with one, and returns the
// text. why is what is wrong, or "".
func readCertificates(file config.File, take func(*x509.Certificate) (why string)) (text []byte, why string) {
	text, err := os.ReadFile(string(file))
	if err != nil {
		return nil, config.FileReason(err)
	}
	if why := pemMistake(text, wantCertificate); why != "" {
		return nil, string(file) + ": " + why
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, string(file) + ": a certificate cannot be read"
		}
		if why := take(one); why != "" {
			return nil, why
		}
	}
	return text, ""
}

// isPublic reports whether the system trusts a certificate, and so perhaps one of an authority that signs for all the
// world.
func isPublic(c *x509.Certificate) bool {
	_, err := c.Verify(x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// signed reports whether the certificate that a client showed is valid for a client and signed by an authority of a
// file. The handshake has shown that the client has its key.
func (a *authorities) signed(file config.File, s *tls.ConnectionState) bool {
	pool := (*a)[file]
	if pool == nil || len(s.PeerCertificates) == 0 {
		return false
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

// ownCertificates are what we show to next hops, by their hosts in lower case.
type ownCertificates map[string]*tls.Certificate

// readOwnCertificates reads the certificates that we show, and their keys. The error is Problems.
func readOwnCertificates(c *config.Config) (*ownCertificates, error) {
	all := make(ownCertificates)
	var wrong config.Problems
	for i, one := range c.Egress.Certificates {
		if one.Cert == "" {
			continue
		}
		pair, err := tls.LoadX509KeyPair(string(one.Cert), string(one.Key))
		if err != nil {
			at := fmt.Sprintf("egress.certificates[%d]", i)
			why := pairMistake(at+".cert", string(one.Cert), at+".key", string(one.Key), err)
			wrong = wrong.Join(c.WithLine("", at, why))
			continue
		}
		all[strings.ToLower(one.Host)] = &pair
	}
	if len(wrong) > 0 {
		return &all, wrong
	}
	return &all, nil
}

// ownCertificate returns what we show to a next hop at a host, nil for none.
func (f *files) ownCertificate(host string) *tls.Certificate {
	return (*f.shown.Load())[strings.ToLower(host)]
}

// shownWarnings names the certificates that no next hop is shown, and those that strangers share with trusted clients:
// what a smarthost lets its customer do by his certificate, they may do.
func (f *files) shownWarnings() (warnings []config.Problem) {
	for i, one := range f.cfg.Egress.Certificates {
		var trusted, strangers string // next hops at the host
		for h, comers := range f.rules.NextHops() {
			if !strings.EqualFold(h.Host, one.Host) {
				continue
			}
			if comers.Strangers {
				strangers = max(strangers, h.String())
			}
			if comers.Relays {
				trusted = max(trusted, h.String())
			}
		}
		for _, h := range f.vias {
			if strings.EqualFold(h.Host, one.Host) {
				trusted = max(trusted, h.String())
			}
		}
		at := fmt.Sprintf("egress.certificates[%d].host", i)
		switch {
		case trusted == "" && strangers == "":
			warnings = append(warnings, f.cfg.Problem(at, "no rule and no relay_via names a next hop at "+one.Host))
		case trusted != "" && strangers != "":
			warnings = append(warnings, f.cfg.Problem(at, "mail of trusted clients is sent by it ("+trusted+
				"), and mail of strangers as well, by the rule with "+strangers+": if it stands for an account, "+
				"name that host otherwise there"))
		}
	}
	return warnings
}
