package dkim

import (
	"fmt"
	"strings"
	"testing"
)

// foreign returns n signatures of other domains that fail, each of a field.
func foreign(n int) string {
	var s strings.Builder
	for range n {
		fmt.Fprintf(&s, "DKIM-Signature: %sAAAA\r\n",
			strings.Replace(tags, "bh=;", "bh="+strings.Repeat("A", 43)+";", 1))
	}
	return strings.ReplaceAll(s.String(), "d=example.com", "d=forwarder.test")
}

// The signatures of the author are verified first, wherever they stand.
func TestVerifier_Order(t *testing.T) {
	author := func(domain string) string {
		return signed(t, strings.Replace(tags, "d=example.com", "d="+domain, 1), dinner, dinnerBody)
	}
	cut := func(message, old, new string) string {
		field, rest, _ := strings.Cut(message, "\r\n")
		return strings.Replace(field, old, new, 1) + "\r\n" + rest
	}
	field := func(message string) string {
		f, _, _ := strings.Cut(message, "\r\n")
		return f + "\r\n"
	}
	good := author("example.com")
	tests := []struct {
		name    string
		message string
		authors []string
		passing string // the domains that pass
		counted int    // signatures that are counted and not verified
	}{
		{"above five others", good[:len(field(good))] + foreign(5) + good[len(field(good)):],
			[]string{"example.com"}, "example.com", 1},
		{"below five others", foreign(5) + good, []string{"example.com"}, "example.com", 1},
		{"below eleven others", foreign(11) + good, []string{"example.com"}, "example.com", 7},
		{"below nine hundred others", foreign(900) + good, []string{"example.com"}, "example.com", 896},
		{"without an author from the top", foreign(5) + good, nil, "", 1},
		{"of another author from the top", foreign(5) + good, []string{"other.test"}, "", 1},
		{"of the domain above the author's", foreign(5) + good, []string{"news.example.com"}, "example.com", 1},
		{"of a domain below the author's", foreign(5) + author("mail.example.com"), []string{"example.com"},
			"mail.example.com", 1},
		{"of a domain beside the author's", foreign(5) + author("mail.example.com"), []string{"news.example.com"},
			"mail.example.com", 1},
		{"of the second author", foreign(5) + good, []string{"other.test", "example.com"}, "example.com", 1},
		{"below six of the same public suffix", strings.ReplaceAll(foreign(6), "forwarder.test", "x.co.test") +
			author("y.co.test"), []string{"y.co.test"}, "y.co.test", 2},
		{"below six of domains below the author's", strings.ReplaceAll(foreign(6), "forwarder.test", "x.example.com") +
			good, []string{"example.com"}, "example.com", 2},
		{"below five that cannot be read", strings.Repeat("DKIM-Signature: garbage\r\n", 5) + good,
			[]string{"example.com"}, "example.com", 0},
		{"below thirty that cannot be read, without an author",
			strings.Repeat("DKIM-Signature: garbage\r\n", 30) + good, nil, "example.com", 25},
		{"below nine of its own domain that have expired",
			strings.Repeat(field(cut(good, "v=1;", "v=1; x=1;")), 9) + good, []string{"example.com"}, "example.com", 4},
		{"below nine of its own domain that sign no From",
			strings.Repeat(field(cut(good, "h=from:", "h=")), 9) + good, []string{"example.com"}, "example.com", 4},
		{"below nine of its own domain with rsa-sha1",
			strings.Repeat(field(cut(good, "rsa-sha256", "rsa-sha1")), 9) + good, []string{"example.com"},
			"example.com", 4},
		{"below nine of its own domain without v=",
			strings.Repeat(field(cut(good, "v=1; ", "")), 9) + good, []string{"example.com"}, "example.com", 4},
		{"with others of the author, five of them", foreign(3) + strings.Repeat(field(good), 6) + foreign(3) + good,
			[]string{"example.com"}, "example.com example.com example.com example.com example.com", 8},
	}
	record := []string{publish(t, key(t))}
	keys := records{}
	for _, d := range []string{"example.com", "mail.example.com", "y.co.test"} {
		keys["sel._domainkey."+d] = record
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header, body := split([]byte(tt.message))
			m, err := newVerifier(t, Config{Resolver: keys, Now: clock(1000)}).Begin(t.Context(), header, tt.authors...)
			if err != nil {
				t.Fatal(err)
			}
			m.Write(body)
			var passing []string
			last := -1
			for _, s := range m.Finish() {
				if s.Result == Pass {
					passing = append(passing, s.Domain)
				}
				if s.raw.at <= last {
					t.Error("they do not come from the top")
				}
				last = s.raw.at
			}
			if got := strings.Join(passing, " "); got != tt.passing || m.Unverified() != tt.counted {
				t.Errorf("%q passes and %d are counted, want %q and %d", got, m.Unverified(), tt.passing, tt.counted)
			}
			if verified := len(m.signatures); verified > 2*maxSignatures {
				t.Errorf("%d signatures", verified)
			}
		})
	}
}

