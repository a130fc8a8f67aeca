package v4

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/millrace/millrace/cluster/account"
)

func (a *API) handleRules() {
	const rules = "/zones/{zone}/email/routing/rules"
	a.handle(rules, map[string]handler{http.MethodGet: a.listRules, http.MethodPost: a.addRule})
	a.handle(rules+"/{id}", map[string]handler{
		http.MethodGet: a.getRule, http.MethodPut: a.replaceRule, http.MethodDelete: a.removeRule,
	})
	a.handle(rules+"/catch_all", map[string]handler{http.MethodGet: a.getCatchAll, http.MethodPut: a.writeCatchAll})
	const ofAccount = "/accounts/{account}/email/routing/rules"
	a.handle(ofAccount, map[string]handler{http.MethodGet: a.listAllRules})
	a.handle(ofAccount+"/plan", map[string]handler{http.MethodPost: a.plan})
}

// rulesOf returns the rules of a zone that this API has words for, in the order in which they were made, and its
// catch-all last.
func (c *call) rulesOf(zone string) []shownRule {
	var list []account.Rule
	for _, r := range c.rules {
		if r.Domain == zone && !isCatchAll(&r) {
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b account.Rule) int { return a.Created.Compare(b.Created) })
	var out []shownRule
	for i := range list {
		if s, ok := show(&list[i]); ok {
			out = append(out, s)
		}
	}
	if s, ok := c.catchAll(zone); ok {
		out = append(out, s)
	}
	return out
}

// catchAllOf returns the record of the catch-all of a zone. Without one it is that of a catch-all that is off.
func (c *call) catchAllOf(zone string) (r account.Rule, kept bool) {
	for _, r := range c.rules {
		if r.Domain == zone && isCatchAll(&r) {
			return r, true
		}
	}
	return account.Rule{
		Domain: zone, Pattern: "@" + zone, Target: drop, Source: fromAPI, Priority: catchAllPriority,
	}, false
}

// catchAll returns the catch-all of a zone as clients see it. It reports false if this API has no words for it.
func (c *call) catchAll(zone string) (shownRule, bool) {
	r, _ := c.catchAllOf(zone)
	return asCatchAll(&r)
}

// asCatchAll returns a catch-all as clients see it, under an id that its zone has for ever.
func asCatchAll(r *account.Rule) (shownRule, bool) {
	s, ok := show(r)
	s.ID, s.Priority = catchAllID(r.Domain), catchAllPriority
	s.Tag = s.ID
	return s, ok
}

// rule returns the record of the rule in the path of a call, if this API has words for it. It is no catch-all.
func (c *call) rule(zone string) (account.Rule, shownRule, error) {
	for _, r := range c.rules {
		if r.ID == c.PathValue("id") && r.Domain == zone && !isCatchAll(&r) {
			if s, ok := show(&r); ok {
				return r, s, nil
			}
		}
	}
	return account.Rule{}, shownRule{}, errNoRule()
}

// listRules answers with the rules of a zone.
func (a *API) listRules(c *call) (answer, error) {
	zone, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	return c.chosen(c.rulesOf(zone))
}

// listAllRules answers with the rules of all zones, each with its zone.
func (a *API) listAllRules(c *call) (answer, error) {
	if err := checkAccount(c); err != nil {
		return answer{}, err
	}
	var list []shownRule
	for _, zone := range a.zones(c) {
		for _, r := range c.rulesOf(zone) {
			r.Zone = &zoneRef{zone, zoneID(zone)}
			list = append(list, r)
		}
	}
	return c.chosen(list)
}

// chosen answers with the page of a list of rules that a call asks for.
func (c *call) chosen(list []shownRule) (answer, error) {
	if text := c.query.Get("enabled"); text != "" {
		want, err := strconv.ParseBool(text)
		if err != nil {
			return answer{}, invalid("", "enabled is true or false")
		}
		list = slices.DeleteFunc(list, func(r shownRule) bool { return r.Enabled != want })
	}
	if c.query.Get("direction") == "desc" {
		slices.Reverse(list)
	}
	return paged(c, list)
}

