package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/cluster/account"
)

const adminToken = "0123456789abcdef"

// An api is an admin server with a file of rules in memory.
type api struct {
	*account.Account
	base  string
	text  string
	asked []string     // destinations
	fast  atomic.Int64 // minutes that the clock goes fast
}

func startAPI(t *testing.T, state string) *api {
	t.Helper()
	a := &api{}
	rules := account.Rules{
		Text: func() string { return a.text },
		Try:  func(string) error { return nil },
		Files: func() iter.Seq2[string, string] {
			return maps.All(map[string]string{"routes.txt": "x@files.example drop\n"})
		},
		Change: func(_ context.Context, edit func(string) (string, error)) error {
			text, err := edit(a.text)
			if strings.Contains(text, "\ninfo@files.example") {
				return errors.New("the same pattern stands at routes.txt:1")
			}
			if err == nil {
				a.text = text
			}
			return err
		},
		Faults: func(error) ([]account.Fault, bool) { return nil, true },
	}
	var err error
	a.Account, err = account.New(account.Config{
		State: state, Rules: rules, Token: []byte(adminToken),
		Now:     func() time.Time { return time.Now().Add(time.Duration(a.fast.Load()) * time.Minute) },
		ALabels: func(s string) (string, bool) { return strings.ToLower(s), !strings.ContainsAny(s, " *@") },
	})
	if err != nil {
		t.Fatal(err)
	}
	a.base = start(t, Config{
		Metrics: NewMetrics("v1", Gauges{}), Token: []byte(adminToken), Account: a.Account,
		Cluster: func() ClusterStatus { return ClusterStatus{} }, Drain: func() {},
		Ask: func(_ context.Context, _ account.Principal, d account.Destination) error {
			if a.asked = append(a.asked, d.Address); strings.Contains(d.Address, "@") {
				return nil
			}
			return errors.New("no letter can be sent there")
		},
		Check:  func(context.Context, string, []byte) (any, error) { return map[string]any{}, nil },
		Report: func(context.Context, string, string, string) (any, error) { return map[string]any{}, nil },
		Activity: Activity{
			Log:     func(context.Context, url.Values) (any, error) { return map[string]any{}, nil },
			Senders: func(context.Context, url.Values) (any, error) { return map[string]any{}, nil },
			Replay: func(context.Context, account.Principal, account.Wish, string) (any, error) {
				return json.RawMessage(
					`{"since":"2026-11-30T12:00:00Z","messages":1,"same":0,"differ":1,"unknown":0,"notes":[],` +
						`"groups":[{"to":"a@b.example","before":"x","after":"y","messages":1,` +
						`"last":"2026-11-30T12:00:00Z"}]}`,
				), nil
			},
		},
		Explain: func(context.Context, []byte) (int, any) { return 200, map[string]any{} }, MaxQuestion: 1 << 10,
	})
	return a
}

