package rate

import (
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The bounds of a Limit, which are those of a store.
const (
	MaxCount = 1 << 20
	MaxPer   = 31 * 24 * time.Hour
)

// A Limit is how often something may happen: Burst at once, then one for each Per/Count. The zero Limit limits nothing.
type Limit struct {
	Count int           // at most MaxCount
	Per   time.Duration // at most MaxPer
	Burst int           // at most MaxCount; 0 means Count
}

// isSet reports whether there is a limit at all.
func (l Limit) isSet() bool { return l.Count != 0 }

// A Config has the limits that are kept. A zero Limit is not kept and costs nothing.
type Config struct {
	// Key makes the names of addresses and domains: at least MinKey octets, the same on all nodes. A new key forgets
	// the counts of senders, recipients and domains.
	Key []byte

	ClientConnections  Limit // connections of one address
	NetworkConnections Limit // connections of its /24 or /64
	ClientRecipients   Limit // recipients that one address names, over all messages
	// ClientRefused limits the recipients of one address that were refused for good. Above it the client is refused for
	// every connection and recipient.
	ClientRefused Limit

	// What follows counts messages that a next hop took, or may have taken. Transactions that bring none may be twenty
	// times as many.
	ClientMessages    Limit // of one address
	NetworkMessages   Limit // of its /24 or /64
	SenderMessages    Limit // of one reverse-path domain from all clients; the null reverse-path has none
	RecipientMessages Limit // to one recipient
	DomainMessages    Limit // to one recipient domain, once for each recipient in it
}

// A field is a Limit of a Config with its name in the configuration.
type field struct {
	name  string
	limit Limit
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

// Validate returns a *mail.FieldError that names the first field that cannot be kept, or nil.
func (c *Config) Validate() error {
	if len(c.Key) < MinKey {
		return &mail.FieldError{Field: "key", Reason: "needs at least 16 octets"}
	}
	for _, f := range c.fields() {
		if reason := f.limit.Fault(); reason != "" {
			return &mail.FieldError{Field: f.name, Reason: reason}
		}
	}
	return nil
}

// Fault returns what is wrong with a limit, "" if it can be kept.
func (l Limit) Fault() string {
	switch {
	case l == Limit{}:
		return ""
	case l.Count <= 0 || l.Count > MaxCount:
		return "needs a count from 1 to 1048576"
	case l.Per <= 0 || l.Per > MaxPer:
		return "needs a time of at most 31 days"
	case l.Burst < 0 || l.Burst > MaxCount:
		return "has a burst that is not from 0 to 1048576"
	}
	return ""
}