func (a *API) getRule(c *call) (answer, error) {
	zone, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	if c.PathValue("id") == catchAllID(zone) {
		return a.getCatchAll(c)
	}
	_, s, err := c.rule(zone)
	return answer{result: s}, err
}

// written reads the rule that a client wrote for a zone.
func (a *API) written(c *call, zone string, catchAll bool, old *account.Rule) (account.Rule, error) {
	if err := c.who.May(account.Owner); err != nil {
		return account.Rule{}, err
	}
	var w writtenRule
	if err := c.body(&w); err != nil {
		return account.Rule{}, err
	}
	r, err := w.check(zone, catchAll, old)
	if name := r.Hook(); err == nil && name != "" && !a.cfg.Hook(c.who, name, zone) {
		return r, invalid("/actions/0/value/0", "there is no hook "+name+" for rules of "+zone+": a worker is one of "+
			"hooks.named of the configuration")
	}
	return r, err
}

func (a *API) addRule(c *call) (answer, error) {
	zone, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	r, err := a.written(c, zone, false, nil)
	if err != nil {
		return answer{}, err
	}
	return shownAs(a.cfg.Account.AddRule(c.Context(), c.who, r))
}

// shownAs answers with a rule that was written.
func shownAs(r account.Rule, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	s, _ := show(&r) // it was written in the words of this API
	return answer{result: s, messages: remarks(&r)}, nil
}

// remarks returns why a rule that is enabled takes no mail.
func remarks(r *account.Rule) (lines []message) {
	if !r.Enabled {
		return nil
	}
	for _, target := range r.Pending {
		lines = append(lines, message{
			Code: account.CodeRefused, Message: "the rule takes no mail before this destination is verified: " + target,
		})
	}
	if r.Off != "" {
		lines = append(lines, message{Code: account.CodeClash, Message: "the rule takes no mail: " + r.Off})
	}
	return lines
}

func (a *API) replaceRule(c *call) (answer, error) {
	zone, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	if c.PathValue("id") == catchAllID(zone) {
		return a.writeCatchAll(c)
	}
	old, _, err := c.rule(zone)
	if err != nil {
		return answer{}, err
	}
	r, err := a.written(c, zone, false, &old)
	if err != nil {
		return answer{}, err
	}
	return shownAs(a.cfg.Account.SetRule(c.Context(), c.who, r.ID, r))
}

// removeRule removes a rule and answers with it as it was.
func (a *API) removeRule(c *call) (answer, error) {
	zone, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	if c.PathValue("id") == catchAllID(zone) {
		return answer{}, invalid("", "a zone has its catch-all for ever; it can be disabled")
	}
	r, s, err := c.rule(zone)
	if err != nil {
		return answer{}, err
	}
	_, err = a.cfg.Account.RemoveRule(c.Context(), c.who, r.ID)
	return answer{result: s}, err
}

func (a *API) getCatchAll(c *call) (answer, error) {
	zone, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	s, ok := c.catchAll(zone)
	if !ok {
		return answer{}, errNoRule()
	}
	return answer{result: s}, nil
}

// writeCatchAll writes the catch-all of a zone.
func (a *API) writeCatchAll(c *call) (answer, error) {
	zone, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	old, kept := c.catchAllOf(zone)
	r, err := a.written(c, zone, true, &old)
	if err != nil {
		return answer{}, err
	}
	r.Priority = catchAllPriority
	if kept {
		r, err = a.cfg.Account.SetRule(c.Context(), c.who, r.ID, r)
	} else {
		r, err = a.cfg.Account.AddRule(c.Context(), c.who, r)
	}
	if err != nil {
		return answer{}, err
	}
	s, _ := asCatchAll(&r)
	return answer{result: s, messages: remarks(&r)}, nil
}
