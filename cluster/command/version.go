package command

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/millrace/millrace/cluster/node"
)

type versionVerb struct {
	jsonFlag
}

// A build describes the program.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	RSA      string `json:"rsa"` // what signs with RSA keys
}

// readBuild returns what the Go linker recorded. A build from a tagged module has its version without any flags.
func readBuild() build {
	b := build{
		Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		RSA: node.RSALibrary(),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (v *versionVerb) run(s streams) int {
	b := readBuild()
	if v.JSON {
		printJSON(s.out, b)
		return exitOK
	}
	fmt.Fprintf(s.out, "millrace %s", b.Version)
	if b.Revision != "" {
		fmt.Fprintf(s.out, " %.12s", b.Revision)
		if b.Modified {
			fmt.Fprint(s.out, " modified")
		}
	}
	fmt.Fprintf(s.out, " %s %s, RSA by %s\n", b.Go, b.Platform, b.RSA)
	return exitOK
}
