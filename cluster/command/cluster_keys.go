package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/router/leaf/atomicfile"
)

// clusterKeysVerbs change the secret of a cluster so that all nodes understand each other at every moment. Every node
// understands a key before the first one uses it, and no node uses a key any longer before the first one forgets it.
type clusterKeysVerbs struct {
	Show clusterKeysShowVerb `cmd:"" help:"@cluster_keys_show"`
	Add  clusterKeysAddVerb  `cmd:"" help:"@cluster_keys_add"`
	Use  clusterKeysUseVerb  `cmd:"" help:"@cluster_keys_use"`
	Drop clusterKeysDropVerb `cmd:"" help:"@cluster_keys_drop"`
}

// A keyFile is the argument of all of them.
type keyFile struct {
	File string `arg:"" placeholder:"FILE" help:"The file of cluster.key_file."`
	jsonFlag
}

type (
	clusterKeysShowVerb struct{ keyFile }
	clusterKeysAddVerb  struct{ keyFile }
	clusterKeysUseVerb  struct{ keyFile }
	clusterKeysDropVerb struct{ keyFile }
)

func (v *clusterKeysShowVerb) run(s streams) int { return v.show(s, nil) }

func (v *clusterKeysAddVerb) run(s streams) int {
	return v.show(s, func(lines []string, keys []int) ([]string, error) {
		if len(keys) > 1 {
			return nil, errors.New("holds two keys already: use one and drop the other first")
		}
		return append(lines, strings.TrimSuffix(string(newSecret()), "\n")), nil
	})
}

func (v *clusterKeysUseVerb) run(s streams) int {
	return v.show(s, func(lines []string, keys []int) ([]string, error) {
		if len(keys) < 2 {
			return nil, errors.New("holds one key: add one first")
		}
		lines[keys[0]], lines[keys[1]] = lines[keys[1]], lines[keys[0]]
		return lines, nil
	})
}

func (v *clusterKeysDropVerb) run(s streams) int {
	return v.show(s, func(lines []string, keys []int) ([]string, error) {
		if len(keys) < 2 {
			return nil, errors.New("holds one key, which is in use")
		}
		return append(lines[:keys[1]], lines[keys[1]+1:]...), nil
	})
}

// show makes the change, if it is not nil, prints the fingerprints of the keys and returns the exit code.
func (v *keyFile) show(s streams, change func(lines []string, keys []int) ([]string, error)) int {
	if err := v.edit(s.out, change); err != nil {
		fmt.Fprintf(s.err, "millrace: %v\n", err)
		return exitError
	}
	return exitOK
}

// edit makes the change, if it is not nil, and prints the fingerprints of the keys.
func (v *keyFile) edit(out io.Writer, change func(lines []string, keys []int) ([]string, error)) error {
	if _, err := node.Fingerprints(v.File); err != nil { // the error names the line of a file that holds no keys
		return err
	}
	if change != nil {
		text, err := os.ReadFile(v.File)
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		lines, err = change(lines, keyLines(lines))
		if err != nil {
			return fmt.Errorf("%s %w", v.File, err)
		}
		if err := atomicfile.Replace(v.File, []byte(strings.Join(lines, "\n")+"\n")); err != nil {
			return err
		}
	}
	prints, err := node.Fingerprints(v.File)
	if err != nil {
		return err
	}
	if v.JSON {
		printJSON(out, map[string]any{"used": prints[0], "understood": prints[1:]})
		return nil
	}
	fmt.Fprintln(out, "used       ", prints[0])
	for _, p := range prints[1:] {
		fmt.Fprintln(out, "understood ", p)
	}
	return nil
}

// keyLines returns the indices of the lines that are keys; the others are blank or comments.
func keyLines(lines []string) (keys []int) {
	for i, line := range lines {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			keys = append(keys, i)
		}
	}
	return keys
}
