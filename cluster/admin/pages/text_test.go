package pages

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/router/mail"
)

// TestPages_Language: a visitor has the language that the browser asks for, until another one is chosen.
func TestPages_Language(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	for _, tt := range []struct{ accept, want string }{
		{"", "en"}, {"ja,en;q=0.8", "ja"}, {"fr-FR, ja-JP;q=0.5", "ja"}, {"de, en", "en"}, {"de", "en"},
	} {
		if _, body := c.ask("GET", "/login", nil, "Accept-Language: "+tt.accept); !strings.Contains(body,
			`lang="`+tt.want+`"`) {
			t.Errorf("%q: not %s", tt.accept, tt.want)
		}
	}
	resp, _ := c.ask("POST", "/language", url.Values{"to": {"ja"}, "next": {"//evil.example"}})
	if resp.Header.Get("Location") != "/" {
		t.Errorf("leads to %q", resp.Header.Get("Location"))
	}
	if _, body := c.ask("GET", "/login", nil, "Accept-Language: en"); !strings.Contains(body, `<html lang="ja">`) {
		t.Error("the language that was chosen does not stay")
	}
}

// TestWords: each text that a template names is there in both languages, and each text is named.
func TestWords(t *testing.T) {
	en, ja := wordsOf(wordsFile, english), wordsOf(wordsFile, japanese)
	used := map[string]bool{}
	files, err := filepath.Glob("html/*.html")
	if err != nil {
		t.Fatal(err)
	}
	code, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`"([a-z]+(?:\.[a-z0-9_]+)?)"`)
	for _, file := range append(files, code...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range key.FindAllStringSubmatch(string(text), -1) {
			used[m[1]] = true
		}
		for _, m := range regexp.MustCompile(`\{\{t "([^"]+)"\}\}`).FindAllStringSubmatch(string(text), -1) {
			if en[m[1]] == "" {
				t.Errorf("%s names %q, which has no text", file, m[1])
			}
		}
	}
	for _, m := range whatWords(t) {
		used["audit."+m] = true
	}
	for _, r := range account.Roles() {
		used["role."+r], used["rolehint."+r] = true, true
	}
	for _, s := range activity.Statuses() {
		used["status."+string(s)] = true
	}
	for _, a := range activity.Actions() {
		used["action."+string(a)] = true
	}
	for s := range mail.Stage(mail.Stages) {
		used["step."+s.String()] = true
	}
	for _, k := range outcomes {
		used["outcome."+k.String()] = true
	}
	for _, s := range states {
		used["dns."+s] = true
	}
	for _, more := range []string{
		"step.client", "step.all", "step.tried", "step.session", "verdict.accept", "verdict.drop", "verdict.defer",
		"verdict.reject", "signal.spoke", "signal.silent", "signal.unheard", "signal.skipped",
	} {
		used[more] = true
	}
	for k, text := range en {
		if !used[k] {
			t.Errorf("nothing shows %q", k)
		}
		if text == "" || ja[k] == "" {
			t.Errorf("%q has no text in a language", k)
		}
	}
	for k := range used {
		if strings.Contains(k, ".") && en[k] == "" && !strings.HasPrefix(k, "smtp") && strings.Count(k, ".") == 1 {
			group, _, _ := strings.Cut(k, ".")
			if group == "status" || group == "action" || group == "step" || group == "outcome" || group == "dns" ||
				group == "error" || group == "role" || group == "rolehint" {
				t.Errorf("%q has no text", k)
			}
		}
	}
}

// TestLocalPath: no link of a form leads to another site.
func TestLocalPath(t *testing.T) {
	for path, want := range map[string]string{
		"/log?to=a%40b": "/log?to=a%40b", "": "/", "log": "/", "//evil.example": "/", "/\\evil.example": "/",
		"https://evil.example/": "/", "javascript:alert(1)": "/", "/a\r\nSet-Cookie: x": "/", "/%zz": "/", "/#x": "/",
	} {
		if got := localPath(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

// whatWords returns what the audit says that was done, of the code that writes it.
func whatWords(t *testing.T) (all []string) {
	t.Helper()
	files, err := filepath.Glob("../../account/*.go")
	if err != nil {
		t.Fatal(err)
	}
	en := wordsOf(wordsFile, english)
	what := regexp.MustCompile(`"((?:rule|destination|token)\.[a-z]+)"`)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range what.FindAllStringSubmatch(string(text), -1) {
			all = append(all, m[1])
			if en["audit."+m[1]] == "" {
				t.Errorf("%q of the audit has no text", m[1])
			}
		}
	}
	if len(all) < 8 {
		t.Errorf("%q", all)
	}
	return all
}
