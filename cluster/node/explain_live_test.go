package node

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	msgauth "github.com/emersion/go-msgauth/dkim"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// A liveWorld is a node that follows Redis and does all that is decided about mail, with a destination that takes it.
type liveWorld struct {
	*bench
	dest   *smtptest.Server // of the MX hosts of dest.example
	author crypto.Signer    // the key of author.example
	rounds int
}

// startLive starts a liveWorld.
func startLive(t *testing.T) *liveWorld {
	t.Helper()
	public, author, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &liveWorld{dest: smtptest.Start(t, smtptest.Behaviour{}), author: author}
	zone := `
dest.example. 60 IN MX 10 mx.dest.example.
mx.dest.example. 60 IN A 127.0.0.1
nomail.example. 60 IN MX 0 .
noaddress.example. 60 IN MX 10 nowhere.dest.example.
author.example. 60 IN MX 10 mx.dest.example.
author.example. 60 IN TXT "v=spf1 ip4:203.0.113.0/25 -all"
_dmarc.author.example. 60 IN TXT "v=DMARC1; p=reject"
k._domainkey.author.example. 60 IN TXT "v=DKIM1; k=ed25519; p=` + base64.StdEncoding.EncodeToString(public) + `"
soft.example. 60 IN MX 10 mx.dest.example.
soft.example. 60 IN TXT "v=spf1 ip4:203.0.113.64/26 ~all"
_dmarc.soft.example. 60 IN TXT "v=DMARC1; p=quarantine"
plain.example. 60 IN MX 10 mx.dest.example.
mx.plain.example. 60 IN A 203.0.113.7
7.113.0.203.in-addr.arpa. 60 IN PTR mx.plain.example.
`
	dir := t.TempDir()
	signing, err := dkim.GenerateKey(dkim.Ed25519SHA256, 0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := dkim.MarshalKey(signing)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"srs.key": oneKey + "\n", "signing.pem": string(text)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	record, err := dkim.KeyRecord(signing.Public())
	if err != nil {
		t.Fatal(err)
	}
	zone += "s._domainkey.relay.example.net. 60 IN TXT " + dkim.ZoneText(record) + "\n"
	_, port, err := net.SplitHostPort(w.dest.Addr())
	if err != nil {
		t.Fatal(err)
	}
	w.bench = startNodeIn(t, dnstest.Start(t, zone), fmt.Sprintf(`listen:
  - {addr: "127.0.0.1:0", proxy_protocol: [127.0.0.1]}
  - {addr: %q, proxy_protocol: [127.0.0.1], relay: trusted, networks: [10.0.0.0/8]}
egress: {port: %s, allow_private: true}
srs: {domain: srs.example.net, key_file: %s/srs.key}
arc: {domain: relay.example.net, selector: s, key_file: %s/signing.pem}
dkim: {relay: [{domain: relay.example.net, selector: s, key_file: %s/signing.pem}]}
score:
  deadline: 20s
  defer: 6
  reject: 10
  greylist: {from: 4, to: 6, delay: 1h, window: 2h}
  block: ["203.0.113.200 out of the world"]
  allow: ["203.0.113.201 dmarc"]
  rates: none
`, extern.FreeAddr(t), port, dir, dir, dir)+onRedis(extern.StartRedis(t)), nil)
	return w
}

// drawRules draws rules for a domain of their own, so that no recipient was taken by the rules before.
func (w *liveWorld) drawRules(rt *rapid.T) (domain string) {
	w.rounds++
	domain = fmt.Sprintf("d%d.example", w.rounds)
	option := rapid.SampledFrom([]string{
		"", "", " srs=always", " srs=never", " seal=always", " seal=never", " dmarc=report", " dmarc=off",
		" require_auth=yes", " quarantine=refuse",
	})
	target := rapid.SampledFrom([]string{
		"x@dest.example", "x@nomail.example", "x@noaddress.example", "x@missing.example", "drop",
		"reject 550 5.1.1 Moved", "tempfail 451 4.2.1 Back tomorrow", "smtp://" + w.dest.Addr(),
		"try x@nomail.example, y@dest.example", "try x@dest.example, y@nomail.example",
		"try x@missing.example, y@nomail.example",
	})
	lines := []string{"domain " + domain + option.Draw(rt, "options of the domain")}
	lines[0] += rapid.SampledFrom([]string{
		"", " subaddress=+", " subaddress=+ tag=keep", " dots=ignore", " message_size=64KiB",
	}).Draw(rt, "what is new of the domain")
	condition := rapid.SampledFrom([]string{
		"", " enabled=no", " after=2020-01-01T00:00Z", " until=2020-01-01T00:00Z", " after=2100-01-01T00:00Z",
		" if from=@author.example", " if from!=a@plain.example,<>", " if network=203.0.113.0/26",
		" if network!=10.0.0.0/8", " if spf=pass", " if spf!=pass,none", " if from=@*.example spf=fail,softfail",
	})
	for _, local := range []string{"info", "desk", "postmaster", "a+b", "in*", "*o", "/d.*/", ""} {
		used := ""
		for n := range 2 {
			when := condition.Draw(rt, fmt.Sprint("condition ", n, " of ", local))
			if !rapid.Bool().Draw(rt, fmt.Sprint("has ", n, " ", local)) || n > 0 && when == used {
				continue
			}
			used = when
			to := target.Draw(rt, "target of "+local)
			if to[0] != 'd' && to[0] != 'r' && !strings.HasPrefix(to, "temp") {
				to += option.Draw(rt, "option of "+local)
			}
			lines = append(lines, local+"@"+domain+when+" "+to)
		}
	}
	lines = append(lines, "domain alias-"+domain+" alias_of="+domain)
	if rapid.Bool().Draw(rt, "has domains below") {
		lines = append(lines, "@*."+domain+" "+target.Draw(rt, "target of domains below"))
	}
	for _, block := range []string{
		"a@author.example", "@plain.example for=@" + domain, "@*.example", "@soft.example for=info@" + domain,
	} {
		if rapid.IntRange(0, 7).Draw(rt, "block "+block) == 0 && (!strings.Contains(block, "info") || strings.Contains(
			strings.Join(lines, "\n"), "\ninfo@")) {
			lines = append(lines, "block "+block)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// drawMessage draws a message.
func (w *liveWorld) drawMessage(rt *rapid.T) []byte {
	from := rapid.SampledFrom([]string{
		"From: a@author.example\r\n", "From: a@soft.example\r\n", "From: a@plain.example\r\n", "",
		"From: a@author.example, b@plain.example\r\n", "From: \"a@author.example\" <b@plain.example>\r\n",
	}).Draw(rt, "from")
	head := from + rapid.SampledFrom([]string{
		"Date: Mon, 30 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@plain.example>\r\n",
		"Authentication-Results: mx1.example.net; dkim=pass header.d=author.example\r\n",
		"Received: by here (hop=0123456789abcdef)\r\n", "many",
	}).Draw(rt, "fields")
	head = strings.Replace(head, "many", strings.Repeat("Received: by here\r\n", 60), 1) + "Subject: a message\r\n"
	bodies := []string{
		"text\r\n", ".\r\n..\r\n.a\r\n", "bare\nfeed\r\n", "eight bits: \xc3\xa4\r\n",
		strings.Repeat("long line ", 7000) + "\r\n", "no end of line", "",
	}
	body := bodies[rapid.IntRange(0, len(bodies)-1).Draw(rt, "body")]
	text := []byte(head + "\r\n" + body)
	switch rapid.SampledFrom([]string{"unsigned", "signed", "changed"}).Draw(rt, "signature") {
	case "signed":
		return w.sign(text)
	case "changed":
		return append(w.sign(text), "more\r\n"...)
	}
	return text
}

// sign signs a message as author.example. One without a From field stays as it is.
func (w *liveWorld) sign(text []byte) []byte {
	var out bytes.Buffer
	if err := msgauth.Sign(&out, bytes.NewReader(text), &msgauth.SignOptions{
		Domain: "author.example", Selector: "k", Signer: w.author, Identifier: "@author.example",
		HeaderCanonicalization: msgauth.CanonicalizationRelaxed, BodyCanonicalization: msgauth.CanonicalizationRelaxed,
	}); err != nil {
		return text
	}
	return out.Bytes()
}

// drawQuestion draws an envelope and a message.
func (w *liveWorld) drawQuestion(rt *rapid.T, t *testing.T, domain string) Question {
	paths := func(label string, list ...string) *mail.Path {
		p, err := mail.ParsePath(rapid.SampledFrom(list).Draw(rt, label), true)
		if err != nil {
			t.Fatal(err)
		}
		return &p
	}
	helo := rapid.SampledFrom([]string{
		"mx.plain.example", "mx1.example.net", "[203.0.113.7]", "localhost", "no such name",
	}).Draw(rt, "helo")
	q := Question{
		IP: netip.AddrFrom4([4]byte{203, 0, 113, byte(rapid.SampledFrom([]int{
			7, 50, 100, 150, 200, 201,
		}).Draw(rt, "client"))}),
		Helo: &helo,
		From: paths("from", "a@author.example", "a@soft.example", "a@plain.example", "", "a@nomail.example",
			"a@missing.example", fmt.Sprintf("r%d@plain.example", w.rounds)),
		To: paths("to", "info@"+domain, "desk@"+domain, "postmaster@"+domain, "Postmaster", "nobody@"+domain,
			"a+b@"+domain, "a%b@"+domain, "x@dest.example", "x@elsewhere.example",
			"SRS0=abcd=AB=author.example=a@srs.example.net", "info+tag@"+domain, "in.fo@"+domain, "info@alias-"+domain,
			"desk+x@alias-"+domain, "info@sub."+domain, "inbox@"+domain, "dodo@"+domain),
		On: w.cfg.Listen[0].Addr,
	}
	if rapid.IntRange(0, 3).Draw(rt, "trusted") == 0 {
		q.IP, q.On = netip.AddrFrom4([4]byte{10, 0, 0, 7}), w.cfg.Listen[1].Addr
	}
	q.Message = w.drawMessage(rt)
	return q
}

// bring brings the message of a question to the node, as its client, and returns the last reply and what the node
// reports.
func (w *liveWorld) bring(t *testing.T, q *Question) (wireReply, mail.Event) {
	t.Helper()
	addr := w.Addrs()[0]
	if q.On == w.cfg.Listen[1].Addr {
		addr = w.Addrs()[1]
	}
	w.events.mu.Lock()
	w.events.sampler = newSampler() // all clients are of one network, whose share of the log is small
	w.events.mu.Unlock()
	raw, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	d := &dialogue{text: textproto.NewConn(raw)}
	if err := d.text.PrintfLine("PROXY TCP4 %s 192.0.2.1 4711 25", q.IP); err != nil {
		t.Fatal(err)
	}
	if err := d.speak(q); err != nil {
		t.Fatal(err)
	}
	raw.Close()
	for {
		select {
		case e := <-w.seen:
			if e.Kind.IsOutcome() {
				return d.answer, e
			}
		case <-t.Context().Done():
			t.Fatal("no event")
		}
	}
}

// TestExplain_Live: for random rules, envelopes and messages, explain answers what a running node answers that follows
// Redis, and names the same score, rule, results and signatures.
func TestExplain_Live(t *testing.T) {
	w := startLive(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := w.drawRules(rt)
		domain := strings.Fields(text)[1]
		w.rules(t, text)
		if err := w.Reload(t.Context()); err != nil {
			rt.Skip("rules that are no rules:", err)
		}
		w.rules(t, "domain other.example\n") // files that no reload has taken in say nothing
		q := w.drawQuestion(rt, t, domain)
		a, err := Explain(t.Context(), w.cfg, q)
		if err != nil {
			rt.Fatal(err)
		}
		before := len(w.dest.Messages())
		reply, event := w.bring(t, &q)
		w.compare(rt, a, reply, event)
		if event.Kind == mail.Relayed && len(a.Ways) > 0 && len(w.dest.Messages()) > before {
			got := w.dest.Messages()[before]
			if last := a.Ways[len(a.Ways)-1]; "<"+got.Reverse+">" != last.Reverse &&
				"<"+got.Reverse+">" != a.Ways[0].Reverse {
				rt.Errorf("the reverse-path is %s, explain said %+v", got.Reverse, a.Ways)
			}
		}
		if rt.Failed() {
			rt.Logf("rules:\n%s", text)
		}
	})
}

// compare compares an answer with what came of the message.
func (w *liveWorld) compare(rt *rapid.T, a *Answer, reply wireReply, e mail.Event) {
	if e.Reason == mail.ReasonWithdrawn { // which the running node alone remembers: rules before took the recipient
		return
	}
	verdict := Accept
	switch {
	case reply.code >= 500:
		verdict = Reject
	case reply.code >= 400:
		verdict = Defer
	case e.Kind == mail.Dropped:
		verdict = Drop
	}
	if a.Verdict != verdict || verdict != Accept && verdict != Drop && a.Reply != reply.String() {
		rt.Fatalf("explain says %s %s (%s), the node says %s", a.Verdict, a.Reply, a.Cause, reply)
	}
	if v := fmt.Sprintf("version %d", a.Rules.Version); v != e.Rules && strings.HasPrefix(e.Rules, "version") {
		rt.Errorf("explain names %s, the node %s", v, e.Rules)
	}
	rule := ""
	if e.Rule != (mail.Rule{}) {
		rule = e.Rule.String()
	}
	if a.Rule != rule {
		rt.Errorf("explain names the rule %q, the node %q", a.Rule, rule)
	}
	judged := e.Ends || e.Verb == "RCPT" || e.Verb == "CONNECT" // else nothing was asked about the client
	if judged && a.Score != nil && (a.Score.Total != e.Score || spoken(a.Score) != sorted(e.Signals)) {
		rt.Errorf("explain scores %v %s, the node %v %s", a.Score.Total, spoken(a.Score), e.Score, e.Signals)
	}
	j := a.Message
	if (j != nil) != (e.Ends && e.Kind != mail.Dropped || j != nil && e.Kind == mail.Dropped) {
		rt.Errorf("explain judged %+v, the node %+v", j, e)
	}
	if j == nil {
		return
	}
	unsigned := e.Unsigned
	if unsigned == "" && e.Signed == "" {
		unsigned = j.Unsigned // a reason that events do not have
	}
	auth := e.Auth
	if auth == nil {
		auth = new(mail.Auth)
	}
	if j.Auth != auth.String() || j.DKIM != signers(auth) || j.Policy != auth.Policy || j.Mode != e.Mode.String() ||
		j.Signed != e.Signed || j.Unsigned != unsigned || j.Octets != e.Octets {
		rt.Errorf("explain judges %+v\nthe node: auth %q signers %q policy %q mode %q signed %q unsigned %q octets %d",
			j, auth, signers(auth), auth.Policy, e.Mode, e.Signed, e.Unsigned, e.Octets)
	}
}

// spoken returns the signals that spoke as an event has them.
func spoken(s *Scored) string {
	var words []string
	for _, sig := range s.Signals {
		if sig.State == "spoke" {
			words = append(words, fmt.Sprintf("%s %v", sig.Name, sig.Weight))
		}
	}
	return sorted(strings.Join(words, ", "))
}

// sorted returns the signals of an event in one order.
func sorted(signals string) string {
	words := strings.Split(signals, ", ")
	slices.Sort(words)
	return strings.Join(words, ", ")
}
