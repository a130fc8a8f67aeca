package migrate

import (
	"slices"
	"strings"
)

// A Note is what an administrator should know of a conversion.
type Note struct {
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`  // 0: the file as a whole, or what no file says
	Field string `json:"field,omitempty"` // the parameter
	Text  string `json:"text"`
}

// A Result is what became of another relay's configuration.
type Result struct {
	Config string // of a node; it names the rules routes.txt
	Rules  string
	Notes  []Note // what was not converted, and what differs
}

// A class is how Postfix takes mail for a domain.
type class uint8

const (
	local   class = iota // mydestination
	virtual              // virtual_alias_domains
	mailbox              // virtual_mailbox_domains
	relayed              // relay_domains
)

// parameters are the names of the parameters that list the domains of each class.
var parameters = [...]string{
	local: "mydestination", virtual: "virtual_alias_domains", mailbox: "virtual_mailbox_domains",
	relayed: "relay_domains",
}

// A gateway is a Postfix as its files describe it.
type gateway struct {
	cf      *mainCF
	classes map[string]class // of the domains
	domains []string         // in order

	aliases    *table           // virtual_alias_maps
	users      *table           // alias_maps, of local domains
	listed     map[class]*table // the recipients of a class, nil where all are taken
	transports *table
}

// A conversion is one under way.
type conversion struct {
	gateway
	notes []Note
}

// Postfix reads main.cf, in several files of which later ones win, and the tables that it names, and returns rules and
// a configuration that take the same mail to the same places. What cannot be said in rules is a tempfail, so that no
// mail goes astray, and a Note. The error is that of a file that cannot be read, or is no main.cf.
func Postfix(files []string) (*Result, error) {
	cf, err := readMainCF(files)
	if err != nil {
		return nil, err
	}
	c := &conversion{gateway: gateway{cf: cf, classes: make(map[string]class), listed: make(map[class]*table)}}
	c.aliases, c.transports = c.table("virtual_alias_maps"), c.table("transport_maps")
	c.users = &table{}
	if cf.isSet("alias_maps") {
		c.users = c.userTable()
	}
	for _, recipients := range []struct {
		class class
		name  string
	}{{mailbox, "virtual_mailbox_maps"}, {relayed, "relay_recipient_maps"}} {
		if cf.isSet(recipients.name) {
			c.listed[recipients.class] = c.table(recipients.name)
		}
	}
	for _, at := range []class{local, virtual, mailbox, relayed} {
		c.addDomains(at)
	}
	c.noteSubdomains()
	rules := c.rules()
	c.noteUnread()
	return &Result{Config: c.config(), Rules: rules, Notes: c.notes}, nil
}

// userTable reads alias_maps, whose keys end in a colon in a file of text.
func (c *conversion) userTable() *table {
	found := c.table("alias_maps")
	t := &table{entries: make(map[string]*entry), unread: found.unread}
	for _, e := range found.order {
		e.key = strings.Trim(strings.TrimSuffix(e.key, ":"), `"`)
		t.add(*e)
	}
	return t
}

// note notes something about a parameter.
func (c *conversion) note(name, text string) {
	p := c.cf.set[name]
	c.notes = append(c.notes, Note{p.file, p.line, name, text})
}

// noteAt notes something about a line of a table.
func (c *conversion) noteAt(file string, line int, text string) {
	c.notes = append(c.notes, Note{File: file, Line: line, Text: text})
}

// addDomains adds the domains of a class.
func (c *conversion) addDomains(at class) {
	name := parameters[at]
	for _, word := range c.cf.list(name) {
		switch {
		case strings.HasPrefix(word, "!"):
			c.note(name, word+" is an exception, which rules have not: leave the domain out")
		case strings.HasPrefix(word, "/"):
			text, err := readFile(word)
			if err != nil {
				c.note(name, err.Error())
			}
			for _, l := range logicalLines(text) {
				c.addDomain(at, strings.Fields(l.text)[0])
			}
		case strings.Contains(word, ":"):
			c.addListed(at, word)
		default:
			c.addDomain(at, word)
		}
	}
}

// addListed adds the domains that are keys of a table.
func (c *conversion) addListed(at class, word string) {
	t := &table{entries: make(map[string]*entry)}
	if err := c.addTable(t, word); err != nil {
		if at != virtual || c.cf.isSet(parameters[at]) { // the default is virtual_alias_maps, which was noted
			c.note(parameters[at], err.Error())
		}
		return
	}
	if len(t.patterns) > 0 && (at != virtual || c.cf.isSet(parameters[at])) {
		c.note(parameters[at], unreadPatterns)
	}
	for _, e := range t.order {
		if !strings.Contains(e.key, "@") && strings.Contains(e.key, ".") {
			c.addDomain(at, e.key)
		}
	}
}

