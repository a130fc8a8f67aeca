package peers_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// mixTo are ten kinds of destination, by the MX host that tells it; "" is a fixed next hop. Of 1000 messages so many go
// there: a forwarder's recipients have large mailboxes.
var mixTo = []struct {
	name, mx string
	share    int
}{
	{"google", "aspmx.l.google.com", 350}, {"microsoft365", "t.mail.protection.outlook.com", 180},
	{"outlook", "hotmail-com.olc.protection.outlook.com", 80}, {"yahoo", "mta5.am0.yahoodns.net", 70},
	{"icloud", "mx01.mail.icloud.com", 70}, {"gmx", "mx00.gmx.net", 40}, {"docomo", "mfsmax.docomo.ne.jp", 40},
	{"proofpoint", "mxa-1.pphosted.com", 50}, {"own", "mx.own.example", 80}, {"fixed", "", 40},
}

// mixFrom are five kinds of author, and of 100 messages so many are theirs.
var mixFrom = []struct {
	name, reverse, author, signer string
	share                         int
	proved                        bool // DMARC passes at a destination whatever we do
}{
	{"its own signature", "bounce.example", "dkim.example", "dkim.example", 82, true},
	{"SPF alone", "spf.example", "spf.example", "", 8, false},
	{"another's signature", "bounce.example", "spf.example", "bounce.example", 4, false},
	{"SPF alone, hosted here", hostedDomain, hostedDomain, "", 3, false},
	{"nothing", "bounce.example", "nothing.example", "", 3, false},
}

// A mixed is a message of one kind of author to one kind of destination.
type mixed struct {
	from, to int
	crossing
	operations int    // of RSA
	aligned    bool   // it has a signature of ours that is aligned with its author
	why        string // from the log
}

// TestSeal_Mix relays 1000 messages of five kinds of author to ten kinds of destination with seal=auto, and one of each
// pair with seal=always, which is what seal=auto did before it looked at the Site. At most one operation of RSA is made
// for each message in the mean, and mailauth and dkimpy find DMARC to pass wherever it did with seal=always.
func TestSeal_Mix(t *testing.T) {
	z := txtZone{}
	keys := map[string]dkim.SigningKey{}
	for _, d := range []string{"bounce.example", "spf.example", "dkim.example", "nothing.example", hostedDomain} {
		if d != "nothing.example" {
			keys[d] = z.key(t, d, dkim.RSASHA256)
			z[d] = "v=spf1 ip4:127.0.0.1 -all"
		}
		z["_dmarc."+d] = "v=DMARC1; p=none"
	}
	dir := t.TempDir()
	config := "arc: " + saveKey(t, dir, z.key(t, sealDomain, dkim.RSASHA256)) + "\ndkim:\n" +
		"  relay: [" + saveKey(t, dir, z.key(t, relayDomain, dkim.RSASHA256)) + "]\n" +
		"  domains: [" + saveKey(t, dir, keys[hostedDomain]) + "]\n"

	auto := relayMix(t, z, keys, config, "", 1000)
	always := relayMix(t, z, keys, config, " seal=always", 1)
	before := map[string]int{} // operations, by pair
	for _, m := range always {
		before[m.name] = m.operations
	}
	sum, was := 0, 0
	table := map[string][3]int{} // messages and operations, now and before, by destination and reason
	for _, m := range auto {
		sum, was = sum+m.operations, was+before[m.name]
		row := table[mixTo[m.to].name+": "+m.why]
		table[mixTo[m.to].name+": "+m.why] = [3]int{row[0] + 1, row[1] + m.operations, row[2] + before[m.name]}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		t.Logf("%4d messages, %4d operations, %4d before: %s", table[name][0], table[name][1], table[name][2], name)
	}
	t.Logf("%d messages: %.2f operations of RSA each, %.2f before", len(auto), float64(sum)/1000, float64(was)/1000)
	if len(auto) != 1000 || sum > 1000 || was < 2*sum {
		t.Errorf("%d messages took %d operations, and %d before", len(auto), sum, was)
	}
	checkMix(t, z, auto, always)
}

// relayMix sends the mix through a node whose rules have option: n messages in all, or one of each pair.
func relayMix(t *testing.T, z txtZone, keys map[string]dkim.SigningKey, config, option string, n int) []mixed {
	t.Helper()
	d := smtptest.Start(t, smtptest.Behaviour{})
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	zone, rules := dnstest.TXT(z), "domain "+hostedDomain+"\n"
	for _, to := range mixTo {
		target := "u@" + to.name + ".example"
		if to.mx == "" {
			target = "smtp://" + d.Addr()
		} else {
			zone += fmt.Sprintf("%s.example. 60 IN MX 10 %s.\n%[2]s. 60 IN A 127.0.0.1\n", to.name, to.mx)
		}
		target = strings.Replace(target, "u@", "$1@", 1)
		rules += fmt.Sprintf("/(%s.*)/@%s %s%s\n", to.name, hostedDomain, target, option)
	}
	node := world.Start(t, world.World{
		Routes: rules, Judged: true, Log: "info", DNS: dnstest.Start(t, zone),
		Config: "egress: {port: " + port + ", allow_private: true, tls: none}\nsrs: {domain: srs." + relayDomain +
			", key_file: srs.key}\n" + config,
	})
	all := theMix(t, keys, n)
	s := world.Dial(t, source.Config{Addr: node.Addr, Pipeline: true})
	for i := range all {
		m := &all[i]
		to := fmt.Sprintf("%s.%d@%s", mixTo[m.to].name, i, hostedDomain)
		world.Send(t, s, source.Message{Reverse: "a@" + mixFrom[m.from].reverse, Forward: []string{to}, Octets: m.sent})
	}
	for _, got := range world.Messages(t, d, len(all)) {
		var i int
		local, _, _ := strings.Cut(got.Forwards[0], "@")
		if _, err := fmt.Sscanf(local[strings.LastIndexByte(local, '.')+1:], "%d", &i); err != nil {
			t.Fatalf("%q: %v", got.Forwards, err)
		}
		m := &all[i]
		m.relayed = got.Octets
		signatures, sealed := ours(m.relayed)
		for _, sig := range signatures {
			if sig.d != keys[mixFrom[m.from].signer].Domain {
				m.operations++
				m.aligned = m.aligned || sig.d == mixFrom[m.from].author
			}
		}
		if sealed {
			m.operations += 2
		}
	}
	node.Stop(t)
	readWhy(t, node.Log.String(), all)
	return all
}

