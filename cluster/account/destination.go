package account

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A Destination is a target that rules of the API may name once it is verified: an address, or a next hop as rules
// write it.
type Destination struct {
	ID       string     `json:"id"`
	Address  string     `json:"address"`
	Domains  []string   `json:"domains,omitempty"` // of whose rules it may be; none: of all
	Created  time.Time  `json:"created"`
	Modified time.Time  `json:"modified"`
	Verified *time.Time `json:"verified,omitempty"` // nil: not yet
	How      string     `json:"how,omitempty"`      // it was verified: link, admin, txt, file
	// Link is the SHA-256 of the open link's secret, in hexadecimal, and Expires its end; "" without one. Of one that
	// was verified by a publication Expires is until when that counts if it is not found again.
	Link    string     `json:"link,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Asked   *time.Time `json:"asked,omitempty"`  // when the last link was sent, or a publication looked for
	Failed  string     `json:"failed,omitempty"` // the reply by which its message was not taken, or what was not found
}

// clone returns a copy that shares nothing which changes.
func (d Destination) clone() Destination {
	d.Domains = slices.Clone(d.Domains)
	return d
}

// sameTarget returns a target as it is compared: the domain of an address without case.
func sameTarget(s string) string {
	at := strings.LastIndexByte(s, '@')
	return s[:at+1] + ascii.Fold(s[at+1:])
}

// isFor reports whether rules of a domain may name the destination.
func (d *Destination) isFor(domain string) bool {
	return len(d.Domains) == 0 || coversDomain(d.Domains, domain)
}

// isOf reports whether a principal sees the destination.
func (d *Destination) isOf(p Principal) bool {
	if p.Unlimited() {
		return true
	}
	return slices.ContainsFunc(d.Domains, p.Covers)
}

// mayChange returns an *Error unless a principal that sees the destination has all of its domains: it takes mail from
// the rules of each.
func (d *Destination) mayChange(p Principal) error {
	if slices.ContainsFunc(d.Domains, func(domain string) bool { return !p.Covers(domain) }) {
		return forbidden("the destination is for domains as well that the token is not for")
	}
	return nil
}

// checkAddress returns what is wrong with the address of a destination.
func checkAddress(s string) error {
	switch {
	case s == "":
		return refused("address", "is required")
	case len(s) > maxField:
		return refused("address", "is too long")
	case strings.ContainsFunc(s, isControl), strings.ContainsAny(s, " ,#"):
		return refused("address", "is not one target")
	case !strings.ContainsAny(s, "@:"), strings.HasPrefix(s, "@"), strings.HasSuffix(s, "@"):
		return refused("address", "is neither an address nor a next hop")
	}
	return nil
}

// Destinations returns the destinations that a principal may see, in the order in which they were added.
func (a *Account) Destinations(p Principal) ([]Destination, error) {
	if err := p.May(ReadOnly); err != nil {
		return nil, err
	}
	var out []Destination
	for _, d := range a.lists.current.Load().destinations {
		if d.isOf(p) {
			out = append(out, d.clone())
		}
	}
	return out, nil
}

// Destination returns the destination of an id.
func (a *Account) Destination(p Principal, id string) (Destination, error) {
	all, err := a.Destinations(p)
	if err != nil {
		return Destination{}, err
	}
	if i := slices.IndexFunc(all, func(d Destination) bool { return d.ID == id }); i >= 0 {
		return all[i], nil
	}
	return Destination{}, missing(CodeNoDestination, "destination")
}

// AddDestination adds a destination that is not verified, for rules of the domains of the principal. It returns the one
// that there is already, if there is.
func (a *Account) AddDestination(ctx context.Context, p Principal, address string) (Destination, error) {
	if err := p.May(Owner); err != nil {
		return Destination{}, err
	}
	if err := checkAddress(address); err != nil {
		return Destination{}, err
	}
	var added Destination
	err := a.change(ctx, func(k *kept) ([]Entry, error) {
		for _, d := range k.destinations {
			if sameTarget(d.Address) == sameTarget(address) && slices.Equal(d.Domains, p.Domains) {
				added = d.clone()
				return nil, nil
			}
		}
		now := a.now()
		added = Destination{
			ID: NewID(), Address: address, Domains: slices.Clone(p.Domains), Created: now, Modified: now,
		}
		k.destinations = append(k.destinations, added)
		return []Entry{a.entry(p, "destination.add", added.ID, domainOf(&added), nil, added.shown())}, nil
	})
	return added, err
}

// ChangeDestination changes the destination of an id: change gets a copy. Its ID, Address, Domains and Created stay.
// Only who has all domains, and the node itself, may say that it is verified.
func (a *Account) ChangeDestination(
	ctx context.Context, p Principal, id string, change func(*Destination) error,
) (Destination, error) {
	if err := p.May(Owner); err != nil {
		return Destination{}, err
	}
	end, err := a.begin(ctx)
	if err != nil {
		return Destination{}, err
	}
	defer end()
	var next Destination
	if err := a.lists.change(ctx, func(k *kept) ([]Entry, error) {
		i := slices.IndexFunc(k.destinations, func(d Destination) bool { return d.ID == id && d.isOf(p) })
		if i < 0 {
			return nil, missing(CodeNoDestination, "destination")
		}
		old := k.destinations[i]
		if err := old.mayChange(p); err != nil {
			return nil, err
		}
		next = old.clone()
		if err := change(&next); err != nil {
			return nil, err
		}
		if old.Verified == nil && next.Verified != nil {
			if err := p.MayAll(Operator); err != nil {
				return nil, err
			}
		}
		next.ID, next.Address, next.Domains, next.Created = old.ID, old.Address, old.Domains, old.Created
		next.Modified = a.now()
		k.destinations[i] = next
		return []Entry{a.entry(p, "destination.change", id, domainOf(&old), old.shown(), next.shown())}, nil
	}); err != nil {
		return Destination{}, err
	}
	return next, a.refresh(ctx, p)
}

// ReasonDisabled is the reason of the Anomaly of a rule that is disabled because its destination goes.
const ReasonDisabled = "rule disabled: its destination was removed"

// RemoveDestination removes the destination of an id and disables the rules that name it. It returns both as they were.
func (a *Account) RemoveDestination(ctx context.Context, p Principal, id string) (Destination, []Rule, error) {
	if err := p.May(Owner); err != nil {
		return Destination{}, nil, err
	}
	old, err := a.Destination(p, id)
	if err == nil {
		err = old.mayChange(p)
	}
	if err != nil {
		return Destination{}, nil, err
	}
	end, err := a.begin(ctx)
	if err != nil {
		return Destination{}, nil, err
	}
	defer end()
	w := ruleWriter{account: a, by: Node(p.Name), edit: disabling(&old)}
	if err := w.write(ctx); err != nil {
		return Destination{}, nil, err
	}
	var disabled []Rule
	entries := w.entries()
	for _, c := range w.changes {
		disabled = append(disabled, *c.before)
		a.cfg.Log.Warn("a rule was disabled, because its destination was removed", "pattern", c.before.Pattern,
			"rule", c.before.ID, "destination", old.Address)
		a.cfg.Emit(mail.Event{
			Kind: mail.Anomaly, Time: a.now(), Rule: mail.Rule{Pattern: c.before.Pattern, File: RulesName},
			Reason: ReasonDisabled, Cause: fmt.Errorf("%s was removed", old.Address),
		})
	}
	err = a.lists.change(ctx, func(k *kept) ([]Entry, error) {
		k.destinations = slices.DeleteFunc(k.destinations, func(d Destination) bool { return d.ID == id })
		return append(entries, a.entry(p, "destination.remove", id, domainOf(&old), old.shown(), nil)), nil
	})
	return old, disabled, err
}

// Verified reports whether an address is that of a verified destination for rules of one of the domains.
func (a *Account) Verified(domains []string, address string) bool {
	return slices.ContainsFunc(a.lists.current.Load().destinations, func(d Destination) bool {
		return d.Verified != nil && sameTarget(d.Address) == sameTarget(address) &&
			slices.ContainsFunc(domains, d.isFor)
	})
}

// domainOf returns the domain by which the audit tells who sees a destination.
func domainOf(d *Destination) string {
	if len(d.Domains) == 0 {
		return ""
	}
	return d.Domains[0]
}

// shown returns a destination without what a link is known by.
func (d Destination) shown() Destination {
	d.Link = ""
	return d
}

// pending returns the targets of a rule that are not verified. A target without a destination is taken as it is if the
// rule was written by one for all domains, and if it is an address in a domain of the writer, which is an alias.
func pending(r *Rule, all []Destination) (list []string) {
	targets, _ := r.targets()
	for i, target := range r.words() {
		known, verified := false, false
		for i := range all {
			d := &all[i]
			if !d.isFor(r.Domain) || sameTarget(d.Address) != sameTarget(target) {
				continue
			}
			known = known || !d.Created.After(r.Modified) // one that came later takes nothing away
			verified = verified || d.Verified != nil
		}
		if !verified && (known || i < len(targets) && len(r.Scope) > 0 && !isOwn(target, r)) {
			list = append(list, target)
		}
	}
	return list
}

// isOwn reports whether a target is an address in a domain of the one who wrote the rule.
func isOwn(target string, r *Rule) bool {
	at := strings.LastIndexByte(target, '@')
	return at >= 0 && !strings.ContainsAny(target, ":/[") && coversDomain(r.Scope, ascii.Fold(target[at+1:]))
}
