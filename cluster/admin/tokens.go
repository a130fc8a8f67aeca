package admin

import (
	"net/http"
	"slices"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// tokens answers below /api/v1/tokens: the tokens that were made here, of which a secret is shown once.
type tokens struct {
	account *account.Account
}

func (t *tokens) list(r *http.Request) (int, any, error) {
	all, err := t.account.Tokens(account.Of(r.Context()))
	if err != nil {
		return 0, nil, err
	}
	answer, err := paged(r, all)
	return http.StatusOK, answer, err
}

// add answers with the secret, which is not to be had again.
func (t *tokens) add(r *http.Request) (int, any, error) {
	var b struct {
		Name    string       `json:"name"`
		Role    account.Role `json:"role"`
		Domains []string     `json:"domains"`
		Expires *time.Time   `json:"expires"`
	}
	if err := readBody(r, &b); err != nil {
		return 0, nil, err
	}
	made, secret, err := t.account.AddToken(r.Context(), account.Of(r.Context()), account.Token{
		Name: b.Name, Role: b.Role, Domains: slices.Clone(b.Domains), Expires: b.Expires,
	})
	return http.StatusCreated, map[string]any{"token": made, "secret": secret}, err
}

func (t *tokens) revoke(r *http.Request) (int, any, error) {
	old, err := t.account.RevokeToken(r.Context(), account.Of(r.Context()), r.PathValue("id"))
	return http.StatusOK, old, err
}
