package karma

import (
	"cmp"
	"time"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// The weights of votes, by Lesson.
const (
	weightAccepted = 1.0
	weightUnknown  = -0.5
	weightPolicy   = -1.0
	weightSpam     = -3.0 // one message of spam undoes three that were taken
)

const (
	// believedWindow is the time within which a domain has to take what makes it believed.
	believedWindow = 7 * 24 * time.Hour
	// A refusal by spam or policy is a vote if such refusals are spamShare of what the client brought to that domain
	// lately, of which half is forgotten in halfTime.
	spamShare = 0.1
	// A refusal of an unknown recipient is a vote if such refusals are unknownShare, and three at least.
	unknownShare = 0.5
	// goodFor is how long a network is known good, and the least time between two of its standings.
	goodFor = 7 * 24 * time.Hour
	// goodDomains is how many believed domains must have taken the mail of a network before it is known good.
	goodDomains = 3
	// endAfter is the number of refusals by spam within a day or so after which a standing may end early.
	endAfter = 5
	// maxWaiting is how many Outcomes may wait, of some 140 octets each and the text of the Reply.
	maxWaiting = 4096
	// maxEntries bounds each of the tables of domains, clients, votes and networks. An entry takes up to 200 octets.
	maxEntries = 16384
	// maxSenders is how many new senders of one /24 or /48 the table of networks takes in a day. So a stranger with a
	// name for each message does not push out what others are earning.
	maxSenders = 256
	// callTimeout bounds one call of the store.
	callTimeout = time.Second

	maxNetworks = 32 // as many as a volume can tell apart
)

// A Config has what a Recorder needs. Zero fields but Store have defaults.
type Config struct {
	Store world.Store // required
	// A destination domain is believed once it took Volume messages from about Networks different client networks
	// within 7 days; 0: 100 and 8. Networks is at most 32. With Volume 1 and Networks 1 every domain is believed.
	Volume   int
	Networks int
	// Now is the clock. nil means time.Now.
	Now func() time.Time

	tune tuning
}

// A tuning is what tests of the package set in place of the constants above; 0 means the constant.
type tuning struct {
	window  time.Duration // believedWindow
	waiting int           // maxWaiting
	timeout time.Duration // callTimeout
}

// Validate returns all fields that are wrong as mail.Faults, or nil.
func (c *Config) Validate() error {
	wrong := Faults(c.Volume, c.Networks)
	wrong.AddIf(c.Store == nil, "store", "is required")
	return wrong.Err()
}

// Faults returns what is wrong with two fields of a Config.
func Faults(volume, networks int) (wrong mail.Faults) {
	wrong.AddIf(volume < 0, "volume", "is negative")
	wrong.AddIf(networks < 0 || networks > maxNetworks, "networks", "is not from 0 to 32")
	return wrong
}

// withDefaults returns c with its zero fields filled in.
func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Volume = cmp.Or(c.Volume, 100)
	c.Networks = cmp.Or(c.Networks, 8)
	c.tune.window = cmp.Or(c.tune.window, believedWindow)
	c.tune.waiting = cmp.Or(c.tune.waiting, maxWaiting)
	c.tune.timeout = cmp.Or(c.tune.timeout, callTimeout)
	return c
}
