// Package command is the command line: one file per verb.
//
// It owns the verbs with their flags and help, what they print and their exit codes, and the files that init, import,
// cluster init and renew, cluster keys, dkim new, key new, token new, user add and man write. It is the only place that
// knows kong.
//
// It refuses to know how a configuration is read and a node runs: packages config, node and dev do what a verb asks
// for.
//
// Invariant: an exit code other than 0 comes with a message on stderr, or with findings on stdout.
package command

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/alecthomas/kong"
)

// The exit codes. explain has more of them, one for each verdict.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2 // the command line is wrong
)

// A streams is where a verb reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
	model    *kong.Application // of the command line itself
}

// verbs are all verbs with their flags.
type verbs struct {
	Init    initVerb    `cmd:"" help:"@init"`
	Import  importVerbs `cmd:"" help:"Rules from the files of another relay."`
	Serve   serveVerb   `cmd:"" help:"@serve"`
	Check   checkVerbs  `cmd:"" help:"Validate a configuration and the rules it names, or look at the network."`
	Explain explainVerb `cmd:"" help:"@explain"`
	Config  configVerbs `cmd:"" help:"Settings in force."`
	ruleVerbs
	Report reportVerbs `cmd:"" help:"Reports on TLS and DMARC, as domains get them."`
	movingVerbs
	Dev        devVerb        `cmd:"" help:"@dev"`
	DNS        dnsVerbs       `cmd:"" name:"dns" help:"What the DNS says of a domain, and is to say."`
	DKIM       dkimVerbs      `cmd:"" name:"dkim" help:"Keys that messages are signed with."`
	Key        keyVerbs       `cmd:"" help:"Keys that secrets are made of: srs.key_file, secret_file."`
	Token      tokenVerbs     `cmd:"" help:"Tokens of the API: admin.token_file, and those that nodes make."`
	User       userVerbs      `cmd:"" help:"Users that send: users_file of a listener."`
	Cluster    clusterVerbs   `cmd:"" help:"Nodes that work together."`
	Completion completionVerb `cmd:"" help:"Print what completes the command line in a shell."`
	Man        manVerb        `cmd:"" help:"Print the manual page, or write the pages of all verbs."`
	Version    versionVerb    `cmd:"" help:"Print the version."`
	Help       helpVerb       `cmd:"" help:"Print the help of millrace, or of a verb."`
}

// ruleVerbs are those for rules.
type ruleVerbs struct {
	Rules rulesVerbs `cmd:"" help:"Rules in force."`
	Route routeVerbs `cmd:"" help:"Rules that a running node keeps, for all nodes: one by one, or as a text."`
}

// movingVerbs are those for a domain that moves here.
type movingVerbs struct {
	EgressList egressListVerb `cmd:"" name:"egress-list" help:"@egress_list"`
	Migrate    migrateVerbs   `cmd:"" help:"A domain that moves here."`
	Reconcile  reconcileVerb  `cmd:"" help:"@reconcile"`
}

// helpVerb stands in the help alone: Main reads "help VERB" as "VERB --help".
type helpVerb struct {
	Verb []string `arg:"" optional:"" placeholder:"VERB" help:"The verb."`
}

func (v *helpVerb) run(streams) int { return exitOK }

// spelled returns args as the parser knows them: without any, and for "help", it is asked for help.
func spelled(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case args[0] == "--version":
		return append([]string{"version"}, args[1:]...)
	}
	return args
}

// Main runs the verb that args name and returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
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
	fillHelp(parser.Model.Node, helpTexts(), checkTexts(), migrateTexts(), routeTexts())
	parsed, err := parser.Parse(spelled(args))
	if exited {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "millrace: %v\nTry millrace --help, or millrace VERB --help.\n", err)
		if len(args) > 0 && args[0] == "explain" {
			return exitNoVerdict
		}
		return exitUsage
	}
	verb, _ := parsed.Selected().Target.Addr().Interface().(interface{ run(streams) int }) // each one has it
	return verb.run(streams{stdin, stdout, stderr, parser.Model})
}

// A usageError is about the command line.
type usageError struct{ error }

// fail prints an error and returns its exit code.
func fail(s streams, err error) int {
	fmt.Fprintln(s.err, "millrace:", err)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitError
}

// configFlag is the flag that most verbs have.
type configFlag struct {
	Config string `short:"c" name:"config" required:"" placeholder:"FILE" help:"The configuration file."`
}

// jsonFlag is the flag of what prints.
type jsonFlag struct {
	JSON bool `name:"json" help:"Print for a program."`
}
