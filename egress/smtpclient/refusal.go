package smtpclient

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

//go:embed refusals.txt
var refusalsText string

// refusals returns the phrases of the embedded table by the Site that says them. A test holds that it parses.
var refusals = sync.OnceValue(func() map[mail.Site][]string {
	list, _ := parsePhrases(refusalsText)
	return list
})

// parsePhrases returns the phrases in a table of the form of refusals.txt. The error names the line.
func parsePhrases(table string) (map[mail.Site][]string, error) {
	list := make(map[mail.Site][]string)
	number := 0
	for line := range strings.SplitSeq(table, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		site, phrase, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(site, " \t") || site == "" {
			return nil, fmt.Errorf("line %d: want a Site, a colon and a phrase", number)
		}
		phrase = normal(phrase)
		if len(phrase) < 10 {
			return nil, fmt.Errorf("line %d: phrase too short: %q", number, phrase)
		}
		list[mail.Site(site)] = append(list[mail.Site(site)], phrase)
	}
	return list, nil
}

// normal returns text in lower case with every run of blanks and line ends as one blank.
func normal(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }

// refused turns a negative reply into the error that its command ends in. 421 becomes 451: the node's client is told
// that this recipient or message is deferred, not that its own session ends.
func (t *transaction) refused(verb string, r reply) *mail.Refusal { return t.refusedBy(verb, r.mail()) }

func (t *transaction) refusedBy(verb string, came mail.Reply) *mail.Refusal {
	if came.Code == 421 {
		t.conn.breakOff()
	}
	says := &saying{transaction: t, verb: verb, reply: came}
	cause := &ReplyError{Verb: verb, Reply: came, OurIPv6: says.namesOurIPv6(t.withoutEchoes(normal(came.Text)))}
	if verb != "RCPT" || came.Enhanced.Subject != 1 { // RFC 3463 section 3.2: an address, which no rule is about
		cause.Heard = t.conn.withoutName(t.withoutEchoes(normal(came.Text)))
	}
	cause.OfSession, cause.OfReverse = says.isOfSession(), says.isOfOurReverse()
	if says.isAboutUs() {
		return t.conn.refusedUs(cause)
	}
	deferred := came
	switch {
	case says.isOfOwn():
		deferred = mail.NewReply(451, 7, 0, "Destination does not take the sender's address from here, try again later")
	case deferred.Code == 421:
		deferred.Code = 451
	case says.isOfNumber():
		deferred.Code = 452
	}
	return &mail.Refusal{Reply: deferred, Reason: "upstream", Host: t.conn.target.Host, Cause: cause}
}
