package account

import (
	"context"
	"slices"
	"sync/atomic"
)

// readRules is the rules of a text.
type readRules struct {
	text string
	list []Rule
	err  error
}

// A ruleReader reads the file of rules in force, and parses a text once.
type ruleReader struct {
	source func() string // nil for none
	last   atomic.Pointer[readRules]
}

// read returns the rules of the file in force, which are shared and not to be changed.
func (r *ruleReader) read() ([]Rule, error) {
	if r.source == nil {
		return nil, nil
	}
	latest := r.latest()
	return latest.list, latest.err
}

// latest returns the same of the file in force, which stays the same value while the text does; nil without a file.
func (r *ruleReader) latest() *readRules {
	if r.source == nil {
		return nil
	}
	text := r.source()
	last := r.last.Load()
	if last == nil || last.text != text {
		list, err := ParseRules(text)
		last = &readRules{text, list, err}
		r.last.Store(last)
	}
	return last
}

// Rules returns the rules that a principal may see, in their order.
func (a *Account) Rules(p Principal) ([]Rule, error) {
	if err := p.May(ReadOnly); err != nil {
		return nil, err
	}
	all, err := a.rules.read()
	if err != nil {
		return nil, err
	}
	var out []Rule
	for _, r := range all {
		if p.Covers(r.Domain) {
			out = append(out, r.clone())
		}
	}
	return out, nil
}

// Rule returns the rule of an id.
func (a *Account) Rule(p Principal, id string) (Rule, error) {
	all, err := a.Rules(p)
	if err != nil {
		return Rule{}, err
	}
	if i := slices.IndexFunc(all, func(r Rule) bool { return r.ID == id }); i >= 0 {
		return all[i], nil
	}
	return Rule{}, missing(CodeNoRule, "rule")
}

// AddRule adds a rule. Its ID, Domain and times are set here.
func (a *Account) AddRule(ctx context.Context, p Principal, r Rule) (Rule, error) {
	r.ID = ""
	before := map[string]bool{}
	all, err := a.ChangeRules(ctx, p, func(list []Rule) ([]Rule, error) {
		clear(before)
		for i := range list {
			before[list[i].ID] = true
		}
		return append(list, r), nil
	})
	for i := range all {
		if !before[all[i].ID] {
			return all[i], nil
		}
	}
	return Rule{}, err
}

// SetRule changes the rule of an id into what r says. Its ID and Created stay.
func (a *Account) SetRule(ctx context.Context, p Principal, id string, r Rule) (Rule, error) {
	all, err := a.ChangeRules(ctx, p, func(list []Rule) ([]Rule, error) {
		i := slices.IndexFunc(list, func(r Rule) bool { return r.ID == id })
		if i < 0 {
			return nil, missing(CodeNoRule, "rule")
		}
		r.ID = id
		list[i] = r
		return list, nil
	})
	if err != nil {
		return Rule{}, err
	}
	return all[slices.IndexFunc(all, func(r Rule) bool { return r.ID == id })], nil
}

// RemoveRule removes the rule of an id, and returns it as it was.
func (a *Account) RemoveRule(ctx context.Context, p Principal, id string) (old Rule, err error) {
	_, err = a.ChangeRules(ctx, p, func(list []Rule) ([]Rule, error) {
		i := slices.IndexFunc(list, func(r Rule) bool { return r.ID == id })
		if i < 0 {
			return nil, missing(CodeNoRule, "rule")
		}
		old = list[i].clone()
		return slices.Delete(list, i, i+1), nil
	})
	return old, err
}

// ChangeRules changes all rules of a principal at once: edit gets those that the principal sees and returns what is to
// be there. A rule without an ID is new, and one that is missing is removed. It returns what is there then. edit may be
// called again with newer rules. If nothing differs nothing is written.
func (a *Account) ChangeRules(ctx context.Context, p Principal, edit func([]Rule) ([]Rule, error)) ([]Rule, error) {
	if err := p.May(Owner); err != nil {
		return nil, err
	}
	end, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	w := ruleWriter{account: a, by: p, edit: edit}
	if err := w.write(ctx); err != nil {
		return nil, err
	}
	if entries := w.entries(); len(entries) > 0 {
		if err := a.lists.change(ctx, func(*kept) ([]Entry, error) { return entries, nil }); err != nil {
			a.cfg.Log.Error("rules were changed, and the audit could not be written", "cause", err)
		}
	}
	var out []Rule
	for _, r := range w.next {
		if p.Covers(r.Domain) {
			out = append(out, r.clone())
		}
	}
	return out, nil
}

// refresh writes the file of rules anew if destinations have changed since: what was pending may be verified now. The
// caller has the turn.
func (a *Account) refresh(ctx context.Context, by Principal) error {
	w := ruleWriter{account: a, by: by, edit: func(list []Rule) ([]Rule, error) { return list, nil }}
	return w.write(ctx)
}

// disabling returns the edit that disables the rules which name a destination.
func disabling(d *Destination) func([]Rule) ([]Rule, error) {
	return func(list []Rule) ([]Rule, error) {
		for i := range list {
			named := slices.ContainsFunc(list[i].words(), func(s string) bool {
				return sameTarget(s) == sameTarget(d.Address)
			})
			if named && d.isFor(list[i].Domain) {
				list[i].Enabled = false
			}
		}
		return list, nil
	}
}
