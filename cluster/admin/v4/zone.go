package v4

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/domain"
)

// idOf returns the id of a zone or an account: 32 hexadecimal digits that depend on its name alone. So they are the
// same on all nodes, after a loss of all that is kept, and in a relay that takes the place of another.
func idOf(kind, name string) string {
	sum := sha256.Sum256([]byte("millrace " + kind + " " + name))
	return hex.EncodeToString(sum[:16])
}

func zoneID(name string) string     { return idOf("zone", name) }
func catchAllID(name string) string { return idOf("catch-all", name) }

// zones returns the names of the zones that are there for the one who asks, in their order: the domains that mail is
// taken for, those that have rules, and those that the token is for.
func (a *API) zones(c *call) []string {
	var names []string
	for _, name := range a.cfg.Hosted() {
		if c.who.Covers(name) {
			names = append(names, name)
		}
	}
	for i := range c.rules { // those that are not in force host no domain
		names = append(names, c.rules[i].Domain)
	}
	names = append(names, c.who.Domains...)
	slices.Sort(names)
	return slices.Compact(names)
}

// zone returns the name of the zone in the path of a call.
func (a *API) zone(c *call) (string, error) {
	id := c.PathValue("zone")
	for _, name := range a.zones(c) {
		if zoneID(name) == id {
			return name, nil
		}
	}
	return "", errNoZone()
}

// A shownZone is a zone as clients see it.
type shownZone struct {
	ID      string       `json:"id"`
	Name    string       `json:"name"`
	Status  string       `json:"status"`
	Type    string       `json:"type"`
	Paused  bool         `json:"paused"`
	Account shownAccount `json:"account"`
	Servers []string     `json:"name_servers"`
	Created string       `json:"created_on"`
	Changed string       `json:"modified_on"`
}

// shownZone returns a zone as clients see it.
func (c *call) shownZone(name string) shownZone {
	s := c.settings(name)
	return shownZone{
		ID: zoneID(name), Name: name, Status: "active", Type: "full", Account: theAccount, Servers: []string{},
		Created: s.Created, Changed: s.Modified,
	}
}

// settings are those of a zone as clients see them.
type settings struct {
	ID         string `json:"id"`
	Tag        string `json:"tag"`
	Name       string `json:"name"`
	Enabled    bool   `json:"enabled"`
	Created    string `json:"created"`
	Modified   string `json:"modified"`
	SkipWizard bool   `json:"skip_wizard"`
	Subaddress bool   `json:"support_subaddress"`
	Status     string `json:"status"`
}

// A zoneEcho is what the record of a zone keeps for clients alone.
type zoneEcho struct {
	SkipWizard bool `json:"skip_wizard"`
}

// subaddress is the option by which a domain has subaddresses, with the sign that Cloudflare knows.
const subaddress = "subaddress=+"

// domainLine returns the pattern of the line that is about a domain, as the language of rules has it.
func domainLine(name string) string { return "domain " + name }

// epoch stands for when a zone began of which that is not known: it is from the files of the administrator.
var epoch = time.Unix(0, 0)

// record returns the record of a zone, and whether one is kept.
func (c *call) record(name string) (account.Rule, bool) {
	for _, r := range c.rules {
		if r.Domain == name && r.Pattern == domainLine(name) {
			return r, true
		}
	}
	return account.Rule{
		Pattern: domainLine(name), Enabled: true, Created: epoch, Modified: epoch, Source: fromAPI,
	}, false
}

// settings returns those of a zone.
func (c *call) settings(name string) settings {
	r, _ := c.record(name)
	return settingsOf(name, &r)
}

// settingsOf returns the settings that the record of a zone stands for.
func settingsOf(name string, r *account.Rule) settings {
	var echo zoneEcho
	_ = json.Unmarshal(r.Echo, &echo) // none, of a record that was written in another way
	s := settings{
		ID: zoneID(name), Tag: zoneID(name), Name: name, Enabled: r.Enabled, Created: stamp(r.Created),
		Modified: stamp(r.Modified), SkipWizard: echo.SkipWizard, Status: "ready",
		Subaddress: slices.Contains(strings.Fields(r.Target), subaddress),
	}
	if !s.Enabled {
		s.Status = "unconfigured"
	}
	return s
}

// stamp returns a time as clients read it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// A writtenSettings is what a client writes. What it leaves out is nil.
type writtenSettings struct {
	Enabled    *bool `json:"enabled"`
	SkipWizard *bool `json:"skip_wizard"`
	Subaddress *bool `json:"support_subaddress"`
}

func (a *API) handleZones() {
	a.handle("/zones", map[string]handler{http.MethodGet: a.listZones})
	a.handle("/zones/{zone}", map[string]handler{http.MethodGet: a.getZone})
	const routing = "/zones/{zone}/email/routing"
	a.handle(routing, map[string]handler{
		http.MethodGet: a.getSettings, http.MethodPatch: a.writeSettings, http.MethodPut: a.writeSettings,
	})
	on, off := true, false
	a.handle(routing+"/enable", map[string]handler{http.MethodPost: a.switched(&on)})
	a.handle(routing+"/disable", map[string]handler{http.MethodPost: a.switched(&off)})
	a.handle(routing+"/unlock", map[string]handler{http.MethodPost: a.switched(nil)})
	a.handle(routing+"/dns", map[string]handler{
		http.MethodGet: a.getDNS, http.MethodPost: a.switched(nil), http.MethodPatch: a.switched(nil),
		http.MethodDelete: a.switched(nil),
	})
}

