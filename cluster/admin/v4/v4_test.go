package v4

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
)

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

// TestAPI_Strangers: each path and method that the admin listener answers here, and whatever else lies below, is 401 in
// an envelope without a token and with a wrong one, and changes nothing.
func TestAPI_Strangers(t *testing.T) {
	w := newWorld(t, t.TempDir())
	s, err := admin.Listen(admin.Config{
		Addr: "127.0.0.1:0", Metrics: admin.NewMetrics("v1", admin.Gauges{}), Account: w.account,
		Surfaces: []admin.Surface{w.Surface},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Shutdown(context.Background())
	asked := 0
	refuses := func(method, path, authorization string) {
		t.Helper()
		asked++
		w.fast.Add(1) // minutes, so that no network has had too many
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+path,
			strings.NewReader(literalRule("info@example.com", `{"type":"drop"}`)))
		if err != nil {
			t.Fatal(err)
		}
		r.Close = true
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var out reply
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != 401 || out.Success ||
			len(out.Errors) != 1 || string(out.Result) != "null" || resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s %s with %q: %d %+v, %v", method, path, authorization, resp.StatusCode, out, err)
		}
	}
	place := strings.NewReplacer("{zone}", zoneID("example.com"), "{account}", theAccount.ID, "{id}",
		strings.Repeat("0", 32))
	paths := w.Handler.(*API).paths
	for _, p := range paths {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			refuses(method, place.Replace(p.path), "")
			refuses(method, place.Replace(p.path), "Bearer "+token+"x")
		}
	}
	for _, wrong := range []string{"Bearer", "Bearer wrong", "Basic " + token, token} {
		refuses("GET", Prefix+"/", wrong)
		refuses("GET", Prefix+"/nothing", wrong)
	}
	if len(paths) < 20 || asked < 200 {
		t.Errorf("%d paths, %d requests", len(paths), asked)
	}
	if w.text != "" || len(w.asked) > 0 {
		t.Errorf("strangers changed %q, asked %q", w.text, w.asked)
	}
}
