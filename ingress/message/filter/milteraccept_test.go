package filter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/d--j/go-milter"
)

// TestMilter_AcceptsEarly: a milter that accepts at a step is told nothing of what follows, no octet of the body.
func TestMilter_AcceptsEarly(t *testing.T) {
	for _, step := range []string{"connect", "helo", "mail", "rcpt", "data", "header", "eoh"} {
		t.Run(step, func(t *testing.T) {
			addr, heard := startMilter(t, listener{at: map[string]*milter.Response{step: milter.RespAccept}})
			p := milterAt(t, addr).Begin(someEnvelope)
			for i := range 2 {
				if d := p.Rcpt(t.Context(), path(fmt.Sprintf("c%d@d.example", i)), false); d.Action != Accept {
					t.Fatalf("got %+v", d)
				}
			}
			p.Message(p.envelope)
			p.Write(t.Context(), octets("Subject: x\r\nTo: y\r\n\r\n"+strings.Repeat("body\r\n", 20000)))
			if d := p.End(t.Context()); d.Action != Accept {
				t.Errorf("got %+v", d)
			}
			p.Close()
			told := heard()
			if last := told[len(told)-1]; !strings.HasPrefix(last, step+" ") {
				t.Errorf("told of %.60q behind its answer", last)
			}
			seen := 0
			for _, what := range told {
				if strings.HasPrefix(what, step+" ") {
					seen++
				}
			}
			if seen != 1 {
				t.Errorf("told of %d %s: %.200q", seen, step, told)
			}
		})
	}
}
