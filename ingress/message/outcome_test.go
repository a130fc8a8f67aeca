package message

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestTally_WrongNumber: outcomes that are not one for each recipient are never a 250, however many took the message.
func TestTally_WrongNumber(t *testing.T) {
	to := func(n int, further bool) Recipient {
		return Recipient{Accepted: make([]mail.Path, n), Further: further}
	}
	for name, recipients := range map[string][]Recipient{
		"of two recipients":                     {to(1, false), to(1, false)},
		"of two addresses of one":               {to(2, false)},
		"of two ways of one":                    {to(1, false), to(1, true)},
		"of two recipients and one that is not": {to(1, false), to(0, false), to(1, false)},
	} {
		for n := range 4 {
			tally := tally{recipients: recipients}
			came := slices.Repeat([]mail.Outcome{{Reply: mail.NewReply(250, 0, 0, "Ok")}}, n)
			outcomes := tally.complete(came)
			out := worst(tally.perRecipient(outcomes))
			if n == 2 {
				if out.Reply.Code != 250 || out.InDoubt || out.Cause != nil {
					t.Errorf("%s: two outcomes are %+v", name, out)
				}
				continue
			}
			if len(outcomes) != 2 || out.Reply.Code != 451 || !out.InDoubt ||
				fmt.Sprint(out.Cause) != fmt.Sprint(n, " outcomes for 2 recipients") {
				t.Errorf("%s: %d outcomes are %d, %+v", name, n, len(outcomes), out)
			}
		}
	}
}

// TestFan_WrongNumber: a member that does not say what became of each of its recipients leaves all of them in doubt,
// and those of the others as they are.
func TestFan_WrongNumber(t *testing.T) {
	for _, own := range [][]int{{2}, {2, 3, 4}} {
		f := NewFan([]Member{{Tx: &fakeMember{}, Own: []int{0, 1}}, {Tx: &fakeMember{}, Own: own}})
		for i, o := range f.Commit(t.Context(), piece("whole")) {
			if doubt := i > 1; o.InDoubt != doubt || (o.Reply.Code == 451) != doubt || (o.Cause != nil) != doubt {
				t.Errorf("%d: outcome %d is %+v", len(own), i, o)
			}
		}
	}
}
