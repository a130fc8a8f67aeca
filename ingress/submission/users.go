package submission

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A User is who may log in, and the addresses that are his.
type User struct {
	Name string // as the file has it

	id      string // the same on all nodes, and another one for a user of that name in another file
	hash    hash
	senders map[string]bool // addresses and, behind an "@" alone, domains: see key
	targets map[string]bool // addresses elsewhere: what rules send there is his
}

// Users are those of one file. They do not change. The zero value has none.
type Users struct {
	byName  map[string]*User // in lower case
	all     []*User          // as they stand in the file
	domains []string         // of their addresses, each once
	seed    [sha256.Size]byte
}

// ParseUsers reads lines "name hash sender...". A sender is an address, "@" and a domain for all of its addresses, or
// "to=" and an address elsewhere, for all addresses that the rules send there. Blank lines and those that begin with
// "#" do not count. The error is *mail.LineErrors and never repeats the text of a line, which may be a
// password in the wrong place.
func ParseUsers(name, text string) (*Users, error) {
	u := &Users{byName: make(map[string]*User), seed: sha256.Sum256([]byte(text))}
	wrong := mail.LineErrors{File: name}
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		if err := u.add(words); err != nil {
			wrong.Add(i+1, 1, err.Error())
		}
	}
	if len(u.all) == 0 && len(wrong.List) == 0 {
		wrong.Add(1, 1, "has no user")
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return u, nil
}

// add adds the user of a line.
func (u *Users) add(words []string) error {
	if len(words) < 3 {
		return errors.New("want a name, the hash of a password, and at least one address to send as")
	}
	user := &User{Name: words[0], senders: make(map[string]bool), targets: make(map[string]bool)}
	if u.byName[ascii.Fold(user.Name)] != nil {
		return errors.New("the name stands twice")
	}
	var err error
	if user.hash, err = parseHash(words[1]); err != nil {
		return fmt.Errorf("the second word %w", err)
	}
	for i, word := range words[2:] {
		if !user.addSender(word) {
			return fmt.Errorf("word %d is no address, no @ with a domain, and no to= with an address", i+3)
		}
	}
	for sender := range user.senders {
		if domain := sender[strings.LastIndexByte(sender, '@')+1:]; !slices.Contains(u.domains, domain) {
			u.domains = append(u.domains, domain)
		}
	}
	slices.Sort(u.domains)
	slices.Sort(words[2:])
	user.id = strings.ToLower(user.Name + " " + strings.Join(words[2:], " "))
	u.byName[ascii.Fold(user.Name)] = user
	u.all = append(u.all, user)
	return nil
}

// addSender adds what a user may send as, and reports whether it can be read.
func (u *User) addSender(word string) bool {
	if domain, all := strings.CutPrefix(word, "@"); all {
		if domain = spf.Canonical(domain); domain != "" {
			u.senders["@"+domain] = true
		}
		return domain != ""
	}
	address, target := strings.CutPrefix(word, "to=")
	p, err := mail.ParsePath(address, true)
	k := key(p)
	switch {
	case err != nil || k == "":
		return false
	case target:
		u.targets[k] = true
	default:
		u.senders[k] = true
	}
	return true
}

// key returns what is the same in all spellings of an address that mean one mailbox, "" for one without a domain name.
func key(p mail.Path) string {
	domain := spf.Canonical(p.Domain)
	if domain == "" {
		return ""
	}
	return strings.ToLower(p.LocalPart()) + "@" + domain
}

// Domains returns the domains that users have addresses in, in order.
func (u *Users) Domains() []string { return u.domains }

// find returns the user of a name, nil without one, and a hash to compare the password with in any case: that of the
// user, or of another one that is the same at each try of the name, so that names of no user take as long as others.
func (u *Users) find(name string) (*User, *hash) {
	folded := ascii.Fold(name)
	if user := u.byName[folded]; user != nil {
		return user, &user.hash
	}
	if len(u.all) == 0 {
		return nil, &hash{}
	}
	sum := sha256.Sum256(append(u.seed[:], folded...))
	return nil, &u.all[binary.BigEndian.Uint64(sum[:])%uint64(len(u.all))].hash
}

// errNotYours is the cause of the refusal of what another one may send.
var errNotYours = errors.New("not an address of this user, or no rule takes mail to it")

// Owns returns nil if an address is the user's: the file names it, or its domain, and the rules take mail to it, so
// that answers come back; or the rules send its mail to an address that is his. route returns the routes of mail to an
// address, or why there is none. The error is a *mail.Refusal.
func (u *User) Owns(p mail.Path, route func(mail.Path) ([]mail.Route, error)) error {
	k := key(p)
	if k == "" {
		return notYours(p)
	}
	named := u.senders[k] || u.senders[k[strings.LastIndexByte(k, '@'):]]
	if !named && len(u.targets) == 0 {
		return notYours(p)
	}
	routes, err := route(p)
	if err != nil {
		if reply := mail.ReplyFor(err); reply.Class() == 4 {
			return mail.Refuse(451, 3, 0, "Whether you may send as this address cannot be told now", "sender", err)
		}
		return notYours(p)
	}
	if named {
		return nil
	}
	for i := range routes {
		for _, f := range routes[i].Forwards {
			if u.targets[key(f)] {
				return nil
			}
		}
	}
	return notYours(p)
}

func notYours(p mail.Path) error {
	return mail.Refuse(550, 7, 1, "<"+p.String()+"> is not an address of yours", "sender", errNotYours)
}
