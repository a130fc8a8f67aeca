package extern

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// A Message is what a destination got, as far as the destination's own files tell.
type Message struct {
	// Reverse is the reverse-path without its angle brackets; empty for the null sender.
	Reverse string
	// Forward holds the forward-paths without their angle brackets. A destination that keeps a file per recipient
	// yields one Message per recipient.
	Forward []string
	// Content is the message with lines that end in CRLF, without the fields that the destination itself put on top.
	Content []byte
}

// SinkMessages reads the messages in a dump folder of StartSmtpSink, oldest first by the second and then by file name.
// A message is there, and whole, once smtp-sink has answered its final dot. The MAIL and RCPT parameters are left out.
func SinkMessages(t testing.TB, dumpDir string) []Message {
	t.Helper()
	var messages []Message
	for _, file := range readFolder(t, dumpDir) {
		var m Message
		rest := file
		for {
			line, after, ok := strings.Cut(rest, "\n")
			name, value, isField := strings.Cut(line, ": ")
			if !ok || !isField || !strings.HasPrefix(name, "X-") {
				break
			}
			switch name {
			case "X-Mail-Args":
				m.Reverse = path(value)
			case "X-Rcpt-Args":
				m.Forward = append(m.Forward, path(value))
			}
			rest = after
		}
		rest = withoutField(rest)
		// smtp-sink ends each file with an empty line, as a mailbox wants it.
		m.Content = crlf(strings.TrimSuffix(rest, "\n"))
		messages = append(messages, m)
	}
	return messages
}

// path takes the path out of the argument of MAIL or RCPT as smtp-sink writes it down.
func path(arg string) string {
	arg = strings.TrimPrefix(arg, "<")
	if end := strings.LastIndex(arg, ">"); end >= 0 {
		return arg[:end]
	}
	return arg
}

// withoutField cuts the first header field, with its continuation lines, off a message whose lines end in LF or CRLF.
func withoutField(message string) string {
	for {
		_, rest, _ := strings.Cut(message, "\n")
		if !strings.HasPrefix(rest, "\t") && !strings.HasPrefix(rest, " ") {
			return rest
		}
		message = rest
	}
}

func crlf(s string) []byte {
	return []byte(strings.ReplaceAll(s, "\n", "\r\n"))
}

// readFolder returns the content of each file of a folder in the order of their names. A folder that is not there yet
// is an empty one.
func readFolder(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(names)
	var files []string
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, string(content))
	}
	return files
}
