package score

import (
	"net/netip"
	"testing"
)

// What stands for a client in place of its network.
func TestScore_Proved(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(w *fixture, v *visit)
		want   string
	}{
		{"SPF passes", nil, "example.net"},
		{"in capitals", func(_ *fixture, v *visit) { v.reverse = "a@EXAMPLE.Net" }, "example.net"},
		{"SPF of the name in EHLO passes for the null reverse-path", func(_ *fixture, v *visit) {
			v.reverse, v.helo, v.spf = "<>", "out.Big.test", spfResult{"pass", "out.big.test"}
		}, "out.big.test"},
		{"SPF fails, and its name leads back", func(_ *fixture, v *visit) {
			v.spf = spfResult{"fail", "example.net"}
		}, "example.net"},
		{"SPF is neutral, and the name is of a pool", func(w *fixture, v *visit) {
			v.spf = spfResult{"neutral", "x.test"}
			w.dns["PTR 203.0.113.9"], w.dns["A o7.mail.big.test"] = "o7.mail.big.test", "203.0.113.9"
		}, "big.test"},
		{"below a short label of a country", func(w *fixture, v *visit) {
			v.spf = spfResult{"none", "x.test"}
			w.dns["PTR 203.0.113.9"], w.dns["A mx.big.co.uk"] = "mx.big.co.uk", "203.0.113.9"
		}, "big.co.uk"},
		{"the name does not lead back", func(w *fixture, v *visit) {
			v.spf = spfResult{"none", "x.test"}
			w.dns["PTR 203.0.113.9"] = "mx.big.test"
		}, ""},
		{"the name is made of the address", func(w *fixture, v *visit) {
			v.spf = spfResult{"softfail", "x.test"}
			w.dns["PTR 203.0.113.9"], w.dns["A 203-0-113-9.dsl.isp.test"] = "203-0-113-9.dsl.isp.test", "203.0.113.9"
		}, ""},
		{"the name says its purpose and is made of the address", func(w *fixture, v *visit) {
			v.spf = spfResult{"none", "x.test"}
			w.dns["PTR 203.0.113.9"], w.dns["A mail-203-0-113-9.isp.test"] = "mail-203-0-113-9.isp.test", "203.0.113.9"
		}, ""},
		{"neither is known", func(w *fixture, v *visit) {
			v.spf = spfResult{"temperror", ""}
			w.dns["PTR 203.0.113.9"] = ""
		}, ""},
		{"there is no check", func(w *fixture, v *visit) {
			v.spf = nil
			w.dns["PTR 203.0.113.9"] = ""
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, v := proper(), good()
			if tt.change != nil {
				tt.change(w, &v)
			}
			k, _ := v.score(t, scorer(t, Config{Resolver: w, Store: w}))
			if got := k.Proved(path(v.reverse).Domain); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			// The next transaction proves by itself.
			k.Mail(path("b@other.test"), spfResult{"fail", "other.test"})
			k.Verdict(t.Context())
			if got := k.Proved("other.test"); got == "other.test" {
				t.Error("another reverse-path is proved")
			}
		})
	}
}

func TestProves(t *testing.T) {
	v4, v6 := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")
	for name, want := range map[string]string{
		"a.b.c.big.test": "big.test", "big.test": "big.test", "localhost": "", "mx.big.com.au": "big.com.au",
		"mx.big.gv.at": "big.gv.at", "x.big.us": "x.big.us", "co.uk": "co.uk",
		"9-113-0-203.isp.test": "", "ec2-203-0-113-9.compute.cloud.test": "", "cb007109.isp.test": "",
	} {
		if got := proves(name, v4); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := proves("2001-db8--9.isp.test", v6); got != "" && got != "isp.test" {
		t.Errorf("got %q", got)
	}
}
