package policy_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

var (
	good = netip.MustParseAddr("203.0.10.1")
	bad  = netip.MustParseAddr("203.0.113.9")
)

const listScore = "url: https://relay.example/why\nlists: [{zone: zen.example, weight: 10}]\n"

// refusedText is what a listed client reads.
const refusedText = "554 5.7.1 203.0.113.9 listed by zen.example (code 127.0.0.2); see https://relay.example/why id=?"

// TestExplain_EverySignal: explain shows every signal and the verdict.
func TestExplain_EverySignal(t *testing.T) {
	worst := netip.MustParseAddr("203.0.113.66") // listed, without a name
	r := world.StartRedis(t)
	s := scored{zone: zen + mailServer(good) + mailServer(bad) + listed(bad) + listed(worst) +
		"nomail.example. 60 IN MX 0 .\n",
		redis: r.URL(),
		rules: "old@x.example reject 550 5.1.1 Moved\nlater@x.example tempfail 451 4.2.1 Back tomorrow\n",
		score: listScore +
			"greet: 1s\nrates: {client: 1/1h, network: 1/1h, refused: 1/1h}\nblock: [\"203.0.99.0/24 no mail from " +
			"here\"]\nallow: [203.0.98.5]\n"}
	dir := t.TempDir()
	file := s.world(t).Write(t, dir, "127.0.0.1:0")
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string // patterns of lines
	}{
		{"a mail server", []string{"--ip", "203.0.10.1", "--helo", nameOf(good), "--from", "a@client.example"}, 0,
			[]string{
				`^signal +dnsbl +silent +0.0 +not listed$`, `^signal +no-ptr +silent`,
				`^signal +fcrdns +silent +0.0 +its name mx10.good.example leads back to it$`,
				`^signal +helo-mismatch +silent`, `^signal +spf-fail +silent +0.0 +SPF of client.example is pass$`,
				`^signal +sender-domain +silent +0.0 +client.example has an MX$`,
				`^signal +karma +silent`, `^signal +early-talker +silent`,
				`^score +0.0 \(defer from 6, reject from 10\): accept$`, `^verdict +accept$`}},
		{"an address alone", []string{"--ip", "203.0.10.1"}, 0, []string{
			`^signal +helo-self +skipped +0.0 +no name in EHLO was given$`,
			`^signal +spf-fail +skipped +0.0 +no reverse-path was given$`, `^verdict +accept$`}},
		{"a listed one", []string{"--ip", "203.0.113.9"}, 2, []string{
			`^signal +dnsbl +spoke +10.0 +listed by zen.example \(code 127.0.0.2\)$`, `^score +10.0 .*: reject$`,
			`^verdict +reject$`,
			`^reply +554 5.7.1 203.0.113.9 listed by zen.example \(code 127.0.0.2\); see https://relay.example/why$`,
			`^cause +score 10: dnsbl 10$`}},
		{
			"a listed one with an IPv4-mapped address", []string{"--ip", "::ffff:203.0.113.9"}, 2,
			[]string{`^signal +dnsbl +spoke`},
		},
		{"one that is deferred", []string{"--ip", "203.0.10.9", "--helo", "relay.example"}, 1, []string{
			`^signal +no-ptr +spoke +2.0 `, `^signal +helo-self +spoke +5.0 `, `^score +7.0 .*: defer$`,
			`^verdict +defer$`, `^reply +450 4.7.1 203.0.10.9 deferred: .*which is us, try again later; see https`}},
		{
			"a blocked one", []string{"--ip", "203.0.99.7"}, 2,
			[]string{`^signal +block +spoke .*no mail from here.*millrace.yaml:\d+`, `^verdict +reject$`},
		},
		{
			"an allowed one", []string{"--ip", "203.0.98.5"}, 0,
			[]string{
				`^signal +allow +spoke .*millrace.yaml:\d+`,
				`^signal +dnsbl +skipped .*an entry about the address has decided`, `^verdict +accept$`,
			},
		},
		{
			"a listed one to postmaster", []string{"--ip", "203.0.113.9", "--to", "postmaster@x.example"}, 0,
			[]string{`^score +10.0 .*: reject$`, `^verdict +accept$`},
		},
		{
			"a listed one to a foreign postmaster",
			[]string{"--ip", "203.0.113.9", "--to", "postmaster@elsewhere.example"}, 2,
			[]string{`^reply +554 5.7.1 203.0.113.9 listed`},
		},
		{
			"the verdict goes before the rules", []string{"--ip", "203.0.113.9", "--to", "later@x.example"}, 2,
			[]string{`^reply +554 5.7.1 203.0.113.9 listed`},
		},
		{
			"a good one and a rule that refuses", []string{"--ip", "203.0.10.1", "--to", "old@x.example"}, 2,
			[]string{`^score +0.0`, `^reply +550 5.1.1 Moved`},
		},
		{
			"a good one and a rule that defers", []string{"--ip", "203.0.10.1", "--to", "later@x.example"}, 1,
			[]string{`^reply +451 4.2.1 Back`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // a rate of one in an hour would be over
				var out, errs bytes.Buffer
				code := command.Main(append([]string{"explain", "-c", file}, c.args...), nil, &out, &errs)
				if code != c.code {
					t.Fatalf("exit code %d, want %d\n%s%s", code, c.code, &out, &errs)
				}
				for _, want := range c.want {
					if !regexp.MustCompile("(?m)" + want).Match(out.Bytes()) {
						t.Errorf("no line %s in\n%s", want, &out)
					}
				}
			}
		})
	}
	for _, key := range strings.Fields(r.Do(t, "KEYS", "*")) {
		if !strings.Contains(key, ":d:") {
			t.Errorf("explain left %s", key)
		} else if fields := r.Do(t, "HKEYS", key); strings.Contains(fields, "l:") {
			t.Errorf("explain left a lock: %s in %s", fields, key)
		}
	}
}

