package migrate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A cloudflareRule is a rule of Email Routing as the API has it.
type cloudflareRule struct {
	ID       string `json:"id"`
	Tag      string `json:"tag"`
	Name     string `json:"name"`
	Enabled  *bool  `json:"enabled"`
	Matchers []struct {
		Type  string `json:"type"`
		Field string `json:"field"`
		Value string `json:"value"`
	} `json:"matchers"`
	Actions []struct {
		Type  string   `json:"type"`
		Value []string `json:"value"`
	} `json:"actions"`
	Zone struct {
		Name string `json:"name"`
	} `json:"zone"`
	file string
}

// at returns the place of a rule.
func (r *cloudflareRule) at() Note {
	field := "rule"
	if name := cmp.Or(r.Name, r.ID, r.Tag); name != "" {
		field += " " + name
	}
	return Note{File: r.file, Field: field}
}

// A cloudflareAddress is a destination address; Verified is nil until its owner has followed the link.
type cloudflareAddress struct {
	Email    string  `json:"email"`
	Verified *string `json:"verified"`
}

// A cloudflareZone is what the settings of Email Routing say of a zone.
type cloudflareZone struct {
	Name    string `json:"name"`
	Enabled *bool  `json:"enabled"`
	Tagged  *bool  `json:"support_subaddress"`
}

// A cloudflare is what documents of the API say.
type cloudflare struct {
	service
	rules   []cloudflareRule
	pending map[string]bool // destinations, by whether they have yet to be verified
	zones   []cloudflareZone
}

// Cloudflare returns rules and a configuration that take the same mail to the same places as Email Routing, of answers
// of its API: rules, the catch-all, destination addresses and settings, each or several in a document. domain is what a
// catch-all without a zone is of; it may be empty where the rules are of one zone.
func Cloudflare(documents []Document, domain string) (*Result, error) {
	c := &cloudflare{service: service{name: "Cloudflare Email Routing"}, pending: make(map[string]bool)}
	for _, d := range documents {
		if err := c.read(d); err != nil {
			return nil, fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	if len(c.rules) == 0 {
		return nil, errors.New("there is no rule in what was read: want the answers of /email/routing/rules")
	}
	zone := c.zoneOf(domain)
	for i := range c.rules {
		c.convert(&c.rules[i], zone)
	}
	if len(c.pending) == 0 {
		c.noteAt(Note{}, "the destination addresses were not read, so that rules of unverified ones are converted "+
			"as well")
	}
	c.settings()
	return c.result(), nil
}

// maxNesting bounds how deep a document is looked into.
const maxNesting = 6

// read reads a document, which may hold several texts of JSON, one behind the other.
func (c *cloudflare) read(d Document) error {
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(d.Text, []byte("\ufeff"))))
	for {
		var text json.RawMessage
		switch err := decoder.Decode(&text); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("is no JSON: %w", err)
		}
		if err := c.readValue(d.Name, text, maxNesting); err != nil {
			return err
		}
	}
}