// ask sends a request and returns the status and the JSON of the answer.
func (a *api) ask(t *testing.T, token, method, path, body string) (int, map[string]any) {
	t.Helper()
	r, err := http.NewRequest(method, a.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && json.Unmarshal(text, &answer) != nil {
		t.Fatalf("%s %s: %s", method, path, text)
	}
	return resp.StatusCode, answer
}

// flag returns a value of an answer that is true or false.
func flag(t *testing.T, answer map[string]any, key string) bool {
	t.Helper()
	value, ok := answer[key].(bool)
	if !ok {
		t.Errorf("%s is %v", key, answer[key])
	}
	return value
}

// id returns the id of an answer, or of a part of it.
func id(answer map[string]any, part string) string {
	if part != "" {
		answer, _ = answer[part].(map[string]any)
	}
	s, _ := answer["id"].(string)
	return s
}

// TestAPI_Ask: the owner of a destination that is added is asked, and again when it is added again, unless it is
// verified. A note says why he is not.
func TestAPI_Ask(t *testing.T) {
	a := startAPI(t, t.TempDir())
	for _, tt := range []struct {
		address string
		note    any
		asked   int
	}{
		{"me@home.example", nil, 1}, {"me@home.example", nil, 2},
		{"smtp://192.0.2.1", "no letter can be sent there", 3},
	} {
		_, d := a.ask(t, adminToken, "POST", "/api/v1/destinations", `{"address":"`+tt.address+`"}`)
		if d["note"] != tt.note || len(a.asked) != tt.asked || d["proof"] != nil {
			t.Errorf("%s: %v, asked %q", tt.address, d, a.asked)
		}
		if tt.note != nil {
			a.ask(t, adminToken, "PATCH", "/api/v1/destinations/"+d["id"].(string), `{"verified":true}`)
			_, d = a.ask(t, adminToken, "POST", "/api/v1/destinations", `{"address":"`+tt.address+`"}`)
			if d["note"] != nil || len(a.asked) != tt.asked {
				t.Errorf("one that is verified: %v, asked %q", d, a.asked)
			}
		}
	}
}

// TestAPI_Routes walks through the life of a rule, its destination and a token.
func TestAPI_Routes(t *testing.T) {
	a := startAPI(t, t.TempDir())
	must := func(want int, token, method, path, body string) map[string]any {
		t.Helper()
		got, answer := a.ask(t, token, method, path, body)
		if got != want {
			t.Errorf("%s %s: %d %v, want %d", method, path, got, answer, want)
		}
		return answer
	}
	made := must(201, adminToken, "POST", "/api/v1/tokens", `{"name":"o","role":"owner","domains":["example.com"]}`)
	token, _ := made["secret"].(string)
	d := must(201, token, "POST", "/api/v1/destinations", `{"address":"me@home.example"}`)
	r := must(201, token, "POST", "/api/v1/routes", `{"pattern":"info@example.com","target":"me@home.example"}`)
	if flag(t, r, "in_force") || !flag(t, r, "enabled") || strings.Contains(a.text, "\ninfo@") {
		t.Errorf("before it is verified: %v\n%s", r, a.text)
	}
	destination, route := "/api/v1/destinations/"+id(d, ""), "/api/v1/routes/"+id(r, "")
	must(403, token, "PATCH", destination, `{"verified":true}`)
	must(200, adminToken, "PATCH", destination, `{"verified":true}`)
	if r = must(200, token, "GET", route, ""); !flag(t, r, "in_force") || !strings.Contains(a.text, "\ninfo@") {
		t.Errorf("afterwards: %v\n%s", r, a.text)
	}
	must(200, token, "PUT", route, `{"pattern":"@example.com","target":"me@home.example","enabled":false}`)
	must(403, token, "POST", "/api/v1/routes", `{"pattern":"info@other.example","target":"drop"}`)
	must(403, token, "GET", "/api/v1/tokens", "")
	must(403, token, "GET", "/api/v1/cluster", "")
	must(403, token, "POST", "/api/v1/explain", "{}")
	other := must(201, adminToken, "POST", "/api/v1/routes", `{"pattern":"a@other.example","target":"drop"}`)
	for _, method := range []string{"GET", "DELETE"} {
		must(404, token, method, "/api/v1/routes/"+id(other, ""), "")
	}
	refused := must(400, adminToken, "POST", "/api/v1/routes", `{"pattern":"info@files.example","target":"drop"}`)
	if why, _ := refused["error"].(string); !strings.Contains(why, "routes.txt:1") {
		t.Errorf("%v", refused)
	}
	for _, body := range []string{"", "[]", "{", `{"pattern":"x@example.com","unknown":1}`, `{}{}`, `{"pattern":1}`} {
		must(400, adminToken, "POST", "/api/v1/routes", body)
	}
	if gone := must(200, token, "DELETE", destination, ""); len(gone["disabled"].([]any)) != 0 {
		t.Errorf("a rule that is off already was disabled: %v", gone)
	}
	audit := must(200, adminToken, "GET", "/api/v1/audit", "")
	if list, _ := audit["list"].([]any); len(list) != 7 || strings.Contains(fmt.Sprint(audit), token) {
		t.Errorf("%d entries: %v", len(list), audit)
	}
	must(200, adminToken, "DELETE", "/api/v1/tokens/"+id(made, "token"), "")
	must(401, token, "GET", "/api/v1/routes", "")
}

// TestAPI_Blocks: an owner lists, adds and removes the senders whose mail is refused in its domains, and none in those
// of others; each change is a rule and an entry of the audit.
func TestAPI_Blocks(t *testing.T) {
	a := startAPI(t, t.TempDir())
	must := func(want int, token, method, path, body string) map[string]any {
		t.Helper()
		got, answer := a.ask(t, token, method, path, body)
		if got != want {
			t.Errorf("%s %s %s: %d %v, want %d", method, path, body, got, answer, want)
		}
		return answer
	}
	made := must(201, adminToken, "POST", "/api/v1/tokens", `{"name":"o","role":"owner","domains":["example.com"]}`)
	token, _ := made["secret"].(string)
	all := must(201, adminToken, "POST", "/api/v1/blocks", `{"sender":"@spam.example"}`)
	others := must(201, adminToken, "POST", "/api/v1/blocks", `{"sender":"@spam.example","for":"other.example"}`)
	route := must(201, token, "POST", "/api/v1/routes", `{"pattern":"info@example.com","target":"drop"}`)
	one := must(201, token, "POST", "/api/v1/blocks", `{"sender":"news@shop.example","for":"example.com"}`)
	two := must(201, token, "POST", "/api/v1/blocks", `{"sender":"@*.bulk.example","for":"info@example.com"}`)
	if one["for"] != "@example.com" || one["domain"] != "example.com" || !flag(t, one, "in_force") ||
		!strings.Contains(a.text, "\nblock news@shop.example for=@example.com\n") {
		t.Errorf("%v\n%s", one, a.text)
	}
	if list := must(200, token, "GET", "/api/v1/blocks", ""); list["total"] != 2.0 {
		t.Errorf("an owner sees %v", list)
	}
	if list := must(200, adminToken, "GET", "/api/v1/blocks?domain=other.example", ""); list["total"] != 1.0 {
		t.Errorf("one domain has %v", list)
	}
	for _, body := range []string{
		`{}`, `{"sender":""}`, `{"sender":"a@b.example for=@other.example","for":"example.com"}`,
		`{"sender":"a@b.example","for":"example.com drop"}`,
		`{"sender":"a@b.example","for":"info@example.com,x@y.example"}`,
		`{"sender":"a@b.example\n@example.com drop","for":"example.com"}`,
		`{"sender":"news@shop.example","for":"example.com"}`,
	} {
		must(400, token, "POST", "/api/v1/blocks", body)
	}
	must(403, token, "POST", "/api/v1/blocks", `{"sender":"@bulk.example"}`)
	must(403, token, "POST", "/api/v1/blocks", `{"sender":"@bulk.example","for":"other.example"}`)
	for _, foreign := range []map[string]any{all, others, route} { // those of others, and what is no block
		must(404, token, "DELETE", "/api/v1/blocks/"+id(foreign, ""), "")
	}
	if old := must(200, token, "DELETE", "/api/v1/blocks/"+id(two, ""), ""); old["sender"] != "@*.bulk.example" {
		t.Errorf("%v", old)
	}
	must(404, token, "DELETE", "/api/v1/blocks/"+id(two, ""), "")
	if audit := must(200, token, "GET", "/api/v1/audit", ""); len(audit["list"].([]any)) != 4 {
		t.Errorf("the audit of the owner is %v", audit)
	}
}

// TestAPI_Pages: 250 rules come in pages, and the page behind the last is empty.
func TestAPI_Pages(t *testing.T) {
	a := startAPI(t, t.TempDir())
	_, err := a.ChangeRules(t.Context(), account.TokenFile(), func(list []account.Rule) ([]account.Rule, error) {
		for n := range 250 {
			list = append(list, account.Rule{Pattern: fmt.Sprintf("a%d@example.com", n), Target: "drop", Enabled: true})
		}
		return list, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for n := 1; ; n++ {
		status, answer := a.ask(t, adminToken, "GET", fmt.Sprintf("/api/v1/routes?per_page=99&page=%d", n), "")
		list, _ := answer["list"].([]any)
		if status != 200 || answer["total"] != 250.0 {
			t.Fatalf("%d %v", status, answer)
		}
		for _, r := range list {
			seen[fmt.Sprint(r.(map[string]any)["pattern"])] = true
		}
		if len(list) == 0 {
			break
		}
	}
	if len(seen) != 250 {
		t.Errorf("saw %d", len(seen))
	}
	for _, query := range []string{"page=0", "page=x", "per_page=-1"} {
		if status, _ := a.ask(t, adminToken, "GET", "/api/v1/routes?"+query, ""); status != 400 {
			t.Errorf("%s: %d", query, status)
		}
	}
}

// TestAPI_Unkept: without a folder, what changes something is 403 with a code, and what reads is answered.
func TestAPI_Unkept(t *testing.T) {
	a := startAPI(t, "")
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/api/v1/routes", `{"pattern":"a@example.com","target":"drop"}`},
		{"POST", "/api/v1/destinations", `{"address":"a@example.com"}`},
		{"POST", "/api/v1/tokens", `{"name":"x","role":"admin"}`},
	} {
		status, answer := a.ask(t, adminToken, c.method, c.path, c.body)
		if status != 403 || answer["code"] != float64(account.CodeUnkept) {
			t.Errorf("%s %s: %d %v", c.method, c.path, status, answer)
		}
	}
	if status, answer := a.ask(t, adminToken, "GET", "/api/v1/routes", ""); status != 200 || answer["total"] != 0.0 {
		t.Errorf("%d %v", status, answer)
	}
}

// TestAPI_Limit: too many wrong tokens are 429, with the time to wait.
func TestAPI_Limit(t *testing.T) {
	a := startAPI(t, "")
	if status, _ := a.ask(t, adminToken, "GET", "/api/v1/whoami", ""); status != 200 {
		t.Fatal(status)
	}
	for range 20 {
		if status, _ := a.ask(t, "wrong", "GET", "/api/x", ""); status != 401 {
			t.Fatal(status)
		}
	}
	if status, _ := a.ask(t, "another", "GET", "/api/v1/whoami", ""); status != 429 {
		t.Errorf("the next: %d", status)
	}
	if status, _ := a.ask(t, adminToken, "GET", "/api/v1/whoami", ""); status != 200 {
		t.Errorf("one that was right before: %d", status)
	}
}

// A described is the OpenAPI description as the test reads it.
type described struct {
	Paths      map[string]map[string]yaml.Node
	Components struct {
		Schemas map[string]schema
	}
}

type schema struct {
	Ref        string            `yaml:"$ref"`
	Type       any               `yaml:"type"`
	Properties map[string]schema `yaml:"properties"`
	Required   []string          `yaml:"required"`
	Items      *schema           `yaml:"items"`
	Pattern    string            `yaml:"pattern"`
	Enum       []string          `yaml:"enum"`
}

type describedOperation struct {
	Responses map[string]struct {
		Content map[string]struct{ Schema schema }
	}
}

// TestOpenAPI: each path of the description is answered as it says, and each path that is answered stands in it.
func TestOpenAPI(t *testing.T) {
	var d described
	if err := yaml.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	a := startAPI(t, t.TempDir())
	var answered, written []string
	for _, o := range (&Server{}).operations() {
		answered = append(answered, o.method+" "+o.path)
	}
	bodies := map[string]string{
		"POST /api/v1/routes":             `{"pattern":"b@example.com","target":"drop","name":"n"}`,
		"PUT /api/v1/routes/{id}":         `{"pattern":"c@example.com","target":"drop"}`,
		"POST /api/v1/blocks":             `{"sender":"@bulk.example","for":"example.com"}`,
		"POST /api/v1/plan":               `{"owner":"a","rules":"p@example.com drop\n"}`,
		"POST /api/v1/apply":              `{"owner":"a","rules":"p@example.com drop\n"}`,
		"POST /api/v1/replay":             `{"owner":"a","rules":"p@example.com drop\n","since":"7d"}`,
		"POST /api/v1/destinations":       `{"address":"x@y.example"}`,
		"PATCH /api/v1/destinations/{id}": `{"verified":true}`,
		"POST /api/v1/tokens":             `{"name":"x","role":"owner","domains":["a.example"]}`,
	}
	for path, operations := range d.Paths {
		for method, node := range operations {
			if method == "parameters" {
				continue
			}
			name := strings.ToUpper(method) + " " + path
			written = append(written, name)
			var o describedOperation
			if err := node.Decode(&o); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			a.fast.Add(1)
			place := strings.NewReplacer("{what}", "target", "{id}", a.record(t, path)).Replace(path)
			for _, token := range []string{adminToken, "", "wrong", adminToken + "x"} {
				status, answer := a.ask(t, token, strings.ToUpper(method), place, bodies[name])
				response, ok := o.Responses[fmt.Sprint(status)]
				if !ok || token != adminToken && status != 401 || token == adminToken && status/100 != 2 {
					t.Errorf("%s: %d %v, which is not described", name, status, answer)
				}
				if s, ok := response.Content["application/json"]; ok {
					for _, why := range d.differs(s.Schema, answer, "") {
						t.Errorf("%s %d: %s", name, status, why)
					}
				}
			}
		}
	}
	slices.Sort(answered)
	slices.Sort(written)
	if !slices.Equal(answered, written) {
		t.Errorf("answered: %q\ndescribed: %q", answered, written)
	}
}

// record makes what a path is about and returns its id.
func (a *api) record(t *testing.T, path string) string {
	t.Helper()
	p := account.TokenFile()
	var err error
	var made string
	switch {
	case strings.HasPrefix(path, "/api/v1/routes/"):
		var r account.Rule
		r, err = a.AddRule(t.Context(), p, account.Rule{Pattern: account.NewID() + "@example.com", Target: "drop"})
		made = r.ID
	case strings.HasPrefix(path, "/api/v1/blocks/"):
		var r account.Rule
		pattern := "block @" + account.NewID() + ".example for=@example.com"
		r, err = a.AddRule(t.Context(), p, account.Rule{Pattern: pattern})
		made = r.ID
	case strings.HasPrefix(path, "/api/v1/destinations/"):
		var d account.Destination
		d, err = a.AddDestination(t.Context(), p, account.NewID()+"@y.example")
		made = d.ID
	case strings.HasPrefix(path, "/api/v1/tokens/"):
		var k account.Token
		k, _, err = a.AddToken(t.Context(), p, account.Token{Name: "k", Role: account.ReadOnly})
		made = k.ID
	}
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// differs returns in what a value is not as a schema says. An object has no other members than those of the schema,
// unless it names none.
func (d *described) differs(s schema, v any, at string) (why []string) {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		s, ok = d.Components.Schemas[name]
		if !ok {
			return []string{at + ": there is no schema " + name}
		}
	}
	switch v := v.(type) {
	case map[string]any:
		if s.Type != "object" && s.Type != nil {
			return []string{at + ": is an object"}
		}
		for name, member := range v {
			if part, ok := s.Properties[name]; ok {
				why = append(why, d.differs(part, member, at+"."+name)...)
			} else if s.Properties != nil {
				why = append(why, at+"."+name+": is not described")
			}
		}
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				why = append(why, at+"."+name+": is missing")
			}
		}
	case []any:
		if s.Type != "array" || s.Items == nil {
			return []string{at + ": is a list"}
		}
		for _, member := range v {
			why = append(why, d.differs(*s.Items, member, at+"[]")...)
		}
	case string:
		if !strings.Contains(fmt.Sprint(s.Type), "string") || s.Enum != nil && !slices.Contains(s.Enum, v) ||
			s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v) {
			why = append(why, at+": is "+v)
		}
	case nil:
		if !strings.Contains(fmt.Sprint(s.Type), "null") {
			why = append(why, at+": is null")
		}
	}
	return why
}

