package peers_test

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// TestCrosscheck_ProgramsOfOthers sends the Corpus, the suites and messages that are predicted and streamed
// through a relay that seals and signs, and has four programs verify each before and after: our signatures and our ARC
// set are good, and whatever was good before still is.
func TestCrosscheck_ProgramsOfOthers(t *testing.T) {
	z := txtZone{}
	var crossings []crossing
	for _, s := range world.Corpus(t) {
		crossings = append(crossings, crossing{name: "corpus/" + s.Name, sent: s.Octets})
	}
	crossings = append(crossings, suiteCrossings(t, z)...)
	crossings = append(crossings, madeCrossings(t, z.key(t, senderDomain, dkim.RSASHA256))...)

	dir := t.TempDir()
	config := "arc: " + saveKey(t, dir, z.key(t, sealDomain, dkim.RSASHA256)) + "\ndkim:\n"
	for section, domain := range map[string]string{"relay": relayDomain, "domains": hostedDomain} {
		config += fmt.Sprintf("  %s: [%s, %s]\n", section, saveKey(t, dir, z.key(t, domain, dkim.RSASHA256)),
			saveKey(t, dir, z.key(t, domain, dkim.Ed25519SHA256)))
	}
	zone := dnstest.Start(t, dnstest.TXT(z))
	var all []crossing
	for _, from := range []struct{ name, listen string }{
		{"from anybody", ""},
		{"from trusted clients", "relay: trusted, networks: [127.0.0.1/32]"},
	} {
		started := time.Now()
		batch := slices.Clone(crossings)
		relayAll(t, batch, from.listen, config, zone)
		t.Logf("%s: %d messages relayed in %s", from.name, len(batch), time.Since(started).Round(time.Millisecond))
		checkCrossings(t, from.listen != "", batch)
		all = append(all, batch...)
	}
	folder := saveCrossings(t, all, z)
	for i := range all {
		if all[i].name == "made/predicted, simple body, not aligned" {
			altered := bytes.Replace(all[i].relayed, []byte("Subject: long"), []byte("Subject: Long"), 1)
			world.Save(t, filepath.Join(folder, "altered.eml"), string(altered))
			break
		}
	}

	python := extern.Python(t, "dkim", "nacl.signing")
	perl := extern.Perl(t, "Mail::DKIM::Verifier", "Mail::DKIM::ARC::Verifier", "Net::DNS", "JSON::PP")
	node := extern.Node(t, "mailauth")
	rspamd := extern.StartRspamd(t, zone.Addr())
	programs := []program{
		{"dkimpy", true, 40, wrongOfDKIMPy, func(t *testing.T) map[string]finding {
			return script(t, python, "dkimpy.py", folder)
		}},
		{"Mail::DKIM", false, 150, nil, func(t *testing.T) map[string]finding {
			return script(t, perl, "maildkim.pl", folder)
		}},
		{"mailauth", true, 60, wrongOfMailauth, func(t *testing.T) map[string]finding {
			return script(t, node, "mailauth.js", folder)
		}},
		{"rspamd", true, 100, wrongOfRspamd, func(t *testing.T) map[string]finding {
			return askRspamd(t, rspamd, folder)
		}},
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			started := time.Now()
			found := p.run(t)
			t.Logf("%d messages in %s", len(found), time.Since(started).Round(time.Millisecond))
			p.check(t, all, found)
		})
	}
}

// ours returns the DKIM-Signature fields of ours in a message, and whether there is an ARC set of ours.
func ours(octets []byte) (signatures []tags, sealed bool) {
	for f := range dkim.Fields(octets) {
		switch name := strings.ToLower(string(f.Name())); name {
		case "dkim-signature":
			if s := tagsOf(f); s.d == relayDomain || s.d == hostedDomain {
				signatures = append(signatures, s)
			}
		case "arc-seal":
			sealed = sealed || tagsOf(f).d == sealDomain
		}
	}
	return signatures, sealed
}

