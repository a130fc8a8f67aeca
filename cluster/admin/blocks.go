package admin

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// blocks answers below /api/v1/blocks: the senders whose mail is refused. Each is a rule, which is among the routes as
// well.
type blocks struct {
	account *account.Account
}

// A Block is a sender whose mail is refused, as the API shows it.
type Block struct {
	ID       string    `json:"id"`
	Sender   string    `json:"sender"`        // an address, @domain, @*.domain
	For      string    `json:"for,omitempty"` // an address or @domain of ours; "": all domains
	Domain   string    `json:"domain"`        // of For; "*": all domains
	Enabled  bool      `json:"enabled"`
	InForce  bool      `json:"in_force"`
	Source   string    `json:"source"`
	Created  time.Time `json:"created"`
	Modified time.Time `json:"modified"`
	Why      string    `json:"why,omitempty"` // the rules files do not allow it
}

const (
	blockWord = "block "
	blockFor  = " for="
)

// isBlock reports whether a rule refuses a sender.
func isBlock(r *account.Rule) bool { return strings.HasPrefix(r.Pattern, blockWord) }

// blockOf returns a rule that refuses a sender as the API shows it.
func blockOf(r account.Rule) Block {
	sender, recipients, _ := strings.Cut(strings.TrimPrefix(r.Pattern, blockWord), blockFor)
	return Block{
		r.ID, strings.TrimSpace(sender), recipients, r.Domain, r.Enabled, r.InForce(), r.Source, r.Created, r.Modified,
		r.Off,
	}
}

func (b *blocks) list(r *http.Request) (int, any, error) {
	all, err := b.account.Rules(account.Of(r.Context()))
	if err != nil {
		return 0, nil, err
	}
	domain := strings.ToLower(r.URL.Query().Get("domain"))
	var shown []Block
	for i := range all {
		if isBlock(&all[i]) && (domain == "" || all[i].Domain == domain) {
			shown = append(shown, blockOf(all[i]))
		}
	}
	answer, err := paged(r, shown)
	return http.StatusOK, answer, err
}

// add has the mail of a sender refused. A domain alone in "for" is all of its addresses.
func (b *blocks) add(r *http.Request) (int, any, error) {
	var body struct {
		Sender string  `json:"sender"`
		For    string  `json:"for"`
		Name   *string `json:"name"`
		Source string  `json:"source"`
	}
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	pattern := blockWord + body.Sender
	switch {
	case body.Sender == "":
		return 0, nil, wrongBody("sender", "is required: an address, or @ and a domain")
	case strings.Contains(pattern, blockFor):
		return 0, nil, wrongBody("sender", "is not one sender")
	case body.For != "" && !strings.Contains(body.For, "@"):
		pattern += blockFor + "@" + body.For
	case body.For != "":
		pattern += blockFor + body.For
	}
	rule, err := b.account.AddRule(r.Context(), account.Of(r.Context()), account.Rule{
		Pattern: pattern, Enabled: true, Name: body.Name, Source: body.Source,
	})
	return http.StatusCreated, blockOf(rule), err
}

// remove has the mail of a sender taken again. A rule that refuses none is not found here.
func (b *blocks) remove(r *http.Request) (int, any, error) {
	var old account.Rule
	drop := func(all []account.Rule) ([]account.Rule, error) {
		i := slices.IndexFunc(all, func(x account.Rule) bool { return x.ID == r.PathValue("id") && isBlock(&x) })
		if i < 0 {
			return nil, &account.Error{
				Kind: account.Missing, Code: account.CodeNoRule, Message: "there is no such block",
			}
		}
		old = all[i]
		return slices.Delete(all, i, i+1), nil
	}
	_, err := b.account.ChangeRules(r.Context(), account.Of(r.Context()), drop)
	return http.StatusOK, blockOf(old), err
}
