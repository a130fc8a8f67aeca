package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/egress/events"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/network"
)

// Events names the receivers that are told what became of messages.
type Events struct {
	AllowPrivate []Network       `yaml:"allow_private"`
	Queue        int             `yaml:"queue"`  // events that may wait for one receiver
	Memory       Size            `yaml:"memory"` // what they may take
	Receivers    []EventReceiver `yaml:"receivers"`
}

// An EventReceiver is told of the events of some types for recipients in some domains or of some rules.
type EventReceiver struct {
	Name       string   `yaml:"name"`
	URL        string   `yaml:"url"`
	SecretFile File     `yaml:"secret_file"`
	Types      []string `yaml:"types"`
	Domains    []string `yaml:"domains"`
	Rules      []string `yaml:"rules"` // patterns, as they stand in the rules
}

const (
	// maxReceivers bounds the receivers: each has a goroutine, a queue and labels in the metrics.
	maxReceivers = 100
	maxQueue     = 1_000_000
	minMemory    = 64 << 10
)

// receiverName is the form of a name that stands in metrics and in the log.
var receiverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// setDefaults sets what is not written. A receiver is told of all but what we refuse, which strangers cause for
// nothing.
func (e *Events) setDefaults() {
	setDefault(&e.Queue, 10_000)
	setDefault(&e.Memory, 16<<20)
	for i := range e.Receivers {
		if r := &e.Receivers[i]; r.Types == nil {
			for _, t := range events.Types() {
				if t != events.Rejected {
					r.Types = append(r.Types, string(t))
				}
			}
		}
	}
}

// Private returns the networks that may be connected to although they are not public.
func (e *Events) Private() []netip.Prefix {
	var out []netip.Prefix
	for _, n := range e.AllowPrivate {
		out = append(out, n.Prefix)
	}
	return out
}

// events checks the section.
func (v *validator) events(e *Events) {
	for i, n := range e.Private() {
		if n.Bits() == 0 {
			v.add(fmt.Sprintf("events.allow_private[%d]", i), "holds every address: name the networks of the receivers")
		}
	}
	if e.Queue < 1 || e.Queue > maxQueue {
		v.add("events.queue", fmt.Sprintf("%d is not between 1 and %d events", e.Queue, maxQueue))
	}
	if e.Memory < minMemory {
		v.add("events.memory", "is below "+Size(minMemory).String())
	}
	if len(e.Receivers) == 0 {
		v.add("events.receivers", "is required: who is told, each with name, url and secret_file")
	}
	if len(e.Receivers) > maxReceivers {
		v.add("events.receivers", fmt.Sprintf("are %d, and %d at most are served", len(e.Receivers), maxReceivers))
	}
	named := make(map[string]bool)
	for i := range e.Receivers {
		r, field := &e.Receivers[i], fmt.Sprintf("events.receivers[%d]", i)
		switch {
		case !receiverName.MatchString(r.Name):
			v.add(field+".name",
				"is required: letters, digits, hyphens, underscores and dots, for the metrics and the log")
		case named[r.Name]:
			v.add(field+".name", r.Name+" stands twice")
		}
		named[r.Name] = true
		if r.URL == "" {
			v.add(field+".url", "is required: where events are posted, such as https://hooks.example.net/mail")
		} else if err := hook.CheckURL(r.URL, e.Private()); err != nil {
			v.add(field+".url", err.Error()) // without the URL, which may hold a secret
		} else if why := unreached(r.URL, e.Private()); why != "" {
			v.add(field+".url", why)
		}
		v.required(field+".secret_file", r.SecretFile)
		v.receives(r, field)
	}
}

// unreached returns why nothing is ever posted to a URL, although it is well formed, or "". What a name leads to is
// known only when it is connected to.
func unreached(text string, private []netip.Prefix) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	name := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	a, err := netip.ParseAddr(name)
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		a, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if a = a.Unmap(); err != nil || network.IsPublic(a) ||
		slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return ""
	}
	return "is at " + a.String() + ", which is not public, so that nothing is posted there: name it in " +
		"events.allow_private"
}

// receives checks what a receiver is told of.
func (v *validator) receives(r *EventReceiver, field string) {
	var types []string
	for _, t := range events.Types() {
		types = append(types, string(t))
	}
	for i, t := range r.Types {
		v.oneOf(fmt.Sprintf("%s.types[%d]", field, i), t, types...)
	}
	if len(r.Types) == 0 {
		v.add(field+".types", "is empty: leave it out for all but rejected")
	}
	for i, domain := range r.Domains {
		v.domain(fmt.Sprintf("%s.domains[%d]", field, i), domain)
	}
	for i, pattern := range r.Rules {
		if pattern == "" {
			v.add(fmt.Sprintf("%s.rules[%d]", field, i), "is empty: the pattern of a rule, such as info@example.com")
		}
	}
}
