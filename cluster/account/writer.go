package account

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A ruleWriter is one change of the file of rules.
type ruleWriter struct {
	account *Account
	by      Principal
	edit    func([]Rule) ([]Rule, error)

	next    []Rule
	at      map[int]int
	changes []ruleChange
	woken   map[string]bool   // ids of the rules that come into force without being changed
	off     map[string]string // why rules that were woken are left out, by their ids
}

// A ruleChange is what became of one rule; nil for none.
type ruleChange struct{ before, after *Rule }

// write makes the change. The Router sees a rule when it comes into force, and of one that waited it may not like what
// it sees: that rule is left out, so that it holds up neither this change nor those of others.
func (w *ruleWriter) write(ctx context.Context) error {
	for {
		err := w.account.cfg.Rules.Change(ctx, func(old string) (string, error) { return w.catchUp(ctx, old) })
		if err != nil && w.leaveOut(err) {
			continue
		}
		if err != nil {
			return w.explained(err)
		}
		for i := range w.next {
			if why := w.off[w.next[i].ID]; why != "" && w.next[i].Off == why {
				w.account.cfg.Log.Warn("a rule of the API is not in force: it would not load now that it need not wait",
					"pattern", w.next[i].Pattern, "rule", w.next[i].ID, "cause", why)
			}
		}
		return nil
	}
}

// catchUp returns the text that takes the place of old, by the destinations that nodes share now. Those that this node
// knows may be older than old, and what they say would take a rule out of force whose destination is verified.
func (w *ruleWriter) catchUp(ctx context.Context, old string) (string, error) {
	if lists := &w.account.lists; lists.store.HasRedis() {
		if err := lists.compare(ctx); err != nil {
			return "", busy(err)
		}
	}
	return w.change(old)
}

// leaveOut has those of the woken rules left out that an error of the Router is about, or all of them if it is about
// other lines, which one of these may clash with. It reports false if there are none.
func (w *ruleWriter) leaveOut(err error) bool {
	var known *Error
	if len(w.woken) == 0 || errors.As(err, &known) {
		return false
	}
	lines, isRules := w.account.cfg.Rules.Faults(err)
	if !isRules {
		return false
	}
	if w.off == nil {
		w.off = make(map[string]string)
	}
	found := false
	for _, f := range lines {
		if i, ok := w.at[f.Line]; ok && w.woken[w.next[i].ID] {
			w.off[w.next[i].ID], found = f.Reason, true
		}
	}
	if !found {
		for id := range w.woken {
			w.off[id] = "the rules would not load with it"
		}
	}
	return true
}

// change returns the text that takes the place of old.
func (w *ruleWriter) change(old string) (string, error) {
	all, err := ParseRules(old)
	if err != nil {
		return "", err
	}
	w.next, w.changes, w.woken = nil, nil, make(map[string]bool)
	var seen []Rule
	byID, slept := make(map[string]*Rule), make(map[string]bool)
	for i := range all {
		slept[all[i].ID] = !all[i].InForce()
		if !w.by.Covers(all[i].Domain) {
			w.next = append(w.next, all[i])
			continue
		}
		seen = append(seen, all[i].clone())
		byID[all[i].ID] = &all[i]
	}
	wanted, err := w.edit(seen)
	if err != nil {
		return "", err
	}
	for i := range wanted {
		if err := w.take(wanted[i].clone(), byID); err != nil {
			return "", err
		}
	}
	for i := range all {
		if left := byID[all[i].ID]; left != nil {
			if err := w.by.mayEdit(left.Domain); err != nil {
				return "", err
			}
			w.changes = append(w.changes, ruleChange{before: left})
		}
	}
	if err := unique(w.next); err != nil {
		return "", err
	}
	sortRules(w.next)
	for _, c := range w.changes {
		if c.after != nil {
			delete(slept, c.after.ID)
		}
	}
	destinations, shut := w.account.lists.current.Load().destinations, shutDomains(w.next)
	for i := range w.next {
		r := &w.next[i]
		r.Shut, r.Pending = shut[r.Domain], pending(r, destinations)
		if !slept[r.ID] || !r.InForce() {
			continue
		}
		if r.Off = w.off[r.ID]; r.Off == "" {
			w.woken[r.ID] = true
		}
	}
	text, at, err := Render(w.next)
	if len(w.next) == 0 && old == "" {
		text = ""
	}
	w.at = at
	return text, err
}

