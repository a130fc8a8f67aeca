package nodes_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// A serviceCase is what a service exports, and what becomes there of mail for addresses: the class of the answer, and
// the destinations, none for what is discarded.
type serviceCase struct {
	name    string
	convert func() (*migrate.Result, error)
	fates   map[string]string
}

// file returns a text as a file of a service.
func file(text string) []migrate.Document {
	return []migrate.Document{{Name: "export", Text: []byte(text)}}
}

// cloudflareRules returns an answer of Cloudflare's API with rules: the address or a star, the action, its value, and
// off.
func cloudflareRules(lines ...string) string {
	var all []string
	for _, line := range lines {
		f := strings.Fields(line)
		matcher := `{"type":"literal","field":"to","value":"` + f[0] + `"}`
		if f[0] == "*" {
			matcher = `{"type":"all"}`
		}
		value := f[2:]
		isOff := len(value) > 0 && value[len(value)-1] == "off"
		if isOff {
			value = value[:len(value)-1]
		}
		all = append(all, fmt.Sprintf(`{"matchers":[%s],"enabled":%t,"actions":[{"type":"%s","value":["%s"]}]}`,
			matcher, !isOff,
			f[1], strings.Join(value, "")))
	}
	return `{"success":true,"result":[` + strings.Join(all, ",") + `]}` + "\n"
}

// serviceCases have each kind of a rule of each service, and addresses that each refuses.
var serviceCases = []serviceCase{
	{"Cloudflare", func() (*migrate.Result, error) {
		return migrate.Cloudflare(file(`{"name":"a.test","enabled":true,`+
			`"support_subaddress":true}`+"\n"+cloudflareRules(
			"info@a.test forward bob@b.test", "john.doe@a.test forward jd@b.test", "info+own@a.test forward own@b.test",
			"void@a.test drop", "bot@a.test worker bot", "off@a.test drop off", "new@a.test forward new@b.test",
			"x@sub.a.test forward sub@b.test")+
			`[{"email":"bob@b.test","verified":"2026-01-01T00:00:00Z"},{"email":"new@b.test","verified":null}]`), "")
	}, map[string]string{
		"info@a.test": "2 bob@b.test", "INFO@A.TEST": "2 bob@b.test", "info+x@a.test": "2 bob@b.test",
		"info+own@a.test": "2 own@b.test", "john.doe@a.test": "2 jd@b.test", "void@a.test": "2", "void+x@a.test": "2",
		"bot@a.test": "4", "x@sub.a.test": "2 sub@b.test",
		"off@a.test": "5", "new@a.test": "5", "johndoe@a.test": "5", "none@a.test": "5", "inf@a.test": "5",
		"info@b.test": "5", "info@sub.a.test": "5", "x@a.test": "5", "info@a.test.b.test": "5", "+x@a.test": "5",
		"info-x@a.test": "5",
	}},
	{"Cloudflare with a catch-all", func() (*migrate.Result, error) {
		return migrate.Cloudflare(file(cloudflareRules("info@a.test forward bob@b.test", "off@a.test drop off",
			"* forward all@b.test")), "a.test")
	}, map[string]string{
		"info@a.test": "2 bob@b.test", "info+x@a.test": "2 all@b.test", "off@a.test": "2 all@b.test",
		"x@a.test": "2 all@b.test", "x@sub.a.test": "5", "x@b.test": "5",
	}},
	{"Cloudflare with a catch-all that is a Worker", func() (*migrate.Result, error) {
		return migrate.Cloudflare(file(cloudflareRules("* worker w")), "a.test")
	}, map[string]string{"info@a.test": "4", "x@b.test": "5"}},
	{"ImprovMX", func() (*migrate.Result, error) {
		return migrate.ImprovMX(file("alias,forward\ninfo,bob@b.test\nteam,\"bob@b.test,eve@b.test\"\n"+
			"(sales|help),desk+$1@b.test\n"+
			"([a-z]+)[.]([a-z]+),$2.$1@b.test\njohn.doe,jd@b.test\nhook,https://x.test/\n"), "a.test")
	}, map[string]string{
		"info@a.test": "2 bob@b.test", "Info@a.test": "2 bob@b.test", "info+x@a.test": "2 bob@b.test",
		"team@a.test": "2 bob@b.test eve@b.test", "sales@a.test": "2 desk+sales@b.test",
		"help@a.test":       "2 desk+help@b.test",
		"mary.major@a.test": "2 major.mary@b.test", "john.doe@a.test": "2 jd@b.test", "hook@a.test": "4",
		"sale@a.test": "5", "saleshelp@a.test": "5", "xsales@a.test": "5", "a.b.c@a.test": "5", "none@a.test": "5",
		"info@b.test": "5", "a.@a.test": "5",
	}},
	{"ImprovMX with a wildcard", func() (*migrate.Result, error) {
		return migrate.ImprovMX(file(`{"aliases":[{"alias":"*","forward":"all@b.test"},{"alias":"a.*",`+
			`"forward":"a@b.test"},`+
			`{"alias":"off","forward":"x@b.test","is_active":false}],"success":true}`), "a.test")
	}, map[string]string{
		"x@a.test": "2 all@b.test", "abc@a.test": "2 a@b.test", "A@a.test": "2 a@b.test", "off@a.test": "4",
		"x@b.test": "5",
	}},
	{"addy.io", func() (*migrate.Result, error) {
		return migrate.Addy(file("id,aliasable_type,local_part,email,active,deleted_at\n"+
			`1,App\Models\Domain,info,info@a.test,1,`+"\n"+`2,App\Models\Domain,off,off@a.test,0,`+"\n"+
			`3,App\Models\Domain,gone,gone@a.test,0,2026-01-01 00:00:00`+"\n"+`4,,own,own@me.anonaddy.com,1,`+"\n"),
			"me@b.test")
	}, map[string]string{
		"info@a.test": "2 me@b.test", "info+x@a.test": "2 me@b.test", "off@a.test": "2", "gone@a.test": "5",
		"none@a.test":         "5",
		"own@me.anonaddy.com": "5", "info@b.test": "5", "info@sub.a.test": "5",
	}},
	{"Forward Email", func() (*migrate.Result, error) { return forwardEmail(forwardRecords) }, map[string]string{
		"info@a.test": "2 bob@b.test eve@b.test", "info+x@a.test": "2 bob@b.test eve@b.test", "no@a.test": "2",
		"wait@a.test":  "4",
		"never@a.test": "5", "team-a@a.test": "2 list+a@b.test", "Team-A+x@a.test": "2 list+a@b.test",
		"no-reply@a.test": "2",
		"hook@a.test":     "4", "other@a.test": "2 other@c.test", "x@b.test": "5", "x@sub.a.test": "5",
	}},
}

