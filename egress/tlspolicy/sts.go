package tlspolicy

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A stsMode says what a policy of MTA-STS asks for (RFC 8461 section 5).
type stsMode uint8

const (
	stsNone    stsMode = iota // nothing: the domain has no policy any more
	stsTesting                // failures are told of, and mail goes all the same
	stsEnforce
)

var stsModes = map[string]stsMode{"none": stsNone, "testing": stsTesting, "enforce": stsEnforce}

const (
	// stsVersion is that of the record and of the policy.
	stsVersion = "STSv1"
	// longestAge is the greatest max_age (RFC 8461 section 3.2); a greater one counts as this.
	longestAge = 31557600 * time.Second
	// mostPatterns bounds the mx fields of a policy.
	mostPatterns = 1000
)

// parseRecord returns the id in the TXT records of _mta-sts (RFC 8461 section 3.1). ok is false if they name no policy:
// there is none or more than one that begins with the version, or that one is malformed.
func parseRecord(records []string) (id string, ok bool) {
	var record string
	for _, r := range records {
		rest, found := strings.CutPrefix(r, "v="+stsVersion)
		if rest = strings.TrimLeft(rest, " \t"); !found || rest != "" && rest[0] != ';' {
			continue
		}
		if ok {
			return "", false
		}
		record, ok = rest, true
	}
	if !ok {
		return "", false
	}
	for field := range strings.SplitSeq(record, ";") {
		field = strings.Trim(field, " \t")
		name, value, found := strings.Cut(field, "=")
		switch {
		case field == "":
		case !found || name == "":
			return "", false
		case name == "id" && (id != "" || !isID(value)):
			return "", false
		case name == "id":
			id = value
		}
	}
	return id, id != ""
}

// isID reports whether s is 1 to 32 letters and digits.
func isID(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if !ascii.IsLetDig(s[i]) {
			return false
		}
	}
	return true
}

// A stsPolicy is a policy of MTA-STS.
type stsPolicy struct {
	mode     stsMode
	patterns []string // in lower case, "*." before those that stand for one more label
	age      time.Duration
}

// What is wrong with a policy.
var (
	errSyntax  = errors.New("a line without a colon")
	errVersion = errors.New("the version is not " + stsVersion)
	errMode    = errors.New("the mode is none that there is")
	errAge     = errors.New("max_age is no number of seconds")
	errNoHosts = errors.New("no mx")
	errHost    = errors.New("an mx that is no host name")
)

// parsePolicy reads the text of a policy (RFC 8461 section 3.2). Of a field that stands there twice the first counts,
// but for mx.
func parsePolicy(text string) (p stsPolicy, err error) {
	var version, mode, age string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.Trim(line, " \t") == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		if !found {
			return p, errSyntax
		}
		value = strings.Trim(value, " \t")
		switch name {
		case "version":
			setFirst(&version, value)
		case "mode":
			setFirst(&mode, value)
		case "max_age":
			setFirst(&age, value)
		case "mx":
			value = strings.ToLower(strings.TrimSuffix(value, "."))
			if !mail.IsDomain(strings.TrimPrefix(value, "*.")) {
				return p, errHost
			}
			if len(p.patterns) < mostPatterns {
				p.patterns = append(p.patterns, value)
			}
		}
	}
	m, known := stsModes[mode]
	seconds, wrong := strconv.ParseUint(age, 10, 64)
	switch {
	case version != stsVersion:
		return p, errVersion
	case !known:
		return p, errMode
	case wrong != nil && !errors.Is(wrong, strconv.ErrRange):
		return p, errAge
	case m != stsNone && len(p.patterns) == 0:
		return p, errNoHosts
	}
	p.mode, p.age = m, time.Duration(min(seconds, uint64(longestAge/time.Second)))*time.Second
	return p, nil
}

// setFirst sets a field that is not set.
func setFirst(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// matches reports whether a host is one that the policy names (RFC 8461 section 4.1).
func (p *stsPolicy) matches(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	for _, pattern := range p.patterns {
		if wild, found := strings.CutPrefix(pattern, "*."); found && wild == parent || pattern == host {
			return true
		}
	}
	return false
}