// tags are those of a signature that tell it from others.
type tags struct{ d, s, a, b string }

func tagsOf(f dkim.Field) (t tags) {
	for part := range strings.SplitSeq(string(f.Body()), ";") {
		name, value, _ := strings.Cut(part, "=")
		value = strings.Join(strings.Fields(value), "")
		switch strings.TrimSpace(name) {
		case "d":
			t.d = value
		case "s":
			t.s = value
		case "a":
			t.a = value
		case "b":
			t.b = value
		}
	}
	return t
}

// Which messages get no ARC set from any client, and which no signature of ours from trusted clients. All others do.
var (
	unsealed = map[string]string{
		"corpus/MimeKit__UnitTests_TestData_tnef_rich-text.eml": "streamed",
		"made/streamed, signed, by a list":                      "streamed",
		"made/streamed, not signed":                             "streamed",
		"corpus/mailauth__test_fixtures_arc-fail3.eml":          "the chain was ended by a seal that says fail",
		"arc/mailauth/arc-fail3.eml":                            "the chain was ended by a seal that says fail",
		"arc/valimail-eml/cv_fail_i1_as_cv_fail.eml":            "the chain was ended by a seal that says fail",
		"arc/valimail-eml/cv_fail_i2_as2_fail.eml":              "the chain was ended by a seal that says fail",
	}
	unsigned = map[string]string{
		"corpus/MimeKit__UnitTests_TestData_tnef_rich-text.eml":       "streamed",
		"made/streamed, signed, by a list":                            "streamed",
		"made/streamed, not signed":                                   "streamed",
		"corpus/MimeKit__UnitTests_TestData_dkim_rfc8463-example.msg": "the author's own signature passes",
		"corpus/mail-dkim__t_corpus_goodkey_ed25519.txt":              "the author's own signature passes",
		"dkim/mail-dkim/corpus/goodkey_ed25519.txt":                   "the author's own signature passes",
		"dkim/mail-auth/001.txt":                                      "the author's own signature passes",
		"dkim/mail-auth/002.txt":                                      "the author's own signature passes",
		"dkim/mail-auth/004.txt":                                      "the author's own signature passes",
		"dkim/mail-auth/006.txt":                                      "the author's own signature passes",
		"dkim/mailauth/signed.eml":                                    "the author's own signature passes",
		"dkim/dkimpy/rfc6376.signed.msg":                              "the author's own signature passes",
		"arc/mail-auth/002.txt":                                       "the author's own signature passes",
		"made/predicted, relaxed body, aligned":                       "the author's own signature passes",
		"made/predicted, simple body, aligned":                        "the author's own signature passes",
	}
	// refused are refused from every client.
	refused = map[string]string{
		"corpus/james-mime4j__benchmark_src_main_resources_long-headers.msg": "554 5.4.6",  // 93 Received fields
		"corpus/mail-parser__resources_eml_legacy_049.eml":                   "550 5.6.11", // a bare CR
	}
)

// checkCrossings holds what is relayed against what was sent: our fields stand above it, and below them it is the same
// octet for octet.
func checkCrossings(t *testing.T, trusted bool, all []crossing) {
	t.Helper()
	authored := 0
	for i := range all {
		c := &all[i]
		want := refused[c.name]
		if want != "" || c.relayed == nil {
			if want == "" || !strings.HasPrefix(c.reply, want) {
				t.Errorf("%s: got %s, want %q", c.name, c.reply, want)
			}
			continue
		}
		if !bytes.HasSuffix(c.relayed, append([]byte("\r\n"), c.arrives()...)) {
			t.Errorf("%s: what was sent does not stand below our fields", c.name)
		}
		signatures, sealed := ours(c.relayed)
		if want := !trusted && unsealed[c.name] == ""; sealed != want {
			t.Errorf("%s: sealed %t, want %t", c.name, sealed, want)
		}
		switch {
		case len(signatures) == 4 && unsigned[c.name] == "":
			authored++
		case len(signatures) > 0, trusted && unsigned[c.name] == "" && named(c.relayed):
			t.Errorf("%s: %d signatures", c.name, len(signatures))
		}
	}
	// Of all messages those that name no author are not signed.
	if t.Logf("%d of %d are signed", authored, len(all)); authored < len(all)*3/4 {
		t.Errorf("only %d of %d are signed", authored, len(all))
	}
}

