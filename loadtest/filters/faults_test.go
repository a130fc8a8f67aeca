package filters_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/filters/scanner"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// routesTo are rules of a domain whose mail is filtered, and of one whose mail is not.
func routesTo(d *smtptest.Server) string {
	return "domain * dmarc=off require_auth=no seal=never\ndomain y.example filter=off\n" +
		"@x.example smtp://" + d.Addr() + "\n@y.example smtp://" + d.Addr() + "\n"
}

// letter returns message i, of which one in three streams.
func letter(i int) []byte {
	b := fmt.Appendf(nil, "From: a@client.example\r\nSubject: %d\r\nMessage-ID: <%d@client.example>\r\n\r\n", i, i)
	if i%3 == 0 {
		return append(b, source.Body(300<<10)...)
	}
	return append(b, source.Body(2000)...)
}

// send sends message i to a domain in a session of its own, and returns what ended it.
func send(t *testing.T, addr, domain string, i int) source.Reply {
	s := world.Dial(t, source.Config{Addr: addr, Pipeline: i%2 == 0})
	defer s.Abort(false)
	r, err := s.Send(source.Message{
		Reverse: "a@client.example", Forward: []string{fmt.Sprintf("f%d@%s", i, domain)}, Octets: letter(i),
	})
	if err != nil {
		t.Errorf("message %d: %v", i, err)
	}
	return r.End
}

// A fault is what goes wrong with a filter.
type fault struct {
	name string
	does scanner.Behaviour // nil: it is not there
}

var faults = []fault{
	{"dead", nil},
	{"silent", scanner.Silent},
	{"silent in the middle of the body", scanner.Reads(1200)},
	{"closing", scanner.Closed},
	{"closing in the middle of the body", scanner.ReadsAndCloses(1200)},
	{"nonsense", scanner.Nonsense},
}

// TestFaults: whatever goes wrong with a filter of a node, each message is delivered or put off as it is configured,
// other mail is delivered at once, and when the filter is well and its senders have come again, each message is there
// once.
func TestFaults(t *testing.T) {
	const filtered, others = 6, 6
	for kind, well := range map[string]scanner.Behaviour{
		"rspamd": scanner.Rspamd("no action", nil), "milter": scanner.Milter(nil),
	} {
		for _, late := range []string{"accept", "tempfail"} {
			for _, f := range faults {
				t.Run(kind+" "+f.name+" "+late, func(t *testing.T) {
					t.Parallel()
					d := smtptest.Start(t, smtptest.Behaviour{})
					p := scanner.Start(t, f.does)
					n := world.Start(t, world.World{Routes: routesTo(d), Config: fmt.Sprintf(
						"filters: [{name: f, %s: %q, deadline: 1s, late: %s}]\n", kind, p.Addr(), late)})
					replies := make([]source.Reply, filtered+others)
					var wg sync.WaitGroup
					for i := range replies {
						domain := "x.example"
						if i >= filtered {
							domain = "y.example"
						}
						wg.Go(func() { replies[i] = send(t, n.Addr, domain, i) }) // ends with the reply
					}
					wg.Wait()
					wanted := "451 4.7.1 This message could not be examined now"
					if late == "accept" {
						wanted = "250"
					}
					for i, r := range replies {
						want := wanted
						if i >= filtered {
							want = "250"
						}
						if !strings.HasPrefix(r.String(), want) {
							t.Errorf("message %d: got %s, want %s", i, r, want)
						}
					}
					p.Become(well)
					for i := range filtered {
						for r := replies[i]; r.Class() == 4; {
							r = send(t, n.Addr, "x.example", i)
						}
					}
					checkOnce(t, world.Messages(t, d, len(replies)), len(replies))
					world.Violations(t, d)
				})
			}
		}
	}
}

// checkOnce wants each of n messages once, octet for octet.
func checkOnce(t *testing.T, got []smtptest.Message, n int) {
	t.Helper()
	arrived := make([]int, n)
	for _, m := range got {
		var i int
		if _, err := fmt.Sscanf(m.Forwards[0], "f%d@", &i); err != nil {
			t.Fatal(err)
		}
		arrived[i]++
		if rest, err := world.Below(m.Octets); err != nil || !bytes.Equal(rest, letter(i)) {
			t.Errorf("message %d is another one: %v", i, err)
		}
	}
	for i, times := range arrived {
		if times != 1 {
			t.Errorf("message %d arrived %d times", i, times)
		}
	}
}
