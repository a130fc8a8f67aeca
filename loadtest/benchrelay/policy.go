package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/fleet"
)

const (
	// senderDomain is whose mail it is, which signs it.
	senderDomain = "sender.example"
	// bounceDomain is that of the reverse-path. It is another one, so that DMARC passes by the signature alone.
	bounceDomain = "bounces.example"
)

// writeLetters writes a signed message of each size, and returns the records that make it pass. A message does not name
// its recipient: the number before that changes, and the signature has to hold.
func (b *bench) writeLetters() (map[string]string, error) {
	key, err := dkim.GenerateKey(dkim.RSASHA256, 2048)
	if err != nil {
		return nil, err
	}
	record, err := dkim.KeyRecord(key.Public())
	if err != nil {
		return nil, err
	}
	signer, err := dkim.NewSigner(dkim.SignConfig{Keys: []dkim.SigningKey{{
		Domain: senderDomain, Selector: "s", Key: key,
	}}})
	if err != nil {
		return nil, err
	}
	b.letters = make(map[int]string)
	for _, octets := range []int{4 << 10, 64 << 10, 1 << 20} {
		text, err := letter(signer, octets)
		if err != nil {
			return nil, err
		}
		name := filepath.Join(b.dir, fmt.Sprintf("letter-%d", octets))
		// smtp-source puts the CR before each LF.
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(text, "\r\n", "\n")), 0o644); err != nil {
			return nil, err
		}
		b.letters[octets] = name
	}
	return map[string]string{
		dkim.KeyName("s", senderDomain): record,
		senderDomain:                    "v=spf1 -all",
		bounceDomain:                    "v=spf1 ip4:" + clientAddress + " -all",
		clientName:                      "v=spf1 a -all",
		"_dmarc." + senderDomain:        "v=DMARC1; p=reject",
	}, nil
}

// letter is a message of about so many octets with a signature.
func letter(signer *dkim.Signer, octets int) (string, error) {
	header := "From: An Author <author@" + senderDomain + ">\r\nTo: a reader <reader@bench.example>\r\n" +
		"Subject: a message of the usual kind\r\nDate: Mon, 30 Nov 2026 12:00:00 +0000\r\n" +
		"Message-ID: <1@" + senderDomain + ">\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n"
	line := "The quick brown fox jumps over the lazy dog, and so on to the end of a line.\r\n"
	body := strings.Repeat(line, octets/len(line))
	hash := dkim.NewBodyHash(dkim.Relaxed)
	if _, err := hash.Write([]byte(body)); err != nil {
		return "", err
	}
	field, err := signer.Sign(nil, []byte(header), dkim.Relaxed, hash.Sum())
	return string(field) + header + "\r\n" + body, err
}

// results are what a message has to say of itself behind a relay that judges.
var results = map[string]*regexp.Regexp{
	"SPF":   regexp.MustCompile(`(?i)\bspf=pass\b`),
	"DKIM":  regexp.MustCompile(`(?i)\bdkim=pass\b`),
	"DMARC": regexp.MustCompile(`(?i)\bdmarc=pass\b`),
}

// mostHeld is the most octets of a message that Millrace judges before it sends the first of them on. A longer one is
// judged before its dot, and says nothing of what is known only then.
const mostHeld = 64 << 10

// judged says what a message lacks that was to be judged and have its reverse-path rewritten, or "". What a longer one
// cannot say is asked of the relay.
func judged(reverse, head string, asked bool) string {
	for name, result := range results {
		if !result.MatchString(head) && !(asked && name != "SPF") {
			return name + " does not pass, or was not looked at"
		}
	}
	if !strings.HasPrefix(reverse, "SRS0") {
		return "the reverse-path is " + reverse
	}
	return ""
}

// passed is how many messages a subject with metrics has found to pass DKIM and DMARC so far.
type passed struct{ dkim, dmarc float64 }

func (x *subject) passed(ctx context.Context) (p passed, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+x.metrics+"/metrics", nil)
	if err != nil {
		return p, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return p, err
	}
	const name = "millrace_authentication_total"
	if p.dkim, err = fleet.Metric(string(text), name, `method="dkim"`, `result="pass"`); err == nil {
		p.dmarc, err = fleet.Metric(string(text), name, `method="dmarc"`, `result="pass"`)
	}
	return p, err
}

// missed says what so many messages since before lack, or "". A subject counts behind its answer.
func (x *subject) missed(ctx context.Context, before passed, messages int) string {
	x.meter.settle()
	now, err := x.passed(ctx)
	if now.dkim -= before.dkim; err != nil || now.dkim != float64(messages) {
		return fmt.Sprintf("DKIM passes for %v of %d, %v", now.dkim, messages, err)
	}
	if now.dmarc -= before.dmarc; now.dmarc != float64(messages) {
		return fmt.Sprintf("DMARC passes for %v of %d", now.dmarc, messages)
	}
	return ""
}
