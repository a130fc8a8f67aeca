package mx

import (
	"fmt"

	"github.com/millrace/millrace/router/mail"
)

// The texts of these Refusals name no domain and no host: a rule may have rewritten the recipient, and then the sender
// is not to learn where mail goes. The Cause names both.

// noDomain returns the Refusal for a definite answer that a domain takes no mail.
func noDomain(domain, text string, cause error) *mail.Refusal {
	return mail.Refuse(550, 1, 2, text, "no such domain", fmt.Errorf("%s: %w", domain, cause))
}

// dnsFailed returns the Refusal for a look-up without a definite answer.
func dnsFailed(name string, cause error) *mail.Refusal {
	r := mail.Refuse(451, 4, 3, "DNS look-up of the destination failed, try again later", "dns",
		fmt.Errorf("%s: %w", name, cause))
	r.Unreached = true
	return r
}

// noHost returns the Refusal for MX records that lead to no host. It is a 4yz although the answer was definite: the
// domain exists and wants mail, and what is wrong is wrong by mistake.
func noHost(name string, cause error) *mail.Refusal {
	return mail.Refuse(451, 4, 4, "No mail host of the destination exists", "no mail host",
		fmt.Errorf("%s: %w", name, cause))
}

// loops returns the Refusal for a domain whose best MX host is ourselves and that no rule of ours sends elsewhere.
func loops(domain, host string) *mail.Refusal {
	return mail.Refuse(554, 4, 6, "Mail for the destination loops back to this system", "loop",
		fmt.Errorf("%s: MX host %s is ourselves", domain, host))
}

// badName returns the Refusal for what is no domain. Octets above 127 are a domain that this program did not convert to
// A-labels, which is not the sender's fault.
func badName(domain string, cause error) *mail.Refusal {
	for i := range len(domain) {
		if domain[i] > '~' {
			return mail.Refuse(451, 3, 0, "Local error, try again later", "domain not in ASCII",
				fmt.Errorf("%q: %w", domain, cause))
		}
	}
	return mail.Refuse(550, 1, 2, "Destination is not a domain name", "no such domain",
		fmt.Errorf("%q: %w", domain, cause))
}
