package admin

import (
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// openAPI describes all that is answered below /api/v1/.
//
//go:embed openapi.yaml
var openAPI []byte

const (
	// maxRecord bounds the body of a request that makes or changes a record, in octets.
	maxRecord = 64 << 10
	// perPage is how many records an answer has, and maxPage how many it may be asked for.
	perPage = 100
	maxPage = 1000
)

// An operation is what is answered to a method at a path below /api/v1/.
type operation struct {
	method, path string
	answer       http.Handler
}

// operations returns all that is answered below /api/v1/.
func (s *Server) operations() []operation {
	to := func(f func(*http.Request) (int, any, error)) http.Handler {
		return s.authorized(answering(f), refuseAPI)
	}
	tokens, blocks := &tokens{s.account}, &blocks{s.account}
	plans := &plans{account.Deployer{Account: s.account}, s.cfg.Activity.Replay, make(chan struct{}, 1)}
	return []operation{
		{"GET", "/api/v1/cluster", s.operate(account.ReadOnly, s.cluster)},
		{"POST", "/api/v1/cluster/drain", s.operate(account.Operator, s.drain)},
		{"POST", "/api/v1/check/{what}", s.operate(account.Operator, s.check)},
		{"POST", "/api/v1/explain", s.operate(account.Operator, s.explain)},
		{"GET", "/api/v1/reports/{kind}/{domain}", s.operate(account.ReadOnly, reported(s.cfg.Report))},
		{"GET", "/api/v1/log", s.authorized(reading(s.cfg.Activity.Log), refuseAPI)},
		{"GET", "/api/v1/log/senders", s.authorized(reading(s.cfg.Activity.Senders), refuseAPI)},
		{"GET", "/api/v1/openapi.yaml", s.authorized(http.HandlerFunc(describe), refuseAPI)},
		{"GET", "/api/v1/whoami", to(whoami)},
		{"GET", "/api/v1/routes", to(s.listRoutes)},
		{"POST", "/api/v1/routes", to(s.addRoute)},
		{"GET", "/api/v1/routes/{id}", to(s.oneRoute)},
		{"PUT", "/api/v1/routes/{id}", to(s.setRoute)},
		{"DELETE", "/api/v1/routes/{id}", to(s.removeRoute)},
		{"GET", "/api/v1/blocks", to(blocks.list)},
		{"POST", "/api/v1/blocks", to(blocks.add)},
		{"DELETE", "/api/v1/blocks/{id}", to(blocks.remove)},
		{"GET", "/api/v1/rules", to(plans.rules)},
		{"POST", "/api/v1/plan", s.authorized(taking(plans.plan), refuseAPI)},
		{"POST", "/api/v1/apply", s.authorized(taking(plans.apply), refuseAPI)},
		{"POST", "/api/v1/replay", s.authorized(taking(plans.replayed), refuseAPI)},
		{"GET", "/api/v1/destinations", to(s.listDestinations)},
		{"POST", "/api/v1/destinations", to(s.addDestination)},
		{"GET", "/api/v1/destinations/{id}", to(s.oneDestination)},
		{"PATCH", "/api/v1/destinations/{id}", to(s.changeDestination)},
		{"DELETE", "/api/v1/destinations/{id}", to(s.removeDestination)},
		{"GET", "/api/v1/tokens", to(tokens.list)},
		{"POST", "/api/v1/tokens", to(tokens.add)},
		{"DELETE", "/api/v1/tokens/{id}", to(tokens.revoke)},
		{"GET", "/api/v1/audit", to(s.audit)},
	}
}

// answering returns a handler that writes what f returns as JSON, or its error.
func answering(f func(*http.Request) (int, any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRecord)
		status, answer, err := f(r)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, status, answer)
	})
}

func describe(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(openAPI) // fails only when the client has gone
}

// wrongBody returns the error of a body that is not what was expected.
func wrongBody(field, why string) error {
	return &account.Error{Kind: account.Refused, Code: account.CodeRefused, Field: field, Message: why}
}

// readBody reads the JSON of a request.
func readBody(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		var known *account.Error
		if errors.As(err, &known) {
			return known
		}
		return wrongBody("", "the body is not the JSON that is expected: "+err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return wrongBody("", "more follows the JSON of the body")
	}
	return nil
}

