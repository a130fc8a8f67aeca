package dmarc

import (
	"context"
	"strings"

	"github.com/millrace/millrace/router/leaf/domain"
)

const (
	// maxQueries bounds the names that a tree walk asks for (RFC 9989 section 4.10). After the first name it goes on
	// with one label less than that.
	maxQueries = 8
	maxName    = domain.MaxName
	prefix     = "_dmarc."
)

// cache holds the answers of one Lookup by domain.
type cache map[string]*record

// A policy is the result of policy discovery.
type policy struct {
	record    *record // nil without a record, and if err is set
	domain    string  // of the record
	tag       string
	requested Disposition
	existence error // why it is not known whether the author domain exists, if that matters
	err       error
}

// An organization is an organizational domain, or the error because of which it is not known.
type organization struct {
	domain string
	err    error
}

// record returns the one policy record of a domain, nil if there is not one: several are discarded (section 4.10, step
// 2).
func (l *Lookup) record(ctx context.Context, domain string) (*record, error) {
	if r, ok := l.cache[domain]; ok {
		return r, nil
	}
	if len(prefix)+len(domain) > maxName {
		return nil, nil
	}
	texts, err := l.evaluator.cfg.Resolver.LookupTXT(ctx, prefix+domain)
	if err != nil {
		if strings.IndexByte(domain, '.') >= 0 {
			return nil, err
		}
		// The record of a top-level domain is a default for the domains below it, not their policy. Some servers of
		// such domains never answer the question, and all mail below them would have to wait for it.
		texts = nil
	}
	var found *record
	for _, text := range texts {
		r, ok := parseRecord(text)
		if !ok {
			continue
		}
		if found != nil {
			found = nil
			break
		}
		found = r
	}
	if l.cache == nil {
		l.cache = cache{}
	}
	l.cache[domain] = found
	return found, nil
}

// next returns the domain that a tree walk from start asks for after domain; "" at its end (section 4.10, steps 4 and
// 7).
func next(domain, start string) string {
	labels := strings.Count(domain, ".") + 1
	drop := 1
	if domain == start && labels >= maxQueries {
		drop = labels - (maxQueries - 1)
	}
	for ; drop > 0; drop-- {
		_, domain, _ = strings.Cut(domain, ".")
	}
	return domain
}

// below returns the domain one label below top on the way to domain. domain lies below top.
func below(domain, top string) string {
	head := strings.TrimSuffix(domain, "."+top)
	return domain[strings.LastIndexByte(head, '.')+1:]
}

// climb is the tree walk from start (section 4.10) with the choice of the organizational domain (section 4.10.2).
// suffix is the public suffix domain whose record ended the walk, or "".
func (l *Lookup) climb(ctx context.Context, start string) (org organization, suffix string) {
	org.domain = start
	for domain := start; domain != ""; domain = next(domain, start) {
		r, err := l.record(ctx, domain)
		if err != nil {
			return organization{err: err}, ""
		}
		if r == nil {
			continue
		}
		switch {
		case r.psd == 'n':
			org.domain = domain
			return org, ""
		case r.psd == 'y' && domain == start:
			return org, ""
		case r.psd == 'y':
			org.domain = below(start, domain)
			return org, domain
		}
		org.domain = domain
	}
	return org, ""
}

// discover is policy discovery (section 4.10.1) with the organizational domain of the author domain.
func (l *Lookup) discover(ctx context.Context, domain string) (policy, organization) {
	own, err := l.record(ctx, domain)
	if err != nil {
		return policy{err: err}, organization{err: err}
	}
	org, suffix := l.climb(ctx, domain)
	if own != nil {
		return policy{record: own, domain: domain, tag: tagPolicy, requested: own.policy}, org
	}
	if org.err != nil {
		return policy{err: org.err}, org
	}
	p := policy{domain: org.domain}
	// The organizational domain was on the walk, or the walk skipped it because it is one label below a public suffix
	// domain.
	if p.record, p.err = l.record(ctx, org.domain); p.err != nil {
		return policy{err: p.err}, org
	}
	if p.record == nil && suffix != "" {
		p.domain = suffix
		if p.record, p.err = l.record(ctx, suffix); p.err != nil {
			return policy{err: p.err}, org
		}
	}
	if p.record == nil {
		return policy{}, org
	}
	l.choose(ctx, &p, domain)
	return p, org
}

// choose sets the policy for a subdomain of p's domain from np=, sp= or p=.
func (l *Lookup) choose(ctx context.Context, p *policy, domain string) {
	p.tag, p.requested = tagPolicy, p.record.policy
	if p.record.subdomain.ok {
		p.tag, p.requested = tagSubdomain, p.record.subdomain.Disposition
	}
	if !p.record.nonExistent.ok || p.record.nonExistent.Disposition == p.requested {
		return
	}
	exists, err := l.evaluator.cfg.Resolver.Exists(ctx, domain)
	switch {
	case err != nil:
		p.existence = err
	case !exists:
		p.tag, p.requested = tagNonExistent, p.record.nonExistent.Disposition
	}
}

// aligned reports whether an identifier is aligned with the author domain (section 4.10.2). An error means that it
// cannot be known now.
func (l *Lookup) aligned(ctx context.Context, a *author, id identifier) (bool, error) {
	if id.domain == a.domain {
		return true, nil
	}
	strict := a.policy.record.strictSPF
	if id.dkim {
		strict = a.policy.record.strictDKIM
	}
	if strict {
		return false, nil
	}
	if a.organic.err != nil {
		// Both have the same organizational domain only if it is a suffix of both.
		if !related(a.domain, id.domain) {
			return false, nil
		}
		return false, a.organic.err
	}
	if !domain.Within(id.domain, a.organic.domain) {
		return false, nil
	}
	org, _ := l.climb(ctx, id.domain)
	return org.err == nil && org.domain == a.organic.domain, org.err
}

// related reports whether two domains have their last label in common.
func related(a, b string) bool {
	return a[strings.LastIndexByte(a, '.')+1:] == b[strings.LastIndexByte(b, '.')+1:]
}
