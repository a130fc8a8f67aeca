package config

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// Reports says who makes reports on TLS and DMARC.
type Reports struct {
	Organization string `yaml:"organization"`
	Contact      string `yaml:"contact"`
}

// maxOrganization bounds the name of the organization in octets.
const maxOrganization = 100

// reports checks the section. Reports have to pass DMARC themselves, so that a key has to sign for their address.
func (v *validator) reports(c *Config) {
	r := c.Reports
	name := strings.TrimSpace(r.Organization)
	switch {
	case name == "":
		v.add("reports.organization", "is required: the name of who runs this relay")
	case len(name) > maxOrganization || printable.Text(name) != name || !ascii.Is(name):
		v.add("reports.organization", fmt.Sprintf("is no name of at most %d printable characters in ASCII",
			maxOrganization))
	}
	contact, err := mail.ParsePath(r.Contact, false)
	switch {
	case r.Contact == "":
		v.add("reports.contact", "is required: the address that reports come from, and questions about them go to")
	case err != nil || !domain.IsName(contact.Domain, domain.MaxName):
		v.add("reports.contact", fmt.Sprintf("%q is no address", r.Contact))
	case !signsAs(c, contact.Domain):
		v.add("reports.contact", "no key of dkim signs for "+contact.Domain+", and reports have to pass DMARC")
	}
}

// signsAs reports whether mail from a domain that the relay sends itself is signed for that domain or one above it.
func signsAs(c *Config, name string) bool {
	if c.DKIM == nil {
		return false
	}
	name = domain.Canonical(name)
	for _, s := range c.DKIM.Domains {
		if domain.Within(name, domain.Canonical(s.Domain)) {
			return true
		}
	}
	for _, s := range c.DKIM.Relay {
		if domain.Within(name, domain.Canonical(s.Domain)) {
			return true
		}
	}
	return false
}
