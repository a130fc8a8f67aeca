package v4

import (
	"regexp"
	"strings"
	"testing"
)

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
