package peers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// The domains that sign here: the relay as itself and as a sealer, the domain that it hosts, and a sender of the made
// messages. No message of the Corpus or the suites has them.
const (
	relayDomain  = "relay.example"
	sealDomain   = "seal.example"
	hostedDomain = "x.example"
	senderDomain = "sender.example"
)

// A txtZone holds TXT records by name: the key records of everybody.
type txtZone map[string]string

// add takes in lines of a name, white space and a record, and leaves what it has.
func (z txtZone) add(text string) {
	for line := range strings.Lines(text) {
		name, record, ok := strings.Cut(strings.TrimSpace(line), " ")
		record = strings.Trim(strings.TrimSpace(record), `"`)
		name = strings.ToLower(name)
		if _, known := z[name]; ok && !known && !strings.HasPrefix(name, "#") && record != "NXDOMAIN" &&
			!strings.HasPrefix(record, "~~") {
			z[name] = record
		}
	}
}

// key makes a private key, puts its record into the zone and returns it.
func (z txtZone) key(t *testing.T, domain string, a dkim.Algorithm) dkim.SigningKey {
	t.Helper()
	key, err := dkim.GenerateKey(a, 2048)
	if err != nil {
		t.Fatal(err)
	}
	record, err := dkim.KeyRecord(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	selector := strings.TrimSuffix(a.String(), "-sha256")
	z[dkim.KeyName(selector, domain)] = record
	return dkim.SigningKey{Domain: domain, Selector: selector, Key: key}
}

// saveKey writes a private key into dir and returns the lines of the configuration that name it.
func saveKey(t *testing.T, dir string, k dkim.SigningKey) string {
	t.Helper()
	text, err := dkim.MarshalKey(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, k.Domain+"."+k.Selector+".pem")
	world.Save(t, file, string(text))
	return fmt.Sprintf("{domain: %s, selector: %s, key_file: %q}", k.Domain, k.Selector, file)
}

// A crossing is a message on its way through the relay. What is relayed is nil for one that was refused.
type crossing struct {
	name    string
	sent    []byte
	cut     string // what of it the relay cuts out
	relayed []byte
	reply   string
}

// arrives is what of it is to stand below our fields. By DATA it ends in CRLF, unless it is empty.
func (c *crossing) arrives() []byte {
	b := bytes.Replace(c.sent, []byte(c.cut), nil, 1)
	if len(b) > 0 && !bytes.HasSuffix(b, []byte("\r\n")) {
		b = append(bytes.Clone(b), "\r\n"...)
	}
	return b
}

// suiteCrossings reads the messages of the DKIM and ARC suites whose signatures can be verified, and adds their
// keys to the zone.
func suiteCrossings(t *testing.T, z txtZone) []crossing {
	t.Helper()
	root := filepath.Dir(ingresstest.Shared(t, "suites", "arc")) // with which all others are there
	slurp := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	z.add("brisbane._domainkey.football.example.com v=DKIM1; k=ed25519; " +
		"p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n" +
		"test._domainkey.football.example.com " + slurp("dkim/dkimpy/test.txt") + "\n" +
		"sed._domainkey.test.ex " + slurp("dkim/dkimpy/eximtest.dns") + "\n" +
		"dummy._domainkey.example.org " + slurp("dkim/dkimpy/test.txt") + "\n" +
		slurp("dkim/mail-dkim/FAKE_DNS.dat"))
	var all []crossing
	for _, pattern := range []string{
		"dkim/mail-dkim/corpus/*.txt", "dkim/mail-auth/*.txt", "dkim/mailauth/*.eml", "dkim/dkimpy/*ms*",
		"arc/valimail-eml/cv_*.eml", "arc/mail-auth/*.txt", "arc/mailauth/*.eml",
	} {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b = bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
			if strings.Contains(pattern, "mail-auth/") {
				// Their DNS stands above the message.
				head, rest, _ := bytes.Cut(b, []byte("\r\n\r\n"))
				z.add(string(head))
				b = rest
			}
			name, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, crossing{name: filepath.ToSlash(name), sent: b})
		}
	}
	return all
}