// named reports whether a message has a From field, perhaps behind a byte order mark; without one it is not signed.
func named(message []byte) bool {
	for f := range dkim.Fields(message) {
		if dkim.Field(bytes.TrimPrefix(f, []byte("\ufeff"))).Is("From") {
			return true
		}
	}
	return false
}

// check holds the findings of a program against what is to be found.
func (p *program) check(t *testing.T, all []crossing, found map[string]finding) {
	t.Helper()
	wrong := map[string][]string{} // by message
	right := map[string]int{}
	judge := func(name, what string, ok bool, why string) {
		if ok {
			right[name]++
		} else {
			wrong[name] = append(wrong[name], what+": "+why)
		}
	}
	signatures, senders, chains, longer := 0, 0, 0, 0
	for i := range all {
		c := &all[i]
		if c.relayed == nil {
			continue
		}
		before, ok1 := found[fmt.Sprintf("%05d.sent.eml", i)]
		after, ok2 := found[fmt.Sprintf("%05d.relayed.eml", i)]
		if !ok1 || !ok2 {
			t.Errorf("%s: not looked at", c.name)
			continue
		}
		own, sealed := ours(c.relayed)
		for _, s := range own {
			if s.a == dkim.Ed25519SHA256.String() && !p.ed25519 {
				continue
			}
			signatures++
			result, why := after.dkim(s.d, s.s, s.b)
			judge(c.name, "our signature "+s.d+" "+s.s, result == "pass", result+" "+why)
		}
		for _, s := range before.DKIM {
			if s.Result == "pass" {
				senders++
				result, why := after.dkim(s.D, s.S, s.B)
				judge(c.name, "signature of "+s.D+" "+s.S, result == "pass", result+" "+why)
			}
		}
		// A chain that was there goes on as it was; one that did not pass never does.
		switch had := chained(c.sent); {
		case had && before.ARC == "pass":
			if sealed {
				longer++
			}
			judge(c.name, "chain", after.ARC == "pass", after.ARC+" "+after.ARCWhy)
		case had && after.ARC == "pass":
			judge(c.name, "chain", false, "passes, which it did not before")
		case !had && sealed:
			chains++
			judge(c.name, "our ARC set", after.ARC == "pass", after.ARC+" "+after.ARCWhy)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wrong)) {
		if p.wrong[name] == "" {
			t.Errorf("%s: %s", name, strings.Join(wrong[name], "\n\t"))
		}
	}
	for name, reason := range p.wrong {
		if right[name] > 0 || len(wrong[name]) == 0 {
			t.Errorf("%s: is right %d times now, take it out of the table (%s)", name, right[name], reason)
		}
	}
	t.Logf("%d signatures of ours, %d of senders, %d chains begun and %d made longer by us; wrong of %d messages",
		signatures, senders, chains, longer, len(wrong))
	if signatures < 2300 || senders < p.senders || chains < 650 || longer < 8 {
		t.Error("fewer than there are")
	}

	altered := found["altered.eml"]
	for _, s := range altered.DKIM {
		if s.Result == "pass" {
			t.Errorf("an altered message: the signature of %s passes", s.D)
		}
	}
	if altered.File == "" || altered.ARC == "pass" || altered.ARC == "none" {
		t.Errorf("an altered message: chain %q", altered.ARC)
	}
}

// chained reports whether a message has any field of an ARC set.
func chained(octets []byte) bool {
	for f := range dkim.Fields(octets) {
		if f.Is("ARC-Seal") || f.Is("ARC-Message-Signature") || f.Is("ARC-Authentication-Results") {
			return true
		}
	}
	return false
}