// TestExplain_RefusedAtConnect: where the greeting refuses, no postmaster is reached, and explain says so.
func TestExplain_RefusedAtConnect(t *testing.T) {
	s := scored{zone: zen + mailServer(bad) + listed(bad), score: listScore + "reject_at: connect\n"}
	w := s.world(t)
	c, err := source.Connect(t.Context(), proxied(world.Start(t, w).Addr, bad))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort(false)
	if r, err := c.Read(); err != nil || r.Code != 554 {
		t.Errorf("the session says %v, %v", r, err)
	}
	var out, errs bytes.Buffer
	file := w.Write(t, t.TempDir(), "127.0.0.1:0")
	if code := command.Main([]string{"explain", "-c", file, "--ip", bad.String(), "--to", "postmaster@x.example"}, nil,
		&out, &errs); code != 2 || !strings.Contains(out.String(), "554 5.7.1 203.0.113.9 listed by zen.example") {
		t.Errorf("explain says %s%s", &out, &errs)
	}
}

// TestExplain_PostmasterOverRate: what a client is told of a rate at postmaster, explain says too: the score spares
// postmaster, and no rate does.
func TestExplain_PostmasterOverRate(t *testing.T) {
	s := scored{
		zone: zen + mailServer(good) + mailServer(bad) + listed(bad), redis: world.StartRedis(t).URL(),
		score: listScore + "rates: {client: 1/1h}\n",
	}
	w := s.world(t)
	n := world.Start(t, w)
	file := w.Write(t, t.TempDir(), "127.0.0.1:0")
	explain := func(client netip.Addr) string {
		var out, errs bytes.Buffer
		command.Main([]string{"explain", "-c", file, "--ip", client.String(), "--to", "postmaster@x.example"}, nil,
			&out, &errs)
		return regexp.MustCompile(`(?m)^(reply|verdict) .*`).FindString(out.String())
	}
	for _, want := range []string{"250 ", "450 "} {
		c := comes(t, n, bad)
		says(t, c, "MAIL FROM:<a@client.example>", "250")
		told := says(t, c, "RCPT TO:<postmaster@x.example>", want)
		says(t, c, "QUIT", "221")
		if want == "450 " && !strings.Contains(told, "Too many connections") {
			t.Errorf("the session says %s", told)
		}
	}
	if got := explain(bad); !strings.Contains(got, "defer") && !strings.Contains(got, "Too many connections") {
		t.Errorf("explain says %q of a client over its rate", got)
	}
	if got := explain(netip.MustParseAddr("203.0.10.2")); !strings.Contains(got, "accept") {
		t.Errorf("explain says %q of another", got)
	}
}

