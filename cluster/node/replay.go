package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// A Replay says for which messages of the activity log other rules differ from those in force.
type Replay struct {
	Since    time.Time   `json:"since"`
	Messages int         `json:"messages"` // to a domain that the one rules or the others host
	Same     int         `json:"same"`
	Differ   int         `json:"differ"`
	Unknown  int         `json:"unknown"` // that cannot be compared
	Groups   []Differing `json:"groups"`  // those with most messages first
	More     int         `json:"more,omitempty"`
	Notes    []string    `json:"notes"`
}

// A Differing is what differs in the same way for the same recipient.
type Differing struct {
	To       string    `json:"to"`
	Before   string    `json:"before"`
	After    string    `json:"after"`
	Messages int       `json:"messages"`
	Refused  int       `json:"refused,omitempty"` // of them, for other reasons than rules
	Last     time.Time `json:"last"`
}

// The bounds of a replay.
const (
	maxGroups   = 1000
	maxReplayed = 1 << 20 // rows
)

// A replayer asks two sets of rules about the same mail.
type replayer struct {
	before, after *router.Router
	trusted       func(netip.Addr) bool
	addressOf     map[string]string // what the log has in place of addresses, and these; nil: it has addresses
	out           Replay
	groups        map[Differing]*Differing // by recipient, Before and After
}

// readings returns what answers by the activity log, nothing if no node keeps one.
func (n shown) readings() admin.Activity {
	if n.activity.Log == nil && n.cfg.Cluster == nil {
		return admin.Activity{}
	}
	return admin.Activity{Log: n.findActivity, Senders: n.findSenders, Replay: n.replay}
}

// replay answers POST /api/v1/replay.
func (n shown) replay(ctx context.Context, p account.Principal, w account.Wish, since string) (any, error) {
	if err := p.MayAll(account.Owner); err != nil {
		return nil, err
	}
	q, err := activity.ParseQuery(url.Values{"since": {cmp.Or(since, "24h")}}, time.Now())
	if err != nil {
		return nil, &account.Error{Kind: account.Refused, Code: account.CodeRefused, Message: err.Error()}
	}
	plan, text, err := account.Deployer{Account: n.rules.account}.Propose(ctx, p, w)
	if err != nil {
		return nil, err
	}
	r := replayer{groups: map[Differing]*Differing{}, trusted: n.trustsAnywhere}
	r.out.Since, r.out.Groups, r.out.Notes = q.Since, []Differing{}, []string{}
	if r.before, err = n.rules.router.Trial(nil); err != nil {
		return nil, err
	}
	if r.after, err = n.rules.router.Trial(withAPIRules(n.rules.router.Files(), text)); err != nil {
		return nil, err
	}
	r.learn(n.activity.Log, &plan)
	q.Limit = activity.MaxLimit
	r.read(ctx, n.activity.Find, q)
	return r.result(), nil
}

// trustsAnywhere reports whether a listener trusts an address.
func (n shown) trustsAnywhere(a netip.Addr) bool {
	for i := range n.cfg.Listen {
		if trusts(&n.cfg.Listen[i], a) {
			return true
		}
	}
	return false
}

// learn notes what the log has in place of the addresses that a plan changes.
func (r *replayer) learn(log *activity.Log, plan *account.Plan) {
	if log == nil {
		return
	}
	if _, hashed := log.Hashed("a@b.example"); !hashed {
		return
	}
	r.addressOf = make(map[string]string)
	for i := range plan.Changes {
		pattern := plan.Changes[i].Pattern
		if at := strings.LastIndexByte(pattern, '@'); at <= 0 || strings.ContainsAny(pattern, "*/ ") {
			continue
		}
		for _, spelled := range []string{pattern, ascii.Fold(pattern)} {
			hash, _ := log.Hashed(spelled)
			r.addressOf[hash] = pattern
		}
	}
}

// read asks about all rows since a time, the newest first, until ctx ends.
func (r *replayer) read(
	ctx context.Context,
	find func(context.Context, activity.Query) activity.Page,
	q activity.Query,
) {
	rows := 0
	for {
		page := find(ctx, q)
		if q.Before == "" {
			r.noteNodes(page.Nodes)
		}
		for i := range page.Rows {
			r.ask(&page.Rows[i])
		}
		rows += len(page.Rows)
		if page.Next == "" || len(page.Rows) == 0 {
			return
		}
		if ctx.Err() != nil || rows >= maxReplayed {
			r.out.Notes = append(r.out.Notes, "the log is longer than is read at once: what is older than "+
				page.Rows[len(page.Rows)-1].At.UTC().Format(time.RFC3339)+" was left out")
			return
		}
		q.Before = page.Next
	}
}

