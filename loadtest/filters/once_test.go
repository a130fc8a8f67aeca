package filters_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/filters/scanner"
	"github.com/millrace/millrace/loadtest/world"
)

// TestOnce: the ledger remembers a message that filters let pass, and no other: one that they refused, put off or
// discarded is delivered, once, when it comes again and they have nothing against it.
func TestOnce(t *testing.T) {
	for i, tt := range []struct {
		action, want string
	}{{"reject", "550 5.7.1"}, {"soft reject", "451 4.7.1"}, {"discard", "250"}, {"explode", "451 4.7.1"}} {
		for _, streams := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, streams %v", tt.action, streams), func(t *testing.T) {
				t.Parallel()
				number := 3*i + 1
				if streams {
					number--
				}
				d := smtptest.Start(t, smtptest.Behaviour{})
				p := scanner.Start(t, scanner.Rspamd(tt.action, nil))
				n := world.Start(t, world.World{Routes: routesTo(d), Config: fmt.Sprintf(
					"once: true\nfilters: [{name: f, rspamd: %q, late: tempfail}]\n", p.Addr())})
				for range 2 {
					if r := send(t, n.Addr, "x.example", number); r.String()[:len(tt.want)] != tt.want {
						t.Errorf("got %s, want %s", r, tt.want)
					}
				}
				if got := d.Messages(); len(got) != 0 {
					t.Errorf("%d are delivered", len(got))
				}
				p.Become(scanner.Rspamd("no action", nil))
				if r := send(t, n.Addr, "x.example", number); r.Class() != 2 {
					t.Errorf("it comes again: %s", r)
				}
				if got := d.Messages(); len(got) != 1 {
					t.Errorf("%d are delivered", len(got))
				}
			})
		}
	}
}
