package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/millrace/millrace/router/mail"
)

// An Ask is a question to a running node, as its API takes it.
type Ask struct {
	Question Question `json:"question"`
	// Configuration is the digest of the configuration that the one who asks has read. A node that runs another one
	// does not answer: what it does is not what is asked about.
	Configuration string `json:"configuration"`
}

// fault returns why a question cannot be held in a dialogue, "" if it can. What comes from the API was parsed by
// nothing before.
func (a *Ask) fault() string {
	q := &a.Question
	if !q.IP.IsValid() {
		return "it has no address of a client"
	}
	for _, p := range []*mail.Path{q.From, q.To} {
		if p == nil || p.IsNull() {
			continue
		}
		if again, err := mail.ParsePath(p.String(), true); err != nil || again != *p {
			return "a path is none"
		}
	}
	switch {
	case q.To != nil && q.To.IsNull():
		return "<> is no recipient"
	case q.Helo != nil && strings.ContainsFunc(*q.Helo, unicode.IsControl):
		return "the name of the client is none"
	case strings.ContainsFunc(q.User, unicode.IsControl):
		return "the user is none"
	case q.Message != nil && (q.Helo == nil || q.From == nil || q.To == nil):
		return "a message needs an envelope"
	}
	return ""
}

// maxAsked is how many questions a node answers at a time.
const maxAsked = 2

// An oracle answers the questions about a running node.
type oracle struct {
	*Node
	places chan struct{}
}

func newOracle(n *Node) *oracle { return &oracle{n, make(chan struct{}, maxAsked)} }

// answer answers a question of the API, with the status of HTTP.
func (o *oracle) answer(ctx context.Context, question []byte) (status int, answer any) {
	refuse := func(status int, format string, args ...any) (int, any) {
		return status, map[string]string{"error": fmt.Sprintf(format, args...)}
	}
	var ask Ask
	if err := json.Unmarshal(question, &ask); err != nil {
		return refuse(http.StatusBadRequest, "this is no question")
	}
	if why := ask.fault(); why != "" {
		return refuse(http.StatusBadRequest, "this is no question: %s", why)
	}
	if ask.Configuration != o.cfg.Digest() {
		return refuse(http.StatusConflict, "it runs another configuration")
	}
	select {
	case o.places <- struct{}{}:
		defer func() { <-o.places }()
	default:
		return refuse(http.StatusServiceUnavailable, "it answers %d other questions", maxAsked)
	}
	a, err := o.explain(ctx, ask.Question)
	if err != nil {
		return refuse(http.StatusUnprocessableEntity, "%s", err)
	}
	return http.StatusOK, a
}

// explain answers q as the node would now: by the rules in force, and by what it knows of clients and destinations.
// Nothing is remembered, no counter is changed, and no session to a destination is opened without q.Connect.
func (o *oracle) explain(ctx context.Context, q Question) (*Answer, error) {
	on, err := findListener(o.cfg, q.On, q.User != "")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.ExplainBudget(q.Connect))
	defer cancel()
	a, err := o.parts.explain(ctx, q, on, o.rules.inForce(), o.relay)
	if err == nil {
		a.Asked.Node = o.cfg.Hostname
		if o.cfg.Cluster != nil {
			a.Asked.Node += " (" + o.cfg.Cluster.Name + ")"
		}
		if o.rules.isStale(ctx) {
			a.Notes = append(a.Notes, "rules files were changed since the node read them: SIGHUP takes them over, and "+
				"--here answers by them")
		}
	}
	return a, err
}
