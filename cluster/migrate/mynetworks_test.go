package migrate

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// ourAddrs are where mail of ours comes from.
var ourAddrs = []netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8::10")}

// TestCheckNetworks_Findings: networks that miss us, let others in, or are mistyped are named, and good ones are not.
func TestCheckNetworks_Findings(t *testing.T) {
	const good = "198.51.100.10 [2001:db8::10]"
	for _, c := range []struct{ name, text, want string }{
		{"good", "mynetworks = 127.0.0.0/8 [::1]/128 " + good, ""},
		{"a private network", "mynetworks = 192.168.1.0/24 10.0.0.0/8 " + good, ""},
		{"a table", "198.51.100.10/32 OK\n2001:db8::10 OK\n", ""},
		{"a list", "198.51.100.10\n2001:db8::10\n", ""},
		{"our addresses are not there", "mynetworks = 127.0.0.0/8", "error: 198.51.100.10 is in no network|" +
			"error: 2001:db8::10 is in no network"},
		{"one is an exception", "mynetworks = !198.51.100.10 198.51.100.10/31 [2001:db8::10]",
			"warning: main.cf:1: 198.51.100.10/31: holds other addresses than ours|error: 198.51.100.10 is in no " +
				"network"},
		{"everybody", "mynetworks = 0.0.0.0/0 [::]/0", "error: main.cf:1: 0.0.0.0/0: everybody may relay|" +
			"error: main.cf:1: [::]/0: everybody may relay"},
		{"a provider's network", "mynetworks = 198.51.0.0/16 [2001:db8::]/32", "error: main.cf:1: 198.51.0.0/16: " +
			"is wider|" +
			"error: main.cf:1: [2001:db8::]/32: is wider"},
		{"proxies of Cloudflare", "mynetworks = 104.16.0.0/13 104.30.0.0/20 " + good,
			"error: main.cf:1: 104.16.0.0/13: is of Cloudflare's proxies|error: main.cf:1: 104.30.0.0/20: " +
				"Cloudflare's Email"},
		{"Docker", "mynetworks = 172.20.0.0/24 " + good, "warning: main.cf:1: 172.20.0.0/24: behind Docker's proxy"},
		{"neighbours", "mynetworks = 198.51.100.0/24 [2001:db8::10]",
			"warning: main.cf:1: 198.51.100.0/24: holds other addresses than ours: who has one may relay"},
		{"the old gateway", "mynetworks = 203.0.113.9 " + good, "warning: main.cf:1: 203.0.113.9: is no address of " +
			"ours"},
		{"who may not relay", "mynetworks = 0.0.0.0/0\nsmtpd_relay_restrictions = reject_unauth_destination",
			"error: main.cf:1: 0.0.0.0/0: everybody may connect|error: 2001:db8::10 is in no network"},
		{"bits behind the mask", "mynetworks = 198.51.100.10/24 [2001:db8::10]",
			"error: main.cf:1: 198.51.100.10/24: has bits set behind the mask|warning: main.cf:1: " +
				"198.51.100.10/24: holds"},
		{"too many bits", "mynetworks = 192.0.2.0/33 " + good, "error: main.cf:1: 192.0.2.0/33: /33 is no number " +
			"from 0 to 32"},
		{"three numbers", "mynetworks = 192.0.2/24 " + good, "error: main.cf:1: 192.0.2/24: has fewer than four"},
		{"a number that is too large", "mynetworks = 192.0.2.256 " + good, "error: main.cf:1: 192.0.2.256: is no " +
			"address: each"},
		{"a mask", "mynetworks = 192.0.2.0/255.255.255.0 " + good, "error: main.cf:1: 192.0.2.0/255.255.255.0: a " +
			"mask is"},
		{"a range", "mynetworks = 192.0.2.1-192.0.2.9 " + good, "error: main.cf:1: 192.0.2.1-192.0.2.9: is a range"},
		{"a star", "mynetworks = 192.0.2.* " + good, "error: main.cf:1: 192.0.2.*: a star is no wildcard"},
		{"a name", "mynetworks = mx1.a.test " + good, "error: main.cf:1: mx1.a.test: is no address: names"},
		{"IPv6 without brackets", "mynetworks = 198.51.100.10 2001:db8::10/128",
			"error: main.cf:1: 2001:db8::10/128: IPv6 stands in brackets in main.cf: write [2001:db8::10]/128"},
		{"a table of another type", "mynetworks = hash:/etc/postfix/networks " + good,
			"warning: main.cf:1: hash:/etc/postfix/networks"},
		{"a file", "mynetworks = DIR/networks", "error: DIR/networks:2: 0.0.0.0/0: everybody may relay|" +
			"error: 2001:db8::10 is in no network"},
		{"a cidr table", "mynetworks = cidr:DIR/cidr", "error: 2001:db8::10 is in no network"},
		{"a file that is not there", "mynetworks = DIR/none " + good, "error: main.cf:1: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := written(t, map[string]string{
				"main.cf": c.text, "networks": "# ours\n0.0.0.0/0\n", "cidr": "198.51.100.10 permit\n2001:db8::/32 " +
					"REJECT\n",
			})
			findings, err := CheckNetworks(filepath.Join(dir, "main.cf"), ourAddrs)
			if err != nil {
				t.Fatal(err)
			}
			compareFindings(t, findings, strings.ReplaceAll(c.want, "DIR", dir), dir)
		})
	}
}

