package extern

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// SinkOptions says how smtp-sink behaves. The zero value accepts every message and keeps none.
type SinkOptions struct {
	// Dump keeps every message in a file of its own.
	Dump bool
	// Args are further options of smtp-sink(1), such as "-L" for LMTP or "-q", "DATA" to hang up at DATA.
	Args []string
}

// StartSmtpSink runs Postfix's smtp-sink until the test ends. It returns its address and, with Dump, the folder that
// the messages are written to, one file each: lines X-Client-Addr, X-Client-Proto, X-Helo-Args, X-Mail-Args and
// X-Rcpt-Args as SMTP had them, a Received field, and the message with lines that end in LF. SinkMessages reads it.
func StartSmtpSink(t testing.TB, opts SinkOptions) (addr, dumpDir string) {
	t.Helper()
	sink := Find(t, "smtp-sink")
	var args []string
	if os.Getuid() == 0 {
		// smtp-sink refuses to serve as root.
		args = append(args, "-u", "nobody")
	}
	if opts.Dump {
		dumpDir = openDir(t)
		args = append(args, "-d", filepath.Join(dumpDir, "%s."))
	}
	args = append(args, opts.Args...)
	addr = serve(t, func(addr string) *exec.Cmd {
		return sink.Command(context.Background(), append(args, addr, "1024")...)
	})
	return addr, dumpDir
}

// SourceOptions says what smtp-source sends.
type SourceOptions struct {
	Sessions int // at a time
	Messages int
	Octets   int
	Reuse    bool // a session carries message after message, instead of one
	Reverse  string
	Forward  string
	// Numbered puts a number before the local part of Forward, for each message another one, from 1 on.
	Numbered bool
	Helo     string // what it calls itself; "": the name of the machine
	File     string // of the message, with lines that end in LF, in place of one of Octets
}

// Args are the options of smtp-source(1), which ends with an error at the first reply that is no 2yz.
func (o SourceOptions) Args(addr string) []string {
	args := []string{
		"-s", strconv.Itoa(o.Sessions), "-m", strconv.Itoa(o.Messages), "-f", o.Reverse, "-t", o.Forward,
	}
	if o.File == "" {
		args = append(args, "-l", strconv.Itoa(o.Octets))
	}
	if o.Reuse {
		args = append(args, "-d")
	}
	if o.Numbered {
		args = append(args, "-N")
	}
	if o.Helo != "" {
		args = append(args, "-M", o.Helo)
	}
	if o.File != "" {
		args = append(args, "-F", o.File)
	}
	return append(args, addr)
}

// openDir makes a folder for the length of the test that any user may write to: when root starts smtp-sink, it runs as
// a user without rights, which could not even pass the parent of t.TempDir.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "smtp-sink")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// split divides an address that serve made into host and port.
func split(t testing.TB, addr string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}
