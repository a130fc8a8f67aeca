package command

import (
	"fmt"
	"strings"
)

type keyVerbs struct {
	New keyNewVerb `cmd:"" help:"${key_new}"`
}

type tokenVerbs struct {
	New tokenNewVerb `cmd:"" help:"${token_new}"`
}

// A secretOut is where a new secret goes.
type secretOut struct {
	Out string `placeholder:"FILE" help:"${secret_out}"`
	jsonFlag
}

type (
	keyNewVerb   struct{ secretOut }
	tokenNewVerb struct{ secretOut }
)

func (v *keyNewVerb) run(s streams) int { return v.write(s, "key") }

func (v *tokenNewVerb) run(s streams) int { return v.write(s, "token") }

// write makes a secret and writes it to a file that only its owner can read, or prints it.
func (v *secretOut) write(s streams, kind string) int {
	secret := newSecret()
	out := map[string]string{kind: strings.TrimSpace(string(secret))}
	if v.Out != "" {
		if err := writeNew(v.Out, secret); err != nil {
			return fail(s, err)
		}
		out = map[string]string{"file": v.Out}
	}
	switch {
	case v.JSON:
		printJSON(s.out, out)
	case v.Out != "":
		fmt.Fprintf(s.out, "%s has the %s, and only its owner can read it.\n", v.Out, kind)
	default:
		fmt.Fprintln(s.out, out[kind])
	}
	return exitOK
}
