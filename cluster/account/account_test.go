package account

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A world is what an Account lives in: the file of rules, and a Router that refuses patterns of the other files.
type world struct {
	*Account
	text   string
	files  map[string]bool // patterns of the administrator
	log    bytes.Buffer
	events []mail.Event
	now    time.Time
}

// clashes is the error of lines that the Router refuses.
type clashes []Fault

func (clashes) Error() string { return "clash" }

// accept is the Router.
func (w *world) accept(text string) error {
	var wrong clashes
	n := 0
	for line := range strings.Lines(text) {
		n++
		if pattern, _, _ := strings.Cut(line, " "); line[0] != '#' && w.files[pattern] {
			wrong = append(wrong, Fault{n, "the same pattern stands at routes.txt:1"})
		}
	}
	if wrong == nil {
		return nil
	}
	return wrong
}

func faultsOf(err error) ([]Fault, bool) {
	var c clashes
	is := errors.As(err, &c)
	return c, is
}

func (w *world) rulesFile() Rules {
	return Rules{
		Text: func() string { return w.text },
		Change: func(_ context.Context, edit func(string) (string, error)) error {
			text, err := edit(w.text)
			if err == nil {
				err = w.accept(text)
			}
			if err == nil {
				w.text = text
			}
			return err
		},
		Faults: faultsOf,
	}
}

func isName(s string) (string, bool) {
	s = ascii.Fold(s)
	return s, s != "" && !strings.ContainsAny(s, " *@\"")
}

