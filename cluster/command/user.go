package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/atomicfile"
)

type userVerbs struct {
	Add  userAddVerb  `cmd:"" help:"@user_add"`
	Hash userHashVerb `cmd:"" help:"@user_hash"`
}

type (
	userAddVerb struct {
		File   string   `arg:"" placeholder:"FILE" help:"@user_file"`
		Name   string   `arg:"" placeholder:"NAME" help:"@user_name"`
		Sender []string `arg:"" placeholder:"SENDER" help:"@user_sends"`
	}
	userHashVerb struct{}
)

func (v *userHashVerb) run(s streams) int {
	password, err := readPassword(s.in)
	if err != nil {
		return fail(s, err)
	}
	fmt.Fprintln(s.out, submission.Hash(password))
	return exitOK
}

func (v *userAddVerb) run(s streams) int {
	old, err := os.ReadFile(v.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(s, err)
	}
	password, err := readPassword(s.in)
	if err != nil {
		return fail(s, err)
	}
	line := strings.Join(append([]string{v.Name, submission.Hash(password)}, v.Sender...), " ")
	if _, err := submission.ParseUsers("the user", line); err != nil {
		return fail(s, usageError{err})
	}
	text, replaced := withUser(string(old), v.Name, line)
	if _, err := submission.ParseUsers(v.File, text); err != nil {
		return fail(s, err)
	}
	if err := atomicfile.Replace(v.File, []byte(text)); err != nil {
		return fail(s, err)
	}
	done := "added to"
	if replaced {
		done = "replaced in"
	}
	fmt.Fprintf(s.out, "%s is %s %s. The node reads it at SIGHUP.\n", v.Name, done, v.File)
	return exitOK
}

// minPassword is the least length of a password in octets (NIST SP 800-63B).
const minPassword = 8

// readPassword reads a password, which is a line.
func readPassword(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	password := strings.TrimRight(line, "\r\n")
	switch {
	case len(password) < minPassword:
		return "", fmt.Errorf("the first line of stdin is the password, which has %d octets at least", minPassword)
	case len(password) > submission.MaxPassword:
		return "", fmt.Errorf("a password has %d octets at most", submission.MaxPassword)
	}
	return password, nil
}

// withUser returns the text of a file of users with the line of a user, in place of the one that it had.
func withUser(text, name, line string) (out string, replaced bool) {
	lines := strings.SplitAfter(text, "\n")
	for i, l := range lines {
		if words := strings.Fields(l); len(words) > 0 && ascii.EqualFold(words[0], name) {
			lines[i], replaced = line+"\n", true
		}
	}
	if text = strings.Join(lines, ""); replaced {
		return text, true
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + line + "\n", false
}