// madeCrossings are longer than the hold window: what is signed is predicted, what is not is streamed. Lines of
// crossings and blanks differ between the canonicalizations.
func madeCrossings(t *testing.T, key dkim.SigningKey) []crossing {
	t.Helper()
	body := []byte(strings.Repeat("Lines  with blanks \t and  without, \r\n.dots\r\n\r\n"+strings.Repeat("x", 900)+
		"\r\n", 700) + "\r\n\r\n")
	header := func(from, more string) []byte {
		return []byte("From: A <a@" + from + ">\r\nTo: f@" + hostedDomain +
			"\r\nSubject: long,\r\n\tfolded\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n" +
			"Message-ID: <1@" + from + ">\r\n" + more + "\r\n")
	}
	signed := func(header []byte, c dkim.Canonicalization) []byte {
		s, err := dkim.NewSigner(dkim.SignConfig{Keys: []dkim.SigningKey{key}})
		if err != nil {
			t.Fatal(err)
		}
		h := dkim.NewBodyHash(c)
		if _, err := h.Write(body); err != nil {
			t.Fatal(err)
		}
		field, err := s.Sign(nil, header, c, h.Sum())
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(field, header, body)
	}
	const forged = "Authentication-Results: " + relayDomain + "; dkim=pass\r\n\theader.d=author.example\r\n"
	short := slices.Concat([]byte("Received: by author.example\r\n"+forged), header("author.example", ""), body[:2000])
	return []crossing{
		{name: "made/held, with results that pretend to be ours", sent: short, cut: forged},
		{name: "made/predicted, relaxed body, aligned", sent: signed(header(senderDomain, ""), dkim.Relaxed)},
		{name: "made/predicted, simple body, aligned", sent: signed(header(senderDomain, ""), dkim.Simple)},
		{name: "made/predicted, relaxed body, not aligned", sent: signed(header("author.example", ""), dkim.Relaxed)},
		{name: "made/predicted, simple body, not aligned", sent: signed(header("author.example", ""), dkim.Simple)},
		{
			name: "made/streamed, signed, by a list",
			sent: signed(header(senderDomain, "List-Id: <l.example>\r\n"), dkim.Relaxed),
		},
		{name: "made/streamed, not signed", sent: slices.Concat(header("author.example", ""), body)},
	}
}

// relayAll sends crossings through a relay with these keys and notes what became of them.
func relayAll(t *testing.T, crossings []crossing, listen, config string, zone *dnstest.Server) {
	t.Helper()
	d := smtptest.Start(t, smtptest.Behaviour{})
	n := world.Start(t,
		world.World{
			Routes: "@" + hostedDomain + " smtp://" + d.Addr() + " seal=always\n", Listen: listen, Config: config,
			DNS: zone,
		})
	var mu sync.Mutex
	var sessions []*source.Session // idle ones
	take := func() (*source.Session, error) {
		mu.Lock()
		defer mu.Unlock()
		if i := len(sessions) - 1; i >= 0 {
			s := sessions[i]
			sessions = sessions[:i]
			return s, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
		defer cancel()
		return source.Dial(ctx, source.Config{Addr: n.Addr, Pipeline: true})
	}
	world.Parallel(len(crossings), func(i int) {
		l := &crossings[i]
		s, err := take()
		if err != nil {
			t.Errorf("%s: %v", l.name, err)
			return
		}
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{fmt.Sprintf("f%d@%s", i, hostedDomain)}, Octets: l.sent,
		})
		if err == nil && r.End.Class() != 2 {
			err = s.Reset()
		}
		if err != nil {
			t.Errorf("%s: %v", l.name, err)
			s.Abort(false)
			return
		}
		l.reply = r.End.String()
		mu.Lock()
		defer mu.Unlock()
		sessions = append(sessions, s)
	})
	for _, s := range sessions {
		s.Abort(false)
	}
	accepted := 0
	for i := range crossings {
		if strings.HasPrefix(crossings[i].reply, "2") {
			accepted++
		}
	}
	for _, m := range world.Messages(t, d, accepted) {
		var i int
		if _, err := fmt.Sscanf(m.Forwards[0], "f%d@", &i); err != nil || i >= len(crossings) {
			t.Fatalf("forward-path %q: %v", m.Forwards, err)
		}
		crossings[i].relayed = m.Octets
	}
}

// saveCrossings writes what was sent and what was relayed, and the zone, where the programs read them.
func saveCrossings(t *testing.T, crossings []crossing, z txtZone) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text, err := json.Marshal(z)
	if err != nil {
		t.Fatal(err)
	}
	world.Save(t, filepath.Join(dir, "dns.json"), string(text))
	for i := range crossings {
		if c := &crossings[i]; c.relayed != nil {
			world.Save(t, filepath.Join(dir, fmt.Sprintf("%05d.sent.eml", i)), string(c.arrives()))
			world.Save(t, filepath.Join(dir, fmt.Sprintf("%05d.relayed.eml", i)), string(c.relayed))
		}
	}
	return dir
}
