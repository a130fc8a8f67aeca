package v4

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// A shownAddress is a destination as clients see it.
type shownAddress struct {
	ID       string  `json:"id"`
	Tag      string  `json:"tag"`
	Email    string  `json:"email"`
	Created  string  `json:"created"`
	Modified string  `json:"modified"`
	Verified *string `json:"verified"` // null while it is not
	// Failed is the reply by which the letter with the link was refused or put off. Other clients pass it over.
	Failed string `json:"verification_failed,omitempty"`
}

// showAddress returns a destination as clients see it.
func showAddress(d *account.Destination) shownAddress {
	out := shownAddress{
		ID: d.ID, Tag: d.ID, Email: d.Address, Created: stamp(d.Created), Modified: stamp(d.Modified),
		Failed: d.Failed,
	}
	if d.Verified != nil {
		at := stamp(*d.Verified)
		out.Verified = &at
	}
	return out
}

// addresses answers for the destinations of the account: who owns one is asked before mail goes there.
type addresses struct {
	account *account.Account
	ask     func(ctx context.Context, p account.Principal, d account.Destination) error // Config.Ask
}

func (a *API) handleAddresses() {
	const all = "/accounts/{account}/email/routing/addresses"
	to := &addresses{account: a.cfg.Account, ask: a.cfg.Ask}
	a.handle(all, map[string]handler{http.MethodGet: to.list, http.MethodPost: to.add})
	a.handle(all+"/{id}", map[string]handler{
		http.MethodGet: to.get, http.MethodPatch: to.setStatus, http.MethodDelete: to.remove,
	})
}

// of returns the destination in the path of a call.
func (a *addresses) of(c *call) (account.Destination, error) {
	if err := checkAccount(c); err != nil {
		return account.Destination{}, err
	}
	return a.account.Destination(c.who, c.PathValue("id"))
}

func (a *addresses) list(c *call) (answer, error) {
	if err := checkAccount(c); err != nil {
		return answer{}, err
	}
	list, err := a.account.Destinations(c.who)
	if err != nil {
		return answer{}, err
	}
	slices.SortStableFunc(list, func(a, b account.Destination) int { return a.Created.Compare(b.Created) })
	if text := c.query.Get("verified"); text != "" {
		want, err := strconv.ParseBool(text)
		if err != nil {
			return answer{}, invalid("", "verified is true or false")
		}
		list = slices.DeleteFunc(list, func(d account.Destination) bool { return (d.Verified != nil) != want })
	}
	if c.query.Get("direction") == "desc" {
		slices.Reverse(list)
	}
	out := make([]shownAddress, 0, len(list))
	for i := range list {
		out = append(out, showAddress(&list[i]))
	}
	return paged(c, out)
}

func (a *addresses) get(c *call) (answer, error) {
	d, err := a.of(c)
	return answer{result: showAddress(&d)}, err
}

// add adds a destination and has its owner asked. One that is there already is asked again unless it is verified.
func (a *addresses) add(c *call) (answer, error) {
	if err := checkAccount(c); err != nil {
		return answer{}, err
	}
	if err := c.who.May(account.Owner); err != nil {
		return answer{}, err
	}
	var body struct {
		Email *string `json:"email"`
	}
	if err := c.body(&body); err != nil {
		return answer{}, err
	}
	if body.Email == nil {
		return answer{}, invalid("/email", "an address is required")
	}
	d, err := a.account.AddDestination(c.Context(), c.who, *body.Email)
	if err != nil {
		return answer{}, err
	}
	out := answer{result: showAddress(&d)}
	if d.Verified != nil {
		return out, nil
	}
	if err := a.ask(c.Context(), c.who, d); err != nil {
		wrong := errorOf(err)
		out.messages = append(out.messages, message{Code: wrong.Code, Message: wrong.Message})
	}
	return out, nil
}

// setStatus verifies a destination by the word of one who runs the relay, or takes that back.
func (a *addresses) setStatus(c *call) (answer, error) {
	d, err := a.of(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Status string `json:"status"`
	}
	if err := c.body(&body); err != nil {
		return answer{}, err
	}
	if body.Status != "verified" && body.Status != "unverified" {
		return answer{}, invalid("/status", "status is verified or unverified")
	}
	if err := c.who.MayAll(account.Operator); err != nil {
		return answer{}, err
	}
	d, err = a.account.ChangeDestination(c.Context(), c.who, d.ID, func(d *account.Destination) error {
		d.Verified, d.How = nil, ""
		if body.Status == "verified" {
			now := time.Now()
			d.Verified, d.How = &now, "admin"
		}
		return nil
	})
	return answer{result: showAddress(&d)}, err
}

// remove removes a destination, which disables the rules that name it, and answers with it as it was.
func (a *addresses) remove(c *call) (answer, error) {
	d, err := a.of(c)
	if err != nil {
		return answer{}, err
	}
	_, _, err = a.account.RemoveDestination(c.Context(), c.who, d.ID)
	return answer{result: showAddress(&d)}, err
}