// Names are compared and looked up as A-labels (RFC 8616).
func TestVerifier_ULabels(t *testing.T) {
	const base = "v=1; a=rsa-sha256; d=DOMAIN; s=SEL; c=relaxed/relaxed; h=from:to:subject:date; bh=; b="
	keys := records{}
	for _, name := range []string{
		"sel._domainkey.xn--mnchen-3ya.example", "xn--gre-6ka8i._domainkey.xn--mnchen-3ya.example",
		"sel._domainkey.a_b.xn--mnchen-3ya.example", "a_b.xn--gre-6ka8i._domainkey.xn--mnchen-3ya.example",
	} {
		keys[name] = []string{publish(t, key(t))}
	}
	const a = "xn--mnchen-3ya.example"
	for _, tt := range []struct{ domain, selector, identity, want string }{
		{a, "sel", "", "pass: "},
		{"münchen.example", "sel", "", "pass: "},
		{"MÜNCHEN.Example", "sel", "", "pass: "},
		{"mu\u0308nchen.example", "sel", "", "pass: "}, // in NFD
		{"münchen。example", "sel", "", "pass: "},
		{"münchen.example.", "sel", "", "pass: "},
		{"a_b.münchen.example", "sel", "", "pass: "},
		{a, "größe", "", "pass: "},
		{a, "xn--gre-6ka8i", "", "pass: "},
		{"münchen.example", "größe", "", "pass: "},
		{"münchen.example", "a_b.größe", "", "pass: "},
		{a, "sel", "a@münchen.example", "pass: "},
		{"münchen.example", "sel", "a@xn--mnchen-3ya.example", "pass: "},
		{"münchen.example", "sel", "jürgen@news.münchen.example", "pass: "},
		{"münchen.example", "sel", "@münchen.example.", "pass: "},
		{"münchen.example", "sel", "a=40m=c3=bcnchen.example", "pass: "},
		{a, "sel", "a@münchen.example.evil.example", "permerror: domain mismatch"},
		{a, "sel", "a@munchen.example", "permerror: domain mismatch"},
		{a, "sel", "a@xmünchen.example", "permerror: domain mismatch"},
		{"mün\u200bchen.example", "none", "", "permerror: no key for signature"}, // a mark that is mapped to nothing
		{"münchen..example", "sel", "", "permerror: signature syntax error"},
		{"-münchen.example", "sel", "", "permerror: signature syntax error"},
		{"m\xfcnchen.example", "sel", "", "permerror: signature syntax error"},
		{"mün chen.example", "sel", "", "permerror: signature syntax error"},
		{strings.Repeat("ü", 600) + ".example", "sel", "", "permerror: signature syntax error"},
	} {
		list := strings.NewReplacer("DOMAIN", tt.domain, "SEL", tt.selector).Replace(base)
		if tt.identity != "" {
			list = strings.Replace(list, "bh=", "i="+tt.identity+"; bh=", 1)
		}
		got := verify(t, keys, clock(1000), []byte(signed(t, list, dinner, dinnerBody)))
		if explain(got) != tt.want {
			t.Errorf("d=%s s=%s i=%s: got %s, want %s", tt.domain, tt.selector, tt.identity, explain(got), tt.want)
		}
		if got[0].Result == Pass && !strings.HasSuffix(got[0].Domain, a) {
			t.Errorf("d=%s is %q", tt.domain, got[0].Domain)
		}
	}
}