// readValue takes in a value of JSON: a list, the envelope of an answer, or a thing that its keys tell.
func (c *cloudflare) readValue(file string, text json.RawMessage, depth int) error {
	text = bytes.TrimSpace(text)
	if depth == 0 || len(text) == 0 || text[0] != '[' && text[0] != '{' {
		return nil
	}
	if text[0] == '[' {
		var list []json.RawMessage
		if err := json.Unmarshal(text, &list); err != nil {
			return err
		}
		for _, one := range list {
			if err := c.readValue(file, one, depth-1); err != nil {
				return err
			}
		}
		return nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return err
	}
	_, tagged := keys["support_subaddress"]
	_, wizard := keys["skip_wizard"]
	_, verified := keys["verified"]
	switch {
	case keys["matchers"] != nil:
		rule := cloudflareRule{file: file}
		err := json.Unmarshal(text, &rule)
		c.rules = append(c.rules, rule)
		return err
	case keys["email"] != nil && verified:
		var a cloudflareAddress
		err := json.Unmarshal(text, &a)
		c.pending[strings.ToLower(a.Email)] = a.Verified == nil
		return err
	case tagged || wizard:
		var z cloudflareZone
		err := json.Unmarshal(text, &z)
		c.zones = append(c.zones, z)
		return err
	case string(keys["success"]) == "false":
		return errors.New("is the answer of a request that failed: " + cloudflareErrors(text))
	}
	for _, name := range sortedKeys(keys) {
		if err := c.readValue(file, keys[name], depth-1); err != nil {
			return err
		}
	}
	return nil
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// cloudflareErrors returns what an answer says is wrong.
func cloudflareErrors(text []byte) string {
	var answer struct {
		Errors []struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || len(answer.Errors) == 0 {
		return "it does not say why"
	}
	var all []string
	for _, e := range answer.Errors {
		all = append(all, fmt.Sprintf("%d %s", e.Code, Plain(e.Message)))
	}
	return strings.Join(all, "; ")
}

// zoneOf returns the zone that a catch-all is of which does not say it: the domain that was asked for, that of the
// settings, or the only one of the addresses. It is empty if there is none.
func (c *cloudflare) zoneOf(domain string) string {
	if domain != "" {
		return domain
	}
	if len(c.zones) == 1 && c.zones[0].Name != "" {
		return c.zones[0].Name
	}
	only := ""
	for i := range c.rules {
		for _, m := range c.rules[i].Matchers {
			_, at, _ := cutAddress(strings.ToLower(m.Value))
			if only != "" && at != "" && at != only {
				return ""
			}
			only = cmp.Or(at, only)
		}
	}
	return only
}

// convert converts a rule.
func (c *cloudflare) convert(r *cloudflareRule, zone string) {
	a := &action{from: r.at()}
	if len(r.Matchers) != 1 {
		c.convertUnclear(r, zone)
		return
	}
	m := r.Matchers[0]
	name := cmp.Or(r.Zone.Name, zone)
	user, wrong := "", ""
	isAll := m.Type == "all"
	switch {
	case isAll && name == "":
		c.noteAt(a.from, "is a catch-all of a zone that is not named: --domain names it")
		return
	case isAll:
	case m.Type == "literal" && (m.Field == "to" || m.Field == ""):
		user, name, wrong = address(m.Value)
	default:
		c.convertUnclear(r, zone)
		return
	}
	if wrong != "" {
		c.noteAt(a.from, fmt.Sprintf("%q is no address: %s", m.Value, wrong))
		return
	}
	d, ok := c.domain(name)
	if !ok {
		c.noteAt(a.from, fmt.Sprintf("%q is no domain name", name))
		return
	}
	pattern := pathOf(user, d.name)
	if isAll {
		pattern = "@" + d.name
	}
	if !c.isOn(r, pattern) {
		return
	}
	a.user = user
	c.act(a, r, pattern)
	if isAll {
		c.addAll(d, a)
		return
	}
	c.addUser(d, a)
}

// convertUnclear has mail wait that a rule takes in a way that rules do not know: of the addresses that it names, or
// of the whole zone if it names none.
func (c *cloudflare) convertUnclear(r *cloudflareRule, zone string) {
	if r.Enabled != nil && !*r.Enabled {
		c.noteAt(r.at(), "is off, and was left out")
		return
	}
	c.noteAt(r.at(), "was not converted: want one matcher, literal for to, or all")
	if d, ok := c.domain(cmp.Or(r.Zone.Name, zone)); ok {
		d.waits = true
	}
	for _, m := range r.Matchers {
		if user, domain, wrong := address(m.Value); wrong == "" {
			if d, ok := c.domain(domain); ok {
				c.addUser(d, &action{user: user, from: r.at()})
			}
		}
	}
}

// isOn reports whether a rule takes mail there: one that is off does not, nor does one whose destination has yet to be
// verified. Their mail is that of all other addresses.
func (c *cloudflare) isOn(r *cloudflareRule, pattern string) bool {
	if r.Enabled != nil && !*r.Enabled {
		c.noteAt(r.at(), pattern+" is off, and was left out: its mail is treated as that of addresses without a rule")
		return false
	}
	for _, a := range r.Actions {
		for _, v := range a.Value {
			if a.Type == "forward" && c.pending[strings.ToLower(v)] {
				c.noteAt(r.at(), pattern+" takes no mail until "+v+" is verified, and was left out")
				return false
			}
		}
	}
	return true
}

// act sets what becomes of mail.
func (c *cloudflare) act(a *action, r *cloudflareRule, pattern string) {
	if len(r.Actions) != 1 {
		c.wait(a, fmt.Sprintf("%s has %d actions, and one was expected: write what becomes of its mail", pattern,
			len(r.Actions)))
		return
	}
	switch does := r.Actions[0]; does.Type {
	case "forward":
		c.forward(a, does.Value)
	case "drop":
		a.verb = "drop"
	case "worker":
		c.wait(a, pattern+" is handled by the Worker "+strings.Join(does.Value, ", ")+
			", which is not run here: write where its mail goes")
	default:
		c.wait(a, fmt.Sprintf("%s has the action %q, which was not converted", pattern, does.Type))
	}
}

// settings takes over what the zones say.
func (c *cloudflare) settings() {
	said := false
	for _, z := range c.zones {
		if z.Enabled != nil && !*z.Enabled {
			c.noteAt(Note{}, z.Name+": Email Routing is off there, and its rules were converted nevertheless")
		}
		said = said || z.Tagged != nil
		for _, d := range c.domains {
			isOf := z.Name == "" || d.name == strings.ToLower(z.Name) ||
				strings.HasSuffix(d.name, "."+strings.ToLower(z.Name))
			d.tagged = d.tagged || isOf && z.Tagged != nil && *z.Tagged
		}
	}
	if !said {
		c.noteAt(Note{}, "the settings were not read: write subaddress=+ behind the domain if user+tag is taken as "+
			"user there")
	}
}
