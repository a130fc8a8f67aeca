package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
)

// authSource is a client at an address.
func authSource(addr, client string) source.Config {
	return source.Config{Addr: addr, Local: netip.MustParseAddr(client)}
}

// authMessage is the envelope of a message.
func authMessage(reverse string, forward ...string) source.Message {
	return source.Message{Reverse: reverse, Forward: forward}
}

// A cluster is three nodes that share destination, names and Redis.
type authCluster struct {
	redis *world.Redis
	nodes [3]*authNode
	dest  *smtptest.Server
}

func startAuthCluster(t testing.TB) *authCluster {
	t.Helper()
	c := &authCluster{redis: world.StartRedis(t), dest: smtptest.Start(t, smtptest.Behaviour{})}
	d := dnstest.Start(t, newAuthRecords(t).zone())
	// A note that Redis did not take in time is known to one node alone.
	redis := "redis: {url: \"" + c.redis.URL() + "\", timeout: 2s}"
	for i := range c.nodes {
		c.nodes[i] = startAuthNode(t, authSetup{seal: true, dest: c.dest, dns: d, config: redis})
	}
	return c
}

// foretellable is a message beyond the hold window that none.example signed, and the same with a footer that was added
// since.
func foretellable(t testing.TB) (good, footed authMail) {
	t.Helper()
	body := authBody(600 << 10)
	text := signedBy(t, "none.example", authHeader("none.example"), body, dkim.Relaxed) + "\r\n" + body
	return authMail{reverse: "a@none.example", octets: text},
		authMail{reverse: "a@none.example", octets: text + "-- \r\nThe footer of a list\r\n"}
}

// delivered wants a message to be accepted in a mode and to be what arrives next.
func (c *authCluster) delivered(t testing.TB, n *authNode, p authMail, mode mail.Mode, names string) {
	t.Helper()
	before := len(c.dest.Messages())
	reply := n.send(t, p)
	if reply.Class() != 2 {
		t.Fatalf("got %s", reply)
	}
	if end, _ := n.event(t, reply); end.Mode != mode {
		t.Errorf("mode %v, want %v", end.Mode, mode)
	}
	stored := c.dest.Messages()[before:]
	if len(stored) != 1 {
		t.Fatalf("%d stored", len(stored))
	}
	if got := fieldNames(ourFields(t, stored[0].Octets, p.octets)); got != names {
		t.Errorf("our fields are %s", got)
	}
	if names != namesUnsealed {
		checkSealed(t, n.records, stored[0].Octets, names)
	}
}

// putOff wants a message to be answered with 451 4.7.0 after it was foretold, and nothing to be stored.
func (c *authCluster) putOff(t testing.TB, n *authNode, p authMail) {
	t.Helper()
	before := len(c.dest.Messages())
	reply := n.send(t, p)
	if !strings.HasPrefix(reply.String(), triedLater) {
		t.Fatalf("got %s", reply)
	}
	end, anomalies := n.event(t, reply)
	if end.Mode != mail.ModePredict || end.Kind != mail.Deferred ||
		!strings.Contains(strings.Join(anomalies, ","), "body hash foretold wrongly") {
		t.Errorf("%v in mode %v, anomalies %q", end.Kind, end.Mode, anomalies)
	}
	if got := len(c.dest.Messages()); got != before {
		t.Fatalf("%d stored", got-before)
	}
}

// TestPredict_LargeMessage: a large message is foretold and sealed on the wire.
func TestPredict_LargeMessage(t *testing.T) {
	t.Parallel()
	c := startAuthCluster(t)
	good, _ := foretellable(t)
	for _, how := range carriages {
		p := good
		p.how = how
		c.delivered(t, c.nodes[0], p, mail.ModePredict, namesARC)
	}
	// No aligned signature: the relay's and the hosted domain's are added, over the body hash that was foretold.
	body := authBody(600 << 10)
	other := authMail{
		reverse: "a@esp.example",
		octets:  signedBy(t, "esp.example", authHeader("none.example"), body, dkim.Simple) + "\r\n" + body,
	}
	c.delivered(t, c.nodes[1], other, mail.ModePredict, namesAll)
	// Where the rule says so nothing is signed, and where the next hop is fixed it has to.
	never := good
	never.to = "never@x.example"
	c.delivered(t, c.nodes[2], never, mail.ModeStream, namesUnsealed)
	never.to = "b@fixed.example"
	c.delivered(t, c.nodes[2], never, mail.ModeStream, namesUnsealed)
	world.Violations(t, c.dest)
}

