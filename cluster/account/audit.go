package account

import (
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"
)

// An Entry says who changed what. Before and After are the records, without secrets; one of them may be absent.
type Entry struct {
	ID     string          `json:"id"`
	At     time.Time       `json:"at"`
	Who    string          `json:"who"`   // the name of the token
	Token  string          `json:"token"` // its id
	What   string          `json:"what"`  // such as rule.add
	About  string          `json:"about"` // the id of the record
	Domain string          `json:"domain,omitempty"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// maxEntries is how many entries are kept, and maxAudit how many octets of them. All of them go to the log as well.
const (
	maxEntries = 5000
	maxAudit   = 2 << 20
)

// entry returns the entry of a change. before and after are records, nil for none.
func (a *Account) entry(p Principal, what, about, domain string, before, after any) Entry {
	return Entry{
		ID: NewID(), At: a.now(), Who: p.Name, Token: p.ID, What: what, About: about, Domain: domain,
		Before: recordOf(before), After: recordOf(after),
	}
}

// Record writes an entry to the audit about a change that the Account does not make.
func (a *Account) Record(ctx context.Context, p Principal, what string, before, after any) error {
	return a.change(ctx, func(*kept) ([]Entry, error) {
		return []Entry{a.entry(p, what, "", "", before, after)}, nil
	})
}

// hookURL is what has a hook asked that a rule names by its URL.
var hookURL = regexp.MustCompile(`(?i)(\bhook\s+[\\"]*[a-z]+://)[^\s"]*`)

// WithoutHookURLs returns rules, or records of them, without what may be a secret of the URLs of hooks.
func WithoutHookURLs(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	return hookURL.ReplaceAllString(text, "${1}...")
}

// logEntry writes an entry to the log, which keeps it for longer.
func logEntry(log *slog.Logger, e Entry) {
	log.Info("changed by the API", "what", e.What, "about", e.About, "domain", e.Domain, "who", e.Who,
		"token", e.Token, "before", WithoutHookURLs(string(e.Before)), "after", WithoutHookURLs(string(e.After)))
}

// recordOf returns a record as JSON, nil for none.
func recordOf(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil // a record is made of what JSON has
	}
	return b
}

// bounded returns the newest entries that may be kept.
func bounded(list []Entry) []Entry {
	size := 0
	for i := len(list) - 1; i >= 0; i-- {
		size += len(list[i].Before) + len(list[i].After) + 300
		if len(list)-i > maxEntries || size > maxAudit {
			return slices.Clone(list[i+1:])
		}
	}
	return list
}

// Audit returns the entries that a principal may see, the newest first, at most so many.
func (a *Account) Audit(p Principal, most int) ([]Entry, error) {
	if err := p.May(Owner); err != nil {
		return nil, err
	}
	var out []Entry
	for _, e := range slices.Backward(a.lists.current.Load().audit) {
		if len(out) == most {
			break
		}
		if p.Role == Admin || e.Domain != "" && p.Covers(e.Domain) {
			out = append(out, e)
		}
	}
	return out, nil
}