const forwardRecords = "forward-email=info:bob@b.test,info:eve@b.test,!no,!!wait,!!!never," +
	"/^team-(.+)$/:list+$1@b.test\nforward-email=!/^no-/,hook:https://x.test/hook,c.test"

// forwardEmail converts records, one a line.
func forwardEmail(records string) (*migrate.Result, error) {
	return migrate.ForwardEmail("a.test", migrate.ZoneTexts(file(records)[0]))
}

// parsed loads rules of a result.
func parsed(r *migrate.Result) (*rules.Table, error) {
	return rules.Parse("routes.txt", strings.NewReader(r.Rules), rules.Config{
		Postmaster: mail.NewPath("admin", "far.test"), Own: []string{"gate.test"}, FanOut: 20,
	})
}

// fateOf returns what rules say of an address: the class of the answer, and where its mail goes, in order.
func fateOf(table *rules.Table, address string) string {
	forward, err := mail.ParsePath(address, true)
	if err != nil {
		return "5"
	}
	routes, err := table.Route(mail.Query{Reverse: mail.NewPath("bob", "sender.test"), Forward: forward}, nil)
	if err != nil {
		return fmt.Sprint(mail.ReplyFor(err).Class())
	}
	var all []string
	for _, r := range routes {
		for _, f := range r.Forwards {
			if r.Action == mail.Drop {
				continue
			}
			all = append(all, strings.ToLower(f.String()))
		}
	}
	slices.Sort(all)
	return strings.TrimSpace("2 " + strings.Join(slices.Compact(all), " "))
}

// TestImport_Services: the rules that are made of what services export take and refuse what these do, and lead to the
// same destinations; what they cannot do waits.
func TestImport_Services(t *testing.T) {
	for _, c := range serviceCases {
		t.Run(c.name, func(t *testing.T) {
			r, err := c.convert()
			if err != nil {
				t.Fatal(err)
			}
			table, err := parsed(r)
			if err != nil {
				t.Fatalf("%v\n%s", err, r.Rules)
			}
			for address, want := range c.fates {
				if got := fateOf(table, address); got != want {
					t.Errorf("%s: %s, want %s\n%s", address, got, want, r.Rules)
				}
			}
		})
	}
}

// forwardOracle says what Forward Email does for a local part, as its own program decides: the elements one by one.
func forwardOracle(elements []string, user string) string {
	user, _, _ = strings.Cut(strings.ToLower(user), "+")
	var own, all []string
	for _, e := range elements {
		bare := strings.TrimLeft(e, "!")
		marks := len(e) - len(bare)
		if strings.HasPrefix(bare, "/") {
			text, to, _ := strings.Cut(bare[1:], "/:")
			re := regexp.MustCompile("(?i:" + strings.TrimSuffix(text, "/") + ")")
			switch {
			case !re.MatchString(user):
			case marks > 0:
				return marked(marks)
			case strings.Contains(to, "$"):
				own = append(own, re.ReplaceAllString(user, strings.ReplaceAll(to, "$1", "${1}")))
			default:
				own = append(own, to)
			}
			continue
		}
		alias, to, named := strings.Cut(bare, ":")
		switch {
		case marks > 0 && alias == user:
			return marked(marks)
		case marks > 0:
		case named && alias == user:
			own = append(own, to)
		case named:
		case strings.Contains(e, "@"):
			all = append(all, e)
		default:
			all = append(all, user+"@"+e)
		}
	}
	if len(own) == 0 {
		own = all
	}
	if len(own) == 0 {
		return "5"
	}
	slices.Sort(own)
	return "2 " + strings.Join(slices.Compact(own), " ")
}

