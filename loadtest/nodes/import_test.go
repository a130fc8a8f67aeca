package nodes_test

import (
	"errors"
	"fmt"
	"net/textproto"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// importedCF is a Postfix in front of mailboxes, of a relayed domain and of aliases. INSIDE, BOX and WORLD are where
// its mail goes.
const importedCF = `
compatibility_level = 3.6
myhostname = gate.test
mydomain = gate.test
myorigin = $mydomain
queue_directory = DIR/queue
data_directory = DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = HOST
inet_protocols = ipv4
mynetworks = 192.0.2.0/24
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 10000
smtpd_hard_error_limit = 10000
unknown_local_recipient_reject_code = 550
recipient_delimiter = +
propagate_unmatched_extensions =
mydestination = $myhostname, localhost.$mydomain,
	localhost
alias_maps = texthash:DIR/aliases
alias_database =
local_recipient_maps = $alias_maps
virtual_alias_domains = alias.test, whole.test caught.test
virtual_alias_maps = texthash:DIR/virtual
	# a comment within
	inline:{ { third@alias.test = someone@far.test } }
virtual_mailbox_domains = texthash:DIR/boxdomains
virtual_mailbox_maps = texthash:DIR/boxes
virtual_transport = lmtp:inet:BOX
relay_domains = relay.test, open.test, ${nothing?absent.test}
relay_recipient_maps = texthash:DIR/relayed
transport_maps = texthash:DIR/transport
relayhost = WORLD
`

// importedTables are the tables that importedCF names.
var importedTables = map[string]string{
	"aliases": "postmaster root\nroot admin@far.test\nabuse root, second@far.test\n",
	"virtual": `alias.test     is a domain
whole.test     is a domain
caught.test    is a domain
info@alias.test        alice@far.test
sales@alias.test       alice@far.test, bob@elsewhere.test
chain@alias.test       sales@alias.test
boxed@alias.test       one@box.test
inside@alias.test      known@relay.test
Mixed@Alias.test       Carol@Far.test
@whole.test            @alias.test
named@whole.test       exact@far.test
@caught.test           catcher@far.test
own@caught.test        own@far.test
copied@box.test        copied@box.test, copy@far.test
moved@box.test         moved@far.test
rel@relay.test         rel@far.test
bare                   bare@far.test
`,
	"boxdomains": "box.test  x\n",
	"boxes":      "one@box.test x\ntwo@box.test x\ncopied@box.test x\nmoved@box.test x\n",
	"relayed":    "known@relay.test x\nother@relay.test x\ngone@relay.test x\n@open.test x\n",
	"transport": `relay.test   smtp:INSIDE
open.test    relay:INSIDE
gone@relay.test error:5.1.6 has moved
lmtp@open.test  lmtp:inet:BOX
`,
}

// importedAddresses returns the recipients that are compared.
func importedAddresses() (all []string) {
	users := strings.Fields("info sales chain boxed inside mixed third named own copied moved one two known other " +
		"gone rel bare root abuse postmaster lmtp INFO Info+tag one+tag copied+a+b nobody x.y")
	for _, domain := range []string{"alias.test", "whole.test", "caught.test", "box.test", "relay.test", "open.test",
		"gate.test", "BOX.test"} {
		for _, user := range users {
			all = append(all, user+"@"+domain)
		}
	}
	// what no relay takes
	return append(all, strings.Fields("info@far.test one@sub.box.test x@absent.test known@relay.test.far.test "+
		"info%far.test@alias.test one@box.test@far.test a@localhost.far.test x@test sub@sub.relay.test "+
		"me@example.org "+
		"far.test!me@alias.test @far.test:x@y.test x@[192.0.2.1] root@localhost.far.test x@elsewhere.test y@far.test "+
		"x@notbox.test x@box.tests one@xbox.test nobody@box.test nobody@relay.test ghost@alias.test")...)
}

// A fate is what becomes of a recipient: the first digit of an answer, and where its mail arrived.
type fate struct {
	class   int
	arrived string
}

// TestImport_Postfix: the rules that are made of a Postfix's files take and refuse what it does, and lead to the same
// places.
func TestImport_Postfix(t *testing.T) {
	places := map[string]*smtptest.Server{
		"INSIDE": smtptest.Start(t, smtptest.Behaviour{}), "BOX": smtptest.Start(t, smtptest.Behaviour{LMTP: true}),
		"WORLD": smtptest.Start(t, smtptest.Behaviour{}),
	}
	var pairs []string
	for name, s := range places {
		host, port, _ := strings.Cut(s.Addr(), ":")
		pairs = append(pairs, name, "["+host+"]:"+port)
	}
	fill := strings.NewReplacer(pairs...)
	tables := make(map[string]string)
	for name, text := range importedTables {
		tables[name] = fill.Replace(text)
	}
	addr, dir := extern.StartPostfixOn(t, fill.Replace(importedCF), tables)
	result, err := migrate.Postfix([]string{filepath.Join(dir, "main.cf")})
	if err != nil {
		t.Fatal(err)
	}
	table, err := rules.Parse("routes.txt", strings.NewReader(result.Rules), rules.Config{
		Postmaster: mail.NewPath("admin", "far.test"), Own: []string{"gate.test"}, FanOut: 20,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, result.Rules)
	}
	addresses := importedAddresses()
	theirs := askPostfix(t, addr, dir, addresses, places)
	accepted := 0
	for _, address := range addresses {
		ours := routed(table, address, places)
		if theirs[address].class == 2 {
			accepted++
		}
		if ours != theirs[address] && !differs(address, ours, theirs[address]) {
			t.Errorf("%s: Postfix %+v, the rules %+v", address, theirs[address], ours)
		}
	}
	t.Logf("%d addresses, of which %d were accepted", len(addresses), accepted)
	if accepted < 50 || len(addresses)-accepted < 20 || len(addresses) < 200 {
		t.Errorf("only %d of %d were accepted, so little was compared", accepted, len(addresses))
	}
}

// differs reports whether a difference is one that is meant: we refuse at once what Postfix accepts and bounces later,
// postmaster and abuse of each domain reach the postmaster here, and an alias that leads to its own address keeps the
// tag.
func differs(address string, ours, theirs fate) bool {
	user, _, _ := strings.Cut(address, "@")
	return ours.class == 5 && theirs.class == 2 && theirs.arrived == "" ||
		(user == "postmaster" || user == "abuse") && ours.arrived == "WORLD admin@far.test" ||
		strings.HasPrefix(user, "copied+") && strings.ReplaceAll(ours.arrived, user, "copied") == theirs.arrived
}

// askPostfix sends a message to each address and returns what became of it.
func askPostfix(t *testing.T, addr, dir string, addresses []string,
	places map[string]*smtptest.Server) map[string]fate {
	t.Helper()
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say := func(format string, args ...any) int {
		if format != "" {
			if err := c.PrintfLine(format, args...); err != nil {
				t.Fatal(err)
			}
		}
		code, _, err := c.ReadResponse(0)
		var reply *textproto.Error
		if errors.As(err, &reply) {
			code = reply.Code
		} else if err != nil {
			t.Fatal(err)
		}
		return code
	}
	say("")
	say("EHLO client.test")
	all := make(map[string]fate)
	for i, address := range addresses {
		say("MAIL FROM:<n%d@sender.test>", i)
		class := say("RCPT TO:<%s>", address)
		if class == 250 {
			say("DATA")
			class = say("Subject: %d\r\n\r\nHello.\r\n.", i)
		} else {
			say("RSET")
		}
		all[address] = fate{class: class / 100}
	}
	world.Await(t, "Postfix has delivered", func() bool { return extern.PostfixIdle(t, dir) })
	for name, s := range places {
		for _, m := range s.Messages() {
			var i int
			if _, err := fmt.Sscanf(m.Reverse, "n%d@", &i); err != nil {
				continue // a bounce
			}
			v := all[addresses[i]]
			for _, forward := range m.Forwards {
				v.arrived = joined(v.arrived, name, forward)
			}
			all[addresses[i]] = v
		}
	}
	return all
}

// joined adds a place and an address to what arrived.
func joined(arrived, place, address string) string {
	all := append(strings.Split(arrived, ", "), place+" "+strings.ToLower(address))
	slices.Sort(all)
	return strings.TrimPrefix(strings.Join(all, ", "), ", ")
}

// routed returns what rules say of an address.
func routed(table *rules.Table, address string, places map[string]*smtptest.Server) fate {
	forward, err := mail.ParsePath(address, false)
	if err != nil {
		return fate{class: 5}
	}
	routes, err := table.Route(mail.Query{Reverse: mail.NewPath("bob", "sender.test"), Forward: forward}, nil)
	if err != nil {
		return fate{class: mail.ReplyFor(err).Class()}
	}
	v := fate{class: 2}
	for _, r := range routes {
		place := "WORLD"
		for name, s := range places {
			if strings.HasSuffix(r.NextHop.String(), "//"+s.Addr()) {
				place = name
			}
		}
		for _, f := range r.Forwards {
			v.arrived = joined(v.arrived, place, f.String())
		}
	}
	return v
}
