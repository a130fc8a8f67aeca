package node

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
)

// page returns what a public page answers over TLS, asked under a name.
func (b *bench) page(t *testing.T, host, path string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	r, err := http.NewRequest("GET", "https://"+b.PublicAddr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// publicNode starts a node with the public pages.
func publicNode(t *testing.T, more string) *bench {
	t.Helper()
	pair, err := selfSigned("mx1.example.net", time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writePair(t, dir, pair)
	b := startNodeIn(t, dnstest.Start(t, `example.com. 60 IN MX 10 mx.example.com.
mx.example.com. 60 IN A 127.0.0.1
_dmarc.strict.example. 60 IN TXT "v=DMARC1; p=reject"
`), fmt.Sprintf("tls: {cert: %q, key: %q}\negress: {addresses: [192.0.2.1]}\n"+
		"public: {addr: \"127.0.0.1:0\", url: \"https://mx1.example.net\", mta_sts: {}}\n%s",
		filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), more), nil)
	b.rules(t, fmt.Sprintf("domain example.com\ndomain other.example\n@example.com smtp://%s\nshut@example.com reject "+
		"550\nmoved@example.com reject 550 My own words\ngone@example.com reject 550 5.1.6 My own words\n",
		b.dest.Addr()))
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	linkAtEnd = regexp.MustCompile(`; see https://mx1\.example\.net(/why\?id=[0-9a-f]{32})$`)
	labelled  = regexp.MustCompile(` id=([0-9a-f]{32})$`)
)

// TestPublic_Refusals: each refusal by a policy of ours ends in the link of its page, at whatever stage and by whatever
// part it is made; a refusal that is none, or is the destination's, ends in its id as before. The page knows all of
// them.
func TestPublic_Refusals(t *testing.T) {
	b := publicNode(t, "score:\n  block:\n    - helo:bad.example\n")
	b.dest.Set(smtptest.Behaviour{Recipients: map[string]smtptest.Answer{
		"blocked": {Reply: "550 5.7.1 Blocked by us"},
	}})
	for _, tt := range []struct {
		name, helo, from, to, message string
		code                          int
		says                          string
		linked                        bool
	}{
		{"the score", "bad.example", "a@example.com", "info@example.com", "", 554, "refused: …", true},
		{"relaying", "c.example", "a@example.com", "info@foreign.example", "", 550, "Relaying denied", true},
		{"a rule without words", "c.example", "a@example.com", "shut@example.com", "", 550, "Address refused", true},
		{"a rule with words", "c.example", "a@example.com", "moved@example.com", "", 550, "The owner of the address",
			true},
		{"a rule with another code", "c.example", "a@example.com", "gone@example.com", "", 550,
			"The owner of the address", false},
		{"no rule", "c.example", "a@example.com", "none@other.example", "", 550, "No such user here", false},
		{"DMARC", "c.example", "a@example.com", "info@example.com",
			"From: boss@strict.example\r\nSubject: x\r\n\r\ny\r\n.", 550, "The DMARC policy of … rejects", true},
		{"the destination", "c.example", "a@example.com", "blocked@example.com", "", 550, "The server of the recipient",
			false},
		{"the engine", "c.example", "a@@sender", "", "", 501, "Malformed reverse-path", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := b.dial(t)
			c.say("EHLO "+tt.helo, 250)
			code := func(last bool) int {
				if last {
					return tt.code
				}
				return 250
			}
			reply := c.say("MAIL FROM:<"+tt.from+">", code(tt.to == ""))
			if tt.to != "" {
				reply = c.say("RCPT TO:<"+tt.to+">", code(tt.message == ""))
			}
			if tt.message != "" {
				c.say("DATA", 354)
				reply = c.say(tt.message, tt.code)
			}
			path := ""
			if m := linkAtEnd.FindStringSubmatch(reply); m != nil {
				path = m[1]
			}
			if (path != "") != tt.linked {
				t.Fatalf("got %q", reply)
			}
			if m := labelled.FindStringSubmatch(reply); !tt.linked && m != nil {
				path = "/why?id=" + m[1]
			}
			status, body := b.page(t, "mx1.example.net", path)
			if status != http.StatusOK || !strings.Contains(body, tt.says) {
				t.Errorf("%s: got %d, want %q in\n%s", path, status, tt.says, body)
			}
			for _, private := range []string{"example.com", "127.0.0.1", "Blocked by us", "My own words"} {
				if strings.Contains(body, private) {
					t.Errorf("%q stands in\n%s", private, body)
				}
			}
		})
	}
}

// TestPublic_Pages: the policy is that of a hosted domain by the Host field, and the list of addresses is that of the
// command.
func TestPublic_Pages(t *testing.T) {
	b := publicNode(t, "")
	for _, tt := range []struct{ host, path, want string }{
		{"mta-sts.example.com", "/.well-known/mta-sts.txt",
			"200 version: STSv1\r\nmode: testing\r\nmx: mx1.example.net\r\nmax_age: 604800\r\n"},
		{"mta-sts.foreign.example", "/.well-known/mta-sts.txt", "404 "},
		{"mx1.example.net", "/egress-list?format=spf", "200 v=spf1 ip4:192.0.2.1 -all\n"},
		{"mx1.example.net", "/verify", "404 "},                        // a link names a token
		{"mx1.example.net", "/verify?token=x", "200 <!DOCTYPE html>"}, // which the button alone tries
		{"mx1.example.net", "/metrics", "404 "},
		{"mx1.example.net", "/api/v1/cluster", "404 "},
	} {
		status, body := b.page(t, tt.host, tt.path)
		if got := fmt.Sprint(status, " ", body); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s%s: got %q, want %q", tt.host, tt.path, got, tt.want)
		}
	}
	_, body := b.page(t, "mx1.example.net", "/egress-list?format=json")
	var list struct{ Prefixes []string }
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Prefixes) != 1 {
		t.Errorf("%v: %s", err, body)
	}
}
