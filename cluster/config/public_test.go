package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestPublic: the section has its defaults, and each value that cannot be served is named.
func TestPublic(t *testing.T) {
	const before = smallest + "tls: {cert: file, key: file}\npublic:\n"
	const least = "  {addr: \":443\", url: \"https://mx.example.net/\", mta_sts: {}}\n"
	c, err := parse(configFile(t), []byte(before+least), "", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	m := c.Public.MTASTS
	if m.Mode != "testing" || time.Duration(m.MaxAge) != 168*time.Hour ||
		strings.Join(m.MX, " ") != "mx1.example.net" || !c.Public.InTLS() {
		t.Errorf("got %+v", m)
	}
	if got, want := c.RefusalPage(), "; see https://mx.example.net/why?id="; got != want {
		t.Errorf("the page: got %q, want %q", got, want)
	}
	for _, tt := range []struct{ name, line, want string }{
		{"no address", `{url: "https://a.example"}`, "public.addr: is required"},
		{"no URL", `{addr: ":443"}`, "public.url: is not an http or https URL"},
		{"a URL with a path", `{addr: ":443", url: "https://a.example/mail"}`, "a scheme and a host alone"},
		{"a URL with a query", `{addr: ":443", url: "https://a.example/?a=b"}`, "a scheme and a host alone"},
		{"a URL with a blank", `{addr: ":443", url: "https://a.example/ b"}`, "is no URL of a web page"},
		{"a URL that fills a reply", `{addr: ":443", url: "https://a.example` + strings.Repeat("a", 200) + `"}`,
			"longer than 150"},
		{"another TLS", `{addr: ":443", url: "https://a.example", tls: starttls}`,
			"public.tls: \"starttls\" is not none"},
		{"all in front", `{addr: ":443", url: "https://a.example", forwarded: ["0.0.0.0/0"]}`,
			"public.forwarded[0]: each client"},
		{"no address of others", `{addr: ":443", url: "https://a.example", egress: ["a.example"]}`,
			"public.egress[0]: \"a.example\" is not an IP address"},
		{"a private address of others", `{addr: ":443", url: "https://a.example", egress: ["10.0.0.1"]}`,
			"public.egress[0]: 10.0.0.1 is no address that others see"},
		{"a mode that is none", `{addr: ":443", url: "https://a.example", mta_sts: {mode: enforced}}`,
			"did you mean enforce"},
		{"an age that is too short", `{addr: ":443", url: "https://a.example", mta_sts: {max_age: 1m}}`,
			"public.mta_sts.max_age: 1m is not between"},
		{"no host", `{addr: ":443", url: "https://a.example", mta_sts: {mx: []}}`, "public.mta_sts.mx: is empty"},
		{"a host that is none", `{addr: ":443", url: "https://a.example", mta_sts: {mx: [mx1.example.net, 1.2.3.4]}}`,
			"public.mta_sts.mx[1]: \"1.2.3.4\" is an address"},
		{"hosts without this one", `{addr: ":443", url: "https://a.example", mta_sts: {mx: [mx2.example.net]}}`,
			"public.mta_sts.mx: lacks hostname"},
		{"a domain that is none", `{addr: ":443", url: "https://a.example", mta_sts: {domains: [a..b]}}`,
			"public.mta_sts.domains[0]"},
	} {
		_, err := parse(configFile(t), []byte(before+"  "+tt.line+"\n"), "", noEnv)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	_, err = parse(configFile(t), []byte(smallest+
		"public: {addr: \":443\", url: \"https://a.example\", mta_sts: {mode: enforce}}\n"), "", noEnv)
	if err == nil || !strings.Contains(err.Error(), "self-signed") {
		t.Errorf("enforce without a certificate: %v", err)
	}
}

// TestConfig_RefusalPage: a page of another server beats that of ours, and has to be one that a reply can hold.
func TestConfig_RefusalPage(t *testing.T) {
	c, err := parse(configFile(t), []byte(smallest+"score: {url: \"https://www.example.net/why\"}\n"+
		"public: {addr: \":443\", url: \"https://mx.example.net\"}\n"), "", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.RefusalPage(), "; see https://www.example.net/why id="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if c.Score = nil; c.RefusalPage() != "; see https://mx.example.net/why?id=" {
		t.Errorf("got %q", c.RefusalPage())
	}
	if c.Public = nil; c.RefusalPage() != "" {
		t.Errorf("got %q", c.RefusalPage())
	}
	for _, url := range []string{"mx.example.org/why", `https://mx.example.org/\r\n`, "https://a.example/ b"} {
		_, err := parse(configFile(t), []byte(smallest+"score: {url: \""+url+"\"}\n"), "", noEnv)
		if err == nil || !strings.Contains(err.Error(), "score.url: is no URL of a web page") {
			t.Errorf("%q: got %v", url, err)
		}
	}
}

// TestConfig_EgressAddrs: what others see is listed, and what is private is not.
func TestConfig_EgressAddrs(t *testing.T) {
	c := &Config{Egress: Egress{Source: []Source{{Addr: netip.MustParseAddr("10.0.0.1")},
		{Addr: netip.MustParseAddr("8.8.8.8")}}}}
	if got := c.EgressAddrs(); len(got) != 1 || got[0].String() != "8.8.8.8" {
		t.Errorf("of sources: %v", got)
	}
	c.Egress.Addresses = []string{"192.0.2.1", "fd00::1"}
	if got := c.EgressAddrs(); len(got) != 1 || got[0].String() != "192.0.2.1" {
		t.Errorf("of addresses: %v", got)
	}
}
