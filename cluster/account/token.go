package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// A Token is who may do what, without the secret that shows it.
type Token struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Role    Role       `json:"role"`
	Domains []string   `json:"domains,omitempty"` // none: all
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"` // nil: never
}

// A keptToken is a token as it is kept: the secret is there as its SHA-256 alone.
type keptToken struct {
	Token
	Hash string `json:"hash"`
}

// tokenPrefix begins each secret, so that programs which search for leaked secrets know one.
const tokenPrefix = "millrace_"

// idDigits are the digits of an id.
const idDigits = 32

// NewID returns an id, 32 random hexadecimal digits.
func NewID() string {
	var b [idDigits / 2]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// newSecret returns the secret of a token: 256 random bits in letters that a header, a URL and an SMTP login can have.
func newSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// hashOf returns what is kept of a secret.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// principal returns who has the token.
func (t *Token) principal() Principal {
	return Principal{ID: t.ID, Name: t.Name, Role: t.Role, Domains: t.Domains}
}

// isOver reports whether a token has expired.
func (t *Token) isOver(now time.Time) bool { return t.Expires != nil && !now.Before(*t.Expires) }

// Tokens returns all tokens, in the order in which they were made.
func (a *Account) Tokens(p Principal) ([]Token, error) {
	if err := p.MayAll(Admin); err != nil {
		return nil, err
	}
	var out []Token
	for _, t := range a.lists.current.Load().tokens {
		out = append(out, t.Token)
	}
	return out, nil
}

// AddToken makes a token with the name, role, domains and end of t. The secret is what is sent as the bearer token; it
// is not to be had again.
func (a *Account) AddToken(ctx context.Context, p Principal, t Token) (made Token, secret string, err error) {
	if err := p.MayAll(Admin); err != nil {
		return Token{}, "", err
	}
	if made, err = checkToken(t, a.now(), a.cfg.ALabels); err != nil {
		return Token{}, "", err
	}
	secret = newSecret()
	err = a.change(ctx, func(k *kept) ([]Entry, error) {
		made.ID, made.Created = NewID(), a.now()
		k.tokens = append(k.tokens, keptToken{made, hashOf(secret)})
		return []Entry{a.entry(p, "token.add", made.ID, "", nil, made)}, nil
	})
	if err != nil {
		return Token{}, "", err
	}
	return made, secret, nil
}

// checkToken returns a token with its domains as they are compared, or what is wrong with it as an *Error.
func checkToken(t Token, now time.Time, aLabels func(string) (string, bool)) (Token, error) {
	switch {
	case t.Name == "" || len(t.Name) > maxField || strings.ContainsFunc(t.Name, isControl):
		return Token{}, refused("name", "is required, in one line")
	case t.Role < ReadOnly || t.Role > Admin:
		return Token{}, refused("role", "is none of "+strings.Join(Roles(), ", "))
	case t.Role == Admin && len(t.Domains) > 0:
		return Token{}, refused("domains", "an admin is for all domains")
	case t.Role == Owner && len(t.Domains) == 0:
		return Token{}, refused("domains", "an owner needs some")
	case t.Expires != nil && t.isOver(now):
		return Token{}, refused("expires", "is over already")
	}
	domains := make([]string, 0, len(t.Domains))
	for _, d := range t.Domains {
		labels, ok := aLabels(d)
		if !ok || strings.ContainsAny(labels, "*[") {
			return Token{}, refused("domains", "has what is no domain")
		}
		domains = append(domains, ascii.Fold(labels))
	}
	slices.Sort(domains)
	t.Domains = slices.Compact(domains)
	if len(t.Domains) == 0 {
		t.Domains = nil
	}
	return t, nil
}

// RevokeToken removes the token of an id and returns it as it was. It opens nothing from then on.
func (a *Account) RevokeToken(ctx context.Context, p Principal, id string) (old Token, err error) {
	if err := p.MayAll(Admin); err != nil {
		return Token{}, err
	}
	err = a.change(ctx, func(k *kept) ([]Entry, error) {
		i := slices.IndexFunc(k.tokens, func(t keptToken) bool { return t.ID == id })
		if i < 0 {
			return nil, missing(CodeNoToken, "token")
		}
		old = k.tokens[i].Token
		k.tokens = slices.Delete(k.tokens, i, i+1)
		return []Entry{a.entry(p, "token.revoke", id, "", old, nil)}, nil
	})
	return old, err
}
