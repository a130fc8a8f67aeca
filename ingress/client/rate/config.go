package rate

import (
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The bounds of a Rate, which are those that a store keeps.
const (
	MostCount = 1 << 20
	LongestIn = 31 * 24 * time.Hour
)

// A Rate is how often something may happen: Burst at once, then one for each Per/Count. The zero Rate is no limit.
type Rate struct {
	Count int           // at most MostCount
	Per   time.Duration // at most LongestIn
	Burst int           // at most MostCount; 0 means Count
}

// limited tells whether there is a limit at all.
func (r Rate) limited() bool { return r.Count != 0 }

// A Config says which rates are kept. A zero Rate is not kept and costs nothing.
type Config struct {
	// Key makes the names of addresses and domains; at least MinKey octets, the same on all nodes. A new key forgets
	// the counts of senders, recipients and domains.
	Key []byte

	ClientConnections  Rate // connections of one address
	NetworkConnections Rate // connections of its /24 or /64
	ClientMessages     Rate // messages of one address: a mail transaction counts when its first recipient is taken
	NetworkMessages    Rate // messages of its /24 or /64
	ClientRecipients   Rate // recipients that one address names, over all messages
	// recipients of one address that were refused for good; who is over it is refused for everything
	ClientRefused     Rate
	SenderMessages    Rate // messages of one reverse-path domain, whoever brings them; the null reverse-path has none
	RecipientMessages Rate // messages to one recipient
	DomainMessages    Rate // messages to one recipient domain, once for each recipient in it
}

// A field is a rate of a Config with what it is called.
type field struct {
	name string
	rate Rate
}

func (c *Config) fields() [9]field {
	return [...]field{
		{"client_connections", c.ClientConnections},
		{"network_connections", c.NetworkConnections},
		{"client_messages", c.ClientMessages},
		{"network_messages", c.NetworkMessages},
		{"client_recipients", c.ClientRecipients},
		{"client_refused", c.ClientRefused},
		{"sender_messages", c.SenderMessages},
		{"recipient_messages", c.RecipientMessages},
		{"domain_messages", c.DomainMessages},
	}
}

// Validate names the first field that cannot be kept, as a *mail.FieldError.
func (c *Config) Validate() error {
	if len(c.Key) < MinKey {
		return &mail.FieldError{Field: "key", Reason: "needs at least 16 octets"}
	}
	for _, f := range c.fields() {
		if reason := f.rate.fault(); reason != "" {
			return &mail.FieldError{Field: f.name, Reason: reason}
		}
	}
	return nil
}

// fault says what is wrong with a rate, "" if nothing is.
func (r Rate) fault() string {
	switch {
	case r == Rate{}:
		return ""
	case r.Count <= 0 || r.Count > MostCount:
		return "needs a count from 1 to 1048576"
	case r.Per <= 0 || r.Per > LongestIn:
		return "needs a time of at most 31 days"
	case r.Burst < 0 || r.Burst > MostCount:
		return "has a burst that is not from 0 to 1048576"
	}
	return ""
}
