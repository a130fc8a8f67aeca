// Package command is the command line: one file per verb.
//
// It owns the verbs with their flags and help, what they print and their exit codes, and the files that cluster init
// and renew, cluster keys and dkim new write. It is the only place that knows kong.
//
// It refuses to know how a configuration is read and a node runs: packages config, node and dev do what a verb asks
// for.
//
// Invariant: an exit code other than 0 comes with a message on stderr, or with findings on stdout.
package command

import (
	"fmt"
	"io"

	"github.com/alecthomas/kong"
)

// The exit codes. explain has more of them, one for each verdict.
const (
	exitOK    = 0
	exitError = 1
)

// A streams is where a verb reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// verbs are all verbs with their flags.
type verbs struct {
	Serve   serveVerb    `cmd:"" help:"${serve}"`
	Check   checkVerb    `cmd:"" help:"Validate a configuration and the rules it names."`
	Explain explainVerb  `cmd:"" help:"${explain}"`
	Dev     devVerb      `cmd:"" help:"${dev}"`
	DKIM    dkimVerbs    `cmd:"" name:"dkim" help:"Keys that messages are signed with."`
	Cluster clusterVerbs `cmd:"" help:"Nodes that work together."`
	Version versionVerb  `cmd:"" help:"Print the version."`
}

// Main runs the verb that args name and returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s := streams{stdin, stdout, stderr}
	var v verbs
	exited := false
	parser, err := kong.New(&v,
		kong.Name("millrace"),
		kong.Description("Millrace relays mail while the sender is still on the line. Nothing is queued and "+
			"nothing is stored."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }), // after --help, which is no error
		kong.UsageOnError(),
		helpTexts(),
	)
	if err != nil {
		fmt.Fprintln(stderr, "millrace:", err)
		return exitError
	}
	parsed, err := parser.Parse(args)
	if exited {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "millrace: %v\nTry millrace --help, or millrace VERB --help.\n", err)
		if len(args) > 0 && args[0] == "explain" {
			return exitNoVerdict
		}
		return exitError
	}
	switch parsed.Command() {
	case "serve":
		return v.Serve.run(s)
	case "check":
		return v.Check.run(s)
	case "explain":
		return v.Explain.run(s)
	case "dev":
		return v.Dev.run(s)
	case "cluster init <dir> <names>":
		return v.Cluster.Init.run(s)
	case "cluster renew <dir>", "cluster renew <dir> <names>":
		return v.Cluster.Renew.run(s)
	case "cluster status":
		return v.Cluster.Status.run(s)
	case "cluster drain":
		return v.Cluster.Drain.run(s)
	case "cluster keys show <file>":
		return v.Cluster.Keys.Show.run(s)
	case "cluster keys add <file>":
		return v.Cluster.Keys.Add.run(s)
	case "cluster keys use <file>":
		return v.Cluster.Keys.Use.run(s)
	case "cluster keys drop <file>":
		return v.Cluster.Keys.Drop.run(s)
	case "dkim new":
		return v.DKIM.New.run(s)
	default:
		return v.Version.run(s)
	}
}

// configFlag is the flag that most verbs have.
type configFlag struct {
	Config string `short:"c" name:"config" required:"" placeholder:"FILE" help:"The configuration file."`
}
