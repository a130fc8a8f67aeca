package v4

import "net/http"

// A shownAccount is an account as clients see it.
type shownAccount struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// theAccount is the one account that there is. What is in it for the one who asks depends on the token.
var theAccount = shownAccount{ID: idOf("account", "all"), Name: "Millrace"}

// checkAccount returns an error unless the account in the path of a call is that of the one who asks.
func checkAccount(c *call) error {
	if c.PathValue("account") != theAccount.ID {
		return errNoAccount()
	}
	return nil
}

// A membership says of which account the one who asks is a member.
type membership struct {
	ID      string       `json:"id"`
	Status  string       `json:"status"`
	Account shownAccount `json:"account"`
	Roles   []string     `json:"roles"`
}

func (a *API) handleAround() {
	a.handle("/accounts", map[string]handler{http.MethodGet: func(c *call) (answer, error) {
		return paged(c, []shownAccount{theAccount})
	}})
	a.handle("/accounts/{account}", map[string]handler{http.MethodGet: func(c *call) (answer, error) {
		return answer{result: theAccount}, checkAccount(c)
	}})
	a.handle("/memberships", map[string]handler{http.MethodGet: func(c *call) (answer, error) {
		return paged(c, []membership{{
			ID: idOf("membership", c.who.ID), Status: "accepted", Account: theAccount,
			Roles: []string{c.who.Role.String()},
		}})
	}})
	a.handle("/user", map[string]handler{http.MethodGet: func(c *call) (answer, error) {
		return answer{result: map[string]string{"id": idOf("user", c.who.ID), "username": c.who.Name}}, nil
	}})
	a.handle("/user/tokens/verify", map[string]handler{http.MethodGet: verifyToken})
	a.handle("/accounts/{account}/tokens/verify", map[string]handler{http.MethodGet: func(c *call) (answer, error) {
		if err := checkAccount(c); err != nil {
			return answer{}, err
		}
		return verifyToken(c)
	}})
	a.handle("/accounts/{account}/email/routing/zones", map[string]handler{http.MethodGet: a.listRoutingZones})
}

// verifyToken says that the token is valid, which is known when a call is made.
func verifyToken(c *call) (answer, error) {
	return answer{result: map[string]string{"id": idOf("token", c.who.ID), "status": "active"}}, nil
}
