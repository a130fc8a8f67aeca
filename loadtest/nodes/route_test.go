package nodes_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestRouteApply_Cluster: what `millrace route apply` is told by way of one node is in force on three, changes there
// and ends there. How long each takes stands in the log of the test.
func TestRouteApply_Cluster(t *testing.T) {
	home := smtptest.Start(t, smtptest.Behaviour{})
	redis := world.StartRedis(t)
	c := startCluster(t, 3, administered(t, world.World{
		Routes: "domain * dmarc=off require_auth=no\n@x.example smtp://" + home.Addr() + "\n",
		Config: fmt.Sprintf("redis: {url: %q, timeout: 1s}\nrates: none\n", redis.URL()),
	}))
	dir := t.TempDir()
	text, token := filepath.Join(dir, "mail.rules"), filepath.Join(dir, "token")
	world.Save(t, token, adminToken+"\n")
	binary, asked := world.Binary(t), "http://"+c.nodes[1].Node.AdminAddr().String()
	for _, tt := range []struct {
		what, rules, said string
		class             int
	}{
		{"added", "new@made.example drop\n", "Done: 1 added, 0 changed, 0 removed, 0 as they are.", 2},
		{
			"changed", "new@made.example tempfail 450 4.2.0 Later\n",
			"Done: 0 added, 1 changed, 0 removed, 0 as they are.", 4,
		},
		{"removed", "", "Done: 0 added, 0 changed, 1 removed, 0 as they are.", 5},
	} {
		world.Save(t, text, tt.rules)
		begun := time.Now()
		out, err := exec.CommandContext(t.Context(), binary, "route", "apply", "--url", asked, "--token-file", token,
			"--owner", "a", text).CombinedOutput()
		if err != nil || !strings.Contains(string(out), tt.said) {
			t.Fatalf("%s: %v: %s", tt.what, err, out)
		}
		told := time.Since(begun)
		for _, r := range c.nodes {
			world.Await(t, tt.what+" on all nodes", func() bool {
				s := world.Dial(t, source.Config{Addr: r.Addr})
				defer s.Abort(false)
				got, err := s.Send(source.Message{
					Reverse: "a@client.example", Forward: []string{"new@made.example"},
					Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
				})
				return err == nil && len(got.Rcpt) == 1 && got.Rcpt[0].Class() == tt.class
			})
		}
		t.Logf("%s: the command ended after %s, in force on all nodes after %s", tt.what,
			told.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	}
}
