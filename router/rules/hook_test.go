package rules

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestRoute_Hook: a rule with a hook has it asked, answers as it says, and where it is not heard as what stands behind
// it says. What a hook names is routed as a target of the rule is.
func TestRoute_Hook(t *testing.T) {
	table, err := Parse("routes.txt", strings.NewReader(`domain a.example seal=never
alone@a.example hook orders
open@a.example hook orders x@far.example dmarc=off
closed@a.example hook https://hooks.example/a reject 550 5.7.1 Closed
@b.example hook orders drop
box@a.example y@far.example
loop@a.example hook orders
`), Config{
		Postmaster: mail.Path{Local: "p", Domain: "far.example"},
		CheckHook:  func(string) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	to := func(addresses ...string) *mail.HookAnswer {
		a := &mail.HookAnswer{Heard: true}
		for _, text := range addresses {
			p, err := mail.ParsePath(text, true)
			if err != nil {
				t.Fatal(err)
			}
			a.Forward = append(a.Forward, p)
		}
		return a
	}
	for _, tt := range []struct {
		name, forward string
		hook          *mail.HookAnswer
		want          string
	}{
		{"not asked", "alone@a.example", nil, "451 4.3.0 hook not asked orders"},
		{"not asked, with a fallback", "open@a.example", nil, "451 4.3.0 hook not asked orders"},
		{"a catch-all", "x@b.example", nil, "451 4.3.0 hook not asked orders"},
		{"a URL", "closed@a.example", nil, "451 4.3.0 hook not asked https://hooks.example/a"},
		{"not heard", "alone@a.example", &mail.HookAnswer{}, "451 4.3.0 rule"},
		{"not heard: open", "open@a.example", &mail.HookAnswer{}, "x@far.example"},
		{"not heard: closed", "closed@a.example", &mail.HookAnswer{}, "550 5.7.1 rule"},
		{"not heard: dropped", "x@b.example", &mail.HookAnswer{}, "drop"},
		{"forward", "alone@a.example", to("z@far.example"), "z@far.example"},
		{"forward to an alias", "alone@a.example", to("box@a.example"), "y@far.example"},
		{"forward to what asks a hook", "alone@a.example", to("loop@a.example"), "451 4.3.0 hook answer"},
		{"forward to no address of ours", "alone@a.example", to("none@a.example"), "451 4.3.0 hook answer"},
		{"forward to a route", "alone@a.example", to("x%y@far.example"), "451 4.3.0 hook answer"},
		{"forward to several", "alone@a.example", to("z@far.example", "w@near.example"), "451 4.3.0 several next hops"},
		{"drop", "alone@a.example", &mail.HookAnswer{Heard: true, Drop: true}, "drop"},
		{"reject", "alone@a.example", &mail.HookAnswer{Heard: true, Reply: mail.NewReply(550, 1, 1, "Gone")},
			"550 5.1.1 hook"},
		{"a rule without a hook", "box@a.example", to("z@far.example"), "y@far.example"},
	} {
		forward, _ := mail.ParsePath(tt.forward, true)
		routes, err := table.Route(mail.Query{Forward: forward, Hook: tt.hook}, nil)
		got := ""
		var r *mail.Refusal
		switch {
		case errors.As(err, &r):
			got = strings.Join(strings.Fields(r.Reply.String())[:2], " ") + " " + r.Reason
			if needed, ok := errors.AsType[*mail.HookNeeded](err); ok {
				got += " " + needed.Hook
			}
		case routes[0].Action == mail.Drop:
			got = "drop"
		default:
			got = routes[0].Forwards[0].String()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	open, _ := mail.ParsePath("open@a.example", true)
	routes, err := table.Route(mail.Query{Forward: open, Hook: to("z@far.example")}, nil)
	if err != nil || routes[0].Policy.DMARC != mail.DMARCOff || routes[0].Policy.Seal != mail.SealNever ||
		!routes[0].Rewrote {
		t.Errorf("the options of the rule hold for what its hook names: %v, %v", routes, err)
	}
}

// TestParse_Hook: what is no hook, and what leads to one, is refused when the file is loaded.
func TestParse_Hook(t *testing.T) {
	for line, want := range map[string]string{
		"x@a.example hook":              "hook needs the name",
		"x@a.example hook wrong":        "the hook is wrong",
		"x@a.example hook right reject": "reject needs a reply code",
		"x@a.example hook right y@b.example\nz@a.example x@a.example": "which asks a hook",
	} {
		_, err := Parse("routes.txt", strings.NewReader(line+"\n"), Config{
			Postmaster: mail.Path{Local: "p", Domain: "far.example"},
			CheckHook: func(hook string) error {
				if hook == "wrong" {
					return errors.New("is wrong")
				}
				return nil
			},
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
	_, err := Parse("routes.txt", strings.NewReader("x@a.example hook y\n"), Config{})
	if err == nil || !strings.Contains(err.Error(), "needs the section hooks") {
		t.Errorf("without hooks: %v", err)
	}
}
