package v4

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// token is that of the configuration.
const token = "0123456789abcdefghijklmnopqrstuvwxyzABCD"

// A world is an API over an Account whose rules no Router checks.
type world struct {
	admin.Surface
	t       *testing.T
	account *account.Account
	text    string   // of the file of rules
	files   []string // patterns of the administrator
	asked   []string // destinations that were sent a letter
}

func newWorld(t *testing.T, state string) *world {
	t.Helper()
	w := &world{t: t}
	clash := errors.New("clash")
	at := 0
	rules := account.Rules{
		Text: func() string { return w.text },
		Change: func(_ context.Context, edit func(string) (string, error)) error {
			text, err := edit(w.text)
			if err != nil {
				return err
			}
			at = 0
			for line := range strings.Lines(text) {
				at++
				if pattern, _, _ := strings.Cut(line, " "); slices.Contains(w.files, pattern) {
					return clash
				}
			}
			w.text = text
			return nil
		},
		Faults: func(err error) ([]account.Fault, bool) {
			return []account.Fault{{Line: at, Reason: "the same pattern stands at routes.txt:1"}}, errors.Is(err, clash)
		},
	}
	var err error
	w.account, err = account.New(account.Config{
		State: state, Rules: rules, Token: []byte(token),
		ALabels: func(s string) (string, bool) { return ascii.Fold(s), s != "" },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Surface = New(Config{
		Account: w.account,
		Hosted:  func() []string { return []string{"example.com", "example.org"} },
		Records: func(domain string) ([]Record, error) {
			ten := 10
			return []Record{{Type: "MX", Name: domain, Content: "relay.example", Priority: &ten, TTL: 300}}, nil
		},
		Ask: func(_ context.Context, _ account.Principal, d account.Destination) error {
			if strings.HasPrefix(d.Address, "smtp:") {
				return &account.Error{Kind: account.Refused, Code: account.CodeRefused, Message: "no letter"}
			}
			w.asked = append(w.asked, d.Address)
			return nil
		},
	})
	return w
}

// as sends a request with a token, and returns the status and the body of the answer.
func (w *world) as(token, method, path, body string) (int, string) {
	w.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, Prefix+path, reader)
	out := httptest.NewRecorder()
	p, err := w.account.Authenticate(token, netip.MustParseAddr("127.0.0.1"))
	var why *account.Error
	if errors.As(err, &why) {
		w.Refuse(out, r, admin.StatusOf(why.Kind), why)
	} else {
		w.Handler.ServeHTTP(out, r.WithContext(account.With(r.Context(), p)))
	}
	if got := out.Header().Get("Content-Type"); got != "application/json" {
		w.t.Errorf("%s %s: content type %q", method, path, got)
	}
	if out.Code == http.StatusConflict {
		w.t.Errorf("%s %s: 409, which clients repeat", method, path)
	}
	if out.Code >= 400 && out.Code < 500 && out.Header().Get("X-Should-Retry") != "false" {
		w.t.Errorf("%s %s: %d, which clients may repeat", method, path, out.Code)
	}
	return out.Code, strings.TrimSpace(out.Body.String())
}

// do sends a request with the token of the configuration.
func (w *world) do(method, path, body string) (int, string) {
	w.t.Helper()
	return w.as(token, method, path, body)
}

// A reply is an envelope as clients read it.
type reply struct {
	Success  bool
	Errors   []message
	Messages []message
	Result   json.RawMessage
	Info     *resultInfo `json:"result_info"`
}

// ok sends a request that is to succeed, and reads the result into v.
func (w *world) ok(method, path, body string, v any) reply {
	w.t.Helper()
	status, text := w.do(method, path, body)
	var r reply
	if err := json.Unmarshal([]byte(text), &r); err != nil || status != 200 || !r.Success || r.Errors == nil {
		w.t.Fatalf("%s %s %s: got %d %s", method, path, body, status, text)
	}
	if v != nil {
		if err := json.Unmarshal(r.Result, v); err != nil {
			w.t.Fatal(err, text)
		}
	}
	return r
}

// fails sends a request that is to fail with a status and a code.
func (w *world) fails(method, path, body string, status, code int) {
	w.t.Helper()
	got, text := w.do(method, path, body)
	var r reply
	if err := json.Unmarshal([]byte(text), &r); err != nil || got != status || r.Success || len(r.Errors) != 1 ||
		r.Errors[0].Code != code || string(r.Result) != "null" || r.Info != nil {
		w.t.Errorf("%s %s %s: got %d %s, want %d with code %d", method, path, body, got, text, status, code)
	}
}

var (
	zonePath    = "/zones/" + zoneID("example.com")
	routingPath = zonePath + "/email/routing"
	rulesPath   = routingPath + "/rules"
	accountPath = "/accounts/" + theAccount.ID
	addressPath = accountPath + "/email/routing/addresses"
)

// literalRule returns the body of a rule.
func literalRule(to, actions string) string {
	return fmt.Sprintf(`{"matchers":[{"type":"literal","field":"to","value":%q}],"actions":[%s]}`, to, actions)
}

// TestAPI_Token: a request without a token, and one with a wrong token, is 401 in an envelope.
func TestAPI_Token(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for _, wrong := range []string{"", "x", token + "x"} {
		if status, text := w.as(wrong, "GET", "/zones", ""); status != 401 || !strings.Contains(text,
			`"success":false`) {
			t.Errorf("with %q: got %d %s", wrong, status, text)
		}
	}
}

// TestAPI_TooManyTokens: too many wrong tokens from one network are 429, which clients do not repeat by themselves.
func TestAPI_TooManyTokens(t *testing.T) {
	w := newWorld(t, t.TempDir())
	status := 0
	for range 100 {
		status, _ = w.as("wrong", "GET", "/zones", "")
	}
	if status != 429 {
		t.Errorf("got %d", status)
	}
}

// TestAPI_Paths: what is no path, no method and no id is an envelope that says so.
func TestAPI_Paths(t *testing.T) {
	w := newWorld(t, t.TempDir())
	none := strings.Repeat("0", 32)
	for _, tt := range []struct {
		method, path string
		status, code int
	}{
		{"GET", "/nothing", 404, 7000},
		{"GET", "/zones//x", 404, 7000},
		{"GET", rulesPath + "/", 404, 7000},
		{"PATCH", rulesPath + "/" + none, 405, 10405},
		{"DELETE", rulesPath + "/catch_all", 405, 10405},
		{"POST", "/user", 405, 10405},
		{"GET", "/zones/" + none, 404, 7003},
		{"GET", "/zones/example.com", 404, 7003},
		{"GET", "/zones/" + none + "/email/routing/rules", 404, 7003},
		{"GET", "/accounts/" + none + "/email/routing/addresses", 404, 7003},
		{"POST", "/accounts/" + none + "/email/routing/rules/plan", 404, 7003},
		{"GET", rulesPath + "/" + none, 404, 2020},
		{"PUT", rulesPath + "/" + none, 404, 2020},
		{"DELETE", rulesPath + "/" + none, 404, 2020},
		{"GET", rulesPath + "/not-an-id", 404, 2020},
		{"GET", addressPath + "/" + none, 404, 2021},
		{"DELETE", addressPath + "/" + none, 404, 2021},
		{"PATCH", addressPath + "/" + none, 404, 2021},
	} {
		w.fails(tt.method, tt.path, "", tt.status, tt.code)
	}
}

// TestAPI_Around: what clients ask before all else.
func TestAPI_Around(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var accounts []shownAccount
	w.ok("GET", "/accounts?page=1", "", &accounts)
	var members []membership
	w.ok("GET", "/memberships?page=1", "", &members)
	if len(accounts) != 1 || len(members) != 1 || members[0].Account != accounts[0] {
		t.Errorf("got %v %v", accounts, members)
	}
	var verified struct{ ID, Status string }
	w.ok("GET", "/user/tokens/verify", "", &verified)
	if verified.Status != "active" || !isID.MatchString(verified.ID) {
		t.Errorf("got %v", verified)
	}
	var zones []shownZone
	w.ok("GET", "/zones?name=example.com&account.id="+accounts[0].ID, "", &zones)
	if len(zones) != 1 || zones[0].Name != "example.com" || zones[0].Account != accounts[0] ||
		!isID.MatchString(zones[0].ID) {
		t.Errorf("got %+v", zones)
	}
	w.ok("GET", "/zones?name=unknown.example", "", &zones)
	if len(zones) != 0 {
		t.Errorf("an unknown name: got %+v", zones)
	}
	w.ok("GET", "/zones?account.id="+strings.Repeat("0", 32), "", &zones)
	if len(zones) != 0 {
		t.Errorf("another account: got %+v", zones)
	}
	var all []settings
	w.ok("GET", accountPath+"/email/routing/zones", "", &all)
	if len(all) != 2 || all[0].Name != "example.com" || !all[0].Enabled {
		t.Errorf("got %+v", all)
	}
}

// isID is the form of ids.
var isID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// TestIDs: ids depend on the name alone, so that they are those of before in a relay that takes the place of another.
func TestIDs(t *testing.T) {
	if got := zoneID("example.com"); got != "1b6cc5fc66a173faf805ea4265358383" {
		t.Errorf("got %s", got)
	}
}

// TestAPI_Settings: settings are switched with and without a body, and what is left out stays.
func TestAPI_Settings(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var s settings
	for _, tt := range []struct {
		method, path, body        string
		enabled, wizard, subaddrs bool
	}{
		{"GET", "", "", true, false, false},
		{"POST", "/enable", "", true, false, false},
		{"POST", "/disable", "{}", false, false, false},
		{"PATCH", "", `{"support_subaddress":true}`, false, false, true},
		{"POST", "/enable", `{"name":"example.com"}`, true, false, true},
		{"POST", "/unlock", "{}", true, false, true},
		{"POST", "/unlock", "", true, false, true},
		{"POST", "/dns", `{"name":"example.com"}`, true, false, true},
		{"PATCH", "/dns", "", true, false, true},
		{"DELETE", "/dns", "", true, false, true},
		{"PUT", "", `{"skip_wizard":true}`, true, true, true},
		{"PATCH", "", `{"support_subaddress":false}`, true, true, false},
		{"PATCH", "", `{}`, true, true, false},
		{"PATCH", "", ``, true, true, false},
		{"GET", "", "", true, true, false},
	} {
		s = settings{}
		w.ok(tt.method, routingPath+tt.path, tt.body, &s)
		if s.Enabled != tt.enabled || s.SkipWizard != tt.wizard || s.Subaddress != tt.subaddrs ||
			s.Name != "example.com" || s.ID != zoneID("example.com") || s.Tag != s.ID || s.Status == "" {
			t.Errorf("%s %s %s: got %+v", tt.method, tt.path, tt.body, s)
		}
	}
	w.fails("POST", routingPath+"/dns", `{"name":"elsewhere.example"}`, 400, 2030)
	w.fails("PATCH", routingPath, `{"enabled":1}`, 400, 2032)
	w.fails("PATCH", routingPath, `[]`, 400, 2032)
	w.fails("PATCH", routingPath, `no JSON`, 400, 2032)
	w.fails("POST", routingPath+"/enable", strings.Repeat(" ", maxBody+1), 413, 2032)
}

// TestAPI_ZoneOfFiles: a zone whose line stands in the files of the administrator is switched all the same, and its
// options are theirs.
func TestAPI_ZoneOfFiles(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.files = []string{"domain"}
	var s settings
	for _, tt := range []struct {
		path    string
		enabled bool
	}{{"/enable", true}, {"/disable", false}, {"/disable", false}, {"/enable", true}, {"", true}} {
		method := "POST"
		if tt.path == "" {
			method = "GET"
		}
		if w.ok(method, routingPath+tt.path, "", &s); s.Enabled != tt.enabled {
			t.Errorf("%s: got %+v", tt.path, s)
		}
	}
	w.fails("PATCH", routingPath, `{"support_subaddress":true}`, 400, 2031)
}

// TestAPI_Disabled: the rules of a zone that is disabled take no mail, and are shown as they are; those of other zones
// are not touched.
func TestAPI_Disabled(t *testing.T) {
	w := newWorld(t, t.TempDir())
	other := "/zones/" + zoneID("example.org") + "/email/routing/rules"
	w.ok("POST", rulesPath, literalRule("a@example.com", `{"type":"drop"}`), nil)
	w.ok("POST", other, literalRule("a@example.org", `{"type":"drop"}`), nil)
	const line, untouched = "\na@example.com  drop\n", "\na@example.org  drop\n"
	for _, tt := range []struct {
		path    string
		inForce bool
	}{{"/disable", false}, {"/enable", true}} {
		w.ok("POST", routingPath+tt.path, "", nil)
		if strings.Contains(w.text, line) != tt.inForce || !strings.Contains(w.text, untouched) {
			t.Errorf("%s: %s", tt.path, w.text)
		}
		var list []shownRule
		w.ok("GET", rulesPath, "", &list)
		if !list[0].Enabled {
			t.Errorf("%s: got %+v", tt.path, list)
		}
	}
	w.ok("POST", routingPath+"/disable", "", nil)
	w.ok("POST", rulesPath, literalRule("b@example.com", `{"type":"drop"}`), nil)
	if strings.Contains(w.text, "\nb@example.com") {
		t.Errorf("a rule of a disabled zone takes mail: %s", w.text)
	}
}

// TestAPI_DNS: the records are an array, for the zone and for a domain below it.
func TestAPI_DNS(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for path, want := range map[string]string{
		"/dns": "example.com", "/dns?subdomain=sub": "sub.example.com",
		"/dns?subdomain=sub.example.com": "sub.example.com",
	} {
		var records []map[string]any
		w.ok("GET", routingPath+path, "", &records)
		if len(records) != 1 || records[0]["name"] != want || records[0]["priority"] != 10.0 {
			t.Errorf("%s: got %v", path, records)
		}
	}
	w.fails("GET", routingPath+"/dns?subdomain=a%20b", "", 400, 2030)
}

// TestAPI_Echo: a rule is returned as it was written, when it is made, read, listed and written anew. What a provider
// of Terraform does not get back as it was is a difference for ever.
func TestAPI_Echo(t *testing.T) {
	w := newWorld(t, t.TempDir())
	const to = `{"type":"literal","field":"to","value":"Info@example.com"}`
	for _, tt := range []struct{ name, body, want string }{
		{"as wrangler writes a drop",
			`{"actions":[{"type":"drop"}],"matchers":[` + to + `],"enabled":true}`,
			`"enabled":true,"priority":0,"matchers":[` + to + `],"actions":[{"type":"drop"}],"source":"api"`},
		{"an empty list of values",
			`{"actions":[{"type":"drop","value":[]}],"matchers":[` + to +
				`],"enabled":true,"priority":0,"source":"api"}`,
			`"enabled":true,"priority":0,"matchers":[` + to +
				`],"actions":[{"type":"drop","value":[]}],"source":"api"`},
		{"without name, with null",
			`{"name":null,"actions":[{"type":"forward","value":["a@x.example"]}],"matchers":[` + to + `]}`,
			`"enabled":true,"priority":0,"matchers":[` + to +
				`],"actions":[{"type":"forward","value":["a@x.example"]}],` +
				`"source":"api"`},
		{"with a name, a priority and disabled",
			`{"name":"Post","enabled":false,"priority":7,"actions":[{"type":"forward","value":["A@x.example"]}],` +
				`"matchers":[` + to + `]}`,
			`"name":"Post","enabled":false,"priority":7,"matchers":[` + to + `],` +
				`"actions":[{"type":"forward","value":["A@x.example"]}],"source":"api"`},
		{"an empty name",
			`{"name":"","actions":[{"type":"drop"}],"matchers":[` + to + `]}`,
			`"name":"","enabled":true,"priority":0,"matchers":[` + to + `],"actions":[{"type":"drop"}],"source":"api"`},
		{"several values",
			`{"actions":[{"type":"forward","value":["b@x.example","a@x.example"]}],"matchers":[` + to + `]}`,
			`"enabled":true,"priority":0,"matchers":[` + to + `],` +
				`"actions":[{"type":"forward","value":["b@x.example","a@x.example"]}],"source":"api"`},
		{"of wrangler, with the tag of its owner",
			`{"actions":[{"type":"drop"}],"matchers":[` + to + `],"source":"wrangler","owner_worker_tag":"abc"}`,
			`"enabled":true,"priority":0,"matchers":[` + to + `],"actions":[{"type":"drop"}],"source":"wrangler"`},
		{"a matcher without a field",
			`{"actions":[{"type":"drop"}],"matchers":[{"type":"literal","value":"x@example.com"}]}`,
			`"enabled":true,"priority":0,"matchers":[{"type":"literal","value":"x@example.com"}],` +
				`"actions":[{"type":"drop"}],"source":"api"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := ""
			check := func(method, path, body string) {
				t.Helper()
				status, text := w.do(method, path, body)
				if got := isID.FindString(between(text, `"id":"`, `"`)); id == "" {
					id = got
				}
				want := fmt.Sprintf(`{"id":%q,"tag":%q,%s}`, id, id, tt.want)
				if status != 200 || !strings.Contains(text, want) {
					t.Errorf("%s %s:\ngot  %d %s\nwant %s", method, path, status, text, want)
				}
			}
			check("POST", rulesPath, tt.body)
			check("GET", rulesPath+"/"+id, "")
			check("GET", rulesPath, "")
			check("PUT", rulesPath+"/"+id, tt.body)
			check("GET", rulesPath+"/"+id, "")
			check("DELETE", rulesPath+"/"+id, "")
			w.fails("GET", rulesPath+"/"+id, "", 404, 2020)
		})
	}
}

// between returns what stands between two texts.
func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// TestAPI_Put: the id stays while the matcher changes; a name that is left out goes; enabled and priority that are left
// out stay.
func TestAPI_Put(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var r shownRule
	w.ok("POST", rulesPath, `{"name":"n","enabled":false,"priority":3,"actions":[{"type":"drop"}],
		"matchers":[{"type":"literal","field":"to","value":"a@example.com"}]}`, &r)
	var next shownRule
	w.ok("PUT", rulesPath+"/"+r.ID, literalRule("b@example.com", `{"type":"forward","value":["x@x.example"]}`), &next)
	if next.ID != r.ID || next.Name != nil || next.Enabled || next.Priority != 3 ||
		*next.Matchers[0].Value != "b@example.com" {
		t.Errorf("got %+v", next)
	}
	next = shownRule{}
	w.ok("PUT", rulesPath+"/"+r.ID, literalRule("b@example.com", `{"type":"drop"}`), &next)
	if len(next.Actions[0].values()) != 0 {
		t.Errorf("got %+v", next)
	}
}

// TestAPI_Refused: what cannot be a rule is 400, with a pointer to what is wrong.
func TestAPI_Refused(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.files = []string{"files@example.com"}
	w.ok("POST", rulesPath, literalRule("there@example.com", `{"type":"drop"}`), nil)
	drop := `{"type":"drop"}`
	for _, tt := range []struct{ name, body, want string }{
		{"no JSON", `x`, "no JSON"},
		{"nothing", ``, "one matcher"},
		{"no action", `{"matchers":[{"type":"literal","field":"to","value":"a@example.com"}]}`, "one action"},
		{"two actions", literalRule("a@example.com", drop+","+drop), "one action"},
		{"two matchers", `{"matchers":[{"type":"all"},{"type":"all"}],"actions":[{"type":"drop"}]}`, "one matcher"},
		{"the catch-all", `{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}]}`, "catch_all"},
		{"another matcher", `{"matchers":[{"type":"regex","value":"x"}],"actions":[{"type":"drop"}]}`,
			"literal or all"},
		{"another field",
			`{"matchers":[{"type":"literal","field":"from","value":"a@example.com"}],"actions":[{"type":"drop"}]}`,
			"field to"},
		{"no value", `{"matchers":[{"type":"literal","field":"to"}],"actions":[{"type":"drop"}]}`, "needs an address"},
		{"no address", literalRule("a", drop), "address"},
		{"another zone", literalRule("a@example.org", drop), "not in the zone example.com"},
		{"a line feed", literalRule("a@example.com\nb@example.com  x@x.example", drop), "address"},
		{"a source route", literalRule("@x.example:a@example.com", drop), "address"},
		{"a value of drop", literalRule("a@example.com", `{"type":"drop","value":["x@x.example"]}`), "no value"},
		{"forward to nothing", literalRule("a@example.com", `{"type":"forward","value":[]}`), "needs a destination"},
		{"forward to no address", literalRule("a@example.com", `{"type":"forward","value":["x@x.example","y"]}`),
			"address"},
		{"an option as a value", literalRule("a@example.com", `{"type":"forward","value":["x@x.example srs=never"]}`),
			"address"},
		{"a next hop as a value", literalRule("a@example.com", `{"type":"forward","value":["smtp://127.0.0.1:25"]}`),
			"address"},
		{"a worker", literalRule("a@example.com", `{"type":"worker","value":["w"]}`), "Workers"},
		{"another action", literalRule("a@example.com", `{"type":"reply"}`), "forward, drop or worker"},
		{"a priority below zero", `{"priority":-1}`, "priority"},
		{"a priority that is no number", `{"priority":"1"}`, "priority"},
		{"another source", `{"source":"x"}`, "api or wrangler"},
		{"a pattern that is there", literalRule("THERE@example.com", drop), "already"},
		{"a pattern of the files", literalRule("files@example.com", drop), "routes.txt:1"},
	} {
		status, text := w.do("POST", rulesPath, tt.body)
		if status != 400 || !strings.Contains(text, tt.want) {
			t.Errorf("%s: got %d %s, want %q", tt.name, status, text, tt.want)
		}
	}
}

// TestAPI_CatchAll: a zone has a catch-all for ever, under one id, last in the list and off until it is written.
func TestAPI_CatchAll(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var first shownRule
	w.ok("GET", rulesPath+"/catch_all", "", &first)
	if first.Enabled || first.Priority != 2147483647 || first.Matchers[0].Type != "all" ||
		first.Actions[0].Type != "drop" ||
		first.Source != "api" || first.Name != nil {
		t.Errorf("got %+v", first)
	}
	var r shownRule
	w.ok("PUT", rulesPath+"/catch_all",
		`{"enabled":true,"matchers":[{"type":"all"}],"actions":[{"type":"forward","value":["x@x.example"]}]}`, &r)
	if r.ID != first.ID || r.Tag != first.ID || !r.Enabled || r.Actions[0].values()[0] != "x@x.example" {
		t.Errorf("got %+v", r)
	}
	if !strings.Contains(w.text, "\n@example.com  x@x.example\n") {
		t.Errorf("the rules are %s", w.text)
	}
	w.ok("POST", rulesPath, literalRule("a@example.com", `{"type":"drop"}`), nil)
	var list []shownRule
	w.ok("GET", rulesPath, "", &list)
	if len(list) != 2 || list[1].ID != first.ID || list[1].Priority != 2147483647 {
		t.Errorf("got %+v", list)
	}
	w.ok("GET", rulesPath+"/"+first.ID, "", &r)
	if r.ID != first.ID {
		t.Errorf("got %+v", r)
	}
	// wrangler leaves enabled out, and it stays.
	w.ok("PUT", rulesPath+"/catch_all", `{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}]}`, &r)
	if !r.Enabled || r.ID != first.ID {
		t.Errorf("got %+v", r)
	}
	w.fails("PUT", rulesPath+"/catch_all", literalRule("a@example.com", `{"type":"drop"}`), 400, 2030)
	w.fails("DELETE", rulesPath+"/"+first.ID, "", 400, 2030)
}

// TestAPI_OtherForms: rules that were written in another way are shown as far as there are words for them, and what has
// none is left out.
func TestAPI_OtherForms(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for pattern, target := range map[string]string{
		"a@example.com": "x@x.example, y@x.example", "b@example.com": "drop", "c@example.com": "reject 550 Gone",
		"d@example.com": "x@x.example srs=never", "e@example.com": "try x@x.example, y@x.example",
		"f@example.com": "smtp://192.0.2.1", "/x.*/@example.com": "x@x.example",
		"s-*@example.com": "drop", `"g h"@example.com`: `"a,b"@x.example`,
	} {
		if _, err := w.account.AddRule(t.Context(), account.TokenFile(),
			account.Rule{Pattern: pattern, Target: target, Enabled: true}); err != nil {
			t.Fatal(err)
		}
	}
	var list []shownRule
	w.ok("GET", rulesPath, "", &list)
	var got []string
	for _, r := range list {
		if r.Matchers[0].Value != nil {
			got = append(got, fmt.Sprint(*r.Matchers[0].Value, r.Actions[0].Type, r.Actions[0].values()))
		}
	}
	slices.Sort(got)
	want := `["g h"@example.comforward["a,b"@x.example] a@example.comforward[x@x.example y@x.example] ` +
		`b@example.comdrop[]]`
	if fmt.Sprint(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// A rule that was written here and changed elsewhere is shown as it is now.
	var r shownRule
	w.ok("POST", rulesPath, literalRule("z@example.com", `{"type":"drop"}`), &r)
	kept, err := w.account.Rule(account.TokenFile(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	kept.Target = "n@x.example"
	if _, err := w.account.SetRule(t.Context(), account.TokenFile(), r.ID, kept); err != nil {
		t.Fatal(err)
	}
	w.ok("GET", rulesPath+"/"+r.ID, "", &r)
	if r.Actions[0].values()[0] != "n@x.example" {
		t.Errorf("got %+v", r)
	}
}

// TestAPI_Pages: a list has all five numbers, ends in an empty page, and no rule is left out of its pages or in two.
func TestAPI_Pages(t *testing.T) {
	w := newWorld(t, t.TempDir())
	if _, err := w.account.ChangeRules(t.Context(), account.TokenFile(), func(
		list []account.Rule,
	) ([]account.Rule, error) {
		for i := range 123 {
			list = append(list, account.Rule{Pattern: fmt.Sprintf("a%d@example.com", i), Target: "drop",
				Enabled: i%2 == 0})
		}
		return list, nil
	}); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]resultInfo{
		"":                      {1, 50, 50, 124, 3},
		"?page=3":               {3, 50, 24, 124, 3},
		"?page=4":               {4, 50, 0, 124, 3},
		"?page=99999":           {99999, 50, 0, 124, 3},
		"?per_page=100&page=2":  {2, 100, 24, 124, 2},
		"?per_page=999999":      {1, 1000, 124, 124, 1},
		"?enabled=true":         {1, 50, 50, 62, 2},
		"?enabled=false&page=2": {2, 50, 12, 62, 2},
		"?order=created&page=1": {1, 50, 50, 124, 3},
		"?page=2147483647":      {2147483647, 50, 0, 124, 3},
	} {
		var list []shownRule
		r := w.ok("GET", rulesPath+query, "", &list)
		if r.Info == nil || *r.Info != want || len(list) != want.Count || list == nil {
			t.Errorf("%s: got %+v and %d, want %+v", query, r.Info, len(list), want)
		}
	}
	for _, query := range []string{"?page=0", "?page=-1", "?page=x", "?per_page=0", "?page=99999999999", "?enabled=x"} {
		w.fails("GET", rulesPath+query, "", 400, 2030)
	}
	seen := make(map[string]int)
	for page := 1; ; page++ {
		var list []shownRule
		w.ok("GET", fmt.Sprintf("%s/email/routing/rules?page=%d&per_page=10", accountPath, page), "", &list)
		if len(list) == 0 {
			break
		}
		for _, r := range list {
			seen[r.ID]++
			if r.Zone == nil || r.Zone.Tag != zoneID(r.Zone.Name) {
				t.Fatalf("got %+v", r)
			}
		}
	}
	if len(seen) != 125 { // with the catch-alls of two zones
		t.Errorf("got %d rules", len(seen))
	}
}

// TestAPI_Addresses: a destination is pending until it is verified; the same one again is the same entry, and its owner
// is asked again.
func TestAPI_Addresses(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var a, b shownAddress
	w.ok("POST", addressPath, `{"email":"A@x.example"}`, &a)
	if !isID.MatchString(a.ID) || a.Tag != a.ID || a.Email != "A@x.example" || a.Verified != nil {
		t.Errorf("got %+v", a)
	}
	if _, text := w.do("GET", addressPath+"/"+a.ID, ""); !strings.Contains(text, `"verified":null`) {
		t.Errorf("got %s", text)
	}
	w.ok("POST", addressPath, `{"email":"A@X.example"}`, &b)
	if b.ID != a.ID || len(w.asked) != 2 {
		t.Errorf("got %+v, asked %q", b, w.asked)
	}
	r := w.ok("POST", addressPath, `{"email":"smtp://192.0.2.1:25"}`, &b)
	if len(r.Messages) != 1 || r.Messages[0].Message != "no letter" {
		t.Errorf("got %+v", r)
	}
	w.ok("PATCH", addressPath+"/"+b.ID, `{"status":"verified"}`, &b)
	if b.Verified == nil {
		t.Errorf("got %+v", b)
	}
	if _, err := time.Parse(time.RFC3339, *b.Verified); err != nil {
		t.Error(err)
	}
	for query, want := range map[string]int{"": 2, "?verified=true": 1, "?verified=false": 1,
		"?direction=desc&order=created": 2} {
		var list []shownAddress
		if r := w.ok("GET", addressPath+query, "", &list); len(list) != want || r.Info.TotalCount != want {
			t.Errorf("%s: got %+v", query, list)
		}
	}
	w.ok("PATCH", addressPath+"/"+b.ID, `{"status":"unverified"}`, &b)
	if b.Verified != nil {
		t.Errorf("got %+v", b)
	}
	w.fails("PATCH", addressPath+"/"+b.ID, `{"status":"x"}`, 400, 2030)
	w.fails("POST", addressPath, `{}`, 400, 2030)
	w.fails("POST", addressPath, `{"email":"no address"}`, 400, 2030)
	w.fails("GET", addressPath+"?verified=x", "", 400, 2030)
	w.ok("DELETE", addressPath+"/"+a.ID, "", &a)
	if a.Email != "A@x.example" {
		t.Errorf("got %+v", a)
	}
	w.fails("GET", addressPath+"/"+a.ID, "", 404, 2021)
}

// TestAPI_Pending: a rule that names a destination which is not verified is accepted and returned as it was given, and
// takes no mail before; one whose destination is removed is disabled.
func TestAPI_Pending(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var a shownAddress
	w.ok("POST", addressPath, `{"email":"x@x.example"}`, &a)
	var r shownRule
	answer := w.ok("POST", rulesPath, literalRule("a@example.com", `{"type":"forward","value":["x@x.example"]}`), &r)
	if !r.Enabled || len(answer.Messages) != 1 || !strings.Contains(answer.Messages[0].Message, "x@x.example") {
		t.Errorf("got %+v %+v", r, answer.Messages)
	}
	const line = "\na@example.com  x@x.example\n"
	if strings.Contains(w.text, line) {
		t.Error("it takes mail")
	}
	w.ok("PATCH", addressPath+"/"+a.ID, `{"status":"verified"}`, nil)
	if !strings.Contains(w.text, line) {
		t.Errorf("it takes no mail: %s", w.text)
	}
	w.ok("DELETE", addressPath+"/"+a.ID, "", nil)
	w.ok("GET", rulesPath+"/"+r.ID, "", &r)
	if r.Enabled || strings.Contains(w.text, line) {
		t.Errorf("got %+v", r)
	}
}

// TestAPI_Owners: what belongs to other owners does not exist, and a token that only reads changes nothing.
func TestAPI_Owners(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var r shownRule
	w.ok("POST", rulesPath, literalRule("a@example.com", `{"type":"drop"}`), &r)
	var a shownAddress
	w.ok("POST", addressPath, `{"email":"x@x.example"}`, &a)
	made := func(role account.Role, domains ...string) string {
		t.Helper()
		_, secret, err := w.account.AddToken(t.Context(), account.TokenFile(), account.Token{Name: "t", Role: role,
			Domains: domains})
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^[0-9A-Za-z\-_]{40,80}$`).MatchString(secret) {
			t.Errorf("the token is %q", secret)
		}
		return secret
	}
	other, reader := made(account.Owner, "example.org"), made(account.ReadOnly)
	for _, tt := range []struct {
		token, method, path, body string
		status                    int
	}{
		{other, "GET", zonePath, "", 404},
		{other, "GET", rulesPath, "", 404},
		{other, "GET", rulesPath + "/" + r.ID, "", 404},
		{other, "DELETE", rulesPath + "/" + r.ID, "", 404},
		{other, "GET", addressPath + "/" + a.ID, "", 404},
		{other, "DELETE", addressPath + "/" + a.ID, "", 404},
		{other, "PATCH", addressPath + "/" + a.ID, `{"status":"verified"}`, 404},
		{other, "GET", "/zones/" + zoneID("example.org") + "/email/routing/rules/" + r.ID, "", 404},
		{other, "GET", "/zones/" + zoneID("example.org") + "/email/routing/rules", "", 200},
		{reader, "GET", rulesPath, "", 200},
		{reader, "GET", addressPath, "", 200},
		{reader, "POST", rulesPath, literalRule("b@example.com", `{"type":"drop"}`), 403},
		{reader, "PUT", rulesPath + "/" + r.ID, literalRule("b@example.com", `{"type":"drop"}`), 403},
		{reader, "DELETE", rulesPath + "/" + r.ID, "", 403},
		{reader, "PUT", rulesPath + "/catch_all", `{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}]}`, 403},
		{reader, "POST", addressPath, `{"email":"y@x.example"}`, 403},
		{reader, "DELETE", addressPath + "/" + a.ID, "", 403},
		{reader, "PATCH", addressPath + "/" + a.ID, `{"status":"verified"}`, 403},
		{reader, "POST", routingPath + "/disable", "", 403},
		{reader, "PATCH", routingPath, `{"enabled":false}`, 403},
	} {
		if status, text := w.as(tt.token, tt.method, tt.path, tt.body); status != tt.status {
			t.Errorf("%s %s: got %d %s, want %d", tt.method, tt.path, status, text, tt.status)
		}
	}
	var list struct{ Result []shownZone }
	if _, text := w.as(other, "GET", "/zones", ""); json.Unmarshal([]byte(text), &list) != nil ||
		len(list.Result) != 1 ||
		list.Result[0].Name != "example.org" {
		t.Errorf("got %s", text)
	}
	// A destination of an owner is verified by its link, or by one who runs the relay.
	var own struct{ Result shownAddress }
	if _, text := w.as(other, "POST", addressPath, `{"email":"y@x.example"}`); json.Unmarshal([]byte(text),
		&own) != nil {
		t.Fatal(text)
	}
	if status, text := w.as(other, "PATCH", addressPath+"/"+own.Result.ID, `{"status":"verified"}`); status != 403 {
		t.Errorf("got %d %s", status, text)
	}
}