// noteNodes notes what the nodes do not have of the log.
func (r *replayer) noteNodes(nodes []activity.Kept) {
	for _, k := range nodes {
		switch {
		case k.Failed != "":
			r.out.Notes = append(r.out.Notes, fmt.Sprintf("node %q is not part of it: %s", k.Node, k.Failed))
		case k.Since.After(r.out.Since):
			r.out.Notes = append(r.out.Notes, fmt.Sprintf("node %q has its mail since %s alone", k.Node,
				k.Since.UTC().Format(time.RFC3339)))
		}
	}
}

// ask asks both sets of rules about the recipient of a row.
func (r *replayer) ask(row *activity.Row) {
	to := row.To
	if to == "" {
		return // its client came to no recipient
	}
	isClear := r.addressOf == nil
	if address, ok := r.addressOf[to]; ok {
		to, isClear = address, true
	}
	forward, err := mail.ParsePath(to, true)
	if err != nil || !r.before.Hosted(forward.Domain) && !r.after.Hosted(forward.Domain) {
		return
	}
	r.out.Messages++
	if !isClear {
		r.out.Unknown++
		return
	}
	q := mail.Query{Forward: forward, SPF: row.SPF, At: row.At}
	if row.From != "<>" && row.From != "" {
		if q.Reverse, err = mail.ParsePath(row.From, true); err != nil {
			r.out.Unknown++ // what stands there is cut, or no address
			return
		}
	}
	if addr, err := netip.ParseAddr(row.Client); err == nil {
		q.Addr, q.Trusted = addr, row.User != "" || r.trusted(addr)
	}
	before, taken := fateOf(r.before.Route(q))
	after, _ := fateOf(r.after.Route(q))
	if before == after {
		r.out.Same++
		return
	}
	r.out.Differ++
	r.count(Differing{To: ascii.Fold(to), Before: before, After: after}, row, taken)
}

// count counts a message that differs. taken says that the rules in force take it.
func (r *replayer) count(key Differing, row *activity.Row, taken bool) {
	g := r.groups[key]
	if g == nil {
		if len(r.groups) == maxGroups {
			r.out.More++
			return
		}
		g = &Differing{To: key.To, Before: key.Before, After: key.After, Last: row.At}
		r.groups[key] = g
	}
	g.Messages++
	if taken && (row.Status == activity.Rejected || row.Action == activity.DeferredByUs) {
		g.Refused++
	}
}

// result returns what was found.
func (r *replayer) result() *Replay {
	for _, g := range r.groups {
		r.out.Groups = append(r.out.Groups, *g)
	}
	slices.SortFunc(r.out.Groups, func(a, b Differing) int {
		return cmp.Or(cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.To, b.To), cmp.Compare(a.Before, b.Before),
			cmp.Compare(a.After, b.After))
	})
	if r.addressOf != nil && r.out.Unknown > 0 {
		r.out.Notes = append(
			r.out.Notes,
			"the log has hashes in place of addresses (log.addresses: hash): only mail to "+
				"an address that a changed rule names can be compared, and of its sender the domain alone is known",
		)
	}
	return &r.out
}

// fateOf describes what becomes of a message, and reports whether it is taken.
func fateOf(routes []mail.Route, err error) (fate string, taken bool) {
	var refusal *mail.Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Reason == mail.ReasonNeedsSPF:
		return "depends on SPF, which was not looked up", true
	case err != nil:
		return printable.Text(string(mail.ReplyFor(err).AppendPlain(nil))), false
	}
	var parts []string
	for i := range routes {
		part := "to " + wayText(&routes[i])
		for r := routes[i].Else; r != nil; r = r.Else {
			part += ", else to " + wayText(r)
		}
		parts = append(parts, part)
	}
	slices.Sort(parts)
	return printable.Text(strings.Join(parts, ", ")), true
}

// wayText describes a route.
func wayText(r *mail.Route) string {
	if r.Action == mail.Drop {
		return "nowhere (drop)"
	}
	var addresses []string
	for _, f := range r.Forwards {
		addresses = append(addresses, f.String())
	}
	text := strings.Join(addresses, " ")
	if r.NextHop.Transport != mail.MX || len(r.Forwards) != 1 ||
		!ascii.EqualFold(r.Forwards[0].Domain, r.NextHop.Host) {
		text += " by " + r.NextHop.String()
	}
	return text
}
