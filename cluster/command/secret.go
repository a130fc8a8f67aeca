package command

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/cluster/node"
)

type keyVerbs struct {
	New keyNewVerb `cmd:"" help:"@key_new"`
}

// A secretOut is where a new secret goes.
type secretOut struct {
	Out string `placeholder:"FILE" help:"@secret_out"`
	jsonFlag
}

type keyNewVerb struct {
	Webhook bool `help:"@key_webhook"`
	secretOut
}

func (v *keyNewVerb) run(s streams) int {
	if v.Webhook {
		return v.write(s, "key", node.NewReceiverSecret())
	}
	return v.write(s, "key", newSecret())
}

// write writes a new secret to a file that only its owner can read, or prints it.
func (v *secretOut) write(s streams, kind string, secret []byte) int {
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