// A signature with l= passes if that is the length of the whole body, and vouches for nothing before that is known.
func TestVerifier_WholeLength(t *testing.T) {
	const base = "v=1; a=rsa-sha256; d=example.com; s=sel; c=relaxed/CANON; h=from:to:subject:date; LEN bh=; b="
	const policy, fails = "policy: body length limit l= is not accepted", "fail: body hash did not verify"
	keys := records{"sel._domainkey.example.com": {publish(t, key(t))}}
	long := strings.Repeat("0123456789 \t 0123456789\r\n", 4000)
	for _, tt := range []struct{ name, canon, length, body, added, want string }{
		{"the whole body", "simple", "l=13;", "body  text \r\n", "", "pass: "},
		{"the whole body in relaxed form", "relaxed", "l=11;", "body  text \r\n", "", "pass: "},
		{"without the empty lines at its end", "relaxed", "l=11;", "body  text \r\n", "\r\n\r\n", "pass: "},
		{"without the empty lines at its end, exactly", "simple", "l=13;", "body  text \r\n", "\r\n", "pass: "},
		{"a body without a last line end", "simple", "l=12;", "body  text", "", "pass: "},
		{"an empty body", "relaxed", "l=0;", "", "", "pass: "},
		{"an empty body, exactly", "simple", "l=2;", "", "", "pass: "},
		{"many lines", "relaxed", fmt.Sprintf("l=%d;", 4000*23), long, "", "pass: "},
		{"many lines, exactly", "simple", fmt.Sprintf("l=%d;", len(long)), long, "", "pass: "},
		{"zeros in front", "relaxed", "l=0000011;", "body  text \r\n", "", "pass: "},
		{"one octet less", "relaxed", "l=10;", "body  text \r\n", "", policy},
		{"nothing of a body", "relaxed", "l=0;", "body  text \r\n", "", policy},
		{"something added", "relaxed", "l=11;", "body  text \r\n", "x\r\n", policy},
		{"one octet more", "relaxed", "l=12;", "body  text \r\n", "", policy},
		{"more than fits", "relaxed", "l=99999999999999999999999999;", "body  text \r\n", "", policy},
		{"as long and another body", "relaxed", "l=11;", "body  text \r\n", "!", fails},
	} {
		list := strings.NewReplacer("CANON", tt.canon, "LEN", tt.length).Replace(base)
		message := signed(t, list, dinner, tt.body) + tt.added
		if tt.added == "!" {
			message = strings.Replace(message[:len(message)-1], "body  text", "Body  text", 1)
		}
		header, body := split([]byte(message))
		m, err := newVerifier(t, Config{Resolver: keys}).Begin(t.Context(), header)
		if err != nil {
			t.Fatal(err)
		}
		if s := m.Header()[0]; s.Result != Pending || s.HeaderVerified {
			t.Errorf("%s: it vouches for a body before that has come: %v", tt.name, s.Result)
		}
		for i := range body {
			m.Write(body[i : i+1])
		}
		if got := explain(m.Finish()); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// What others take is taken.
func TestVerifier_TakenByOthers(t *testing.T) {
	const base = "v=1; a=rsa-sha256; d=example.com; s=sel; c=relaxed/relaxed; h=from:to:subject:date; bh=; "
	good := publish(t, key(t))
	unpadded := strings.TrimRight(good, "=")
	with := func(old, new string) string { return strings.Replace(base, old, new, 1) + "b=" }
	for _, tt := range []struct {
		name   string
		tags   string
		record []string // nil: good
		change func(string) string
		want   string
	}{
		{"a colon behind h=", with("date;", "date:;"), nil, nil, "pass: "},
		{"a colon before h=", with("h=", "h=:"), nil, nil, "pass: "},
		{"colons and folding in h=", with("to:", "to : :\r\n\t:"), nil, nil, "pass: "},
		{"h= of colons alone", with("from:to:subject:date", "::"), nil, nil, "permerror: From field not signed"},
		{"a blank within a name of h=", base + "b=", nil, func(m string) string {
			return strings.Replace(m, "to:", "t o:", 1)
		}, "permerror: signature syntax error"},
		{"an unknown tag with a hyphen", base + "x-foo=1; b=", nil, nil, "pass: "},
		{"a tag that is a known one but for a hyphen", base + "d-=evil.example; b=", nil, nil, "pass: "},
		{"semicolons without tags", with("d=", ";;d="), nil, nil, "pass: "},
		{"a semicolon first", ";" + base + "b=", nil, nil, "pass: "},
		{"semicolons with folding between", with("d=", ";\r\n ; d="), nil, nil, "pass: "},
		{"lower-case hexadecimal", base + "i=b=6fb@example.com; b=", nil, nil, "pass: "},
		{"mixed hexadecimal", base + "i=j=c3=BCrgen=40example.com; b=", nil, nil, "pass: "},
		{"half an octet in hexadecimal", base + "i=b=6@example.com; b=", nil, nil, "permerror: signature syntax error"},
		{"bh= without padding", with("bh=;", "bh=UrA8rmgY3eNBotmDWtzAmHyn5RyZv8Gea45sNGsP0zw;"), nil,
			func(m string) string { return strings.Replace(m, dinnerBody, "Hi.\r\n", 1) }, "pass: "},
		{"a key without padding", base + "b=", []string{unpadded}, nil, "pass: "},
		{"a key with semicolons behind it", base + "b=", []string{good + ";;"}, nil, "pass: "},
		{"a key with semicolons before it", base + "b=", []string{strings.Replace(good, "; ", "; ;; ", 1)}, nil,
			"pass: "},
		{"a key and a record for SPF", base + "b=", []string{"v=spf1 -all", good}, nil, "pass: "},
		{"a key and other records", base + "b=", []string{
			"google-site-verification=abc", good, "v=DMARC1; p=none", "", "some text", "v=DKIM2; p=x",
		}, nil, "pass: "},
		{"a key and a revoked one", base + "b=", []string{"v=DKIM1; p=", good}, nil, "permerror: multiple key records"},
		{"a key and a broken one", base + "b=", []string{"v=DKIM1; p=%%", good}, nil,
			"permerror: multiple key records"},
		{"a key and the same without v=", base + "b=", []string{good, strings.TrimPrefix(good, "v=DKIM1; ")}, nil,
			"permerror: multiple key records"},
		{"records of which none is a key", base + "b=", []string{"v=spf1 -all", "v=DMARC1; p=none"}, nil,
			"permerror: key of an unknown version"},
		{"x= that is t=", base + "t=1000; x=1000; b=", nil, nil, "pass: "},
		{"x= that is t=, long ago", base + "t=600; x=600; b=", nil, nil, "permerror: signature expired"},
		{"x= before t=", base + "t=1001; x=1000; b=", nil, nil, "permerror: signature syntax error"},
		{"d= with its last dot", with("example.com", "example.com."), nil, nil, "pass: "},
		{"d= with its last dot and i=", with("example.com;", "example.com.; i=joe@a.example.com;"), nil, nil, "pass: "},
		{"i= with its last dot", base + "i=joe@example.com.; b=", nil, nil, "pass: "},
		{"d= with two last dots", with("example.com", "example.com.."), nil, nil, "permerror: signature syntax error"},
		{"s= with a last dot", with("s=sel", "s=sel."), nil, nil, "permerror: signature syntax error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			record := tt.record
			if record == nil {
				record = []string{good}
			}
			message := signed(t, tt.tags, dinner, dinnerBody)
			if tt.change != nil {
				message = tt.change(message)
			}
			keys := records{"sel._domainkey.example.com": record}
			if got := explain(verify(t, keys, clock(1000), []byte(message))); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			// The padding of b= is not signed.
			if tt.want == "pass: " {
				field, rest, _ := strings.Cut(message, "\r\n"+dinner[:5])
				bare := strings.TrimRight(field, "=") + "\r\n" + dinner[:5] + rest
				if got := explain(verify(t, keys, clock(1000), []byte(bare))); got != tt.want {
					t.Errorf("without padding: %s", got)
				}
			}
		})
	}
}
