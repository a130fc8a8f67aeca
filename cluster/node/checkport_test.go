package node

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/probe"
)

// TestConcludeEgress: what is said of the port of MX hosts, by what became of connections to some of them and to
// another port.
func TestConcludeEgress(t *testing.T) {
	open := HostChecked{Open: true, Steps: []probe.Step{{Name: probe.StepTCP, OK: true}}}
	mute := HostChecked{Steps: []probe.Step{
		{Name: probe.StepTCP, OK: true}, {Name: probe.StepGreeting, Reply: "554 5.7.1 blocked"},
	}}
	fails := func(f probe.Fault) HostChecked {
		return HostChecked{Steps: []probe.Step{{Name: probe.StepTCP, Fault: f}}}
	}
	dropped := fails(probe.NoAnswer)
	for name, tt := range map[string]struct {
		found     []HostChecked
		elsewhere bool
		open      bool
		says      string
	}{
		"one answers":           {[]HostChecked{open, fails(probe.NoAnswer)}, false, true, "is open: 1 of 2"},
		"one answers, no IPv6":  {[]HostChecked{fails(probe.NoRoute), open}, false, true, "the others have no route"},
		"none answers here":     {[]HostChecked{dropped, dropped}, true, false, "blocked by the provider"},
		"IPv4 dropped, no IPv6": {[]HostChecked{fails(probe.NoRoute), dropped}, true, false, "blocked by the provider"},
		"all refused here":      {[]HostChecked{fails(probe.RefusedConnection)}, true, false, "are refused on the way"},
		"all refused":           {[]HostChecked{fails(probe.RefusedConnection)}, false, false, "refused: hosts"},
		"none answers at all":   {[]HostChecked{fails(probe.NoAnswer)}, false, false, "drops all that goes out"},
		"no route":              {[]HostChecked{fails(probe.NoRoute)}, true, false, "no route"},
		"our own firewall":      {[]HostChecked{fails(probe.Forbidden)}, true, false, "this machine itself forbids it"},
		"no such source":        {[]HostChecked{fails(probe.NoSource)}, true, false, "egress.source"},
		"no names":              {[]HostChecked{fails(probe.OtherFault)}, true, false, "dns.servers"},
		"all refuse us":         {[]HostChecked{mute, mute}, true, false, "a box on the way answers in their place"},
		"nothing to try":        {nil, true, false, "no address to try"},
	} {
		says, isOpen := concludeEgress(tt.found, func() bool { return tt.elsewhere })
		if isOpen != tt.open || !strings.Contains(says, tt.says) {
			t.Errorf("%s: %v, %s", name, isOpen, says)
		}
	}
}

// TestAddressesIn: the address that a host greets us with is believed, and its own is not.
func TestAddressesIn(t *testing.T) {
	said := func(reply string) []HostChecked {
		return []HostChecked{{Address: "192.0.2.25:25", Steps: []probe.Step{{Name: "EHLO", OK: true, Reply: reply}}}}
	}
	for reply, want := range map[string]string{
		"250 mx.example at your service, [203.0.113.7] / SIZE 1":     "203.0.113.7",
		"250 mx.example [IPv6:2001:db8::7] / SIZE 1":                 "2001:db8::7",
		"250 mx.example [192.0.2.25] / SIZE 1":                       "",
		"250 mx.example / [203.0.113.7]":                             "",
		"250 mx.example [what is that] at your service / PIPELINING": "",
	} {
		got := ""
		for _, a := range addressesIn(said(reply)) {
			got += a.String()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", reply, got, want)
		}
	}
}

// TestChecker_Hosts: a question names so many hosts at most, also one of another node, which could have this one
// connect to a crowd of strangers' hosts.
func TestChecker_Hosts(t *testing.T) {
	few, many := make([]string, maxHosts), make([]string, maxHosts+1)
	for i := range many {
		many[i] = "x.example"
	}
	copy(few, many)
	k := &checker{cfg: new(config.Config), files: new(files)}
	for name, tt := range map[string]struct {
		q  CheckQuestion
		ok bool
	}{
		"some":            {CheckQuestion{Hosts: few, Beside: few}, true},
		"too many":        {CheckQuestion{Hosts: many}, false},
		"too many beside": {CheckQuestion{Beside: many}, false},
	} {
		if _, err := k.prepare(CheckEgress, &tt.q); (err == nil) != tt.ok {
			t.Errorf("%s, asked here: %v", name, err)
		}
		if tt.ok {
			continue
		}
		content, err := json.Marshal(peerQuestion{Check: CheckEgress, Ask: tt.q})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.checkFor(t.Context(), content); err == nil || !strings.Contains(err.Error(), "at most") {
			t.Errorf("%s, asked by another node: %v", name, err)
		}
	}
}

// TestChecker_Identity: the name of an address, the address of that name, and what we say in EHLO have to fit.
func TestChecker_Identity(t *testing.T) {
	zone := dnstest.Start(t, `
mx1.example.net. 60 IN A 203.0.113.1
mx1.example.net. 60 IN A 203.0.113.2
other.example.net. 60 IN A 203.0.113.2
lost.example.net. 60 IN A 203.0.113.9
strange.example.net. 60 IN A 203.0.113.5
1.113.0.203.in-addr.arpa. 60 IN PTR mx1.example.net.
2.113.0.203.in-addr.arpa. 60 IN PTR other.example.net.
4.113.0.203.in-addr.arpa. 60 IN PTR lost.example.net.
5.113.0.203.in-addr.arpa. 60 IN PTR strange.example.net.
`)
	for addr, tt := range map[string]struct {
		good bool
		says string
	}{
		"203.0.113.1": {true, "is called mx1.example.net (PTR), as we are in EHLO"},
		"203.0.113.2": {false, "We say mx1.example.net in EHLO, and the address has another name"},
		"203.0.113.3": {false, "PTR of 203.0.113.3: no PTR record"},
		"203.0.113.4": {false, "destinations do not believe it"},
		"203.0.113.5": {false, "do not find 203.0.113.5, from which we come"},
	} {
		cfg, err := config.Parse(configFile(t), []byte(smallest+"dns: {servers: [\""+zone.Addr()+
			"\"]}\negress: {addresses: [\""+addr+"\"]}\npostmaster: ops@elsewhere.example\n"), "")
		if err != nil {
			t.Fatal(err)
		}
		f, err := readFiles(cfg, false)
		if err != nil {
			t.Fatal(err)
		}
		p, err := build(f, hooks{})
		if err != nil {
			t.Fatal(err)
		}
		k := &checker{cfg: cfg, files: f, resolver: p.resolver}
		good, says := k.identity(t.Context(), nil)
		if good != tt.good || !strings.Contains(strings.Join(says, " "), tt.says) {
			t.Errorf("%s: %v, %q", addr, good, says)
		}
		p.close()
	}
}
