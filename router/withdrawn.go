package router

import (
	"errors"
	"iter"
	"time"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

const (
	// grace is how long a recipient that only the rules before take is refused for now and not for good.
	grace = 10 * time.Minute
	// maxWithdrawn is how many sets that were replaced within the grace are asked.
	maxWithdrawn = 4
)

// errWithdrawn is the Cause of a refusal with mail.ReasonWithdrawn.
var errWithdrawn = errors.New("the rules before the last reload took this recipient, and no rule does now: if the " +
	"rules files lack something, mend them; if not, it is refused for good in ten minutes")

// A withdrawn is a set of rules that another one replaced.
type withdrawn struct {
	table *rules.Table
	until time.Time // when its recipients that no rule takes are refused for good
}

// isMeant reports whether a table differs from the one before it in the file alone that requests change.
func (r *Router) isMeant(old, next *rules.Table) bool {
	if r.cfg.Meant == "" {
		return false
	}
	before, stop := iter.Pull2(old.Files())
	defer stop()
	other := func() (name, text string, ok bool) {
		name, text, ok = before()
		if ok && name == r.cfg.Meant {
			return before()
		}
		return name, text, ok
	}
	for name, text := range next.Files() {
		if name == r.cfg.Meant {
			continue
		}
		if n, t, ok := other(); !ok || n != name || t != text {
			return false
		}
	}
	_, _, more := other()
	return !more
}

// replaces makes v remember the version that it replaces, unless the change is meant, and those that this one
// remembers.
func (v *version) replaces(old *version, now time.Time, meant bool) {
	var list []withdrawn
	if old.digest != "" && old.digest != v.digest && !meant {
		list = append(list, withdrawn{old.Table, now.Add(grace)})
	}
	if before := old.withdrawn.Load(); before != nil {
		for _, w := range *before {
			if len(list) < maxWithdrawn && now.Before(w.until) {
				list = append(list, w)
			}
		}
	}
	if len(list) > 0 {
		v.withdrawn.Store(&list)
	}
}

// route answers a query by the rules in force. A recipient that no rule takes, and that one of the sets before took, is
// refused for now.
func (r *Router) route(q mail.Query, steps *rules.Steps) ([]mail.Route, error) {
	v := r.current.Load()
	if q.At.IsZero() {
		q.At = r.cfg.now()
	}
	routes, err := v.route(q, steps)
	list := v.withdrawn.Load()
	if list == nil {
		return routes, err
	}
	// The grace goes by the clock, and not by q.At, which may be a time to come.
	now := r.cfg.now()
	if !now.Before((*list)[0].until) { // the newest is the last to end
		v.withdrawn.Store(nil)
		return routes, err
	}
	for _, w := range *list {
		if now.Before(w.until) && w.misses(v, q, err) {
			addStep(steps, errWithdrawn.Error())
			return nil, mail.Refuse(451, 3, 0, "Temporarily not deliverable", mail.ReasonWithdrawn, errWithdrawn)
		}
	}
	return routes, err
}

// now is the clock of the Config.
func (c *Config) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// misses reports whether the set w took a recipient that v, whose answer has err, does not take: its domain is not
// hosted any more, or no rule of the domain takes it.
func (w *withdrawn) misses(v *version, q mail.Query, err error) bool {
	domain := q.Forward.Domain
	if domain == "" || err == nil && v.Ours(domain) {
		return false
	}
	var refusal *mail.Refusal
	if errors.As(err, &refusal) && refusal.Reason != rules.ReasonNoUser && refusal.Reason != rules.ReasonRelaying {
		return false
	}
	if !v.Hosted(domain) {
		return w.table.Hosted(domain)
	}
	_, err = w.table.Route(q, nil)
	return err == nil || errors.As(err, &refusal) && refusal.Reply.Class() == 4
}