// take takes a rule that is to be there. byID has those that are there and were not taken yet.
func (w *ruleWriter) take(r Rule, byID map[string]*Rule) error {
	old := byID[r.ID]
	if old != nil && old.isAs(&r) {
		w.next = append(w.next, *old)
		delete(byID, r.ID)
		return nil
	}
	if r.ID != "" && old == nil {
		return missing(CodeNoRule, "rule")
	}
	if err := r.check(w.account.cfg.ALabels); err != nil {
		return err
	}
	if err := w.by.mayEdit(r.Domain); err != nil {
		return err
	}
	if !w.by.Unlimited() {
		if _, options := r.targets(); foreignOption(options) != "" {
			return forbidden("the option " + foreignOption(options) + " takes a token for all domains")
		}
	}
	if r.Source == "" {
		r.Source = "api"
	}
	r.Modified, r.Off, r.Scope = w.account.now(), "", slices.Clone(w.by.Domains)
	if old == nil {
		r.ID, r.Created = NewID(), r.Modified
	} else {
		r.Created = old.Created
		if old.Line() == r.Line() { // nothing of what it may name has changed
			r.Scope = old.Scope
		}
		delete(byID, r.ID)
	}
	w.next = append(w.next, r)
	after := r.clone()
	w.changes = append(w.changes, ruleChange{before: old, after: &after})
	return nil
}

// unique returns an *Error if two rules have one pattern.
func unique(list []Rule) error {
	seen := make(map[string]bool, len(list))
	for i := range list {
		key := list[i].key()
		if seen[key] {
			return &Error{Kind: Refused, Code: CodeClash, Field: "pattern",
				Message: fmt.Sprintf("there is a rule for %q already", list[i].Pattern)}
		}
		seen[key] = true
	}
	return nil
}

// entries returns the entries of the audit. A rule that moves to another domain is removed from the one and added to
// the other, since the owner of each reads its entries.
func (w *ruleWriter) entries() (out []Entry) {
	for _, c := range w.changes {
		moved := c.before != nil && c.after != nil && c.before.Domain != c.after.Domain
		if c.before != nil && (c.after == nil || moved) {
			out = append(out, w.account.entry(w.by, "rule.remove", c.before.ID, c.before.Domain, c.before, nil))
		}
		if c.after != nil && (c.before == nil || moved) {
			out = append(out, w.account.entry(w.by, "rule.add", c.after.ID, c.after.Domain, nil, c.after))
		}
		if c.before != nil && c.after != nil && !moved {
			out = append(out, w.account.entry(w.by, "rule.change", c.after.ID, c.after.Domain, c.before, c.after))
		}
	}
	return out
}

// explained returns an error of Change as an *Error that names the rule.
func (w *ruleWriter) explained(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	lines, isRules := w.account.cfg.Rules.Faults(err)
	if !isRules {
		return busy(err)
	}
	for _, f := range lines {
		if i, ok := w.at[f.Line]; ok && w.by.Covers(w.next[i].Domain) {
			return &Error{Kind: Refused, Code: CodeClash, Message: w.next[i].Pattern + ": " + f.Reason}
		}
	}
	if w.by.Unlimited() {
		return &Error{Kind: Refused, Code: CodeClash, Message: "the rules would not load: " + err.Error()}
	}
	return &Error{Kind: Refused, Code: CodeClash, Message: "rules of others would not load then"}
}
