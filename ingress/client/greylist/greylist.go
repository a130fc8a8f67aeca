package greylist

import (
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// The defaults of a Config.
const (
	DefaultDelay  = 5 * time.Minute
	DefaultWindow = 2 * 24 * time.Hour
	DefaultKeep   = 36 * 24 * time.Hour
)

// longest bounds each time of a Config; a store keeps no triplet longer.
const longest = 366 * 24 * time.Hour

// A Config is for how long mail is put off. Zero fields but Key have defaults.
type Config struct {
	// Delay is how long the first attempt is put off, at most 1 day; 0: 5 minutes.
	Delay time.Duration
	// Window is the time within which the client has to come again, longer than Delay and at most 366 days; 0: 2 days.
	// RFC 5321 section 4.5.4.1 says that senders generally need to try for 4 or 5 days, but those that stop early do so
	// after one or two.
	Window time.Duration
	// Keep is how long a triplet that passed is remembered after its last attempt, at most 366 days; 0: 36 days, which
	// lets a monthly letter pass.
	Keep time.Duration
	// Key makes the triplets' keys: at least 16 octets, the same on all nodes. A new key forgets all triplets.
	Key []byte
}

// Validate returns all fields that are wrong as mail.Faults, or nil.
func (c *Config) Validate() error {
	var wrong mail.Faults
	d := c.withDefaults()
	wrong.AddIf(len(c.Key) < rate.MinKey, "key", "needs at least 16 octets")
	wrong.AddIf(d.Delay < 0 || d.Delay > 24*time.Hour, "delay", "is not from 0 to 1 day")
	wrong.AddIf(d.Window <= d.Delay || d.Window > longest, "window", "is not longer than delay, or more than 366 days")
	wrong.AddIf(d.Keep < 0 || d.Keep > longest, "keep", "is not from 0 to 366 days")
	return wrong.Err()
}

// withDefaults returns c with its zero fields filled in.
func (c Config) withDefaults() Config {
	if c.Delay == 0 {
		c.Delay = DefaultDelay
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.Keep == 0 {
		c.Keep = DefaultKeep
	}
	return c
}

// A Policy makes triplets. It is safe for concurrent use. Make one with New.
type Policy struct {
	delay, window, keep time.Duration
	names               *rate.Names
}

// New makes a Policy. The error is a *mail.FieldError.
func New(c Config) (*Policy, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	return &Policy{delay: c.Delay, window: c.Window, keep: c.Keep, names: rate.NewNames(c.Key)}, nil
}

// Triplet returns what a store remembers of mail from reverse to forward that client brings. proved is a domain that
// the client proved, by SPF or by its name in DNS: it stands for the client then, because large senders try again from
// another network each time. Greylisting asks for no more than a second attempt by the same sender.
// "" stands for none, and the client's network counts.
//
// Domains and the recipient are folded to lower case. Of the local part of the reverse-path only what identifies the
// sender stays. A subaddress is removed. The outer wrapping of BATV ("prvs=tag=user") and of SRS
// ("SRS0=hash=stamp=domain=user") is removed, because its hash and its day change. Each word that may be the number of
// a message (VERP) or a token becomes "#": a mailing list would else be put off with each message. See withoutTokens.
// The cost is that bob1 and bob2 of one domain share a triplet, so that the retry of one lets the other pass.
func (p *Policy) Triplet(client netip.Addr, proved string, reverse, forward mail.Path) mail.Triplet {
	t := mail.Triplet{
		Key: p.names.Of("triplet", sender(reverse.LocalPart()), ascii.Fold(reverse.Domain),
			ascii.Fold(forward.LocalPart()), ascii.Fold(forward.Domain)),
		Delay:  p.delay,
		Window: p.window,
		Keep:   p.keep,
	}
	if proved == "" {
		t.Client = client.Unmap().WithZone("")
	} else {
		t.Group = p.names.Of("proved", proved)
	}
	return t
}

// Refusal returns the refusal of a client that has to come again after wait: 450 4.7.1, Reason "greylisted".
func (p *Policy) Refusal(wait time.Duration) *mail.Refusal {
	return mail.Refuse(450, 7, 1, "Greylisted, "+rate.AgainIn(wait), "greylisted", nil)
}

// sender returns what stays the same from message to message of a reverse-path's local part.
func sender(local string) string {
	local = unwrapped(ascii.Fold(local))
	if i := strings.IndexByte(local, '+'); i > 0 {
		local = local[:i]
	}
	return withoutTokens(local)
}

// unwrapped returns local, which is in lower case, without its outer wrapping of BATV or SRS.
func unwrapped(local string) string {
	scheme, rest, ok := strings.Cut(local, "=")
	switch {
	case !ok:
	case scheme == "prvs": // prvs=tag=user
		if _, user, ok := strings.Cut(rest, "="); ok && user != "" {
			return user
		}
	case scheme == "srs0": // srs0=hash=stamp=domain=user
		if parts := strings.SplitN(rest, "=", 3); len(parts) == 3 && parts[2] != "" {
			return parts[2]
		}
	case scheme == "srs1": // srs1=hash=relay=rest, where rest is hash=stamp=domain=user of that first relay
		if _, unhashed, ok := strings.Cut(rest, "="); ok {
			relay, opaque, _ := strings.Cut(unhashed, "=")
			if parts := strings.SplitN(strings.TrimLeft(opaque, "=-+"), "=", 3); len(parts) == 3 && parts[2] != "" {
				return relay + "=" + parts[2]
			}
		}
	}
	return local
}

// minToken is how many letters a word has that may be a token. That names are as long does no harm: see Triplet.
const minToken = 8

// withoutTokens returns local with "#" in place of each word of letters and digits that may be a token: one that has a
// digit in it, a long one that stands beside other words, and one that no language has. Several of them with only
// separators between become one "#", because the number of words varies in an encoded token.
func withoutTokens(local string) string {
	alone := !strings.ContainsFunc(local, func(r rune) bool { return r < 0x80 && !isWord(byte(r)) })
	b := make([]byte, 0, len(local))
	number := -1 // length of b after the last "#" if only separators came since, else -1
	for i := 0; i < len(local); {
		end := i
		for end < len(local) && isWord(local[end]) {
			end++
		}
		word := local[i:end]
		switch {
		case end == i:
			b = append(b, local[i])
			end++
		case !strings.ContainsAny(word, "0123456789") && (len(word) < minToken || alone && !isRandom(word)):
			b = append(b, local[i:end]...)
			number = -1
		case number < 0:
			b = append(b, '#')
			number = len(b)
		default:
			b = b[:number]
		}
		i = end
	}
	return string(b)
}

// isRandom reports whether a word of letters has five consonants in a row, or few vowels. Some names do.
func isRandom(word string) bool {
	vowels, run := 0, 0
	for i := range len(word) {
		if word[i] >= 0x80 || strings.IndexByte("aeiouy", word[i]) >= 0 {
			vowels++
			run = 0
			continue
		}
		if run++; run == 5 {
			return true
		}
	}
	return 5*vowels < len(word)
}

// isWord reports whether c, in lower case, belongs to a word. Octets above 127 do: they are parts of letters.
func isWord(c byte) bool { return 'a' <= c && c <= 'z' || ascii.IsDigit(c) || c >= 0x80 }