// marked returns what an exclusion does, by the number of its marks.
func marked(marks int) string { return map[int]string{1: "2", 2: "4", 3: "5"}[marks] }

// TestImport_ForwardEmail: rules of records made at random do for each address what the records do, or have its mail
// wait: they never take what is refused there, and lead nowhere else. Tags aside, which are not put behind a target.
func TestImport_ForwardEmail(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"info:bob@b.test", "info:eve@b.test", "sales:bob@b.test", "!info", "!!sales", "!!!help", "!x1",
		"/^(info|sales)$/:desk+$1@b.test", "/^x/:x@b.test", "/^x\\d+$/:x@b.test", "/help/:h@b.test", "!/^s/", "!!/2$/",
		"!!!/^no-/", "all@b.test", "other@b.test", "c.test", "a-b:ab@b.test", "/^[a-z]-[a-z]$/:ab@b.test"}
	users := strings.Fields("info sales help x1 x12 x no-reply no a-b a-c mysales helper s Info INFO none 1 info2 b.a")
	compared, waiting, refused := 0, 0, 0
	for range 300 {
		var elements []string
		for range 1 + random.IntN(6) {
			if e := parts[random.IntN(len(parts))]; !slices.Contains(elements, e) {
				elements = append(elements, e)
			}
		}
		r, err := forwardEmail("forward-email=" + strings.Join(elements, ","))
		if err != nil {
			t.Fatal(err)
		}
		table, err := parsed(r)
		if err != nil {
			t.Fatalf("%v: %v\n%s", elements, err, r.Rules)
		}
		for _, user := range users {
			for _, tag := range []string{"", "+t"} {
				address := user + tag + "@a.test"
				want, got := forwardOracle(elements, user), fateOf(table, address)
				got = strings.ReplaceAll(got, strings.ToLower(user)+tag+"@c.test", strings.ToLower(user)+"@c.test")
				compared++
				switch {
				case got == "4" && want != "4":
					waiting++
				case got != want:
					t.Fatalf("%v: %s: %s, want %s\n%s", elements, address, got, want, r.Rules)
				case want == "5":
					refused++
				}
			}
		}
	}
	t.Logf("%d addresses, of which %d were refused and %d wait without need", compared, refused, waiting)
	if refused < compared/20 || waiting > compared/3 {
		t.Errorf("of %d addresses %d were refused and %d wait, so little was compared", compared, refused, waiting)
	}
}

// FuzzImport_Services: rules accept what is made of any octets.
func FuzzImport_Services(f *testing.F) {
	for _, text := range []string{
		`{"result":[{"matchers":[{"type":"literal","field":"to","value":"\"#\"@a.test"}],` +
			`"actions":[{"type":"forward","value":` +
			`["$1@c.test"]}]},{"matchers":[{"type":"all"}],"actions":[{"type":"forward","value":["x@a.test"]}]}]}`,
		"alias,forward\n(a|b),$1/@c.test\n*,\"x@a.test, y@b.test\"\n#x,/x@c.test\na*,b@c.test\n",
		`{"aliases":[{"alias":"(x","forward":"x@y.test"},{"alias":"y|z","forward":"{}@y.test"}]}`,
		"email,active,deleted_at\nx@a.test,0,\ny@a.test,1,z\n*@a.test,1,\n",
		forwardRecords, "forward-email=x:y@a.test,y:x@a.test,/^[/@]+$/:z@a.test,/x/@b:c@d.test",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d := file(string(text))
		for name, convert := range map[string]func() (*migrate.Result, error){
			"cloudflare":    func() (*migrate.Result, error) { return migrate.Cloudflare(d, "a.test") },
			"improvmx":      func() (*migrate.Result, error) { return migrate.ImprovMX(d, "a.test") },
			"addy":          func() (*migrate.Result, error) { return migrate.Addy(d, "x@b.test") },
			"forward-email": func() (*migrate.Result, error) { return forwardEmail(string(text)) },
		} {
			r, err := convert()
			if err != nil {
				continue
			}
			var wrong *rules.Errors
			if _, err := parsed(r); errors.As(err, &wrong) && !isNameOfIDNA(wrong) {
				t.Errorf("%s: %v\n%s", name, err, r.Rules)
			}
		}
	})
}

// isNameOfIDNA reports whether all that is wrong with rules are domain names which only IDNA knows to be none: their
// lines are named.
func isNameOfIDNA(wrong *rules.Errors) bool {
	return !slices.ContainsFunc(wrong.List, func(e *rules.Error) bool { return !strings.Contains(e.Reason, "IDNA") })
}