// A page is a part of a list.
type page[T any] struct {
	List    []T `json:"list"`
	Page    int `json:"page"`
	PerPage int `json:"per_page"`
	Total   int `json:"total"`
}

// paged returns the part of a list that a request asks for.
func paged[T any](r *http.Request, all []T) (page[T], error) {
	number, err := positive(r, "page", 1, 1<<30)
	if err != nil {
		return page[T]{}, err
	}
	per, err := positive(r, "per_page", perPage, maxPage)
	if err != nil {
		return page[T]{}, err
	}
	start := min((number-1)*per, len(all))
	part := all[start:min(start+per, len(all))]
	return page[T]{List: append([]T{}, part...), Page: number, PerPage: per, Total: len(all)}, nil
}

// positive returns a number of a query, def without one. What is above most counts as most.
func positive(r *http.Request, name string, def, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, wrongBody(name, "is no number from 1 on")
	}
	return min(n, most), nil
}

func whoami(r *http.Request) (int, any, error) {
	p := account.Of(r.Context())
	return http.StatusOK, map[string]any{
		"id": p.ID, "name": p.Name, "role": p.Role, "domains": append([]string{}, p.Domains...),
	}, nil
}

// A Route is a rule as the API shows it.
type Route struct {
	ID       string    `json:"id"`
	Domain   string    `json:"domain"`
	Pattern  string    `json:"pattern"`
	Target   string    `json:"target"`
	Name     *string   `json:"name,omitempty"`
	Enabled  bool      `json:"enabled"`
	Priority int64     `json:"priority"`
	Source   string    `json:"source"`
	Owner    string    `json:"owner,omitempty"`
	Created  time.Time `json:"created"`
	Modified time.Time `json:"modified"`
	InForce  bool      `json:"in_force"`
	Pending  []string  `json:"pending,omitempty"` // targets that are not verified
	Why      string    `json:"why,omitempty"`     // the rules files do not allow it
}

func routeOf(r account.Rule) Route {
	return Route{
		r.ID, r.Domain, r.Pattern, r.Target, r.Name, r.Enabled, r.Priority, r.Source, r.Owner, r.Created, r.Modified,
		r.InForce(), r.Pending, r.Off,
	}
}

// A routeBody is what a request says of a rule.
type routeBody struct {
	Pattern  string  `json:"pattern"`
	Target   string  `json:"target"`
	Name     *string `json:"name"`
	Enabled  *bool   `json:"enabled"`
	Priority int64   `json:"priority"`
	Source   string  `json:"source"`
	Owner    string  `json:"owner"`
}

// readRoute returns the rule of a body. What it leaves out of old stays; old is the zero Rule for a new one.
func readRoute(r *http.Request) (account.Rule, error) {
	var b routeBody
	if err := readBody(r, &b); err != nil {
		return account.Rule{}, err
	}
	return account.Rule{
		Pattern: b.Pattern, Target: b.Target, Name: b.Name, Enabled: b.Enabled == nil || *b.Enabled,
		Priority: b.Priority, Source: b.Source, Owner: b.Owner,
	}, nil
}

func (s *Server) listRoutes(r *http.Request) (int, any, error) {
	all, err := s.account.Rules(account.Of(r.Context()))
	if err != nil {
		return 0, nil, err
	}
	domain, pattern := r.URL.Query().Get("domain"), r.URL.Query().Get("pattern")
	var shown []Route
	for _, rule := range all {
		if (domain == "" || rule.Domain == strings.ToLower(domain)) && (pattern == "" || rule.Pattern == pattern) {
			shown = append(shown, routeOf(rule))
		}
	}
	answer, err := paged(r, shown)
	return http.StatusOK, answer, err
}

func (s *Server) addRoute(r *http.Request) (int, any, error) {
	rule, err := readRoute(r)
	if err != nil {
		return 0, nil, err
	}
	rule, err = s.account.AddRule(r.Context(), account.Of(r.Context()), rule)
	return http.StatusCreated, routeOf(rule), err
}

func (s *Server) oneRoute(r *http.Request) (int, any, error) {
	rule, err := s.account.Rule(account.Of(r.Context()), r.PathValue("id"))
	return http.StatusOK, routeOf(rule), err
}

