package pages

import (
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/millrace/millrace/cluster/account"
)

// A minter answers the pages by which tokens are made and withdrawn.
type minter struct {
	account *account.Account
	show    func(w http.ResponseWriter, r *http.Request, name string, status int, pg page)
}

// mayMint reports whether a visitor makes tokens.
func mayMint(v account.Principal) bool { return v.MayAll(account.Admin) == nil }

// minted is visited for those who make tokens.
func (p *Pages) minted(answer view) http.HandlerFunc {
	return p.visited(func(w http.ResponseWriter, r *http.Request, v account.Principal) {
		if !mayMint(v) {
			p.fail(w, r, v, http.StatusForbidden, "error.admin")
			return
		}
		answer(w, r, v)
	})
}

// A tokenForm is a token as the form has it.
type tokenForm struct {
	Name    string
	Role    string
	Domains string // with blanks or commas between them
	Expires string // the last day, YYYY-MM-DD; "": it has no end
}

// A tokensBody is the body of the page of the tokens.
type tokensBody struct {
	Tokens []tokenRow
	Roles  []string
	Form   tokenForm
	Unkept string // why nothing can be kept; "": it can
	Today  string
	Made   string // the name of the token that was made by this request
	Secret string // its text, which no other page has
}

// A tokenRow is a token as the page has it.
type tokenRow struct {
	account.Token
	Over bool // its end has come
	Own  bool // the visitor logged in with it
}

// day is the form of a day.
const day = "2006-01-02"

func (m *minter) tokens(w http.ResponseWriter, r *http.Request, v account.Principal) {
	m.showTokens(w, r, v, http.StatusOK, page{Done: doneOf(r)}, tokensBody{Form: tokenForm{Role: "owner"}})
}

// showTokens shows the tokens, the newest first, with the form as it was typed.
func (m *minter) showTokens(w http.ResponseWriter, r *http.Request, v account.Principal, status int, pg page,
	body tokensBody) {
	now := time.Now()
	body.Roles, body.Today = account.Roles(), now.UTC().Format(day)
	if err := m.account.Keeps(); err != nil {
		body.Unkept = err.Error()
	}
	all, err := m.account.Tokens(v)
	if err != nil {
		status, pg.Error, pg.Detail = statusOf(err), "error.question", err.Error()
	}
	for _, t := range slices.Backward(all) {
		over := t.Expires != nil && !now.Before(*t.Expires)
		body.Tokens = append(body.Tokens, tokenRow{Token: t, Over: over, Own: t.ID == v.ID})
	}
	pg.Title, pg.Body = "nav.tokens", body
	m.show(w, r, "tokens", status, pg)
}

// add makes a token. The answer is the one page that has its text.
func (m *minter) add(w http.ResponseWriter, r *http.Request, v account.Principal) {
	get := func(key string) string { return strings.TrimSpace(r.PostFormValue(key)) }
	form := tokenForm{Name: get("name"), Role: get("role"), Domains: get("domains"), Expires: get("expires")}
	t, err := form.token()
	var secret string
	if err == nil {
		t, secret, err = m.account.AddToken(r.Context(), v, t)
	}
	if err != nil {
		m.showTokens(w, r, v, statusOf(err), page{Error: "error.refused", Detail: err.Error()}, tokensBody{Form: form})
		return
	}
	body := tokensBody{Form: tokenForm{Role: "owner"}, Made: t.Name, Secret: secret}
	m.showTokens(w, r, v, http.StatusCreated, page{}, body)
}

// token returns the token of a form.
func (f *tokenForm) token() (t account.Token, err error) {
	t.Name = f.Name
	if err := t.Role.UnmarshalText([]byte(f.Role)); err != nil {
		return t, err
	}
	t.Domains = strings.FieldsFunc(f.Domains, func(c rune) bool { return c == ',' || unicode.IsSpace(c) })
	if f.Expires == "" {
		return t, nil
	}
	last, err := time.Parse(day, f.Expires)
	if err != nil {
		return t, &account.Error{
			Kind: account.Refused, Code: account.CodeRefused, Field: "expires",
			Message: "expires: is no day, such as 2027-01-31",
		}
	}
	end := last.AddDate(0, 0, 1)
	t.Expires = &end
	return t, nil
}

// revoke withdraws a token, which ends its sessions.
func (m *minter) revoke(w http.ResponseWriter, r *http.Request, v account.Principal) {
	if _, err := m.account.RevokeToken(r.Context(), v, r.PathValue("id")); err != nil {
		m.showTokens(w, r, v, statusOf(err), page{Error: "error.unchanged", Detail: err.Error()},
			tokensBody{Form: tokenForm{Role: "owner"}})
		return
	}
	done(w, r, "/tokens", "done.revoked")
}
