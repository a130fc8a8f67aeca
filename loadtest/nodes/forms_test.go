package nodes_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestCluster_CarelessReplies: what a destination says in any form that a person can read is what the sender is told,
// by the owner of the Site and by a node behind the hop. No readable 2yz or 5yz leaves a message in doubt, and no
// retry brings a second copy.
func TestCluster_CarelessReplies(t *testing.T) {
	forms := append(smtptest.Forms(),
		smtptest.Form{Name: "the end, and HELO", Verb: "EHLO", Reply: "CLOSE", Want: "250"})
	servers := make([]*smtptest.Careless, len(forms))
	var rules strings.Builder
	for i, f := range forms {
		servers[i] = smtptest.StartCareless(t, f)
		fmt.Fprintf(&rules, "@f%d.example smtp://%s\n", i, servers[i].Addr())
	}
	c := startCluster(t, 2, world.World{
		Routes: rules.String(), Config: "limits: {connections_per_client: 1000}\n",
	})
	var mu sync.Mutex
	told, doubts, copies := 0, 0, 0
	world.Parallel(len(forms), func(i int) {
		f, before := forms[i], 0
		for _, n := range c.nodes { // one of them is not the owner
			got := tell(t, n.Addr, fmt.Sprintf("b@f%d.example", i))
			sent := servers[i].Messages() - before
			before += sent
			mu.Lock()
			told++
			if got == "451" && (f.Want[0] == '2' || f.Want[0] == '5') {
				doubts++
			}
			if f.Want != "doubt" && sent > 1 {
				copies += sent - 1
			}
			mu.Unlock()
			want := f.Want
			if want == "doubt" || want == "gone" {
				want = "451"
			}
			if got != want || got == "250" && sent != 1 {
				t.Errorf("%s, %s: got %s and %d messages, want %s", f.Verb, f.Name, got, sent, f.Want)
			}
		}
	})
	t.Logf("%d messages, %d readable replies in doubt, %d second copies", told, doubts, copies)
	if doubts+copies > 0 {
		t.Errorf("%d in doubt, %d second copies", doubts, copies)
	}
	for _, n := range c.nodes {
		if n.Node.OpenSessions() == 0 {
			t.Error("one node owns all Sites, so that half of the messages had no hop")
		}
	}
}

// tell sends one message, and again where it is put off, and returns the code of the last answer.
func tell(t *testing.T, addr, to string) (code string) {
	for range 2 {
		s, err := source.Dial(t.Context(), source.Config{Addr: addr})
		if err != nil {
			t.Error(err)
			return ""
		}
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{to}, Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
		})
		s.Abort(false)
		if err != nil {
			t.Error(err)
			return ""
		}
		answer := r.End
		if len(r.Rcpt) > 0 && r.Rcpt[0].Class() != 2 {
			answer = r.Rcpt[0]
		}
		code = fmt.Sprint(answer.Code)
		if answer.Class() != 4 {
			break
		}
	}
	return code
}
