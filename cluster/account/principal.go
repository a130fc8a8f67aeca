package account

import (
	"context"
	"slices"
	"strconv"
	"strings"
)

// A Role is what a token is for.
type Role uint8

// The roles. Each may do what those before it may.
const (
	ReadOnly Role = iota + 1 // sees what is of its domains
	Owner                    // changes rules and destinations of its domains
	Operator                 // runs the nodes, and changes rules and destinations
	Admin                    // has all, tokens and the audit as well
)

var roles = [...]string{ReadOnly: "read-only", Owner: "owner", Operator: "operator", Admin: "admin"}

// Roles returns the names of the roles, the weakest first.
func Roles() []string { return slices.Clone(roles[ReadOnly:]) }

// String returns the name of a role.
func (r Role) String() string {
	if int(r) < len(roles) && r > 0 {
		return roles[r]
	}
	return "Role(" + strconv.Itoa(int(r)) + ")"
}

// MarshalText returns the name of a role.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the name of a role. The error is an *Error.
func (r *Role) UnmarshalText(text []byte) error {
	n := slices.Index(roles[:], string(text))
	if n < int(ReadOnly) {
		return refused("role", "is none of "+strings.Join(Roles(), ", "))
	}
	*r = Role(n)
	return nil
}

// A Principal is the one who asks. Its zero value may do nothing.
type Principal struct {
	ID      string // of its token; the word before the colon of Name for what is no token
	Name    string
	Role    Role
	Domains []string // A-labels in lower case, each with what lies below it; none: all domains
}

// TokenFile is the principal of the token that the configuration names.
func TokenFile() Principal { return Principal{ID: "file", Name: "admin.token_file", Role: Admin} }

// Node is the principal of what this program does by itself, such as taking a link that was followed. what says it.
func Node(what string) Principal { return Principal{ID: "node", Name: what, Role: Admin} }

// Unlimited reports whether a principal is for all domains.
func (p Principal) Unlimited() bool { return p.Role > 0 && len(p.Domains) == 0 }

// Covers reports whether a domain, as A-labels in lower case, is one of the principal's or lies below one.
func (p Principal) Covers(domain string) bool {
	if p.Role == 0 {
		return false
	}
	return len(p.Domains) == 0 || coversDomain(p.Domains, domain)
}

// coversDomain reports whether a domain is one of a list or lies below one.
func coversDomain(list []string, domain string) bool {
	return slices.ContainsFunc(list, func(d string) bool {
		return d == domain || strings.HasSuffix(domain, "."+d)
	})
}

// May returns an *Error unless the principal has a role or a stronger one.
func (p Principal) May(least Role) error {
	if p.Role < least {
		return forbidden("this takes the role " + least.String() + ", and the token has " + p.Role.String())
	}
	return nil
}

// MayAll returns an *Error unless the principal has a role or a stronger one for all domains.
func (p Principal) MayAll(least Role) error {
	if err := p.May(least); err != nil {
		return err
	}
	if !p.Unlimited() {
		return forbidden("this concerns all domains, and the token is for some")
	}
	return nil
}

// mayEdit returns an *Error unless the principal changes rules and destinations of a domain.
func (p Principal) mayEdit(domain string) error {
	if err := p.May(Owner); err != nil {
		return err
	}
	if !p.Covers(domain) {
		return forbidden("the token is not for " + domain)
	}
	return nil
}

type principalKey struct{}

// With returns a context that has a principal.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// Of returns the principal of a context, one that may do nothing if there is none.
func Of(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}