// TestPredict_Footer has the first attempt at one node and the second at each of
// three that share a Redis, which lives, is killed between the two, hangs between the two, or was dead before.
func TestPredict_Footer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		hurt  func(r *world.Redis)
		first bool // hurt before the first attempt, which is then not foretold
	}{
		{name: "Redis lives", hurt: func(*world.Redis) {}},
		{name: "Redis is killed between the attempts", hurt: (*world.Redis).Kill},
		{name: "Redis hangs from between the attempts", hurt: (*world.Redis).Pause},
		{name: "Redis was dead before", hurt: (*world.Redis).Kill, first: true},
		{name: "Redis hung before", hurt: (*world.Redis).Pause, first: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for entry := range 3 {
				t.Run(fmt.Sprintf("the retry enters node %d", entry), func(t *testing.T) {
					t.Parallel()
					c := startAuthCluster(t)
					_, footed := foretellable(t)
					if tt.first {
						tt.hurt(c.redis)
						c.delivered(t, c.nodes[0], footed, mail.ModeStream, namesUnsealed)
						return
					}
					c.putOff(t, c.nodes[0], footed)
					tt.hurt(c.redis)
					c.delivered(t, c.nodes[entry], footed, mail.ModeStream, namesUnsealed)
				})
			}
		})
	}
}

// TestPredict_WrongOnceOthersNot has a second message by the same signer foretold while the first
// one's retry is not.
func TestPredict_WrongOnceOthersNot(t *testing.T) {
	t.Parallel()
	c := startAuthCluster(t)
	good, footed := foretellable(t)
	c.putOff(t, c.nodes[0], footed)
	another := good
	another.octets = strings.Replace(signedBy(t, "none.example",
		strings.Replace(authHeader("none.example"), authMessageID, "<2@m.example>",
			1), authBody(600<<10), dkim.Relaxed)+"\r\n"+authBody(600<<10), "\r\n\r\n\r\n", "\r\n\r\n", 1)
	c.delivered(t, c.nodes[1], another, mail.ModePredict, namesARC)
	c.delivered(t, c.nodes[2], footed, mail.ModeStream, namesUnsealed)
}

// TestPredict_SecondSignature has two signatures: one that foretells the body that comes,
// and one above or below it whose body hash is another, in the same canonicalization and in the other one.
func TestPredict_SecondSignature(t *testing.T) {
	t.Parallel()
	c := startAuthCluster(t)
	n := c.nodes[0]
	for _, size := range []int{500, 600 << 10} {
		for _, form := range []dkim.Canonicalization{dkim.Relaxed, dkim.Simple} {
			for _, wrongOnTop := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d octets, the wrong one %s and on top %v", size, form, wrongOnTop),
					func(t *testing.T) {
						body := authBody(size)
						header := authHeader("none.example")
						right, _ := strings.CutSuffix(signedBy(t, "none.example", header, body, dkim.Relaxed), header)
						wrong, _ := strings.CutSuffix(signedBy(t, "esp.example", header, body+"more\r\n", form), header)
						top := right + wrong
						if wrongOnTop {
							top = wrong + right
						}
						before := len(c.dest.Messages())
						octets := top + header + "\r\n" + body
						reply := n.send(t, authMail{reverse: "a@none.example", octets: octets})
						// Which of two signatures that contradict each other tells the truth may be known only at the
						// end. Then the message may be put off once, and has to come through when it comes again.
						if strings.HasPrefix(reply.String(), triedLater) {
							if len(c.dest.Messages()) != before {
								t.Fatal("stored, and put off")
							}
							reply = n.send(t, authMail{reverse: "a@none.example", octets: octets})
						}
						stored := c.dest.Messages()[before:]
						if reply.Class() != 2 || len(stored) != 1 {
							t.Fatalf("%s, %d stored", reply, len(stored))
						}
						fields := ourFields(t, stored[0].Octets, octets)
						for _, name := range []string{"Authentication-Results", "ARC-Authentication-Results"} {
							for part := range strings.SplitSeq(fieldBody(fields, name), ";") {
								if strings.Contains(part, "header.d=esp.example") &&
									strings.Contains(part, "dkim=pass") {
									t.Errorf("said of the wrong one:%s", part)
								}
							}
						}
						end, _ := n.event(t, reply)
						t.Logf("mode %v: %s", end.Mode, fieldBody(fields, "Authentication-Results"))
					})
			}
		}
	}
}