// TestAPI_Unkept: without a folder to keep it in, what is read is there and what is written is 403.
func TestAPI_Unkept(t *testing.T) {
	w := newWorld(t, "")
	w.ok("GET", rulesPath, "", nil)
	w.ok("GET", addressPath, "", nil)
	w.ok("POST", routingPath+"/enable", "", nil) // which changes nothing
	w.fails("POST", rulesPath, literalRule("a@example.com", `{"type":"drop"}`), 403, 2040)
	w.fails("POST", addressPath, `{"email":"x@x.example"}`, 403, 2040)
	w.fails("POST", routingPath+"/disable", "", 403, 2040)
}

// TestAPI_Plan: a plan says what would change, and changes nothing.
func TestAPI_Plan(t *testing.T) {
	w := newWorld(t, t.TempDir())
	const path = "/email/routing/rules/plan"
	workerRule := func(to string) string { return literalRule(to, `{"type":"worker","value":["w"]}`) }
	add := func(pattern, target, source, owner string) {
		t.Helper()
		if _, err := w.account.AddRule(t.Context(), account.TokenFile(), account.Rule{
			Pattern: pattern, Target: target, Enabled: true, Source: source, Owner: owner,
		}); err != nil {
			t.Fatal(err)
		}
	}
	add("mine@example.com", "drop", "wrangler", "tag")
	add("gone@example.com", "drop", "wrangler", "tag")
	add("foreign@example.com", "x@x.example", "api", "")
	add("@example.org", "drop", "wrangler", "tag")
	body := fmt.Sprintf(`{"owner_worker_tag":"tag","rules":[%s,%s,%s],`+
		`"catch_all_rules":[{"target":"*@example.com","rule":%s}]}`,
		workerRule("new@example.com"), workerRule("mine@example.com"), workerRule("Foreign@example.com"),
		`{"matchers":[{"type":"all"}],"actions":[{"type":"worker","value":["w"]}]}`)
	before := w.text
	var got struct{ Zones []zonePlan }
	w.ok("POST", accountPath+path, body, &got)
	var lines []string
	for _, z := range got.Zones {
		for _, c := range z.Changes {
			remote := ""
			if c.Remote != nil {
				remote = " " + c.Remote.Source + " " + c.Remote.Owner
			}
			lines = append(lines, z.Name+" "+c.Type+" "+c.Target+remote)
		}
	}
	want := []string{
		"example.com added new@example.com", "example.com updated mine@example.com wrangler tag",
		"example.com conflict Foreign@example.com api ", "example.com added *@example.com",
		"example.com deleted gone@example.com wrangler tag", "example.org deleted *@example.org wrangler tag",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
	if w.text != before {
		t.Error("it changed something")
	}
	w.ok("POST", accountPath+path, `{"owner_worker_tag":"other","rules":[],"catch_all_rules":[]}`, &got)
	if len(got.Zones) != 0 {
		t.Errorf("got %+v", got)
	}
	w.fails("POST", accountPath+path, `{"rules":[`+workerRule("a@unknown.example")+`]}`, 400, 2030)
	w.fails("POST", accountPath+path, `{"catch_all_rules":[{"target":"x"}]}`, 400, 2030)
	w.fails("POST", accountPath+path, `{"rules":[{}]}`, 400, 2030)
}

// FuzzAPI_Rule: a rule that is taken is returned as it was written, and is one line of rules for its address.
func FuzzAPI_Rule(f *testing.F) {
	for _, s := range []string{
		literalRule("a@example.com", `{"type":"drop"}`), literalRule("#a@example.com",
			`{"type":"forward","value":["/b@x.example"]}`),
		literalRule(`"a b"@example.com`, `{"type":"forward","value":["*@x.example","\"c,d\"@x.example"]}`),
		`{"name":null,"priority":1,"source":"wrangler"}`, `[]`,
		`{"matchers":[{"type":"all"}],"actions":[{"type":"drop","value":[]}]}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var w writtenRule
		if decode([]byte(body), &w) != nil {
			return
		}
		for _, catchAll := range []bool{false, true} {
			r, err := w.check("example.com", catchAll, nil)
			if err != nil {
				continue
			}
			if strings.ContainsAny(r.Line(), "\r\n\x00") || strings.HasPrefix(r.Line(), "#") ||
				strings.HasPrefix(r.Line(), "/") {
				t.Fatalf("%q is the line %q", body, r.Line())
			}
			r.Domain = "example.com"
			s, ok := show(&r)
			if !ok {
				t.Fatalf("%q has no words", body)
			}
			want, _ := json.Marshal(w.form)
			if got, _ := json.Marshal(s.form); string(got) != string(want) {
				t.Fatalf("got %s, want %s", got, want)
			}
			r.Echo = nil // as if it were written in another way
			if s, ok = show(&r); !ok || targetOf(&s.Actions[0]) != r.Target || patternIn(&s.form,
				r.Domain) != r.Pattern {
				t.Fatalf("%q is shown as %+v", r.Line(), s)
			}
		}
	})
}