// addDomain adds a domain unless another class has it, which then counts in Postfix too. Names without a dot, such as
// localhost, are of the machine itself.
func (c *conversion) addDomain(at class, domain string) {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	if _, ok := c.classes[domain]; ok || !strings.Contains(domain, ".") || strings.HasPrefix(domain, "[") {
		return
	}
	if at == local && domain == "localhost."+c.cf.value("mydomain") {
		return
	}
	if at == relayed && strings.HasPrefix(domain, ".") {
		c.note(parameters[at], domain+" means all its subdomains: write @*"+domain+" and their next hop")
		return
	}
	c.classes[domain] = at
	c.domains = append(c.domains, domain)
}

// aliasOf returns the line of virtual_alias_maps that an address has by itself, nil if there is none.
func (g *gateway) aliasOf(user, domain string) *entry {
	if e := g.aliases.entries[user+"@"+domain]; e != nil {
		return e
	}
	if g.isHome(domain) {
		if e := g.aliases.entries[user]; e != nil {
			return e
		}
		if g.isLocal(domain) {
			return g.users.entries[user]
		}
	}
	return nil
}

// isLocal reports whether a domain is one of mydestination, whose users alias_maps are for.
func (g *gateway) isLocal(domain string) bool {
	at, ok := g.classes[domain]
	return ok && at == local
}

// isHome reports whether tables name addresses of a domain by their local part alone.
func (g *gateway) isHome(domain string) bool {
	return g.isLocal(domain) || domain == strings.ToLower(g.cf.value("myorigin"))
}

// takesAll reports whether a class takes every address of its domains.
func (g *gateway) takesAll(domain string) bool {
	switch at := g.classes[domain]; at {
	case mailbox, relayed:
		t := g.listed[at]
		return t == nil || t.all != nil || t.entries["@"+domain] != nil
	case local:
		p, ok := g.cf.set["local_recipient_maps"]
		return ok && p.value == ""
	}
	return false
}

// isKnown reports whether Postfix takes mail for an address, its extension left out.
func (g *gateway) isKnown(user, domain string) bool {
	if g.aliasOf(user, domain) != nil || g.aliases.entries["@"+domain] != nil || g.takesAll(domain) {
		return true
	}
	t := g.listed[g.classes[domain]]
	return t != nil && t.entries[user+"@"+domain] != nil
}

// isUnread reports whether there may be more addresses in a domain than were read, so that it is not known what stands
// for all others.
func (g *gateway) isUnread(domain string) bool {
	t := g.listed[g.classes[domain]]
	return g.aliases.unread || t != nil && t.unread || g.isLocal(domain) && g.users.unread
}

// hasUsers reports whether mail for a domain reaches the users of Postfix's machine.
func (g *gateway) hasUsers(domain string) bool {
	p, ok := g.cf.set["local_recipient_maps"]
	return g.isLocal(domain) && (!ok || strings.Contains(p.value, "unix:"))
}

// bare returns a local part without its extension.
func (g *gateway) bare(user string) string {
	delimiters := g.cf.value("recipient_delimiter")
	if at := strings.IndexAny(user, delimiters); at > 0 && delimiters != "" {
		return user[:at]
	}
	return user
}

// usersOf returns the local parts that tables name in a domain, sorted.
func (g *gateway) usersOf(domain string) []string {
	found := make(map[string]bool)
	for _, t := range []*table{g.aliases, g.listed[g.classes[domain]], g.transports} {
		if t == nil {
			continue
		}
		for _, e := range t.order {
			if user, at, ok := cutAddress(e.key); ok && at == domain && user != "" {
				found[user] = true
			}
		}
	}
	if g.isHome(domain) {
		for _, e := range g.aliases.order {
			if !strings.Contains(e.key, "@") && !strings.Contains(e.key, ".") {
				found[e.key] = true
			}
		}
	}
	if g.isLocal(domain) {
		for _, e := range g.users.order {
			if !strings.Contains(e.key, "@") {
				found[e.key] = true
			}
		}
	}
	users := make([]string, 0, len(found))
	for user := range found {
		users = append(users, user)
	}
	slices.Sort(users)
	return users
}

// cutAddress parts an address at its last at-sign.
func cutAddress(address string) (user, domain string, ok bool) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return address, "", false
	}
	return address[:at], address[at+1:], true
}