// TestAPI_Strangers: whatever lies below /api/ is 401 without a right token, by any method, whether it is there or not.
func TestAPI_Strangers(t *testing.T) {
	a := startAPI(t, t.TempDir())
	for _, path := range []string{
		"/api/", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v2/routes", "/api/v1/routes/", "/api/v1/tokens/x/y",
		"/api/v1/routes", "/api/v1/cluster/drain", "/api/v1/%2e%2e/%2e%2e/etc/passwd", "/api//v1/routes",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"} {
			for _, token := range []string{"", "wrong"} {
				a.fast.Add(1)
				if status, answer := a.ask(t, token, method, path, ""); status != 401 {
					t.Errorf("%s %s with %q: %d %v", method, path, token, status, answer)
				}
			}
		}
	}
}

// TestAPI_Secrets: no answer to an admin, of whatever path, and no metric has the text of a token, its digest, or what
// the link to a destination is known by.
func TestAPI_Secrets(t *testing.T) {
	a := startAPI(t, t.TempDir())
	_, secret, err := a.AddToken(t.Context(), account.TokenFile(), account.Token{Name: "k", Role: account.Operator})
	if err != nil {
		t.Fatal(err)
	}
	const link = "marked-digest-of-a-link"
	d, err := a.AddDestination(t.Context(), account.TokenFile(), "x@y.example")
	if err == nil {
		_, err = a.ChangeDestination(t.Context(), account.TokenFile(), d.ID, func(d *account.Destination) error {
			d.Link = link
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(secret))
	paths := []string{"/metrics", "/readyz", "/livez"}
	for _, o := range (&Server{}).operations() {
		if o.method == "GET" {
			paths = append(paths, strings.ReplaceAll(o.path, "{id}", d.ID))
		}
	}
	for _, path := range paths {
		r, err := http.NewRequestWithContext(t.Context(), "GET", a.base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+adminToken)
		r.Close = true
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{secret, hex.EncodeToString(digest[:]), link, adminToken} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s shows %s", path, secret)
			}
		}
	}
}