// TestPredict_RedisEmptied has what Redis knew be lost between two attempts while Redis itself
// is there again, so that nothing tells the other nodes of the loss: the mark stands on the first node only. The
// message comes through as soon as Redis has heard of it anew.
func TestPredict_RedisEmptied(t *testing.T) {
	t.Parallel()
	c := startAuthCluster(t)
	_, footed := foretellable(t)
	c.putOff(t, c.nodes[0], footed)
	c.redis.Kill()
	c.redis.Start()
	if r := c.nodes[1].send(t, footed); r.Class() != 2 {
		if !strings.HasPrefix(r.String(), triedLater) {
			t.Fatalf("got %s", r)
		}
		c.delivered(t, c.nodes[2], footed, mail.ModeStream, namesUnsealed)
	}
	if got := c.dest.Counts().Messages; got != 1 {
		t.Errorf("%d stored", got)
	}
}

// TestAuth_OverridesOfDMARC has the two overrides that come of the score. No client is scored
// badly here.
func TestAuth_OverridesOfDMARC(t *testing.T) {
	t.Parallel()
	const allowed, scoreOnly, known = "127.0.8.8", "127.0.6.6", "127.0.7.7" // in networks of their own
	r := world.StartRedis(t)
	n := startAuthNode(t, authSetup{config: "redis: {url: \"" + r.URL() + "\", timeout: 5s}\n" +
		"score: {defer: 1000, reject: 1000, private: true, allow: [\"" + allowed +
		"/32 for=score,dmarc a partner\", \"" + scoreOnly + "/32 a friend\"]}"})
	s, err := store.New(store.Config{URL: r.URL()})
	if err != nil {
		t.Fatal(err)
	}
	s.KnowGood(t.Context(), netip.MustParseAddr(known), "", time.Hour)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []policyCase{
		{name: "a stranger", mail: authMail{client: authStranger}, author: "reject.example", want: notAccepted},
		{
			name: "on the allow list", mail: authMail{client: allowed}, author: "reject.example", want: "250",
			auth: "(allow list)", over: "allow list", results: "not enforced: allow list",
		},
		{
			name: "on the allow list for the score alone", mail: authMail{client: scoreOnly}, author: "reject.example",
			want: notAccepted,
		},
		{name: "known good", mail: authMail{client: known}, author: "reject.example", want: notAccepted},
		{
			name: "known good, quarantine", mail: authMail{client: known, to: "info@refuse.example"},
			author: "quarantine.example", want: "250", auth: "(known good)", over: "known good",
			results: "not enforced: known good",
		},
		{
			name: "require_auth=yes, a stranger", mail: authMail{client: authStranger, to: "info@yes.example"},
			author: "nothing.example", want: notAccepted,
		},
		{
			name: "require_auth=yes, on the allow list", mail: authMail{client: allowed, to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		{
			name: "require_auth=yes, on the allow list for the score alone",
			mail: authMail{client: scoreOnly, to: "info@yes.example"}, author: "nothing.example", want: notAccepted,
		},
		{
			name: "require_auth=yes, known good", mail: authMail{client: known, to: "info@yes.example"},
			author: "nothing.example", want: notAccepted,
		},
	} {
		for i, size := range []int{200, 400 << 10} {
			c.mail.reverse, c.mail.how = "a@nothing.example", carriages[i]
			t.Run(fmt.Sprintf("%s, %d octets", c.name, size), func(t *testing.T) { c.check(t, n, size) })
		}
	}
}
