package rules

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestTable_Via: the next hops of a line are reached by its proxy and told of clients as it says, and no other line is.
func TestTable_Via(t *testing.T) {
	table := mustParse(t, `domain h.example client=xforward
@h.example       smtp://100.64.0.7 via=socks5://127.0.0.1:1055
a@h.example      try smtp://home.tailnet, lmtp://fd7a.test:24 via=SOCKS5://[::1] client=xclient
b@h.example      smtp://100.64.0.7
c@h.example      b@h.example, a%b@t.example
relay *          smtp://100.64.0.8 via=socks5://proxy.test:1 client=xforward
`)
	for to, want := range map[string]string{
		"x@h.example": "<x@h.example> by smtp://100.64.0.7 via=socks5://127.0.0.1:1055",
		"a@h.example": "<a@h.example> by smtp://home.tailnet via=socks5://[::1]:1080 else " +
			"<a@h.example> by lmtp://fd7a.test via=socks5://[::1]:1080",
		"b@h.example":   "<b@h.example> by smtp://100.64.0.7",
		"y@far.example": "<y@far.example> by smtp://100.64.0.8 via=socks5://proxy.test:1",
	} {
		routes, err := table.Route(mail.Query{Forward: parsePath(t, to), Trusted: true}, nil)
		if got := answer(routes, err); got != want {
			t.Errorf("%s: got %s, want %s", to, got, want)
			continue
		}
		client := mail.ClientXforward
		if to == "a@h.example" {
			client = mail.ClientXclient
		}
		if routes[0].Policy.Client != client || routes[0].NextHop.IsLocal() != (routes[0].NextHop.Proxy != "") {
			t.Errorf("%s: %+v", to, routes[0])
		}
	}
	for hop, want := range map[mail.NextHop]bool{
		{Transport: mail.SMTP, Host: "100.64.0.7"}:                          true,
		{Transport: mail.SMTP, Host: "100.64.0.7", Proxy: "127.0.0.1:1055"}: true,
		{Transport: mail.SMTP, Host: "100.64.0.8"}:                          false,
		{Transport: mail.SMTP, Host: "home.tailnet"}:                        false,
		{Transport: mail.SMTP, Host: "100.64.0.8", Proxy: "proxy.test:1"}:   true,
		{Transport: mail.LMTP, Host: "fd7a.test", Proxy: "[::1]:1080"}:      true,
	} {
		if table.HasNextHop(hop) != want {
			t.Errorf("%s: %v", hop, !want)
		}
	}
}

// TestTable_ViaMistakes: a proxy that is none, or has nothing to reach, is said, and so is XCLIENT where it ends more
// than it says.
func TestTable_ViaMistakes(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"a@h.example smtp://h via=127.0.0.1",
			"option via names a proxy, such as via=socks5://127.0.0.1:1055"},
		{"a@h.example smtp://h via=http://127.0.0.1", "option via knows proxies of SOCKS5 alone"},
		{"a@h.example smtp://h via=socks5://u:p@h", "a proxy is asked without a user"},
		{"a@h.example smtp://h via=socks5://h:0", "the proxy: a port is a number"},
		{"a@h.example smtp://h via=socks5://", "the proxy: no host name behind the slashes"},
		{"a@h.example b@t.example via=socks5://h",
			"1:13: via stands behind next hops of the form smtp://host"},
		{"a@h.example lmtp+unix:/run/x via=socks5://h",
			"via stands behind next hops of the form smtp://host"},
		{"domain h.example via=socks5://h", "option via stands on a rule only"},
		{"a@h.example b@t.example client=xforward", "hosts that MX records name are not told"},
		{"a@h.example drop\nrelay * lmtp+unix:/run/x via=socks5://h", "via stands behind next hops"},
		{"relay * submission://user%40example.com@smart.example client=xclient",
			"would end the authentication as"},
		{"a@h.example smtp://h client=yes",
			"option client has no value \"yes\": it is one of untold, xforward"},
		{"a@h.example smtp://h via=socks5://h via=socks5://i", "option via is given twice"},
	} {
		_, err := Parse("r", strings.NewReader(tt.line), testConfig())
		var all *Errors
		if !errors.As(err, &all) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.line, err, tt.want)
		}
	}
}
