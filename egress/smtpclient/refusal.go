package smtpclient

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

//go:embed refusals.txt
var refusalsText string

// refusals gives the phrases of the embedded table; a test holds that it parses.
var refusals = sync.OnceValue(func() []string {
	list, _ := parsePhrases(refusalsText)
	return list
})

// parsePhrases reads the table of refusals.txt. The error names the line.
func parsePhrases(table string) ([]string, error) {
	var list []string
	number := 0
	for line := range strings.SplitSeq(table, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		provider, phrase, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(provider, " \t") || provider == "" {
			return nil, fmt.Errorf("line %d: want a provider, a colon and a phrase", number)
		}
		phrase = normal(phrase)
		if len(phrase) < 10 {
			return nil, fmt.Errorf("line %d: phrase too short: %q", number, phrase)
		}
		list = append(list, phrase)
	}
	return list, nil
}

// normal gives text in lower case with every run of blanks and line ends as one blank.
func normal(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }

// aboutUs reports whether a refusal is about us and not about the message: by its code, by a provider's phrase, or because
// it names one of our addresses.
func aboutUs(r mail.Reply, own []netip.Addr) bool {
	switch r.Code {
	case 500, 501, 502, 503, 504, 521, 530, 534, 535, 538, 555:
		return true
	}
	text := normal(r.Text)
	for _, phrase := range refusals() {
		if strings.Contains(text, phrase) {
			return true
		}
	}
	return namesAddress(text, own)
}

// namesAddress reports whether one of own stands in text, as a word of its own. Addresses are compared, not spellings.
func namesAddress(text string, own []netip.Addr) bool {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !isAddressRune(r) }) {
		word = strings.TrimRight(word, ".:-")
		a, err := netip.ParseAddr(word)
		if err != nil {
			continue
		}
		for _, o := range own {
			if a.Unmap() == o {
				return true
			}
		}
	}
	return false
}

// isAddressRune reports whether r may stand in an address, or in a name that only looks as if it began with one.
func isAddressRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == ':' || r == '-' || r == '_'
}

// refused turns a negative reply into the error that its command ends in. 421 becomes 451: what the client is told is that
// this recipient or message is deferred, not that its own session ends.
func (s *Session) refused(verb string, r reply) *mail.Refusal {
	came := r.mail()
	if came.Code == 421 {
		s.broken = true
	}
	if aboutUs(came, s.own) {
		return s.refusedUs(verb, came)
	}
	told := came
	if told.Code == 421 {
		told.Code = 451
	}
	return &mail.Refusal{Reply: told, Reason: "upstream", Host: s.target.Host, Cause: &ReplyError{Verb: verb, Reply: came}}
}

// refusedUs is refused where it is known that the host refused us and not the message.
func (s *Session) refusedUs(verb string, came mail.Reply) *mail.Refusal {
	return &mail.Refusal{
		Reply:   mail.NewReply(451, 7, 0, "Destination does not take mail from here at the moment, try again later"),
		Reason:  "upstream refused us",
		Host:    s.target.Host,
		AboutUs: true,
		Cause:   &ReplyError{Verb: verb, Reply: came},
	}
}

// protocol is the error of a server that does not keep to the protocol; the session is of no more use.
func (s *Session) protocol(verb string, cause error) *mail.Refusal {
	s.broken = true
	r := mail.Refuse(451, 5, 0, "Destination does not keep to the protocol, try again later", "protocol error", fmt.Errorf("%s: %w", verb, cause))
	r.Host = s.target.Host
	return r
}

// lost is the error of a connection that broke; the session is of no more use.
func (s *Session) lost(verb string, err error) *LostError {
	s.broken = true
	return &LostError{Host: s.target.Host, Verb: verb, Err: err}
}

// misused is the error of a method called where it has no meaning; the session is as it was.
func (s *Session) misused(method string) error {
	return fmt.Errorf("%s: %s: %w", s.target.Host, method, errOrder)
}

// local is a refusal of ours, before anything was sent.
func (s *Session) local(code, subject, detail int, text, reason string) *mail.Refusal {
	r := mail.Refuse(code, subject, detail, text, reason, nil)
	r.Host = s.target.Host
	return r
}
