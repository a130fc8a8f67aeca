package v4

import (
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

func (a *API) handleAddresses() {
	const addresses = "/accounts/{account}/email/routing/addresses"
	a.handle(addresses, map[string]handler{http.MethodGet: a.listAddresses, http.MethodPost: a.addAddress})
	a.handle(addresses+"/{id}", map[string]handler{
		http.MethodGet: a.getAddress, http.MethodPatch: a.setStatus, http.MethodDelete: a.removeAddress,
	})
}

// address returns the destination in the path of a call.
func (a *API) address(c *call) (account.Destination, error) {
	if err := checkAccount(c); err != nil {
		return account.Destination{}, err
	}
	return a.cfg.Account.Destination(c.who, c.PathValue("id"))
}

func (a *API) listAddresses(c *call) (answer, error) {
	if err := checkAccount(c); err != nil {
		return answer{}, err
	}
	list, err := a.cfg.Account.Destinations(c.who)
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

func (a *API) getAddress(c *call) (answer, error) {
	d, err := a.address(c)
	return answer{result: showAddress(&d)}, err
}

// addAddress adds a destination and has its owner asked. One that is there already is asked again unless it is
// verified.
func (a *API) addAddress(c *call) (answer, error) {
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
	d, err := a.cfg.Account.AddDestination(c.Context(), c.who, *body.Email)
	if err != nil {
		return answer{}, err
	}
	out := answer{result: showAddress(&d)}
	if d.Verified != nil {
		return out, nil
	}
	if err := a.cfg.Ask(c.Context(), c.who, d); err != nil {
		wrong := errorOf(err)
		out.messages = append(out.messages, message{Code: wrong.Code, Message: wrong.Message})
	}
	return out, nil
}

// setStatus verifies a destination by the word of one who runs the relay, or takes that back.
func (a *API) setStatus(c *call) (answer, error) {
	d, err := a.address(c)
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
	d, err = a.cfg.Account.ChangeDestination(c.Context(), c.who, d.ID, func(d *account.Destination) error {
		d.Verified, d.How = nil, ""
		if body.Status == "verified" {
			now := time.Now()
			d.Verified, d.How = &now, "admin"
		}
		return nil
	})
	return answer{result: showAddress(&d)}, err
}

// removeAddress removes a destination, which disables the rules that name it, and answers with it as it was.
func (a *API) removeAddress(c *call) (answer, error) {
	d, err := a.address(c)
	if err != nil {
		return answer{}, err
	}
	_, _, err = a.cfg.Account.RemoveDestination(c.Context(), c.who, d.ID)
	return answer{result: showAddress(&d)}, err
}
