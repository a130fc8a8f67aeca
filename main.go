// Command millrace relays mail while the sender is still on the line; see README.md.
package main

import (
	"os"

	"github.com/millrace/millrace/cluster/command"
)

func main() {
	os.Exit(command.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