// compareFindings compares findings with their beginnings.
func compareFindings(t *testing.T, findings []NetworkFinding, want, dir string) {
	t.Helper()
	var got []string
	for _, f := range findings {
		f.File = strings.TrimPrefix(f.File, filepath.Join(dir, "main.cf"))
		if f.File == "" && f.Line > 0 {
			f.File = "main.cf"
		}
		got = append(got, f.Severity+": "+f.String())
	}
	wanted := strings.Split(want, "|")
	if want == "" {
		wanted = nil
	}
	for i, w := range wanted {
		if i >= len(got) || !strings.HasPrefix(got[i], w) {
			t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wanted, "\n"))
			return
		}
	}
	if len(got) != len(wanted) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wanted, "\n"))
	}
}

// TestCheckNetworks_Plan: the list of a plan that was made by hand, which would have refused all mail and let strangers
// relay, has both faults named.
func TestCheckNetworks_Plan(t *testing.T) {
	dir := written(t, map[string]string{"main.cf": `smtpd_client_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination
mynetworks = 127.0.0.0/8 172.20.0.0/24 172.22.0.0/24 173.245.48.0/20 103.21.244.0/22 103.22.200.0/22 103.31.4.0/22
	141.101.64.0/18 108.162.192.0/18 190.93.240.0/20 188.114.96.0/20 197.234.240.0/22 198.41.128.0/17 162.158.0.0/15
	104.16.0.0/13 104.24.0.0/14 172.64.0.0/13 131.0.72.0/22
`})
	findings, err := CheckNetworks(filepath.Join(dir, "main.cf"), prefixAddrs(cloudflareMail[:1]))
	if err != nil {
		t.Fatal(err)
	}
	relays, misses := 0, 0
	for _, f := range findings {
		if strings.Contains(f.Message, "proxies for the web") && f.Severity == NetworkError {
			relays++
		}
		if strings.Contains(f.Message, "is in no network") && f.Severity == NetworkError {
			misses++
		}
	}
	if relays != 15 || misses != 1 {
		t.Errorf("%d networks let strangers relay and %d addresses are missed, want 15 and 1: %v", relays, misses,
			findings)
	}
}

// prefixAddrs returns the first address of each prefix.
func prefixAddrs(all []netip.Prefix) (addrs []netip.Addr) {
	for _, p := range all {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// FuzzCheckNetworks: no text has the check fail otherwise than with an error, and what it says has no control
// character.
func FuzzCheckNetworks(f *testing.F) {
	f.Add("mynetworks = 127.0.0.0/8 [::1]/128 !10.0.0.0/8 hash:/x cidr:DIR/main.cf 1.2.3/24 -/*")
	f.Add("192.0.2.0/24 OK\n2001:db8::/32 REJECT\n0.0.0.0/0")
	f.Fuzz(func(t *testing.T, text string) {
		dir := written(t, map[string]string{"main.cf": text})
		findings, err := CheckNetworks(filepath.Join(dir, "main.cf"), ourAddrs)
		if err != nil {
			return
		}
		for _, found := range findings {
			if strings.ContainsFunc(found.Message, isControl) {
				t.Errorf("a control character in %q", found.Message)
			}
		}
	})
}
