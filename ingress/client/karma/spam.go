package karma

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

//go:embed spam.txt
var spamText string

// spam returns the phrases of the embedded table. A test keeps that it parses.
var spam = sync.OnceValue(func() []phrase {
	list, _ := parsePhrases(spamText)
	return list
})

// minPhrase is the least length of a phrase in octets, its parts together. A shorter one would match by chance.
const minPhrase = 10

// A phrase is one line of spam.txt.
type phrase struct {
	code     int // 0 matches any code
	enhanced mail.EnhancedCode
	any      bool     // any enhanced code
	parts    []string // in normal form, to be found one after another
}

// parsePhrases reads the table of spam.txt. The error names the line.
func parsePhrases(table string) ([]phrase, error) {
	var list []phrase
	number := 0
	for line := range strings.SplitSeq(table, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		p, err := parsePhrase(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// parsePhrase reads one line of the table.
func parsePhrase(line string) (phrase, error) {
	provider, rest, ok := strings.Cut(line, ":")
	fields := strings.Fields(rest)
	if !ok || provider == "" || strings.ContainsAny(provider, " \t") || len(fields) < 3 {
		return phrase{}, fmt.Errorf("want a provider, a colon, a code, an enhanced code and a phrase")
	}
	var p phrase
	if fields[0] != "*" {
		code, err := strconv.ParseUint(fields[0], 10, 16)
		if err != nil || code < 500 || code > 599 {
			return phrase{}, fmt.Errorf("%q is no 5yz code", fields[0])
		}
		p.code = int(code)
	}
	if p.any = fields[1] == "*"; !p.any {
		class, e, ok := mail.ParseEnhanced(fields[1])
		if !ok || class != 5 {
			return phrase{}, fmt.Errorf("%q is no enhanced code of class 5", fields[1])
		}
		p.enhanced = e
	}
	length := 0
	for part := range strings.SplitSeq(normal(strings.Join(fields[2:], " ")), " ... ") {
		if part = strings.TrimSpace(part); part == "" || part == "..." {
			return phrase{}, fmt.Errorf("a part of the phrase is empty")
		}
		p.parts = append(p.parts, part)
		length += len(part)
	}
	if length < minPhrase {
		return phrase{}, fmt.Errorf("phrase too short: %q", p.parts)
	}
	return p, nil
}

// normal returns text in lower case with every run of blanks and line ends as one blank: the normal form.
func normal(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }

// matches reports whether p is found in a reply r. text is r's text in normal form.
func (p *phrase) matches(r *mail.Reply, text string) bool {
	if p.code != 0 && p.code != r.Code || !p.any && p.enhanced != r.Enhanced {
		return false
	}
	for _, part := range p.parts {
		_, rest, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = rest
	}
	return true
}