// listZones answers with the zones of a name, or with all.
func (a *API) listZones(c *call) (answer, error) {
	list := []shownZone{}
	if id := c.query.Get("account.id"); id == "" || id == theAccount.ID {
		for _, name := range a.zones(c) {
			if want := c.query.Get("name"); want == "" || domain.Canonical(want) == name {
				list = append(list, c.shownZone(name))
			}
		}
	}
	return paged(c, list)
}

func (a *API) getZone(c *call) (answer, error) {
	name, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	return answer{result: c.shownZone(name)}, nil
}

// listRoutingZones answers with the settings of all zones.
func (a *API) listRoutingZones(c *call) (answer, error) {
	if err := checkAccount(c); err != nil {
		return answer{}, err
	}
	list := []settings{}
	for _, name := range a.zones(c) {
		list = append(list, c.settings(name))
	}
	return paged(c, list)
}

func (a *API) getSettings(c *call) (answer, error) {
	name, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	return answer{result: c.settings(name)}, nil
}

// writeSettings changes what a client writes of the settings.
func (a *API) writeSettings(c *call) (answer, error) {
	name, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	var w writtenSettings
	if err := c.body(&w); err != nil {
		return answer{}, err
	}
	return a.change(c, name, w)
}

// switched returns a handler that switches routing for a zone, and does nothing else if enabled is nil: this relay
// writes no record into the DNS, and so has none to lock, to mend and to remove.
func (a *API) switched(enabled *bool) handler {
	return func(c *call) (answer, error) {
		name, err := a.zone(c)
		if err != nil {
			return answer{}, err
		}
		var body struct {
			Name *string `json:"name"`
		}
		if err := c.body(&body); err != nil {
			return answer{}, err
		}
		if body.Name != nil && *body.Name != "" && !domain.Within(domain.Canonical(*body.Name), name) {
			return answer{}, invalid("/name", "the name is not in the zone "+name)
		}
		return a.change(c, name, writtenSettings{Enabled: enabled})
	}
}

// change writes the record of a zone, if that says anything else then, and answers with the settings.
func (a *API) change(c *call, name string, w writtenSettings) (answer, error) {
	if err := c.who.May(account.Owner); err != nil {
		return answer{}, err
	}
	r, kept := c.record(name)
	before := c.settings(name)
	enabled, wizard, sub := before.Enabled, before.SkipWizard, before.Subaddress
	for _, said := range []struct{ to, by *bool }{
		{&enabled, w.Enabled}, {&wizard, w.SkipWizard}, {&sub, w.Subaddress},
	} {
		if said.by != nil {
			*said.to = *said.by
		}
	}
	if enabled == before.Enabled && wizard == before.SkipWizard && sub == before.Subaddress {
		return answer{result: before}, nil
	}
	r.Enabled = enabled
	words := slices.DeleteFunc(strings.Fields(r.Target), func(w string) bool { return w == subaddress })
	if sub {
		words = append(words, subaddress)
	}
	r.Target = strings.Join(words, " ")
	var err error
	if r.Echo, err = json.Marshal(zoneEcho{wizard}); err != nil {
		return answer{}, err
	}
	if r, err = a.keep(c, r, kept); err != nil {
		return answer{}, err
	}
	return answer{result: settingsOf(name, &r)}, nil
}

// keep keeps the record of a zone. Where the files of the administrator have the line of the domain, one that says
// nothing besides is removed: the files say that there is the domain.
func (a *API) keep(c *call, r account.Rule, kept bool) (account.Rule, error) {
	if !kept {
		return a.cfg.Account.AddRule(c.Context(), c.who, r)
	}
	out, err := a.cfg.Account.SetRule(c.Context(), c.who, r.ID, r)
	var why *account.Error
	if errors.As(err, &why) && why.Code == account.CodeClash && r.Enabled && r.Target == "" {
		_, err = a.cfg.Account.RemoveRule(c.Context(), c.who, r.ID)
		r.Echo = nil
		return r, err
	}
	return out, err
}

// getDNS answers with what is to be published for a zone, or for a domain below it.
func (a *API) getDNS(c *call) (answer, error) {
	name, err := a.zone(c)
	if err != nil {
		return answer{}, err
	}
	of := domain.Canonical(cmp.Or(c.query.Get("subdomain"), name))
	if !domain.Within(of, name) {
		if of += "." + name; !domain.IsName(of, domain.MaxName) {
			return answer{}, invalid("", "subdomain is no domain")
		}
	}
	records, err := a.cfg.Records(of)
	if err != nil {
		return answer{}, err
	}
	return answer{result: append([]Record{}, records...)}, nil
}