// TestScore_ListedAtRcpt: a listed client is refused at rcpt whatever the recipient.
func TestScore_ListedAtRcpt(t *testing.T) {
	s := scored{
		zone: zen + mailServer(bad) + listed(bad), score: listScore,
		rules: "gone@x.example reject 550 5.1.1 Moved\nthere@x.example drop\n",
	}
	n := world.Start(t, s.world(t))
	c := comes(t, n, bad) // greeted, and EHLO answered
	for range 2 {
		says(t, c, "MAIL FROM:<a@client.example>", "250 2.1.0")
		var replies []string
		for _, to := range []string{
			"b@x.example", "there@x.example", "gone@x.example", "nobody@y.example", "a%b@elsewhere.example",
		} {
			replies = append(replies, says(t, c, "RCPT TO:<"+to+">", refusedText))
		}
		for _, r := range replies {
			if r != refusedText {
				t.Errorf("got %q, want %q", r, refusedText)
			}
		}
		says(t, c, "DATA", "5")
		says(t, c, "RSET", "250")
	}
	if got := s.dest.Counts(); got.Connections != 0 {
		t.Errorf("the destination has seen %d connections", got.Connections)
	}
	says(t, c, "QUIT", "221")

	t.Run("in one group of commands", func(t *testing.T) {
		cfg := proxied(n.Addr, bad)
		cfg.Pipeline = true
		r, err := world.Dial(t,
			cfg).Send(source.Message{
			Reverse: "a@client.example", Forward: []string{"b@x.example", "c@y.example"}, Octets: []byte("\r\n"),
		})
		if err != nil || r.Mail.Code != 250 || len(r.Rcpt) != 2 {
			t.Fatalf("%+v %v", r, err)
		}
		for _, rcpt := range r.Rcpt {
			if got := world.ReplyID.ReplaceAllString(rcpt.String(), "id=?"); got != refusedText {
				t.Errorf("got %q", got)
			}
		}
	})
}

// TestScore_PostmasterReached: postmaster is reached by a listed client within its rates.
func TestScore_PostmasterReached(t *testing.T) {
	s := scored{
		zone: zen + mailServer(bad) + listed(bad), score: listScore + "rates: {messages: 4/1h}\n",
		rules: "c@y.example d@z.example\n",
	}
	n := world.Start(t, s.world(t))
	c := comes(t, n, bad)
	for i, to := range []string{"postmaster@x.example", "abuse@x.example", "Postmaster", "ABUSE@y.example"} {
		says(t, c, "MAIL FROM:<a@client.example>", "250")
		says(t, c, "RCPT TO:<postmaster@elsewhere.example>", refusedText)
		says(t, c, "RCPT TO:<abuse@nowhere.example>", refusedText)
		says(t, c, "RCPT TO:<"+to+">", "250 2.1.5")
		says(t, c, "DATA", "354")
		says(t, c, "Subject: "+to+"\r\n\r\nhi\r\n.", "250")
		world.Messages(t, s.dest, i+1)
	}
	says(t, c, "MAIL FROM:<a@client.example>", "250")
	says(t, c, "RCPT TO:<postmaster@x.example>", "450 4.7.1 Too many messages from 203.0.113.9, try again in ")
}

// TestScore_TrustedClients: trusted clients are not scored.
func TestScore_TrustedClients(t *testing.T) {
	s := scored{
		zone:  zen + mailServer(bad) + listed(bad),
		score: listScore + "rates: {client: 1/1h, messages: 1/1h}\ngreet: 10s\n",
	}
	w := s.world(t)
	w.Listen += `, relay: trusted, networks: ["203.0.113.0/24"]`
	n := world.Start(t, w)
	for range 3 {
		world.Send(t, comes(t, n, bad), letterOf("b@x.example"))
	}
	if n := w.DNS.Count(reversed(bad)+".zen.example", "A"); n.UDP+n.TCP != 0 {
		t.Error("its address was looked up")
	}
}

