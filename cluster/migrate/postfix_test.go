package migrate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written writes files to a folder and returns it. DIR in a text is the folder.
func written(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		text = strings.ReplaceAll(text, "DIR", dir)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// converted converts main.cf with the tables beside it.
func converted(t testing.TB, cf string, tables map[string]string) *Result {
	t.Helper()
	files := map[string]string{"main.cf": cf}
	for name, text := range tables {
		files[name] = text
	}
	r, err := Postfix([]string{filepath.Join(written(t, files), "main.cf")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPostfix_Rules: each way in which Postfix takes mail is the rule that takes it to the same place, and what is no
// rule is a tempfail and a note.
func TestPostfix_Rules(t *testing.T) {
	for _, c := range []struct {
		name, cf string
		tables   map[string]string
		rules    string // lines that are there
		note     string
	}{
		{"a domain of aliases", "virtual_alias_maps = hash:DIR/v", map[string]string{
			"v": "a.test  x\ninfo@a.test bob@b.test\n@a.test all@b.test\n"},
			"info@a.test  bob@b.test\n@a.test  all@b.test", ""},
		{"a domain to a domain", "virtual_alias_maps = hash:DIR/v", map[string]string{
			"v": "a.test x\nb.test x\none@b.test x@c.test\n@a.test @b.test\n"}, "/(.+)/@a.test  $1@b.test", ""},
		{"mailboxes by LMTP", "virtual_mailbox_domains = a.test\nvirtual_mailbox_maps = texthash:DIR/m\n" +
			"virtual_transport = lmtp:unix:private/lmtp", map[string]string{"m": "one@a.test x\n"},
			"one@a.test  lmtp+unix:/var/spool/postfix/private/lmtp", ""},
		{"mailboxes whose users are not listed", "virtual_mailbox_domains = a.test\nvirtual_transport = " +
			"lmtp:inet:[::1]:24",
			nil, "@a.test  lmtp://[::1]:24", ""},
		{"mailboxes of Postfix itself", "virtual_mailbox_domains = a.test", nil,
			"@a.test  tempfail 451 4.3.5 ", "there are none here"},
		{"a relayed domain", "relay_domains = a.test\ntransport_maps = lmdb:DIR/t", map[string]string{
			"t": "a.test relay:[10.0.0.7]:2525\n"}, "@a.test  smtp://10.0.0.7:2525", ""},
		{"a relayed domain by its MX", "relay_domains = a.test", nil, "@a.test  tempfail 451",
			"goes to the MX of a.test"},
		{"a transport whose MX is looked up", "relay_domains = a.test\ntransport_maps = hash:DIR/t",
			map[string]string{"t": "a.test smtp:mail.b.test\n"}, "@a.test  smtp://mail.b.test",
			"the MX of mail.b.test"},
		{"a transport of all subdomains", "relay_domains = x.a.test\ntransport_maps = hash:DIR/t",
			map[string]string{"t": ".a.test smtp:[mail.b.test]\n"}, "@x.a.test  smtp://mail.b.test", ""},
		{"refusals", "relay_domains = a.test\nrelay_recipient_maps = hash:DIR/r\ntransport_maps = hash:DIR/t",
			map[string]string{"r": "one@a.test x\ntwo@a.test x\nsix@a.test x\n", "t": "one@a.test error:5.1.6 moved\n" +
				"two@a.test discard:\nsix@a.test retry:4.2.1 later\n"},
			"one@a.test  reject 550 5.1.6 moved\nsix@a.test  tempfail 450 4.2.1 later\ntwo@a.test  drop", ""},
		{"an alias of its own address", "virtual_mailbox_domains = a.test\nvirtual_mailbox_maps = hash:DIR/m\n" +
			"virtual_alias_maps = hash:DIR/v\nvirtual_transport = lmtp:unix:/run/lmtp", map[string]string{
			"m": "one@a.test x\n", "v": "one@a.test one@a.test, copy@b.test\n"},
			"one@a.test  lmtp+unix:/run/lmtp, copy@b.test", "once: true"},
		{"an alias that catches mailboxes", "virtual_mailbox_domains = a.test\nvirtual_mailbox_maps = hash:DIR/m\n" +
			"virtual_alias_maps = hash:DIR/v\nvirtual_transport = lmtp:unix:/run/lmtp", map[string]string{
			"m": "one@a.test x\n", "v": "@a.test all@b.test\n"}, "domain a.test    # virtual_mailbox_domains\n" +
			"@a.test  all@b.test", ""},
		{"an unknown target", "virtual_alias_maps = hash:DIR/v", map[string]string{
			"v": "a.test x\none@a.test ghost@a.test\n"}, "one@a.test  tempfail 451", "ghost@a.test is unknown there"},
		{"a program", "myhostname = a.test\nmydestination = a.test\nalias_maps = hash:DIR/a", map[string]string{
			"a": "one: \"|/bin/x y\"\ntwo: bob@b.test\n"}, "one@a.test  tempfail 451", "no local delivery here"},
		{"quoted aliases", "virtual_alias_maps = hash:DIR/v", map[string]string{
			"v": "a.test x\n\"a b\"@a.test bob@b.test\n"}, `"a b"@a.test  bob@b.test`, ""},
		{"expressions", "virtual_alias_domains = a.test\nvirtual_alias_maps = regexp:DIR/v", map[string]string{
			"v": "/^(.+)-list@a\\.test$/ $(1)@l.test\n/^(.*)@(.*)$/ x@$2\n"}, "/(.+)-list/@a.test  ${1}@l.test",
			"compare what it matches"},
		{"what is in no domain", "virtual_alias_domains = a.test\nvirtual_alias_maps = hash:DIR/v", map[string]string{
			"v": "x@b.test y@c.test\nz@a.test y@c.test\n"}, "z@a.test  y@c.test", "x@b.test is in no domain"},
		{"a table of another type", "virtual_alias_domains = a.test\nvirtual_alias_maps = mysql:/etc/postfix/v",
			nil, "",
			"postmap -s mysql:/etc/postfix/v"},
		{"a table that is not there", "virtual_alias_domains = a.test\nvirtual_alias_maps = hash:DIR/none", nil, "",
			"no such file"},
		{"a tag", "virtual_alias_maps = hash:DIR/v\nrecipient_delimiter = +-", map[string]string{
			"v": "a.test x\nz@a.test y@c.test\n"}, "domain a.test  subaddress=+", "only + of +- parts it"},
		{"users of the machine", "myhostname = a.test", nil, "", "mail for the users of that machine is not converted"},
		{"all subdomains", "relay_domains = .a.test", nil, "", "means all its subdomains"},
		{"a chain of certificates", "smtpd_tls_chain_files = /etc/tls.pem", nil, "",
			"name certificate and key in the section"},
		{"a smarthost", "relayhost = [s.test]:587", nil, "", "mail to other domains went through it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := converted(t, c.cf, c.tables)
			if !strings.Contains(r.Rules, c.rules) {
				t.Errorf("the rules have no\n%s\nthey are\n%s", c.rules, r.Rules)
			}
			notes := ""
			for _, n := range r.Notes {
				notes += n.Text + "\n"
			}
			if !strings.Contains(notes, c.note) {
				t.Errorf("no note says %q:\n%s", c.note, notes)
			}
		})
	}
}

// TestMainCF_Values: the language of main.cf is read as Postfix reads it.
func TestMainCF_Values(t *testing.T) {
	dir := written(t, map[string]string{"main.cf": `# comment
a = one
b = $a two,
# between
	${a}three
  $(a)four
c = ${a?yes}${none?no}${none:absent}${a?{both}:{neither}}${none?{both}:{neither}}
d = $$5
e = $f
f = $e
g =
myhostname = mx1.example.net
a = last
`})
	cf, err := readMainCF([]string{filepath.Join(dir, "main.cf")})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a": "last", "b": "last two, lastthree lastfour", "c": "yesabsentbothneither", "d": "$5", "e": "", "g": "",
		"mydomain": "example.net", "myorigin": "mx1.example.net", "none": "",
		"mydestination": "mx1.example.net, localhost.example.net, localhost",
	} {
		if got := cf.value(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestMainCF_Wrong: what is no main.cf is named with its line.
func TestMainCF_Wrong(t *testing.T) {
	dir := written(t, map[string]string{"main.cf": "a = b\n\n# c\nsmtp inet n - n - - smtpd\n"})
	_, err := Postfix([]string{filepath.Join(dir, "main.cf")})
	if err == nil || !strings.HasSuffix(err.Error(), "main.cf:4: is no line of main.cf: write name = value") {
		t.Error(err)
	}
	if _, err := Postfix([]string{filepath.Join(dir, "none.cf")}); err == nil {
		t.Error("a file that is not there was read")
	}
}

// FuzzPostfix: no text of main.cf or of a table has the conversion fail, and each rule is one line.
func FuzzPostfix(f *testing.F) {
	f.Add("virtual_alias_maps = hash:DIR/t, regexp:DIR/t inline:{a=b}\nrelay_domains=$a ${b?{c}:{d}}",
		"a.test x\nb@a.test \"c d\"@e.test, |f\n/^(.+)@a\\.test$/ $1@b\n")
	f.Add(
		"mydestination = a.test\nalias_maps = hash:DIR/t\ntransport_maps=hash:DIR/t",
		"a: b\na.test smtp:[::1\n@a.test @b\n",
	)
	f.Add("virtual_mailbox_domains = a.tes\x00", "a\rb@a.test c\x7f\n")
	f.Fuzz(func(t *testing.T, cf, text string) {
		dir := written(t, map[string]string{"main.cf": cf, "t": text})
		r, err := Postfix([]string{filepath.Join(dir, "main.cf")})
		if err != nil {
			return
		}
		for line := range strings.Lines(r.Rules) {
			if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\n\x00") {
				t.Errorf("%q is no line", line)
			}
		}
	})
}

// TestPostfix_NoRuleThatDoesSomethingElse has what a rule would do otherwise than Postfix.
func TestPostfix_NoRuleThatDoesSomethingElse(t *testing.T) {
	mailboxes := "virtual_mailbox_domains = a.test\nvirtual_mailbox_maps = hash:DIR/m\n" +
		"virtual_transport = lmtp:unix:/run/lmtp\n"
	for _, c := range []struct {
		name, cf string
		tables   map[string]string
		rules    string // lines that are there
		absent   string // and what is not
		note     string
	}{
		{"an alias of a user with a dot", "mydestination = a.test\nalias_maps = hash:DIR/a",
			map[string]string{"a": "john.doe: jd@b.test\n"}, "john.doe@a.test  jd@b.test\n", "\x00", ""},
		{"an alias to the same user of another domain", "virtual_alias_maps = hash:DIR/v",
			map[string]string{"v": "a.test x\none@a.test x@c.test, @b.test\n"},
			"one@a.test  x@c.test, one@b.test\n", `""@b.test`, ""},
		{"a catch-all that leads to another domain as well", "virtual_alias_maps = hash:DIR/v",
			map[string]string{"v": "a.test x\n@a.test x@c.test, @b.test\n"},
			"/(.+)/@a.test  x@c.test, $1@b.test\n", `""@b.test`, ""},
		{"aliases of the machine in a domain of mailboxes", mailboxes + "myorigin = a.test\nalias_maps = hash:DIR/a",
			map[string]string{"m": "info@a.test x\n", "a": "info: boss@b.test\nroot: boss@b.test\n"},
			"info@a.test  lmtp+unix:/run/lmtp\n", "boss@b.test", ""},
		{"myorigin is a file", "myorigin = DIR/mailname\nmydestination = a.test\nalias_maps = hash:DIR/a",
			map[string]string{"mailname": "a.test\n", "a": "one: two\ntwo: x@b.test\n"}, "one@a.test  two@a.test\n",
			"mailname", ""},
		{"a transport that leaves all as it is", "relay_domains = a.test\nrelay_transport = relay:[10.0.0.7]\n" +
			"relayhost = [10.0.0.9]\ntransport_maps = hash:DIR/t", map[string]string{"t": "a.test :\n"},
			"@a.test  smtp://10.0.0.7\n", "10.0.0.9", ""},
		{"conditions around expressions", "virtual_alias_domains = a.test\nvirtual_alias_maps = pcre:DIR/v",
			map[string]string{"v": "if !/^secret/\n/^s.*@a\\.test$/ x@b.test\nif /z/\nendif\n" +
				"/^t@a\\.test$/ x@b.test\nendif\n/^u@a\\.test$/ x@b.test\n"}, "/u/@a.test  x@b.test\n", "/s.*/",
			"stands between if and endif"},
		{"expressions with flags", "virtual_alias_domains = a.test\nvirtual_alias_maps = pcre:DIR/v",
			map[string]string{"v": "/^s @a\\.test$/x x@b.test\n"}, "domain a.test", "x@b.test", "flags"},
		{"an expression of alternatives", "virtual_alias_domains = a.test\nvirtual_alias_maps = pcre:DIR/v",
			map[string]string{"v": "/^one|two@a\\.test$/ x@b.test\n/^(one|two)@a\\.test$/ y@b.test\n"},
			"/(one|two)/@a.test  y@b.test\n", "x@b.test", "alternatives"},
		{"an expression of any domain", "virtual_alias_domains = a.test\nvirtual_alias_maps = pcre:DIR/v",
			map[string]string{"v": "/^info@/ x@b.test\n"}, "@a.test  tempfail 451 ", "x@b.test", "of no single domain"},
		{"transports by expressions", mailboxes + "transport_maps = regexp:DIR/t",
			map[string]string{"m": "one@a.test x\n", "t": "/^one@/ smtp:[10.0.0.9]\n"},
			"one@a.test  tempfail 451 ", "lmtp", "transport_maps: expressions"},
		{"mailboxes by expressions", "virtual_mailbox_domains = a.test\nvirtual_mailbox_maps = pcre:DIR/m\n" +
			"virtual_transport = lmtp:unix:/run/lmtp\n", map[string]string{"m": "/^one@/ x\n"},
			"@a.test  tempfail 451 ", "lmtp", "virtual_mailbox_maps: expressions"},
		{"domains by expressions", "relay_domains = pcre:DIR/r", map[string]string{"r": "/^(.+)\\.a\\.test$/ x\n"},
			"", "\x00", "relay_domains: expressions"},
		{"one alias of every address", mailboxes + "virtual_alias_maps = static:all@b.test",
			map[string]string{"m": "@a.test x\n"}, "@a.test  tempfail 451 ", "lmtp", "virtual_alias_maps: static:"},
		{"a user of a machine without a name", "mydestination = a.test\nalias_maps = hash:DIR/a",
			map[string]string{"a": "root: bob, x@b.test\n"}, "root@a.test  tempfail 451 ", "bob@", "myhostname"},
		{"a user of the machine beside another target", "mydestination = a.test\nmyorigin = a.test\n" +
			"alias_maps = hash:DIR/a",
			map[string]string{"a": "root: bob, x@b.test\n"}, "root@a.test  tempfail 451 ", "x@b.test", "bob@a.test"},
		{"a program beside another target", "mydestination = a.test\nalias_maps = hash:DIR/a",
			map[string]string{"a": "rt: x@b.test, \"|/bin/rt\"\n"}, "rt@a.test  tempfail 451 ", "x@b.test",
			"is a program"},
		{"a mailbox of Postfix itself beside another target", "virtual_mailbox_domains = a.test\n" +
			"virtual_mailbox_maps = hash:DIR/m\nvirtual_alias_maps = hash:DIR/v",
			map[string]string{"m": "one@a.test x\n", "v": "one@a.test one@a.test, x@b.test\n"},
			"one@a.test  tempfail 451 ", "x@b.test", "cannot stand beside"},
		{"an address that a database may have beside another target", "virtual_mailbox_domains = a.test\n" +
			"virtual_mailbox_maps = mysql:/m\nvirtual_alias_maps = hash:DIR/v",
			map[string]string{"v": "one@a.test two@a.test, x@b.test\n"}, "one@a.test  tempfail 451 ", "x@b.test",
			"two@a.test"},
		{"an unknown address beside another target", "virtual_alias_maps = hash:DIR/v",
			map[string]string{"v": "a.test x\none@a.test two@a.test, x@b.test\n"}, "one@a.test  x@b.test\n", "\x00",
			"two@a.test is unknown"},
		{"hosts that are tried in turn", "relay_domains = a.test\nrelay_transport = relay:[x.test], [y.test]", nil,
			"@a.test  tempfail 451 ", "smtp://", "one after the other"},
		{"mailboxes in a database", "virtual_mailbox_domains = a.test\nvirtual_mailbox_maps = hash:DIR/m mysql:/m\n" +
			"virtual_transport = lmtp:unix:/run/lmtp\n", map[string]string{"m": "one@a.test x\n"},
			"one@a.test  lmtp+unix:/run/lmtp\n@a.test  tempfail 451 ", "\x00", "mysql"},
		{"aliases in a database", mailboxes + "virtual_alias_maps = mysql:/m", map[string]string{"m": "@a.test x\n"},
			"@a.test  tempfail 451 ", "lmtp", "mysql"},
		{"transports in a database", mailboxes + "transport_maps = mysql:/m", map[string]string{"m": "@a.test x\n"},
			"@a.test  tempfail 451 ", "lmtp", "mysql"},
		{"subdomains of a relayed domain", "relay_domains = a.test\nrelay_transport = relay:[10.0.0.7]", nil,
			"@a.test  smtp://10.0.0.7\n", "\x00", "subdomains"},
		{"users of the machine beside aliases", "mydestination = a.test\nalias_maps = hash:DIR/a",
			map[string]string{"a": "one: x@b.test\n"}, "one@a.test  x@b.test\n@a.test  tempfail 451 ", "\x00",
			"users of that machine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := converted(t, c.cf, c.tables)
			if !strings.Contains(r.Rules, c.rules) || strings.Contains(r.Rules, c.absent) {
				t.Errorf("the rules have no\n%s\nor %q, they are\n%s", c.rules, c.absent, r.Rules)
			}
			notes := ""
			for _, n := range r.Notes {
				notes += n.Field + ": " + n.Text + "\n"
			}
			if !strings.Contains(notes, c.note) {
				t.Errorf("no note says %q:\n%s", c.note, notes)
			}
		})
	}
}