func (s *Server) setRoute(r *http.Request) (int, any, error) {
	rule, err := readRoute(r)
	if err != nil {
		return 0, nil, err
	}
	rule, err = s.account.SetRule(r.Context(), account.Of(r.Context()), r.PathValue("id"), rule)
	return http.StatusOK, routeOf(rule), err
}

func (s *Server) removeRoute(r *http.Request) (int, any, error) {
	rule, err := s.account.RemoveRule(r.Context(), account.Of(r.Context()), r.PathValue("id"))
	return http.StatusOK, routeOf(rule), err
}

// A Destination is a target of rules as the API shows it.
type Destination struct {
	ID       string     `json:"id"`
	Address  string     `json:"address"`
	Domains  []string   `json:"domains,omitempty"` // of whose rules it may be; none: of all
	Created  time.Time  `json:"created"`
	Modified time.Time  `json:"modified"`
	Verified *time.Time `json:"verified"` // null: not yet
	How      string     `json:"how,omitempty"`
	Asked    *time.Time `json:"asked,omitempty"`
	Failed   string     `json:"failed,omitempty"`
	Note     string     `json:"note,omitempty"` // why its owner is not asked

	Proof *account.Proof `json:"proof,omitempty"` // what its owner publishes to have it verified; nil: nothing does
}

func destinationOf(d account.Destination) Destination {
	out := Destination{
		d.ID, d.Address, d.Domains, d.Created, d.Modified, d.Verified, d.How, d.Asked, d.Failed, "", nil,
	}
	if proof, ok := d.Proof(); ok {
		out.Proof = &proof
	}
	return out
}

func (s *Server) listDestinations(r *http.Request) (int, any, error) {
	all, err := s.account.Destinations(account.Of(r.Context()))
	if err != nil {
		return 0, nil, err
	}
	var shown []Destination
	for _, d := range all {
		shown = append(shown, destinationOf(d))
	}
	answer, err := paged(r, shown)
	return http.StatusOK, answer, err
}

// addDestination adds a destination, and has its owner asked unless it is verified: one that is there already is asked
// again.
func (s *Server) addDestination(r *http.Request) (int, any, error) {
	var b struct {
		Address string `json:"address"`
	}
	if err := readBody(r, &b); err != nil {
		return 0, nil, err
	}
	p := account.Of(r.Context())
	d, err := s.account.AddDestination(r.Context(), p, b.Address)
	out := destinationOf(d)
	if err == nil && d.Verified == nil && s.cfg.Ask != nil {
		if why := s.cfg.Ask(r.Context(), p, d); why != nil {
			out.Note = why.Error()
		}
	}
	return http.StatusCreated, out, err
}

func (s *Server) oneDestination(r *http.Request) (int, any, error) {
	d, err := s.account.Destination(account.Of(r.Context()), r.PathValue("id"))
	return http.StatusOK, destinationOf(d), err
}

// changeDestination has an administrator say that a destination is verified, or has anyone who may change it say that
// it is not.
func (s *Server) changeDestination(r *http.Request) (int, any, error) {
	var b struct {
		Verified *bool `json:"verified"`
	}
	if err := readBody(r, &b); err != nil {
		return 0, nil, err
	}
	if b.Verified == nil {
		return 0, nil, wrongBody("verified", "is required")
	}
	d, err := s.account.ChangeDestination(r.Context(), account.Of(r.Context()), r.PathValue("id"),
		func(d *account.Destination) error {
			switch {
			case !*b.Verified:
				d.Verified, d.How = nil, ""
			case d.Verified == nil:
				now := time.Now().UTC()
				d.Verified, d.How = &now, "admin"
			}
			return nil
		})
	return http.StatusOK, destinationOf(d), err
}

func (s *Server) removeDestination(r *http.Request) (int, any, error) {
	d, disabled, err := s.account.RemoveDestination(r.Context(), account.Of(r.Context()), r.PathValue("id"))
	routes := []Route{}
	for _, rule := range disabled {
		routes = append(routes, routeOf(rule))
	}
	return http.StatusOK, map[string]any{"destination": destinationOf(d), "disabled": routes}, err
}

func (s *Server) audit(r *http.Request) (int, any, error) {
	most, err := positive(r, "limit", perPage, maxPage)
	if err != nil {
		return 0, nil, err
	}
	list, err := s.account.Audit(account.Of(r.Context()), most)
	return http.StatusOK, map[string]any{"list": append([]account.Entry{}, list...)}, err
}
