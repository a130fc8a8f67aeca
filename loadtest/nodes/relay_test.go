package nodes_test

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/probe"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// everyKind has a domain for each kind of rule. HOME is a host.
const everyKind = `domain * dmarc=off require_auth=no seal=never
domain alias.example subaddress=+
info@alias.example      box@home.example
domain regex.example
/(.+)-list/@regex.example   $1@home.example
/raw\.(.*)/@regex.example   $1@home.example
domain any.example
/(.*)/@any.example      $1@home.example
@catch.example          box@home.example
@fixed.example          smtp://HOME
domain chain.example
/(.*)/@chain.example    $1@fixed.example
@several.example        box@home.example, chest@home.example
desk@turn.example       try box@home.example, smtp://HOME
@gone.example           reject 550 5.1.1 Gone
@later.example          tempfail 450 4.2.1 Later
@drop.example           drop
`

// TestOpenRelay_Tricks: a node with rules of every kind relays for no trick. What it takes at a domain with a catch-all
// goes where the rule says, and no local part goes there that a mailer could read as a route.
func TestOpenRelay_Tricks(t *testing.T) {
	home := smtptest.Start(t, smtptest.Behaviour{})
	host, port, err := net.SplitHostPort(home.Addr())
	if err != nil {
		t.Fatal(err)
	}
	trap, err := smtptest.Listen(net.JoinHostPort("127.0.0.2", port), smtptest.Behaviour{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trap.Close)
	zone := "home.example. 60 IN MX 10 mx.home.example.\nelsewhere.example. 60 IN MX 10 mx.home.example.\n" +
		"mx.home.example. 60 IN A " + host + "\nabroad.example. 60 IN MX 10 trap.test.\n" +
		"trap.test. 60 IN A 127.0.0.2\n"
	r := world.Start(t, world.World{
		Routes: strings.ReplaceAll(everyKind, "HOME", home.Addr()), DNS: dnstest.Start(t, zone),
		Config: "rates: none\negress: {port: " + port + ", allow_private: true, tls: none}\n" +
			"srs: {domain: srs.example, key_file: srs.key}\n",
	})
	for _, domain := range []string{
		"alias.example", "regex.example", "any.example", "catch.example", "fixed.example", "chain.example",
		"several.example", "turn.example", "gone.example", "later.example", "drop.example", "srs.example",
		"relay.example",
	} {
		t.Run(domain, func(t *testing.T) {
			report, err := probe.Relay(t.Context(), probe.Stranger{
				Addr: r.Addr, Domain: domain, To: "victim@abroad.example", Helo: "stranger.example",
			})
			if err != nil {
				t.Fatal(err)
			}
			names := []string{"catch.example", "several.example", "drop.example"}
			for _, tried := range report.Tried {
				switch tried.Answer {
				case probe.Refused:
				case probe.MayBeName:
					// The domain takes any name. An SRS address of another system is one like any other.
					if !slices.Contains(names, domain) && !strings.Contains(tried.Trick, "SRS") {
						t.Errorf("%+v", tried)
					}
				case probe.PutOff:
					if domain != "later.example" {
						t.Errorf("%+v", tried)
					}
				default:
					t.Errorf("%+v", tried)
				}
			}
			t.Logf("%s: %d tricks, %q", report.Conclusion, len(report.Tried), report.Says)
		})
	}
	if n := trap.Counts().Connections; n > 0 {
		t.Errorf("%d sessions went abroad", n)
	}
	took := 0
	for _, command := range home.Commands() {
		_, path, ok := strings.Cut(command, " RCPT TO:<") // behind the session
		if !ok {
			continue
		}
		took++
		path, _, _ = strings.Cut(path, ">")
		at := strings.LastIndexByte(path, '@')
		if local := path[:max(at, 0)]; strings.ContainsAny(local, "%!@＠％！") || at < 0 ||
			!slices.Contains([]string{"home.example", "fixed.example", "elsewhere.example"}, path[at+1:]) {
			t.Errorf("%s came home", command)
		}
	}
	if took == 0 {
		t.Error("nothing came home, so little was asked")
	}
}

// relayCF is a Postfix that takes mail for ours.test. WHO may relay.
const relayCF = `
compatibility_level = 3.6
myhostname = mx.ours.test
mydestination = ours.test
queue_directory = DIR/queue
data_directory = DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = HOST
inet_protocols = ipv4
mynetworks = WHO
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
alias_maps = texthash:DIR/aliases
alias_database =
local_recipient_maps = $alias_maps
unknown_local_recipient_reject_code = 550
smtp_dns_support_level = disabled
`

// TestOpenRelay_Others: hosts of others that relay for strangers are named, and one that does not is not: Postfix with
// networks that have everybody, Postfix as it is meant, and smtp-sink, which takes all.
func TestOpenRelay_Others(t *testing.T) {
	ask := func(addr string) *probe.Report {
		report, err := probe.Relay(t.Context(), probe.Stranger{
			Addr: addr, Domain: "ours.test", To: "victim@abroad.example", Helo: "stranger.example",
		})
		if err != nil {
			t.Fatal(err)
		}
		count := make(map[string]int)
		for _, tried := range report.Tried {
			count[tried.Answer]++
		}
		t.Logf("%s: %v, postmaster %s, any name %s", report.Conclusion, count, report.Postmaster, report.AnyName)
		return report
	}
	for who, want := range map[string]string{"0.0.0.0/0": probe.Open, "192.0.2.0/24": probe.Closed} {
		addr, _ := extern.StartPostfixOn(t, strings.ReplaceAll(relayCF, "WHO", who),
			map[string]string{"aliases": "postmaster root\n"})
		if report := ask(addr); report.Conclusion != want {
			t.Errorf("%s: %+v", who, report)
		}
	}
	addr, _ := extern.StartSmtpSink(t, extern.SinkOptions{})
	if report := ask(addr); report.Conclusion != probe.Open {
		t.Errorf("%+v", report)
	}
}
