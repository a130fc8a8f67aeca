package landlock_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/leaf/landlock"
)

// confined is the variable that has the test binary be the process that confines itself, in the folder of this name.
const confined = "LANDLOCK_TEST_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(confined); dir != "" {
		beConfined(dir)
		return
	}
	os.Exit(m.Run())
}

// beConfined confines this process to dir/kept and says what it still can do, a line each.
func beConfined(dir string) {
	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	open, err := os.OpenFile(in("open"), os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	if err := landlock.Confine([]string{in("kept")}); err != nil {
		fmt.Fprintln(os.Stdout, err)
		return
	}
	say := func(what string, err error) {
		switch {
		case errors.Is(err, fs.ErrPermission):
			fmt.Fprintln(os.Stdout, what+": refused")
		case err != nil:
			fmt.Fprintln(os.Stdout, what+":", err)
		default:
			fmt.Fprintln(os.Stdout, what+": done")
		}
	}
	write := func(name string) error { return os.WriteFile(name, []byte("x"), 0o600) }
	say("make a file that is kept", write(in("kept", "new")))
	say("write it anew", write(in("kept", "new")))
	say("rename it", os.Rename(in("kept", "new"), in("kept", "named")))
	say("remove it", os.Remove(in("kept", "named")))
	say("make a file elsewhere", write(in("else", "new")))
	say("write a file that is there", write(in("else", "old")))
	say("shorten it", os.Truncate(in("else", "old"), 0))
	say("remove it elsewhere", os.Remove(in("else", "old")))
	say("rename it elsewhere", os.Rename(in("else", "old"), in("else", "renamed")))
	say("move it to what is kept", os.Rename(in("else", "old"), in("kept", "moved")))
	say("make a folder", os.Mkdir(in("else", "folder"), 0o700))
	say("make a link", os.Symlink("old", in("else", "link")))
	say("write through a link that is kept", write(in("kept", "out")))
	say("run a program", exec.Command("/bin/true").Run())
	_, err = open.WriteString("y")
	say("write what was open", err)
	done := make(chan error)
	go func() { // on a thread that was there, or is made now: both are bound
		runtime.LockOSThread()
		done <- write(in("else", "new"))
	}()
	say("make a file by another thread", <-done)
	fmt.Fprintln(os.Stdout, "ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	text, err := os.ReadFile(in("else", "old"))
	say("read "+string(text), err)
}

// want is what a confined process says, before it is told that its file was replaced and then.
const want = `make a file that is kept: done
write it anew: done
rename it: done
remove it: done
make a file elsewhere: refused
write a file that is there: refused
shorten it: refused
remove it elsewhere: refused
rename it elsewhere: refused
move it to what is kept: refused
make a folder: refused
make a link: refused
write through a link that is kept: refused
run a program: refused
write what was open: done
make a file by another thread: refused
ready
read the next certificate: done
`

// TestConfine: a confined process writes only what is kept, whichever thread asks, and reads all it could read before,
// files that another process has put in the place of others included.
func TestConfine(t *testing.T) {
	dir := t.TempDir()
	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, folder := range []string{"kept", "else"} {
		if err := os.Mkdir(in(folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{in("open"), in("else", "old"), in("next")} {
		if err := os.WriteFile(file, []byte("the "+filepath.Base(file)+" certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(in("else", "old"), in("kept", "out")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), confined+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if lines.Text() == "ready" {
			if err := os.Rename(in("next"), in("else", "old")); err != nil {
				t.Error(err)
			}
			if _, err := stdin.Write([]byte("\n")); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	switch got := said.String(); {
	case linkedWithC && strings.Contains(got, "linked with C"):
	case strings.Contains(got, "has no Landlock"):
		t.Skip(strings.TrimSpace(got))
	case got != want:
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestConfine_NoFolder: what is to be written has to be there.
func TestConfine_NoFolder(t *testing.T) {
	err := landlock.Confine([]string{filepath.Join(t.TempDir(), "none")})
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "no Landlock") {
		t.Errorf("got %v", err)
	}
}