// TestScore_XCLIENT: the address that XCLIENT carries is scored.
func TestScore_XCLIENT(t *testing.T) {
	s := scored{zone: zen + mailServer(good) + mailServer(bad) + listed(bad), score: listScore}
	w := s.world(t)
	w.Listen += `, xclient: ["203.0.10.1"]`
	n := world.Start(t, w)
	c := comes(t, n, good)
	says(t, c, "XCLIENT ADDR=203.0.113.9", "220")
	says(t, c, "EHLO mx.good.example", "250")
	says(t, c, "MAIL FROM:<a@client.example>", "250")
	says(t, c, "RCPT TO:<b@x.example>", refusedText)
	says(t, c, "XCLIENT ADDR=203.0.10.1", "503") // within a transaction
	says(t, c, "RSET", "250")
	says(t, c, "XCLIENT ADDR=203.0.10.1", "220")
	says(t, c, "EHLO "+nameOf(good), "250")
	world.Send(t, c, letterOf("b@x.example"))
	says(t, c, "XCLIENT ADDR=[UNAVAILABLE]", "220")
	says(t, c, "EHLO "+nameOf(good), "250")
	world.Send(t, c, letterOf("b@x.example"))
}

// TestScore_ProxyHeaders: proxy headers of both versions and families carry who is scored.
func TestScore_ProxyHeaders(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::9")
	zone := zen + mailServer(bad) + listed(bad) +
		"2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.zen.example. 300 IN A 127.0.0.2\n" +
		"9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.zen.example. 300 IN A 127.0.0.2\n"
	s := scored{zone: zone, score: listScore}
	n := world.Start(t, s.world(t))
	for name, c := range map[string]struct {
		header []byte
		want   string
	}{
		"version 1, IPv4": {
			source.ProxyV1(netip.AddrPortFrom(bad, 1), netip.MustParseAddrPort("192.0.2.1:25")), refusedText,
		},
		"version 2, IPv4": {
			source.ProxyV2(netip.AddrPortFrom(bad, 1), netip.MustParseAddrPort("192.0.2.1:25")), refusedText,
		},
		"version 1, IPv6": {
			source.ProxyV1(netip.AddrPortFrom(six, 1), netip.MustParseAddrPort("[2001:db8::1]:25")),
			strings.Replace(refusedText, "203.0.113.9", "2001:db8::9", 1),
		},
		"version 2, IPv6": {
			source.ProxyV2(netip.AddrPortFrom(six, 1), netip.MustParseAddrPort("[2001:db8::1]:25")),
			strings.Replace(refusedText, "203.0.113.9", "2001:db8::9", 1),
		},
		"unknown": {[]byte("PROXY UNKNOWN\r\n"), "250 2.1.5"},
	} {
		t.Run(name, func(t *testing.T) {
			s := world.Dial(t, source.Config{Addr: n.Addr, Proxy: c.header, Helo: nameOf(bad)})
			says(t, s, "MAIL FROM:<a@client.example>", "250")
			says(t, s, "RCPT TO:<b@x.example>", c.want)
		})
	}
}

// TestScore_EarlyTalker: who speaks first is an early talker.
func TestScore_EarlyTalker(t *testing.T) {
	s := scored{zone: zen + mailServer(good), score: "greet: 300ms\nreject: 4\ndefer: 3\n"}
	n := world.Start(t, s.world(t))
	cfg := proxied(n.Addr, good)
	began := time.Now()
	world.Send(t, world.Dial(t, cfg), letterOf("b@x.example"))
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("an unknown client was greeted after %s", took)
	}
	for name, hello := range map[string]string{
		"in the segment of the PROXY header": "EHLO " + nameOf(good) + "\r\n", "later": "",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := proxied(n.Addr, good)
			cfg.Proxy = append(cfg.Proxy, hello...)
			c, err := source.Connect(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Abort(false)
			if hello == "" {
				if err := c.Write([]byte("EHLO " + nameOf(good) + "\r\n")); err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range []int{220, 250} {
				if r, err := c.Read(); err != nil || r.Code != want {
					t.Fatalf("%v %v", r, err)
				}
			}
			says(t, c, "MAIL FROM:<a@client.example>", "250")
			says(t, c, "RCPT TO:<b@x.example>", "554 5.7.1 203.0.10.1 refused: spoke before it was greeted id=?")
		})
	}
}