// theMix makes n messages by the shares of each pair, or one of each pair if n is 1.
func theMix(t *testing.T, keys map[string]dkim.SigningKey, n int) (all []mixed) {
	t.Helper()
	for to := range mixTo {
		for from := range mixFrom {
			count := 1
			if n > 1 { // what is left of each destination is the first author's
				count = mixTo[to].share * mixFrom[from].share / 100
				if from == 0 {
					count = mixTo[to].share
					for _, other := range mixFrom[1:] {
						count -= mixTo[to].share * other.share / 100
					}
				}
			}
			m := mixed{from: from, to: to}
			m.name = mixFrom[from].name + " to " + mixTo[to].name
			m.sent = authored(t, keys, mixFrom[from].author, mixFrom[from].signer)
			for range count {
				all = append(all, m)
			}
		}
	}
	return all
}

// authored is a message of an author, signed by another domain or the same or none.
func authored(t *testing.T, keys map[string]dkim.SigningKey, author, signer string) []byte {
	t.Helper()
	header := []byte("From: A <a@" + author + ">\r\nTo: f@" + hostedDomain + "\r\nSubject: mix\r\n" +
		"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@" + author + ">\r\n\r\n")
	body := []byte("A line.\r\n")
	if signer == "" {
		return append(header, body...)
	}
	s, err := dkim.NewSigner(dkim.SignConfig{Keys: []dkim.SigningKey{keys[signer]}})
	if err != nil {
		t.Fatal(err)
	}
	h := dkim.NewBodyHash(dkim.Relaxed)
	_, _ = h.Write(body) // it has no error
	field, err := s.Sign(nil, header, dkim.Relaxed, h.Sum())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(field, header, body)
}

// readWhy takes from the log why each message was signed or not.
func readWhy(t *testing.T, log string, all []mixed) {
	t.Helper()
	told := 0
	for line := range strings.Lines(log) {
		var l struct {
			Msg, Signed, Unsigned string
			To                    []struct{ Forward string }
			Legs                  []struct{ Seal string }
		}
		if json.Unmarshal([]byte(line), &l) != nil || l.Msg != "relayed" || len(l.To) != 1 || len(l.Legs) != 1 {
			continue
		}
		var i int
		local, _, _ := strings.Cut(strings.Trim(l.To[0].Forward, "<>"), "@")
		if _, err := fmt.Sscanf(local[strings.LastIndexByte(local, '.')+1:], "%d", &i); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all[i].why = l.Legs[0].Seal
		if l.Signed != "" {
			all[i].why += ", signed: " + l.Signed
		} else if l.Unsigned != "" {
			all[i].why += ", not signed: " + l.Unsigned
		}
		told++
		if mixTo[all[i].to].mx != "" && l.Legs[0].Seal == "" || all[i].operations > 0 != (l.Signed != "") {
			t.Errorf("%s: %d operations, and the log says %q", all[i].name, all[i].operations, all[i].why)
		}
	}
	if told != len(all) {
		t.Errorf("the log tells of %d messages of %d", told, len(all))
	}
}

// checkMix has programs of others say of one message of each pair whether DMARC passes at the destination: by DKIM,
// because SPF speaks for us there.
func checkMix(t *testing.T, z txtZone, auto, always []mixed) {
	t.Helper()
	one := map[string]*mixed{}
	for i := range auto {
		one[auto[i].name] = &auto[i]
	}
	var crossings []crossing
	var kinds []*mixed
	for i := range always {
		if m := one[always[i].name]; m != nil {
			crossings = append(crossings, m.crossing, always[i].crossing)
			kinds = append(kinds, m)
		}
	}
	folder := saveCrossings(t, crossings, z)
	for program, run := range map[string]func() map[string]finding{
		"dkimpy": func() map[string]finding {
			return script(t, extern.Python(t, "dkim", "nacl.signing"), "dkimpy.py", folder)
		},
		"mailauth": func() map[string]finding { return script(t, extern.Node(t, "mailauth"), "mailauth.js", folder) },
	} {
		found, passed := run(), 0
		passes := func(i int, author string) bool {
			f := found[filepath.Base(fmt.Sprintf("%05d.relayed.eml", i))]
			return slices.ContainsFunc(f.DKIM, func(s struct{ D, S, B, Result, Why string }) bool {
				return s.Result == "pass" && s.D == author
			})
		}
		for n, m := range kinds {
			from := &mixFrom[m.from]
			is, was := passes(2*n, from.author), passes(2*n+1, from.author)
			if want := from.proved || m.aligned; is != want || is != was && mixTo[m.to].mx != "" {
				t.Errorf("%s: %s: DMARC passes %t, want %t, and %t with seal=always", program, m.name, is, want, was)
			}
			if is {
				passed++
			}
		}
		t.Logf("%s: DMARC passes in %d of %d pairs", program, passed, len(kinds))
		if passed < 19 {
			t.Errorf("%s: passes in %d pairs alone", program, passed)
		}
	}
}