func newWorld(t *testing.T, folder string) *world {
	t.Helper()
	w := &world{files: map[string]bool{}, now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	w.open(t, folder)
	return w
}

// open makes the Account of a world anew, as after a restart.
func (w *world) open(t *testing.T, folder string) {
	t.Helper()
	var err error
	w.Account, err = New(Config{
		State: folder, Rules: w.rulesFile(), Token: []byte("of the configuration"), ALabels: isName,
		Log: slog.New(slog.NewTextHandler(&w.log, nil)), Now: w.tick,
		Emit: func(e mail.Event) { w.events = append(w.events, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tick is a clock that goes on by a second with each reading.
func (w *world) tick() time.Time {
	w.now = w.now.Add(time.Second)
	return w.now
}

func (w *world) add(t *testing.T, p Principal, pattern, target string) Rule {
	t.Helper()
	r, err := w.AddRule(t.Context(), p, Rule{Pattern: pattern, Target: target, Enabled: true})
	if err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	return r
}

// kindOf returns the kind and the code of an error; 255 for none.
func kindOf(err error) (Kind, int) {
	var e *Error
	if !errors.As(err, &e) {
		return 255, 0
	}
	return e.Kind, e.Code
}

func owner(domains ...string) Principal {
	return Principal{ID: "o", Name: "an owner", Role: Owner, Domains: domains}
}

// TestRules_Ids: a rule keeps its id and its birth while all else of it changes, and after a restart.
func TestRules_Ids(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	name := "first"
	made, err := w.AddRule(t.Context(), TokenFile(), Rule{
		Pattern: "info@Example.com", Target: "a@x.example", Enabled: true, Name: &name, Echo: json.RawMessage(`[]`),
	})
	if err != nil || len(made.ID) != 32 || made.Domain != "example.com" || made.Source != "api" {
		t.Fatalf("%+v, %v", made, err)
	}
	next := made
	next.Pattern, next.Target, next.Name, next.Enabled = "@example.com", "drop", nil, false
	if _, err := w.SetRule(t.Context(), TokenFile(), made.ID, next); err != nil {
		t.Fatal(err)
	}
	w.open(t, folder)
	got, err := w.Rule(TokenFile(), made.ID)
	if err != nil || !got.isAs(&next) || !got.Created.Equal(made.Created) || !got.Modified.After(made.Modified) {
		t.Errorf("%+v, %v", got, err)
	}
	if strings.Contains(w.text, "\n@example.com") {
		t.Errorf("a rule that is not enabled has a line:\n%s", w.text)
	}
	before := w.text
	if _, err := w.SetRule(t.Context(), TokenFile(), made.ID, got); err != nil || w.text != before {
		t.Errorf("a change of nothing wrote:\n%s", w.text)
	}
	if old, err := w.RemoveRule(t.Context(), TokenFile(), made.ID); err != nil || old.ID != made.ID {
		t.Errorf("%+v, %v", old, err)
	}
	if _, err := w.Rule(TokenFile(), made.ID); err == nil {
		t.Error("it is still there")
	}
}

// TestRules_Refused: what would make another line of it, or lines of another kind, and what the files have.
func TestRules_Refused(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.files["info@files.example"] = true
	w.add(t, TokenFile(), "info@example.com", "a@x.example")
	before := w.text
	for _, c := range []struct{ pattern, target, want string }{
		{"", "a@x.example", "pattern: is required"},
		{"b@example.com", "a@x.example\nc@other.example d@x.example", "control character"},
		{"b@example.com c@other.example", "d@x.example", "is no pattern"},
		{"/b/@example.com", `"/@other.example" d@x.example`, "is no pattern"},
		{"#b@example.com", "a@x.example", "is no pattern"},
		{"relay *", "smtp://h.example", "is no pattern"},
		{"relay", "@example.org smtp://h.example", "names no domain"},
		{"domain", "example.com", "is no pattern"},
		{"b@example.com ", "a@x.example", "blank"},
		{"b@example.com", "# nothing", "is a comment"},
		{"INFO@example.com", "b@x.example", "there is a rule for"},
		{"info@files.example", "b@x.example", "info@files.example: the same pattern stands at routes.txt:1"},
		{"b@" + strings.Repeat("x", maxLine), "drop", "more than"},
	} {
		_, err := w.AddRule(t.Context(), TokenFile(), Rule{Pattern: c.pattern, Target: c.target, Enabled: true})
		if kind, _ := kindOf(err); kind != Refused || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q: %v, want %q", c.pattern, c.target, err, c.want)
		}
	}
	if w.text != before {
		t.Errorf("something changed:\n%s", w.text)
	}
}

// TestPrincipal_Domains: who is for some domains sees and changes what is of these, and nothing else is there.
func TestPrincipal_Domains(t *testing.T) {
	w := newWorld(t, t.TempDir())
	theirs := w.add(t, TokenFile(), "info@other.example", "a@x.example")
	mine := w.add(t, owner("example.com"), "info@sub.example.com", "drop")
	reader := Principal{ID: "r", Role: ReadOnly, Domains: []string{"example.com"}}
	for _, p := range []Principal{owner("example.com"), reader} {
		list, err := w.Rules(p)
		if err != nil || len(list) != 1 || list[0].ID != mine.ID {
			t.Errorf("%s sees %+v, %v", p.Role, list, err)
		}
	}
	set := func(p Principal, id, pattern, target string) error {
		_, err := w.SetRule(t.Context(), p, id, Rule{Pattern: pattern, Target: target, Enabled: true})
		return err
	}
	remove := func(p Principal, id string) error {
		_, err := w.RemoveRule(t.Context(), p, id)
		return err
	}
	for _, c := range []struct {
		name string
		err  error
		want Kind
	}{
		{"another's rule", set(owner("example.com"), theirs.ID, "x@example.com", "drop"), Missing},
		{"another's rule removed", remove(owner("example.com"), theirs.ID), Missing},
		{"taken to another's domain", set(owner("example.com"), mine.ID, "x@other.example", "drop"), Forbidden},
		{"a domain whose end is the same", set(owner("ample.com"), mine.ID, "x@example.com", "drop"), Missing},
		{"the defaults of all", set(owner("example.com"), mine.ID, "domain *", "dmarc=off"), Forbidden},
		{
			"a proxy", set(owner("example.com"), mine.ID, "x@example.com", "smtp://h.example via=socks5://10.0.0.1"),
			Forbidden,
		},
		{
			"a domain for another's",
			set(owner("example.com"), mine.ID, "domain example.com", "alias_of=other.example"),
			Forbidden,
		},
		{"a reader", set(reader, mine.ID, "x@example.com", "drop"), Forbidden},
		{"a reader removes", remove(reader, mine.ID), Forbidden},
		{"who may nothing", set(Principal{}, mine.ID, "x@example.com", "drop"), Forbidden},
	} {
		if kind, _ := kindOf(c.err); kind != c.want {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	if list, err := w.Rules(TokenFile()); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if seen, err := w.Audit(owner("other.example"), 100); err != nil || len(seen) != 1 || seen[0].About != theirs.ID {
		t.Errorf("the audit: %+v, %v", seen, err)
	}
}

// TestDestinations: a rule takes no mail while a target of it is not verified, and none when one is removed.
func TestDestinations(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	me := owner("example.com")
	d, err := w.AddDestination(t.Context(), me, "me@home.example")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.AddDestination(t.Context(), me, "me@HOME.example"); err != nil || again.ID != d.ID {
		t.Errorf("added twice: %+v, %v", again, err)
	}
	r := w.add(t, me, "info@example.com", "try me@home.example, alias@example.com")
	inForce := func() bool { return strings.Contains(w.text, "\ninfo@example.com") }
	if !r.Enabled || len(r.Pending) != 1 || inForce() {
		t.Errorf("before: %+v\n%s", r, w.text)
	}
	verify := func(d *Destination) error {
		d.Verified, d.How = &w.now, "link"
		return nil
	}
	_, err = w.ChangeDestination(t.Context(), me, d.ID, verify)
	if kind, _ := kindOf(err); kind != Forbidden || inForce() {
		t.Errorf("verified by its owner: %v", err)
	}
	if _, err := w.ChangeDestination(t.Context(), owner("other.example"), d.ID, verify); err == nil {
		t.Error("another one changed it")
	}
	if _, err := w.ChangeDestination(t.Context(), Node("link"), d.ID, verify); err != nil || !inForce() {
		t.Errorf("%v\n%s", err, w.text)
	}
	w.open(t, folder)
	if _, disabled, err := w.RemoveDestination(t.Context(), me, d.ID); err != nil || len(disabled) != 1 || inForce() {
		t.Errorf("%+v, %v\n%s", disabled, err, w.text)
	}
	if got, err := w.Rule(me, r.ID); err != nil || got.Enabled || len(got.Scope) != 1 {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
	if !strings.Contains(w.log.String(), "level=WARN msg=\"a rule was disabled") {
		t.Error("the log does not say it")
	}
	if len(w.events) != 1 || w.events[0].Reason != ReasonDisabled || w.events[0].Rule.Pattern != r.Pattern {
		t.Errorf("the events are %+v", w.events)
	}
}

// TestDestinations_Unknown: an owner's rule waits for a target that is no destination. One who has all domains may
// write what a rules file may, and what comes later takes nothing away.
func TestDestinations_Unknown(t *testing.T) {
	w := newWorld(t, t.TempDir())
	r := w.add(t, owner("example.com"), "/(.+)/@example.com", "$1@far.example, smtp://10.0.0.1:25")
	if len(r.Pending) != 2 {
		t.Errorf("an owner's: %+v", r)
	}
	r = w.add(t, TokenFile(), "all@example.com", "b@far.example mixed=reject")
	if _, err := w.AddDestination(t.Context(), owner("example.com"), "b@far.example"); err != nil {
		t.Fatal(err)
	}
	w.add(t, TokenFile(), "more@example.com", "drop")
	if got, err := w.Rule(TokenFile(), r.ID); err != nil || !got.InForce() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestDestinations_Behind: a destination is seen behind a condition or an option too, and what a reply says is none. An
// owner may write neither in front, nor have routes in local parts kept.
func TestDestinations_Behind(t *testing.T) {
	w := newWorld(t, t.TempDir())
	d, err := w.AddDestination(t.Context(), TokenFile(), "c@far.example")
	if err != nil {
		t.Fatal(err)
	}
	for i, target := range []string{
		"enabled=yes c@far.example", "if spf=pass network=192.0.2.0/24,2001:db8::/32 c@FAR.example",
		"try b@x.example, c@far.example",
	} {
		if r := w.add(t, TokenFile(), fmt.Sprintf("a%d@example.com", i), target); len(r.Pending) != 1 {
			t.Errorf("%s: %+v", target, r)
		}
	}
	if r := w.add(t, TokenFile(), "reply@example.com", "reject 550 Write to c@far.example"); len(r.Pending) != 0 {
		t.Errorf("%+v", r)
	}
	for _, target := range []string{"enabled=yes c@far.example", "if spf=pass drop", "c@far.example routing=keep"} {
		_, err := w.AddRule(t.Context(), owner("example.com"), Rule{Pattern: "x@example.com", Target: target})
		if kind, _ := kindOf(err); kind != Forbidden {
			t.Errorf("an owner's %s: %v", target, err)
		}
	}
	if _, disabled, err := w.RemoveDestination(t.Context(), TokenFile(), d.ID); err != nil || len(disabled) != 3 {
		t.Errorf("%+v, %v", disabled, err)
	}
}

// TestDestinations_Woken: a rule that waited, and that the Router refuses once its destination is verified, is left out
// alone: the link is taken, and the rules of others can be changed.
func TestDestinations_Woken(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	me := owner("example.com")
	d, err := w.AddDestination(t.Context(), me, "me@home.example")
	if err != nil {
		t.Fatal(err)
	}
	bad := w.add(t, me, "bad@example.com", "me@home.example")
	good := w.add(t, me, "good@example.com", "me@home.example")
	w.files["bad@example.com"] = true
	if _, err := w.ChangeDestination(t.Context(), Node("link"), d.ID, func(d *Destination) error {
		d.Verified, d.How = &w.now, "link"
		return nil
	}); err != nil {
		t.Errorf("verified: %v", err)
	}
	w.add(t, owner("other.example"), "a@other.example", "b@other.example")
	w.open(t, folder)
	for _, c := range []struct {
		id      string
		inForce bool
		why     string
	}{{bad.ID, false, "the same pattern stands at routes.txt:1"}, {good.ID, true, ""}} {
		r, err := w.Rule(me, c.id)
		if err != nil || r.InForce() != c.inForce || r.Off != c.why || len(r.Pending) > 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if !strings.Contains(w.log.String(), "a rule of the API is not in force") {
		t.Error("the log does not say it")
	}
	_, err = w.SetRule(t.Context(), me, bad.ID, Rule{Pattern: bad.Pattern, Target: "me@home.example", Enabled: true})
	if kind, code := kindOf(err); kind != Refused || code != CodeClash {
		t.Errorf("written anew: %v", err)
	}
}

// TestDestinations_OfSeveral: a destination for several domains is changed and removed by one who has all of them, and
// seen by others.
func TestDestinations_OfSeveral(t *testing.T) {
	w := newWorld(t, t.TempDir())
	both, one := owner("example.com", "other.example"), owner("other.example")
	d, err := w.AddDestination(t.Context(), both, "me@home.example")
	if err != nil {
		t.Fatal(err)
	}
	r := w.add(t, both, "info@example.com", "me@home.example")
	if _, err := w.Destination(one, d.ID); err != nil {
		t.Errorf("seen: %v", err)
	}
	_, err = w.ChangeDestination(t.Context(), one, d.ID, func(d *Destination) error { d.Verified = nil; return nil })
	if kind, _ := kindOf(err); kind != Forbidden {
		t.Errorf("changed: %v", err)
	}
	_, _, err = w.RemoveDestination(t.Context(), one, d.ID)
	if kind, _ := kindOf(err); kind != Forbidden {
		t.Errorf("removed: %v", err)
	}
	if r, err := w.Rule(both, r.ID); err != nil || !r.Enabled {
		t.Errorf("%+v, %v", r, err)
	}
	if _, _, err := w.RemoveDestination(t.Context(), both, d.ID); err != nil {
		t.Errorf("removed by one who has both: %v", err)
	}
}

// TestTokens: a token has the form that the clients of others demand, opens what it is for until it is revoked or over,
// and its secret stands nowhere.
func TestTokens(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	from := netip.MustParseAddr("192.0.2.1")
	end := w.now.Add(time.Hour)
	made, secret, err := w.AddToken(t.Context(), TokenFile(), Token{
		Name: "deploy", Role: Owner, Domains: []string{"B.example", "a.example", "b.example"}, Expires: &end,
	})
	if err != nil || !regexp.MustCompile(`^[0-9A-Za-z_-]{40,80}$`).MatchString(secret) {
		t.Fatalf("%q, %v", secret, err)
	}
	w.open(t, folder)
	p, err := w.Authenticate(secret, from)
	if err != nil || p.Role != Owner || strings.Join(p.Domains, " ") != "a.example b.example" || p.Name != "deploy" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, _, err := w.AddToken(t.Context(), p, Token{Name: "more", Role: ReadOnly}); err == nil {
		t.Error("an owner made a token")
	}
	kept, err := json.Marshal(w.Account.lists.current.Load().audit)
	if err != nil {
		t.Fatal(err)
	}
	all := string(kept) + w.log.String() + w.text
	for _, name := range []string{tokensName, auditName, destinationsName} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		all += string(text)
	}
	if strings.Contains(all, secret) || strings.Contains(string(kept)+w.log.String(), hashOf(secret)) {
		t.Error("the secret is written somewhere")
	}
	w.now = end
	if _, err := w.Authenticate(secret, from); err == nil {
		t.Error("it is over, and opens")
	}
	w.now = end.Add(-time.Hour)
	if _, err := w.RevokeToken(t.Context(), TokenFile(), made.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authenticate(secret, from); err == nil {
		t.Error("it was revoked, and opens")
	}
	for _, wrong := range []Token{
		{Role: Admin}, {Name: "x"}, {Name: "x", Role: Owner}, {Name: "x", Role: Admin, Domains: []string{"a.example"}},
		{Name: "x", Role: Owner, Domains: []string{"*.example"}}, {Name: "x\ny", Role: ReadOnly},
		{Name: "x", Role: ReadOnly, Expires: &made.Created},
	} {
		if _, _, err := w.AddToken(t.Context(), TokenFile(), wrong); err == nil {
			t.Errorf("made %+v", wrong)
		}
	}
}

// TestAuthenticate_Limit: after twenty wrong tokens of a network none of it is compared for a while, but those that
// were right from there before; other networks go on.
func TestAuthenticate_Limit(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.now = time.Time{}
	w.Account.cfg.Now = func() time.Time { return w.now }
	_, known, err := w.AddToken(t.Context(), TokenFile(), Token{Name: "known", Role: ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	try := func(secret, from string) Kind {
		_, err := w.Authenticate(secret, netip.MustParseAddr(from))
		kind, _ := kindOf(err)
		return kind
	}
	const right = 255
	if got := try(known, "192.0.2.1"); got != right {
		t.Fatal(got)
	}
	if got := try("", "192.0.2.1"); got != Unauthorized {
		t.Errorf("none: %d", got)
	}
	for range maxWrong {
		if got := try("wrong", "192.0.2.2"); got != Unauthorized {
			t.Fatal(got)
		}
	}
	for _, c := range []struct {
		secret, from string
		want         Kind
	}{
		{"wrong", "192.0.2.1", Limited}, {"of the configuration", "192.0.2.1", Limited}, {known, "192.0.2.9", right},
		{"of the configuration", "198.51.100.1", right}, {"wrong", "2001:db8::1", Unauthorized},
	} {
		if got := try(c.secret, c.from); got != c.want {
			t.Errorf("%s from %s: %d, want %d", c.secret, c.from, got, c.want)
		}
	}
	w.now = w.now.Add(wrongTime)
	if got := try("of the configuration", "192.0.2.1"); got != right {
		t.Errorf("a minute later: %d", got)
	}
}

// TestAccount_Unkept: without a folder everything can be read, and nothing changed.
func TestAccount_Unkept(t *testing.T) {
	w := newWorld(t, "")
	_, err := w.AddRule(t.Context(), TokenFile(), Rule{Pattern: "a@example.com", Target: "drop"})
	_, err2 := w.AddDestination(t.Context(), TokenFile(), "a@x.example")
	_, _, err3 := w.AddToken(t.Context(), TokenFile(), Token{Name: "x", Role: ReadOnly})
	for _, err := range []error{err, err2, err3} {
		if kind, code := kindOf(err); kind != Unkept || code != CodeUnkept {
			t.Errorf("%v", err)
		}
	}
	if list, err := w.Rules(TokenFile()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestAccount_Unreadable: a file that is cut at any octet, is a folder, or is of a later version is an error and no
// empty list, and what a crash leaves of a write harms nothing.
func TestAccount_Unreadable(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	if _, _, err := w.AddToken(t.Context(), TokenFile(), Token{Name: "x", Role: ReadOnly}); err != nil {
		t.Fatal(err)
	}
	reopen := func() error {
		_, err := New(Config{State: folder, Rules: w.rulesFile(), ALabels: isName})
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, ".tokens-new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reopen(); err != nil {
		t.Errorf("with half a new file beside it: %v", err)
	}
	for _, name := range []string{tokensName, auditName} {
		file := filepath.Join(folder, name)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := range whole {
			if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if err := reopen(); err == nil || !strings.Contains(err.Error(), file) {
				t.Fatalf("%s cut at %d: %v", name, n, err)
			}
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(folder, destinationsName), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := reopen(); err == nil {
		t.Error("a folder in place of a file is read as nothing")
	}
}

// TestSettle: rules that the files do not allow are left out by name, and are there again when the files do.
func TestSettle(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.add(t, TokenFile(), "a@example.com", "drop")
	b := w.add(t, TokenFile(), "b@example.com", "drop")
	w.files["b@example.com"] = true
	faults := func(err error) []Fault { lines, _ := faultsOf(err); return lines }
	settled, left, err := Settle(w.text, w.accept, faults)
	if err != nil || len(left) != 1 || left[0].ID != b.ID || left[0].Off == "" || strings.Contains(settled, "\nb@") {
		t.Fatalf("%+v, %v\n%s", left, err, settled)
	}
	w.text = settled
	if got, err := w.Rule(TokenFile(), b.ID); err != nil || !got.Enabled || got.InForce() {
		t.Errorf("%+v, %v", got, err)
	}
	delete(w.files, "b@example.com")
	again, left, err := Settle(settled, w.accept, faults)
	if err != nil || len(left) != 0 || !strings.Contains(again, "\nb@") {
		t.Errorf("%+v, %v\n%s", left, err, again)
	}
	other := errors.New("another")
	if _, _, err := Settle(settled, func(string) error { return other }, faults); !errors.Is(err, other) {
		t.Errorf("%v", err)
	}
}

// FuzzParseRules: what is read is written as it was read.
func FuzzParseRules(f *testing.F) {
	name := "x\u2028\"<&"
	text, _, err := Render([]Rule{
		{ID: NewID(), Pattern: "a@example.com", Target: "drop", Enabled: true, Name: &name},
		{ID: NewID(), Pattern: "/b/@example.com", Target: "x@y.example", Pending: []string{"x@y.example"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("#rule {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseRules(text)
		if err != nil {
			return
		}
		first, _, err := Render(list)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRules(first)
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		second, _, err := Render(again)
		if err != nil || first != second || len(again) != len(list) {
			t.Errorf("%v\n%s\n%s", err, first, second)
		}
	})
}

// FuzzDecode: a list is what was written, or an error.
func FuzzDecode(f *testing.F) {
	text, err := encode(tokensName, 3, []keptToken{{Token{ID: NewID(), Role: Admin}, "x"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		number, list, err := decode[keptToken](tokensName, text)
		if err != nil {
			return
		}
		if _, err := encode(tokensName, number, list); err != nil {
			t.Error(err)
		}
	})
}

// TestAccount_Block: a line that refuses a sender is a rule like others, of the domain of its recipients; an owner has
// one for its own domains alone.
func TestAccount_Block(t *testing.T) {
	for line, want := range map[string]string{
		"block a@spam.example for=@example.com":             "example.com",
		"block @*.spam.example for=info@Example.com":        "example.com",
		`block "a b"@spam.example for=@*.example.com`:       "example.com",
		"block a@spam.example":                              "*",
		"block":                                             "",
		"block a@spam.example for=":                         "",
		"block a@spam.example more":                         "",
		"block a@spam.example for=@example.com for=@x.test": "",
		"block a@spam.example for=example.com":              "",
	} {
		r := Rule{Pattern: line}
		err := r.check(isName)
		if (err == nil) != (want != "") || err == nil && r.Domain != want {
			t.Errorf("%q: of %q, %v", line, r.Domain, err)
		}
	}
	w := newWorld(t, t.TempDir())
	owner := Principal{ID: "o", Name: "o", Role: Owner, Domains: []string{"example.com"}}
	for line, may := range map[string]bool{
		"block a@spam.example for=@example.com": true, "block a@spam.example for=@other.example": false,
		"block a@spam.example": false,
	} {
		if _, err := w.AddRule(t.Context(), owner, Rule{Pattern: line, Enabled: true}); (err == nil) != may {
			t.Errorf("%q: %v", line, err)
		}
	}
	if !strings.Contains(w.text, "\nblock a@spam.example for=@example.com\n") {
		t.Errorf("the file: %s", w.text)
	}
}