// TestScore_Tarpit: a refusal is held back, and nothing else is.
func TestScore_Tarpit(t *testing.T) {
	s := scored{zone: zen + mailServer(good) + mailServer(bad) + listed(bad), score: listScore + "tarpit: 1s\n"}
	n := world.Start(t, s.world(t))
	c := comes(t, n, bad)
	says(t, c, "MAIL FROM:<a@client.example>", "250")
	began := time.Now()
	says(t, c, "RCPT TO:<b@x.example>", refusedText)
	if took := time.Since(began); took < time.Second {
		t.Errorf("refused after %s", took)
	}
	s.score = listScore + "tarpit: 30s\n"
	impatient := proxied(world.Start(t, s.world(t)).Addr, good)
	impatient.Timeout = 25 * time.Second
	world.Send(t, world.Dial(t, impatient), letterOf("b@x.example"))
}

// TestScore_Entries: entries decide with their reasons.
func TestScore_Entries(t *testing.T) {
	allowed := netip.MustParseAddr("203.0.113.77")
	spf := netip.MustParseAddr("203.0.113.78")
	file := filepath.Join(t.TempDir(), "block.txt")
	if err := os.WriteFile(file, []byte("# ours\n203.0.66.0/24 abuse report 4711\ndomain:*.spam.example\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	s := scored{
		zone: zen + mailServer(good) + mailServer(allowed) + listed(allowed) + mailServer(spf) + listed(spf),
		score: listScore +
			"allow: [203.0.113.77, \"domain:client.example our friends\"]\nblock: " +
			"[\"helo:*.bulk.example\"]\nblock_file: " + file + "\n",
	}
	n := world.Start(t, s.world(t))
	for _, c := range []struct {
		name          string
		client        netip.Addr
		helo, reverse string
		want          string
	}{
		{"an allowed address, though listed", allowed, "", "a@client.example", "250 2.1.5"},
		{"an allowed domain with SPF, though listed", spf, "", "a@client.example", "250 2.1.5"},
		{"listed, with another domain", spf, "", "a@elsewhere.example", "554 5.7.1 203.0.113.78 listed by zen.example"},
		{"a blocked address", netip.MustParseAddr("203.0.66.1"), "", "",
			"554 5.7.1 203.0.66.1 refused: 203.0.66.0/24 is blocked here: abuse report 4711; see https"},
		{"a blocked name in EHLO", good, "out7.bulk.example", "", "554 5.7.1 203.0.10.1 refused: "},
		{"a blocked reverse-path", good, "", "a@x.spam.example", "554 5.7.1 203.0.10.1 refused: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := proxied(n.Addr, c.client)
			if c.helo != "" {
				cfg.Helo = c.helo
			}
			s := world.Dial(t, cfg)
			says(t, s, "MAIL FROM:<"+c.reverse+">", "250")
			t.Log(says(t, s, "RCPT TO:<b@x.example>", c.want))
		})
	}
}

// TestScore_LateSignal: a late signal counts for no client, MAIL does not wait for it, and the first RCPT no longer
// than the deadline.
func TestScore_LateSignal(t *testing.T) {
	s := scored{zone: zen + mailServer(bad) + listed(bad), score: listScore + "deadline: 700ms\n"}
	w := s.world(t)
	n := world.Start(t, w)
	held := make(chan struct{}) // the list says nothing before it is closed
	w.DNS.SetFault(reversed(bad)+".zen.example", "A", dnstest.Fault{Until: held})
	slow := w
	slow.Config = strings.Replace(w.Config, "deadline: 700ms", "deadline: 50s", 1)
	impatient := proxied(world.Start(t, slow).Addr, bad)
	impatient.Timeout = 40 * time.Second
	says(t, world.Dial(t, impatient), "MAIL FROM:<a@client.example>", "250")

	c := comes(t, n, bad)
	says(t, c, "MAIL FROM:<a@client.example>", "250")
	says(t, c, "RCPT TO:<b@x.example>", "250 2.1.5")
	close(held)
	// The answer that came too late serves the next connection.
	world.Await(t, "the next one is refused", func() bool {
		c := comes(t, n, bad)
		defer c.Abort(false)
		says(t, c, "MAIL FROM:<a@client.example>", "250")
		r, err := c.Command("RCPT TO:<b@x.example>")
		return err == nil && world.ReplyID.ReplaceAllString(r.String(), "id=?") == refusedText
	})
}
