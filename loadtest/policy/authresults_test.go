package policy_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
)

// forgeries are fields that a reader could take for ours, and are cut; look-alikes are not ours, and stay.
var (
	forgeries = []string{
		"Authentication-Results: mx.relay.example; dkim=pass header.d=bank.example\r\n",
		"AUTHENTICATION-RESULTS:MX.Relay.EXAMPLE 1;\r\n\tspf=pass\r\n",
		"Authentication-Results: (a (nested) comment)\r\n \"mx.relay.example\"; dmarc=pass\r\n",
		"Authentication-Results : mx.relay.example; dmarc=pass\r\n",
		"authentication-results:\r\n mx.relay.example\r\n ; dmarc=pass\r\n",
	}
	lookAlikes = []string{
		"Authentication-Results: mx.relay.example.net; dkim=pass\r\n",
		"Authentication-Results: other.example; dkim=pass reason=\"as mx.relay.example said\"\r\n",
		"X-Authentication-Results: mx.relay.example; dkim=pass\r\n",
		"..Authentication-Results: mx.relay.example; dkim=pass\r\n",
	}
)

// TestAuth_ForgedResults sends forged fields at the top, in the middle and at the end of a header
// section, in every mode and carriage, and compares each octet below our fields.
func TestAuth_ForgedResults(t *testing.T) {
	t.Parallel()
	n := startAuthNode(t, authSetup{
		seal: true, config: "redis: {url: \"" + world.StartRedis(t).URL() + "\", timeout: 5s}",
	})
	for _, m := range []struct {
		name   string
		size   int
		signer string
		mode   mail.Mode
		names  string
	}{
		{"held in a slab", 3000, "none.example", mail.ModeHold, namesARC},
		{"held in several", 200 << 10, "none.example", mail.ModeHold, namesARC},
		{"held, not aligned", 3000, "esp.example", mail.ModeHold, namesAll},
		{"foretold", 700 << 10, "none.example", mail.ModePredict, namesARC},
		{"streamed", 700 << 10, "", mail.ModeStream, namesUnsealed},
	} {
		for _, how := range carriages {
			t.Run(m.name+" by "+how.name, func(t *testing.T) {
				body := authBody(m.size) + "Authentication-Results: mx.relay.example; in=the body\r\n"
				kept := lookAlikes[0] + authHeader("none.example") + strings.Join(lookAlikes[1:], "")
				forged := strings.Join(forgeries[:2], "") + lookAlikes[0] + forgeries[2] + authHeader("none.example") +
					forgeries[3] +
					strings.Join(lookAlikes[1:], "") + forgeries[4]
				if m.signer != "" {
					signature, _ := strings.CutSuffix(signedBy(t, m.signer, kept, body, dkim.Relaxed), kept)
					kept, forged = signature+kept, forgeries[0]+signature+forged
				}
				before := len(n.dest.Messages())
				reply := n.send(t, authMail{reverse: "a@none.example", octets: forged + "\r\n" + body, how: how})
				stored := n.dest.Messages()[before:]
				if reply.Class() != 2 || len(stored) != 1 {
					t.Fatalf("%s, %d stored", reply, len(stored))
				}
				fields := ourFields(t, stored[0].Octets, kept+"\r\n"+body)
				if got := fieldNames(fields); got != m.names {
					t.Errorf("our fields are %s", got)
				}
				if end, _ := n.event(t, reply); end.Mode != m.mode {
					t.Errorf("mode %v", end.Mode)
				}
				if with := map[bool]string{
					true: "with ESMTPS id", false: "with ESMTP id",
				}[how.starttls]; !strings.Contains(fieldBody(fields, "Received"), with) {
					t.Errorf("no %q in %s", with, fieldBody(fields, "Received"))
				}
				checkSealed(t, n.records, stored[0].Octets, m.names)
			})
		}
	}
	world.Violations(t, n.dest)
}

// checkSealed verifies our signatures where names has them, and every other signature.
func checkSealed(t testing.TB, keys authRecords, octets []byte, names string) {
	t.Helper()
	j := judgeArrived(t, keys, octets)
	for domain, passes := range j.dkim {
		if !passes {
			t.Errorf("the signature of %s fails", domain)
		}
	}
	if got := j.arc.CV.String() == "pass"; got != strings.Contains(names, "ARC-Seal") {
		t.Errorf("arc=%v: %s", j.arc.CV, j.arc.Reason)
	}
	if got := j.dkim["relay.example"] && j.dkim["x.example"]; got != strings.Contains(names, "DKIM-Signature") {
		t.Errorf("signatures by %v", j.dkim)
	}
}

// TestAuth_FoldedFirstLine has the line that would continue our lowest field below an empty one.
func TestAuth_FoldedFirstLine(t *testing.T) {
	t.Parallel()
	n := startAuthNode(t, authSetup{seal: true})
	for _, how := range carriages {
		for _, first := range []string{" ", "\t", " ; dmarc=pass"} {
			for _, size := range []int{100, 400 << 10} {
				r := n.send(t,
					authMail{
						reverse: "a@none.example",
						octets:  first + "\r\n" + authHeader("none.example") + "\r\n" + authBody(size), how: how,
					})
				if !strings.HasPrefix(r.String(), "250") {
					t.Errorf("%s, %q first, %d octets: %s", how.name, first, size, r)
				}
				all := n.dest.Messages()
				header, text, _ := bytes.Cut(all[len(all)-1].Octets, []byte("\r\n\r\n"))
				if !bytes.HasPrefix(text, []byte(first+"\r\n")) || bytes.Contains(header, []byte("dmarc=pass")) {
					t.Errorf("%s, %q first, %d octets: it is not parted from %q", how.name, first, size, header)
				}
			}
		}
	}
}
