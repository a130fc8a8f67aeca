package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestCloudflare_Rules: each kind of a rule is the rule that means it, and what is none waits, is left out where it
// takes no mail there, and is said.
func TestCloudflare_Rules(t *testing.T) {
	forward := func(to, more string) string {
		return `{"id":"r1","matchers":[{"type":"literal","field":"to","value":"info@a.test"}],` +
			`"actions":[{"type":"forward",` +
			`"value":["` + to + `"]}]` + more + `}`
	}
	for _, c := range []struct{ name, text, rules, absent, note string }{
		{"an envelope", `{"success":true,"errors":[],"result":[` + forward("bob@b.test", "") +
			`],"result_info":{"page":1}}`,
			"info@a.test  bob@b.test\n", "\x00", "settings were not read"},
		{"pages behind each other", `{"result":[` + forward("bob@b.test", "") + `]}` + "\n" + `{"result":[` +
			strings.ReplaceAll(forward("eve@b.test", ""), "info", "two") + `]}`,
			"info@a.test  bob@b.test\ntwo@a.test  eve@b.test\n", "\x00", ""},
		{"a drop", `[{"matchers":[{"type":"literal","field":"to","value":"Spam@A.test"}],"actions":[{"type":"drop"}]}]`,
			"spam@a.test  drop\n", "\x00", ""},
		{"a Worker", `[{"name":"mine","matchers":[{"type":"literal","field":"to","value":"w@a.test"}],` +
			`"actions":[{"type":` +
			`"worker","value":["bot"]}]}]`, "w@a.test  tempfail 451 ", "\x00", "rule mine: w@a.test is handled by " +
			"the Worker bot"},
		{"a catch-all", `[` + forward("bob@b.test", "") +
			`,{"matchers":[{"type":"all"}],"actions":[{"type":"forward","value":` +
			`["all@b.test"]}],"enabled":true}]`, "info@a.test  bob@b.test\n@a.test  all@b.test\n", "\x00", ""},
		{"a catch-all that drops", `{"rules":[` + forward("bob@b.test", "") +
			`],"catch_all":{"matchers":[{"type":"all"}],` +
			`"actions":[{"type":"drop","value":[]}]}}`, "@a.test  drop\n", "\x00", ""},
		{"a catch-all that is off", `[` + forward("bob@b.test", "") +
			`,{"matchers":[{"type":"all"}],"actions":[{"type":` +
			`"forward","value":["all@b.test"]}],"enabled":false}]`, "info@a.test  bob@b.test\n", "\n@a.test",
			"@a.test is off"},
		{"the catch-all twice", `[` + strings.Repeat(`{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}]},`, 2) +
			forward("bob@b.test", "") + `]`, "@a.test  drop\n", "\x00", ""},
		{"a rule that is off", `[` + forward("bob@b.test", `,"enabled":false`) + `]`, "", "bob@b.test",
			"info@a.test is off"},
		{"two rules of one address", `[` + forward("bob@b.test", "") + `,` + forward("eve@b.test", "") + `]`,
			"info@a.test  tempfail 451 ", "bob@b.test", "is there twice"},
		{"the same rule twice", `[` + forward("bob@b.test", "") + `,` + forward("bob@b.test", "") + `]`,
			"info@a.test  bob@b.test\n", "tempfail", ""},
		{"a destination that is pending", `[` + forward("Bob@b.test", "") +
			`,{"email":"bob@b.test","verified":null}]`, "",
			"bob@b.test", "takes no mail until Bob@b.test is verified"},
		{"a destination that is verified", `[` + forward("bob@b.test", "") +
			`,{"email":"bob@b.test","verified":"2026-01-01"}]`,
			"info@a.test  bob@b.test\n", "tempfail", ""},
		{"tags", `[` + forward("bob@b.test", "") + `,{"name":"a.test","support_subaddress":true,"enabled":true}]`,
			"domain a.test  subaddress=+\n", "\x00", ""},
		{"no tags", `[` + forward("bob@b.test", "") + `,{"name":"a.test","support_subaddress":false,"enabled":false}]`,
			"domain a.test\n", "subaddress", "Email Routing is off there"},
		{"rules of several zones", `[{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}],` +
			`"zone":{"name":"b.test"}},` +
			forward("x@c.test", `,"zone":{"name":"a.test"}`) + `]`, "@b.test  drop\n", "@a.test  drop", ""},
		{"a matcher of another kind", `[` + forward("bob@b.test", "") +
			`,{"matchers":[{"type":"regex","field":"to","value":` +
			`".*"}],"actions":[{"type":"drop"}]}]`, "@a.test  tempfail 451 ", "drop", "want one matcher"},
		{"two matchers", `[{"matchers":[{"type":"literal","field":"to","value":"x@a.test"},{"type":"literal",` +
			`"field":"from",` +
			`"value":"y@b.test"}],"actions":[{"type":"drop"}]}]`, "x@a.test  tempfail 451 ", "x@a.test  drop",
			"want one matcher"},
		{"two actions", `[{"matchers":[{"type":"literal","field":"to","value":"x@a.test"}],` +
			`"actions":[{"type":"drop"},{"type":` +
			`"worker"}]}]`, "x@a.test  tempfail 451 ", "x@a.test  drop", "has 2 actions"},
		{"an action of another kind", `[{"matchers":[{"type":"literal","field":"to","value":"x@a.test"}],` +
			`"actions":[{"type":` +
			`"queue"}]}]`, "x@a.test  tempfail 451 ", "\x00", `the action "queue"`},
		{"a destination that is no address", `[` + forward(`bob\u001b[2J`, "") + `]`, "info@a.test  tempfail 451 ",
			"\x1b",
			"control character"},
		{"a destination of ours that no rule takes", `[` + forward("none@a.test", "") + `]`,
			"info@a.test  tempfail 451 ",
			"none@a.test\n", "no rule there takes it"},
		{"rules in a circle", `[` + forward("two@a.test", "") + `,` +
			strings.ReplaceAll(strings.ReplaceAll(forward("XX@a.test", ""), "info", "two"), "XX", "info") + `]`,
			"info@a.test  tempfail 451 ", "\x00", "leads back"},
		{"an address that needs quotes", `[{"matchers":[{"type":"literal","field":"to","value":"\"a b\"@a.test"}],` +
			`"actions":` +
			`[{"type":"forward","value":["*/@b.test"]}]}]`, `"a b"@a.test  "*/"@b.test` + "\n", "\x00", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Cloudflare([]Document{{"rules.json", []byte(c.text)}}, "")
			if err != nil {
				t.Fatal(err)
			}
			compareRules(t, r, c.rules, c.absent, c.note)
		})
	}
}

