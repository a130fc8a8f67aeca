package account

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestDestination_Proof: a publication proves a next hop at a name of the public DNS, and nothing that is internal, has
// a login or is an address.
func TestDestination_Proof(t *testing.T) {
	for address, host := range map[string]string{
		"smtp://mail.home.example:25": "mail.home.example", "lmtp://Mail.Home.Example.:24": "mail.home.example",
		"smtps://mail.home.example": "mail.home.example", "submission://mail.home.example:587": "mail.home.example",
		"me@home.example": "", "lmtp+unix:/run/lmtp": "", "lmtp:///run/lmtp": "", "smtp://127.0.0.1:25": "",
		"smtp://10.0.0.7": "", "smtp://[::1]:25": "", "smtp://192.0.2.1:25": "", "smtp://localhost:25": "",
		"smtp://a.localhost": "", "smtp://mailhost": "", "smtp://mail.corp.internal": "", "smtp://printer.local": "",
		"smtp://user@mail.home.example": "", "smtp://user:word@mail.home.example": "", "http://mail.home.example": "",
		"smtp://mail.home.example/x": "", "smtp://mail.home.example?x": "", "smtp://127.1": "", "smtp://0x7f.1": "",
		"smtp://a.0x7f000001": "", "smtp://": "", "smtp:///": "", "smtp://%6cocalhost": "", "mx:home.example": "",
	} {
		d := Destination{ID: "0123", Address: address}
		if p, ok := d.Proof(); p.Host != host || ok != (host != "") {
			t.Errorf("%s: %+v %v, want %q", address, p, ok, host)
		}
	}
	one, _ := (&Destination{ID: "1", Address: "smtp://a.example"}).Proof()
	two, _ := (&Destination{ID: "2", Address: "smtp://a.example"}).Proof()
	if one.Token == two.Token || one.TXT != "_millrace.a.example" ||
		one.URL != "https://a.example/.well-known/millrace.txt" {
		t.Errorf("%+v %+v", one, two)
	}
}

// TestAccount_IsProved: a host that its owner proved stays one while a rule may be in force, and ends to be one by the
// word of one who runs the relay alone.
func TestAccount_IsProved(t *testing.T) {
	list := func(how string) []Destination {
		return []Destination{{Address: "smtp://Mail.home.example:25", How: how}}
	}
	proved := provedIn(list(ByTXT), nil)
	if !proved["mail.home.example"] || len(proved) != 1 {
		t.Errorf("by a record: %v", proved)
	}
	for _, how := range []string{"", ByLink, ByAdmin} {
		if first := provedIn(list(how), nil); len(first) != 0 {
			t.Errorf("%q alone: %v", how, first)
		}
	}
	if proved = provedIn(nil, proved); !proved["mail.home.example"] {
		t.Error("it ends with its destination")
	}
	if proved = provedIn(append(list(ByFile), list(ByAdmin)...), proved); len(proved) != 0 {
		t.Errorf("verified by an operator: %v", proved)
	}
}

// FuzzDestination_Proof: no text is taken for a host that is an address, a login, or no name of the DNS.
func FuzzDestination_Proof(f *testing.F) {
	for _, seed := range []string{
		"smtp://mail.home.example:25", "lmtp://127.0.0.1", "smtp://[::1]", "smtp://a@b.example",
		"smtp://a.example%00.b",
		"smtp://xn--bcher-kva.example", "lmtp+unix:/x", "smtp://a.example:x", "smtp://.example", "smtp://a..example",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		p, ok := (&Destination{ID: "1", Address: address}).Proof()
		if !ok {
			return
		}
		_, notAddr := netip.ParseAddr(p.Host)
		u, err := url.Parse(p.URL)
		if notAddr == nil || !mail.IsDomain(p.Host) || strings.HasSuffix(p.Host, ".localhost") ||
			!strings.Contains(p.Host, ".") || err != nil || u.Host != p.Host || u.User != nil {
			t.Errorf("%q: %+v, %v", address, p, err)
		}
	})
}
