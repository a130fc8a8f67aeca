// Command golang is what cloudflare-go does with a relay: golang URL TOKEN DOMAIN. It is a module of its own, so that
// the relay's has no part in what the library brings.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/cloudflare/cloudflare-go"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A check collects what is not as it is to be.
type check struct{ wrong []error }

func (c *check) that(what string, ok bool, err error, got any) {
	if err != nil || !ok {
		c.wrong = append(c.wrong, fmt.Errorf("%s: %w: %+v", what, err, got))
	}
}

func run(ctx context.Context, base, token, domain string) error {
	api, err := cloudflare.NewWithAPIToken(token, cloudflare.BaseURL(base))
	if err != nil {
		return err
	}
	id, err := api.ZoneIDByName(domain)
	if err != nil {
		return err
	}
	zone := cloudflare.ZoneIdentifier(id)
	details, err := api.ZoneDetails(ctx, id)
	if err != nil {
		return err
	}
	account := cloudflare.AccountIdentifier(details.Account.ID)
	var c check

	verified, err := api.VerifyAPIToken(ctx)
	c.that("the token", verified.Status == "active", err, verified)
	settings, err := api.DisableEmailRouting(ctx, zone)
	c.that("disabled", !settings.Enabled && settings.Name == domain, err, settings)
	settings, err = api.EnableEmailRouting(ctx, zone)
	c.that("enabled", settings.Enabled, err, settings)
	settings, err = api.GetEmailRoutingSettings(ctx, zone)
	c.that("settings", settings.Enabled && settings.Created != nil && settings.SkipWizard != nil, err, settings)
	records, err := api.GetEmailRoutingDNSSettings(ctx, zone)
	c.that("records", len(records) > 0 && records[0].Type == "MX", err, records)

	address, err := api.CreateEmailRoutingDestinationAddress(ctx, account,
		cloudflare.CreateEmailRoutingAddressParameters{Email: "go@mailbox.example"})
	c.that("an address", address.Email == "go@mailbox.example" && address.Verified == nil, err, address)
	same, err := api.GetEmailRoutingDestinationAddress(ctx, account, address.Tag)
	c.that("the address", same.Tag == address.Tag, err, same)
	addresses, _, err := api.ListEmailRoutingDestinationAddresses(ctx, account,
		cloudflare.ListEmailRoutingAddressParameters{})
	c.that("addresses", len(addresses) == 1, err, addresses)

	written := cloudflare.CreateEmailRoutingRuleParameters{
		Name: "go", Enabled: cloudflare.BoolPtr(true), Priority: 4,
		Matchers: []cloudflare.EmailRoutingRuleMatcher{{Type: "literal", Field: "to", Value: "go@" + domain}},
		Actions:  []cloudflare.EmailRoutingRuleAction{{Type: "forward", Value: []string{address.Email}}},
	}
	rule, err := api.CreateEmailRoutingRule(ctx, zone, written)
	c.that("a rule", rule.Name == "go" && *rule.Enabled && rule.Priority == 4 &&
		reflect.DeepEqual(rule.Matchers, written.Matchers) && reflect.DeepEqual(rule.Actions, written.Actions), err,
		rule)
	changed, err := api.UpdateEmailRoutingRule(ctx, zone, cloudflare.UpdateEmailRoutingRuleParameters{
		RuleID: rule.Tag, Matchers: written.Matchers, Actions: []cloudflare.EmailRoutingRuleAction{{Type: "drop"}},
	})
	c.that("the rule changed", changed.Tag == rule.Tag && changed.Name == "" && changed.Actions[0].Value == nil, err,
		changed)

	// It goes by total_pages: all rules have to be there, in pages of 50.
	rules, info, err := api.ListEmailRoutingRules(ctx, zone, cloudflare.ListEmailRoutingRulesParameters{})
	seen := make(map[string]bool)
	for _, r := range rules {
		seen[r.Tag] = true
	}
	c.that("rules", len(seen) > 1000 && len(seen) == info.Total && seen[rule.Tag], err, info)

	all, err := api.GetEmailRoutingCatchAllRule(ctx, zone)
	c.that("the catch-all", all.Tag != "" && seen[all.Tag], err, all)
	all, err = api.UpdateEmailRoutingCatchAllRule(ctx, zone, cloudflare.EmailRoutingCatchAllRule{
		Enabled: cloudflare.BoolPtr(false), Matchers: []cloudflare.EmailRoutingRuleMatcher{{Type: "all"}},
		Actions: []cloudflare.EmailRoutingRuleAction{{Type: "drop"}},
	})
	c.that("the catch-all written", !*all.Enabled, err, all)

	gone, err := api.DeleteEmailRoutingRule(ctx, zone, rule.Tag)
	c.that("the rule removed", gone.Tag == rule.Tag, err, gone)
	_, err = api.GetEmailRoutingRule(ctx, zone, rule.Tag)
	var missing *cloudflare.NotFoundError
	c.that("the rule that is gone", errors.As(err, &missing), nil, err)
	_, err = api.DeleteEmailRoutingDestinationAddress(ctx, account, address.Tag)
	c.that("the address removed", true, err, nil)
	return errors.Join(c.wrong...)
}