// compareRules compares what was made of a source: lines that are there, what is not, and what a note says.
func compareRules(t *testing.T, r *Result, rules, absent, note string) {
	t.Helper()
	if !strings.Contains(r.Rules, rules) || strings.Contains(r.Rules, absent) {
		t.Errorf("the rules have no\n%s\nor %q, they are\n%s", rules, absent, r.Rules)
	}
	notes := ""
	for _, n := range r.Notes {
		notes += n.Field + ": " + n.Text + "\n"
	}
	if !strings.Contains(notes, note) {
		t.Errorf("no note says %q:\n%s", note, notes)
	}
}

// TestCloudflare_Wrong: what is no answer with rules is an error that names the file.
func TestCloudflare_Wrong(t *testing.T) {
	for text, want := range map[string]string{
		"": "there is no rule", "[]": "there is no rule", "rules:": "f: is no JSON", `{"result":`: "f: is no JSON",
		`{"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}`: "10000 Authentication error",
		`{"success":false}`:  "it does not say why",
		`[{"matchers":"x"}]`: "f: json: ",
		`[{"matchers":[{}],"actions":[{"type":"drop","value":"x"}]}]`: "f: json: ",
	} {
		_, err := Cloudflare([]Document{{"f", []byte(text)}}, "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A cloudflareDouble answers as the API does. Lists have two things a page.
type cloudflareDouble struct {
	rules   int
	pages   func(page, pages int) string // the rest of an answer
	status  map[string]int
	asked   []string
	ignores bool // which page is asked for
}

func (d *cloudflareDouble) ask(_ context.Context, path string) (int, []byte, error) {
	d.asked = append(d.asked, path)
	name, query, _ := strings.Cut(path, "?")
	if status := d.status[name]; status != 0 {
		return status, []byte(`{"success":false,"errors":[{"code":9109,"message":"Unauthorized"}]}`), nil
	}
	page := 1
	_, _ = fmt.Sscanf(query, "page=%d", &page)
	if d.ignores {
		page = 1
	}
	const perPage = 2
	list := func(n int, one func(i int) string) []byte {
		var all []string
		for i := (page - 1) * perPage; i < min(n, page*perPage); i++ {
			all = append(all, one(i))
		}
		return []byte(`{"success":true,"result":[` + strings.Join(all, ",") + `]` + d.pages(page,
			(n+perPage-1)/perPage) + `}`)
	}
	switch name {
	case "/zones":
		if query != "name=a.test" {
			return 200, []byte(`{"success":true,"result":[]}`), nil
		}
		return 200, []byte(`{"success":true,"result":[{"id":"z","name":"a.test","account":{"id":"acc"}}]}`), nil
	case "/zones/z/email/routing":
		return 200, []byte(`{"success":true,"result":{"name":"a.test","enabled":true,"support_subaddress":true,` +
			`"skip_wizard":true}}`), nil
	case "/zones/z/email/routing/rules/catch_all":
		return 200, []byte(`{"success":true,"result":{"matchers":[{"type":"all"}],"actions":[{"type":"drop",` +
			`"value":[]}],` +
			`"enabled":true}}`), nil
	case "/zones/z/email/routing/rules":
		return 200, list(d.rules, func(i int) string {
			return fmt.Sprintf(`{"id":"r%d","enabled":true,"matchers":[{"type":"literal","field":"to",`+
				`"value":"u%d@a.test"}],`+
				`"actions":[{"type":"forward","value":["d%d@b.test"]}]}`, i, i, i)
		}), nil
	case "/accounts/acc/email/routing/addresses":
		return 200, list(d.rules, func(i int) string {
			verified := `"2026-11-01T00:00:00Z"`
			if i == 3 {
				verified = "null"
			}
			return fmt.Sprintf(`{"id":"a%d","email":"d%d@b.test","verified":%s}`, i, i, verified)
		}), nil
	}
	return 404, []byte(`{"success":false,"errors":[{"code":7003,"message":"no route"}]}`), nil
}

// TestFetchCloudflare_Pages: all pages are read, however the API says that there are no more, and no more than there
// are.
func TestFetchCloudflare_Pages(t *testing.T) {
	for name, pages := range map[string]func(page, pages int) string{
		"by the number of pages": func(_,
			pages int) string {
			return fmt.Sprintf(`,"result_info":{"total_pages":%d}`, pages)
		},
		"by the number of things": func(int, int) string { return `,"result_info":{"total_count":5}` },
		"by an empty page":        func(int, int) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			d := &cloudflareDouble{rules: 5, pages: pages}
			documents, err := FetchCloudflare(t.Context(), d.ask, "a.test")
			if err != nil {
				t.Fatal(err)
			}
			r, err := Cloudflare(documents, "a.test")
			if err != nil {
				t.Fatal(err)
			}
			compareRules(t, r, "domain a.test  subaddress=+\nu0@a.test  d0@b.test\nu1@a.test  d1@b.test\nu2@a.test  "+
				"d2@b.test\n"+
				"u4@a.test  d4@b.test\n@a.test  drop\n", "u3@", "takes no mail until d3@b.test is verified")
			if len(d.asked) > 11 {
				t.Errorf("asked %d times: %v", len(d.asked), d.asked)
			}
		})
	}
}

// TestFetchCloudflare_Refused: what the API refuses is said in words, and addresses that the token may not read are
// noted.
func TestFetchCloudflare_Refused(t *testing.T) {
	none := func(int, int) string { return "" }
	for _, c := range []struct {
		name   string
		double cloudflareDouble
		domain string
		want   string
	}{
		{"no such zone", cloudflareDouble{}, "b.test", "sees no zone b.test"},
		{"a token for another " +
			"thing", cloudflareDouble{status: map[string]int{"/zones/z/email/routing/rules": 403}}, "a.test",
			"the token may not read this: 9109 Unauthorized"},
		{"too many requests", cloudflareDouble{status: map[string]int{"/zones": 429}}, "a.test", "too many requests"},
		{"a fault of the " +
			"API", cloudflareDouble{status: map[string]int{"/zones": 500}}, "a.test", "/zones?name=a.test: 500: "},
		{"a server that ignores pages", cloudflareDouble{rules: 5, ignores: true}, "a.test", "more than 200 pages"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.double.pages = none
			_, err := FetchCloudflare(t.Context(), c.double.ask, c.domain)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	d := &cloudflareDouble{rules: 1, pages: none, status: map[string]int{
		"/accounts/acc/email/routing/addresses": http.StatusForbidden,
	}}
	documents, err := FetchCloudflare(t.Context(), d.ask, "a.test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Cloudflare(documents, "a.test")
	if err != nil {
		t.Fatal(err)
	}
	compareRules(t, r, "u0@a.test  d0@b.test\n", "\x00", "destination addresses were not read")
	broken := func(context.Context, string) (int, []byte, error) { return 0, nil, errors.New("no answer") }
	if _, err := FetchCloudflare(t.Context(), broken, "a.test"); err == nil || !strings.Contains(err.Error(), "no "+
		"answer") {
		t.Error(err)
	}
}

// TestImprovMX_Rules: aliases, expressions and the catch-all mean what they mean there.
func TestImprovMX_Rules(t *testing.T) {
	for _, c := range []struct{ name, text, rules, absent, note string }{
		{"a file with names of columns", "Alias,Forward\ninfo,bob@b.test\n*,all@b.test\n",
			"domain a.test  subaddress=+\ninfo@a.test  bob@b.test\n@a.test  all@b.test\n", "\x00", "not put behind " +
				"the target"},
		{"a file without them", "info,bob@b.test\n", "info@a.test  bob@b.test\n", "\x00", ""},
		{"semicolons", "alias;forward\ninfo;bob@b.test\n", "info@a.test  bob@b.test\n", "\x00", ""},
		{"whole addresses", "alias,forward\nInfo@A.test,bob@b.test\nx@c.test,bob@b.test\n", "info@a.test  bob@b.test\n",
			"x@", "is in another domain"},
		{"several destinations", "alias,forward\ninfo,\"bob@b.test, eve@c.test\"\n", "info@a.test  bob@b.test, " +
			"eve@c.test\n",
			"\x00", "once: true"},
		{"a webhook", "alias,forward\nhook,\"https://x.test/y, bob@b.test\"\n", "hook@a.test  tempfail " +
			"451 ", "bob@b.test",
			"is posted to a webhook"},
		{"an expression", "alias,forward\n(contact|support),team+$1@b.test\njohn.doe,jd@b.test\n",
			"john.doe@a.test  jd@b.test\n/(contact|support)/@a.test  team+${1}@b.test\n", "\x00", ""},
		{"an expression that is none", "alias,forward\n(a,x@b.test\n(b|c),y@b.test\n*,z@b.test\n",
			"/(b|c)/@a.test  tempfail 451 4.3.5 Where this mail goes was not converted\n@a.test  tempfail " +
				"451 ", "z@b.test",
			"no expression of RE2"},
		{"an expression twice", "alias,forward\n(a|b),x@b.test\n(a|b),y@b.test\n", "/(a|b)/@a.test  tempfail " +
			"451 ", "y@b.test",
			"is there twice"},
		{"a group that is not there", "alias,forward\n(a|b),x$2@b.test\n", "/(a|b)/@a.test  tempfail 451 ", "x$2",
			"the expression has 1 groups"},
		{"answers of the API", `{"aliases":[{"alias":"info","forward":"bob@b.test","id":4},{"alias":"*","forward":` +
			`"all@b.test"}],"success":true}`, "info@a.test  bob@b.test\n@a.test  all@b.test\n", "\x00", ""},
		{"an alias that is not active", `{"aliases":[{"alias":"info","forward":"bob@b.test","is_active":false},` +
			`{"alias":` +
			`"(a|b)","forward":"bob@b.test","is_active":false}]}`, "info@a.test  tempfail 451 ", "bob@b.test",
			"is not active"},
		{"a local part that is none", "alias,forward\na..b,bob@b.test\nc d,bob@b.test\n",
			`"a..b"@a.test  bob@b.test` + "\n" + `"c d"@a.test  bob@b.test`, "\x00", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ImprovMX([]Document{{"aliases", []byte(c.text)}}, "a.test")
			if err != nil {
				t.Fatal(err)
			}
			compareRules(t, r, c.rules, c.absent, c.note)
		})
	}
	for text, want := range map[string]string{
		"": "there is no alias", "alias,forward\n\"x": "aliases: ", "{": "is no JSON",
		`{"success":false}`:               "that failed",
		"alias,forward\na,b@c.test,d,e\n": "aliases:2: has more columns",
	} {
		_, err := ImprovMX([]Document{{"aliases", []byte(text)}}, "a.test")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestAddy_Rules: an alias that is switched off is dropped, a deleted one refused, as they are there.
func TestAddy_Rules(t *testing.T) {
	const head = "id,user_id,aliasable_type,local_part,extension,domain,email,active,description,deleted_at\n"
	const own = `1,2,App\Models\Domain,x,,a.test,`
	for _, c := range []struct{ name, text, rules, absent, note string }{
		{"aliases", head + own + "info@a.test,1,\"a, b\nc\",\n" + own + "off@a.test,0,,\n" + own +
			"gone@a.test,0,,2026-01-01 00:00:00\n",
			"domain a.test  subaddress=+\ninfo@a.test  me@b.test\noff@a.test  drop\ngone@a.test  reject 550 " +
				"5.1.1 ", "\x00",
			"1 aliases go to me@b.test"},
		{"an alias of a domain of " +
			"addy.io", head + "1,2,,x,,anonaddy.me,x@anonaddy.me,1,,\n" + own + "info@a.test,1,,\n",
			"info@a.test  me@b.test\n", "anonaddy.me", "cannot move"},
		{"recipients", "alias,description,recipients\ninfo@a.test,,\"x@b.test,y@c.test\"\n",
			"info@a.test  x@b.test, y@c.test\n", "\x00", "once: true"},
		{"what is no address", head + own + "info,1,,\n" + own + "two@a.test,1,,\n", "two@a.test  me@b.test\n", "info",
			"is no address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Addy([]Document{{"aliases", []byte(c.text)}}, "me@b.test")
			if err != nil {
				t.Fatal(err)
			}
			compareRules(t, r, c.rules, c.absent, c.note)
		})
	}
	if _, err := Addy([]Document{{"aliases", []byte(head)}}, "me@b.test"); err == nil {
		t.Error("a file without aliases was taken")
	}
	if _, err := Addy(nil, "me"); err == nil {
		t.Error("a recipient without a domain was taken")
	}
}

// TestForwardEmail_Rules: each form of a record is the rule that means it.
func TestForwardEmail_Rules(t *testing.T) {
	for _, c := range []struct{ name, text, rules, absent, note string }{
		{"an alias", "forward-email=info:Bob@B.test", "domain a.test  subaddress=+\ninfo@a.test  bob@b.test\n", "\x00",
			"not put behind the target"},
		{"all addresses", "forward-email=bob@b.test,info:eve@b.test", "info@a.test  eve@b.test\n@a.test  " +
			"bob@b.test\n", "\x00",
			""},
		{"several destinations", "forward-email=info:bob@b.test,info:eve@c.test", "info@a.test  bob@b.test, " +
			"eve@c.test\n",
			"\x00", "once: true"},
		{"a whole domain", "forward-email=b.test", "/(.+)/@a.test  $1@b.test\n", "\x00", ""},
		{"exclusions", "forward-email=all@b.test,!one,!!two,!!!six", "one@a.test  drop\ntwo@a.test  tempfail 450 " +
			"4.2.1 Mail for " +
			"this address is put off\nsix@a.test  reject 550 5.2.1 ", "\x00", ""},
		{"an exclusion beats a destination", "forward-email=info:bob@b.test,!info", "info@a.test  " +
			"drop\n", "bob@b.test", ""},
		{"an expression", "forward-email=/^(support|info)$/:team+$1@b.test",
			"/(?:(?i:(SUPPORT|INFO)))(?:\\+.*)?/@a.test  team+${1}@b.test\n", "\x00", ""},
		{"an expression and an alias", "forward-email=/^s/:all@b.test,sales:bob@b.test",
			"sales@a.test  all@b.test, bob@b.test\n", "\x00", ""},
		{"an expression that excludes", "forward-email=!/^no-/,all@b.test,no-one:x@b.test", "no-one@a.test  " +
			"drop\n", "x@b.test",
			""},
		{"expressions with different destinations", "forward-email=/^a/:x@b.test,/^b/:y@b.test", "  tempfail 451 ",
			"x@b.test", "several expressions"},
		{"a replacement of a part", "forward-email=/(a)/:$1@b.test,all@c.test", "@a.test  tempfail 451 ", "@c.test",
			"write it by hand"},
		{"an expression that is none", "forward-email=/(/:x@b.test,info:y@b.test", "info@a.test  " +
			"y@b.test\n", "x@b.test",
			"counts for nothing"},
		{"a webhook", "forward-email=info:https://x.test/hook,all@b.test", "info@a.test  tempfail 451 ", "hook",
			"is a webhook, and rules post nothing"},
		{"a webhook for all", "forward-email=https://x.test/hook", "@a.test  tempfail 451 ", "hook", "is a webhook"},
		{"a host", "forward-email=info:192.0.2.1", "info@a.test  tempfail 451 ", "\x00", "is a host: write " +
			"smtp://192.0.2.1"},
		{"another port", "forward-email=all@b.test\nforward-email-port=2525", "@a.test  tempfail 451 ", "all@b.test",
			"on port 2525"},
		{"an account", "forward-email=info:bob@b.test\nforward-email-site-verification=abc", "info@a.test  " +
			"bob@b.test\n@a.test  " +
			"tempfail 451 ", "\x00", "stand in an account"},
		{"an encrypted record", "forward-email=U2FsdGVkX1+abcdefghijklmno==", "@a.test  tempfail 451 ", "\x00", "is " +
			"encrypted"},
		{"records of a zone", "a.test. 300 IN TXT ( \"forward-email=in\" ; a comment\n \"fo:bob@b.test\" )\na.test. " +
			"IN TXT " +
			"\"v=spf1 -all\"\n", "info@a.test  bob@b.test\n", "\x00", ""},
		{"records as dig has them", `"forward-email=/^x\\d$/:bob@b.test"` + "\n", `(?:\+.*)?/@a.test  bob@b.test`,
			"\x00", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ForwardEmail("a.test", ZoneTexts(Document{"records", []byte(c.text)}))
			if err != nil {
				t.Fatal(err)
			}
			compareRules(t, r, c.rules, c.absent, c.note)
		})
	}
	if _, err := ForwardEmail("a.test", ZoneTexts(Document{"records", []byte(`"v=spf1 -all"`)})); err == nil {
		t.Error("records of others were taken")
	}
}

// TestExpression_Whole: the expression of a rule matches, without its tag, what the service finds.
func TestExpression_Whole(t *testing.T) {
	users := strings.Fields("a b ab ba aab abb abc a.b support supports mysupport info x1 x12 1x aaa a-b list-a " +
		"a-list A AB Info")
	for _, text := range []string{`^a$`, `^a`, `a$`, `a`, `^a$|^b$`, `^(support|info)$`, `^x\d+$`, `^.+-list$`,
		`^[^b]*$`, `(a|b)`,
		`^a.b$`, `.`, `^(?:ab?)+$`, `^(a|b$)`, `a\b`, `^$|^a$`, `[+a]`, `a+`, `\+a`} {
		e, err := newExpression(text)
		if err != nil {
			t.Fatal(err)
		}
		whole, ok := e.whole("x@b.test")
		if !ok {
			if text != `^(a|b$)` {
				t.Errorf("%s was not converted", text)
			}
			continue
		}
		d := &served{name: "a.test", patterns: []*action{{user: whole}}}
		for _, user := range users {
			_, want := e.replace(strings.ToLower(user), "x@b.test")
			for _, tag := range []string{"", "+", "+t", "+a", "+support+b"} {
				if got := d.find(user+tag) != nil; got != want {
					t.Errorf("%s as %s: %s%s %v, want %v", text, whole, user, tag, got, want)
				}
			}
		}
	}
}

// FuzzServices: no octets have a conversion fail otherwise than with an error, what it says and writes has no control
// character, and each rule is a line.
func FuzzServices(f *testing.F) {
	f.Add([]byte(`{"result":[{"matchers":[{"type":"literal","field":"to","value":"a@a.test"}],` +
		`"actions":[{"type":"forward","value":` +
		`["\"b\u001b\"@c.test"]}]},{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}]}]}`))
	f.Add([]byte("alias,forward\n(a|b),$1@c.test\n*,\"x@y.test, https://z\"\n"))
	f.Add([]byte(`{"aliases":[{"alias":"a\nb","forward":"x@y.test"}]}`))
	f.Add([]byte("email,active,deleted_at\nx@a.test,0,\ny@a.test,1,z\n"))
	f.Add([]byte("\"forward-email=/^(a|b)$/:$1@c.test,!x,!!/y/,d.test,e:f@a.test,https://z\"\nforward-email-port=1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := []Document{{"f", text}}
		for name, convert := range map[string]func() (*Result, error){
			"cloudflare":    func() (*Result, error) { return Cloudflare(d, "a.test") },
			"improvmx":      func() (*Result, error) { return ImprovMX(d, "a.test") },
			"addy":          func() (*Result, error) { return Addy(d, "x@b.test") },
			"forward-email": func() (*Result, error) { return ForwardEmail("a.test", ZoneTexts(d[0])) },
		} {
			r, err := convert()
			if err != nil {
				continue
			}
			notes, err := json.Marshal(r.Notes)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{r.Rules, r.Config, string(notes)} {
				if strings.ContainsFunc(strings.ReplaceAll(s, "\n", ""), func(r rune) bool {
					return r < ' ' ||
						r == 0x7f
				}) {
					t.Errorf("%s: a control character in %q", name, s)
				}
			}
		}
	})
}
