// Package command is the command line: one file per verb. It reads arguments, prints results and chooses exit codes;
// what a verb does is done by node and dev.
package command

import (
	"fmt"
	"io"

	"github.com/alecthomas/kong"
)

// The exit codes. explain has its own, which tell the verdict.
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
	Serve   serveVerb    `cmd:"" help:"Run a node in the foreground; the log goes to stderr. SIGHUP reads rules and certificates anew, SIGTERM drains."`
	Check   checkVerb    `cmd:"" help:"Validate a configuration and the rules it names."`
	Explain explainVerb  `cmd:"" help:"Tell what would become of a message. Exit code: 0 accept or drop, 1 defer, 2 reject, 3 no verdict."`
	Dev     devVerb      `cmd:"" help:"Run a node, a name server and destinations of every mood in one process, and show what happens."`
	DKIM    dkimVerbs    `cmd:"" name:"dkim" help:"Keys that messages are signed with."`
	Cluster clusterVerbs `cmd:"" help:"Nodes that work together."`
	Version versionVerb  `cmd:"" help:"Print the version."`
}

// Main runs the verb that args name and gives the exit code.
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
