package v4

import (
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// The changes of a plan.
const (
	added    = "added"
	updated  = "updated"
	deleted  = "deleted"
	conflict = "conflict" // the rule is not the asker's, and would be overwritten
)

// A wish is what one who deploys wants the rules to be.
type wish struct {
	Owner string `json:"owner_worker_tag"`
	Rules []form `json:"rules"`
	All   []struct {
		Target string `json:"target"`
		Rule   form   `json:"rule"`
	} `json:"catch_all_rules"`
}

// A zonePlan is what would change in a zone.
type zonePlan struct {
	ID      string   `json:"zone_id"`
	Name    string   `json:"zone_name"`
	Changes []change `json:"changes"`
}

// A change is one rule that would change.
type change struct {
	Type   string     `json:"type"`
	Target string     `json:"target"`
	Remote *ownedRule `json:"remote,omitempty"` // the rule as it is
}

// An ownedRule is a rule, and which deployer it is of.
type ownedRule struct {
	shownRule
	Owner string `json:"owner_worker_name,omitempty"`
}

// A wanted is one wish of a plan.
type wanted struct {
	zone, target, pattern string
	form                  form
}

// plan answers with what a deployer would change. Nothing changes.
func (a *API) plan(c *call) (answer, error) {
	if err := checkAccount(c); err != nil {
		return answer{}, err
	}
	var w wish
	if err := c.body(&w); err != nil {
		return answer{}, err
	}
	wishes, err := a.wishes(c, &w)
	if err != nil {
		return answer{}, err
	}
	zones := []zonePlan{}
	for _, zone := range a.zones(c) {
		changes := []change{}
		patterns := make(map[string]bool)
		for i := range wishes {
			if wishes[i].zone == zone {
				patterns[wishes[i].pattern] = true
				changes = append(changes, c.compare(&wishes[i], w.Owner)...)
			}
		}
		for _, r := range c.rules {
			if r.Domain == zone && ownedBy(&r, w.Owner) && !patterns[r.Pattern] {
				changes = append(changes, change{deleted, targetName(&r), owned(&r)})
			}
		}
		if len(changes) > 0 || len(patterns) > 0 {
			zones = append(zones, zonePlan{zoneID(zone), zone, changes})
		}
	}
	return answer{result: map[string]any{"zones": zones}}, nil
}

// wishes returns the wishes of a plan, each with its zone.
func (a *API) wishes(c *call, w *wish) (list []wanted, err error) {
	names := a.zones(c)
	add := func(pointer, target, zone string, f form) error {
		if !slices.Contains(names, zone) {
			return invalid(pointer, "there is no zone for "+target)
		}
		if len(f.Matchers) != 1 || len(f.Actions) != 1 {
			return invalid(pointer, "a rule has one matcher and one action")
		}
		list = append(list, wanted{zone, target, patternIn(&f, zone), f})
		return nil
	}
	for _, f := range w.Rules {
		if len(f.Matchers) != 1 || f.Matchers[0].Value == nil {
			return nil, invalid("/rules", "a rule has one matcher, for an address")
		}
		target := *f.Matchers[0].Value
		p, err := parseAddress(target)
		if err != nil {
			return nil, invalid("/rules", err.Error())
		}
		if err := add("/rules", target, domain.Canonical(p.Domain), f); err != nil {
			return nil, err
		}
	}
	for _, one := range w.All {
		zone, ok := strings.CutPrefix(one.Target, "*@")
		if !ok {
			return nil, invalid("/catch_all_rules", "the target of a catch-all is *@ and a domain")
		}
		if err := add("/catch_all_rules", one.Target, domain.Canonical(zone), one.Rule); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// ownedBy reports whether a deployer wrote a rule.
func ownedBy(r *account.Rule, owner string) bool {
	return r.Source == fromWrangler && r.Owner == owner && owner != ""
}

// targetName returns what a plan calls a rule.
func targetName(r *account.Rule) string {
	if isCatchAll(r) {
		return "*" + r.Pattern
	}
	if p, err := mail.ParsePath(r.Pattern, true); err == nil {
		return p.String()
	}
	return r.Pattern
}

// owned returns a rule as a plan has it, nil if this API has no words for it.
func owned(r *account.Rule) *ownedRule {
	s, ok := show(r)
	if !ok {
		return nil
	}
	if isCatchAll(r) {
		s, _ = asCatchAll(r)
	}
	return &ownedRule{s, r.Owner}
}

// compare returns the change that a wish is, none if the rule is as wished.
func (c *call) compare(w *wanted, owner string) []change {
	for _, r := range c.rules {
		if r.Domain != w.zone || !samePattern(r.Pattern, w.pattern) {
			continue
		}
		same := r.Target == targetOf(&w.form.Actions[0]) && r.Enabled
		switch {
		case isCatchAll(&r) && !r.Enabled && r.Target == drop: // what a catch-all is that was reset
			return []change{{updated, w.target, owned(&r)}}
		case !ownedBy(&r, owner):
			return []change{{conflict, w.target, owned(&r)}}
		case !same:
			return []change{{updated, w.target, owned(&r)}}
		}
		return nil
	}
	return []change{{Type: added, Target: w.target}}
}

// samePattern reports whether two patterns are for the same mail: letters are compared without case.
func samePattern(a, b string) bool { return strings.EqualFold(a, b) }
