package nodes_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestLog_Stderr: whatever becomes of the reader of its log, a node takes mail, reads its rules anew and ends.
func TestLog_Stderr(t *testing.T) {
	for name, broken := range map[string]func(t *testing.T) *os.File{
		"the reader has stopped reading": fullPipe,
		"the reader has gone":            closedPipe,
	} {
		t.Run(name, func(t *testing.T) {
			dir, d := t.TempDir(), smtptest.Start(t, smtptest.Behaviour{})
			w := world.World{Log: "debug", Routes: "domain far.example\n@far.example smtp://" + d.Addr() + "\n"}
			stderr := broken(t)
			p := world.StartProcess(t, func(addr string) *exec.Cmd {
				cmd := exec.Command(world.Binary(t), "serve", "-c", w.Write(t, dir, addr))
				cmd.Stderr = stderr
				return cmd
			})
			s := world.Dial(t, source.Config{Addr: p.Addr})
			send := func(to string) source.Result {
				t.Helper()
				r, err := s.Send(source.Message{
					Reverse: "a@near.example", Forward: []string{to}, Octets: []byte("\r\nx\r\n"),
				})
				if err == nil && r.End.Class() != 2 {
					err = s.Reset()
				}
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			for range 50 {
				send("unknown@elsewhere.example")
				if r := send("someone@far.example"); r.End.Code != 250 {
					t.Fatalf("a message got %s", r.End)
				}
			}
			file, past := filepath.Join(dir, "routes.txt"), time.Now().Add(-time.Minute)
			world.Save(t, file, w.Routes+"domain new.example\n@new.example smtp://"+d.Addr()+"\n")
			if err := os.Chtimes(file, past, past); err != nil { // a reload waits for a file that is being written
				t.Fatal(err)
			}
			if err := p.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			s = world.Dial(t, source.Config{Addr: p.Addr})
			world.Await(t, "SIGHUP brings the new rule", func() bool {
				return send("someone@new.example").End.Code == 250
			})
			p.Terminate(t, p.Cmd.Process.Pid)
		})
	}
}

// TestLog_Dropped: while the log goes to a reader that does not read, or to a syslog daemon that is not there, all mail
// is taken, lines that it has no room for are counted, and the node ends. Each message has a hundred recipients, so
// that few of them fill what lines can wait in.
func TestLog_Dropped(t *testing.T) {
	const messages, recipients = 200, 100
	for name, where := range map[string]func(t *testing.T) (stderr *os.File, output string){
		"stderr that is not read": func(t *testing.T) (*os.File, string) { return fullPipe(t), "stderr" },
		"a socket of syslog that is not read": func(t *testing.T) (*os.File, string) {
			name := filepath.Join(t.TempDir(), "log")
			c, err := net.ListenPacket("unixgram", name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return nil, "unix:" + name
		},
		"a socket that is not there, and stderr that is not read": func(t *testing.T) (*os.File, string) {
			return fullPipe(t), "unix:" + filepath.Join(t.TempDir(), "log")
		},
		"a port without a listener": func(t *testing.T) (*os.File, string) {
			return nil, "udp:" + world.FreeAddr(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, d, adminAddr := t.TempDir(), smtptest.Start(t, smtptest.Behaviour{}), world.FreeAddr(t)
			stderr, output := where(t)
			w := world.World{
				Log:    fmt.Sprintf("info, format: postfix, output: %q", output),
				Routes: "domain far.example\n@far.example smtp://" + d.Addr() + "\n",
				Config: fmt.Sprintf("admin: {addr: %q}\nrates: none\n", adminAddr),
			}
			p := world.StartProcess(t, func(addr string) *exec.Cmd {
				cmd := exec.Command(world.Binary(t), "serve", "-c", w.Write(t, dir, addr))
				if stderr != nil {
					cmd.Stderr = stderr
				}
				return cmd
			})
			m := source.Message{Reverse: "a@near.example", Octets: []byte("\r\nx\r\n")}
			for i := range recipients {
				m.Forward = append(m.Forward, fmt.Sprintf("recipient-%d@far.example", i))
			}
			s := world.Dial(t, source.Config{Addr: p.Addr, Pipeline: true})
			for range messages {
				world.Send(t, s, m)
			}
			metrics := scrape(t, adminAddr)
			if n := sum(metrics, `millrace_messages_relayed_total{`); n != messages {
				t.Errorf("%d of %d messages were counted", n, messages)
			}
			world.Await(t, "lines are dropped and counted", func() bool {
				return sum(scrape(t, adminAddr), "millrace_log_lines_dropped_total") > 0
			})
			t.Logf("%d lines were dropped", sum(scrape(t, adminAddr), "millrace_log_lines_dropped_total"))
			p.Terminate(t, p.Cmd.Process.Pid)
		})
	}
}

// closedPipe returns the end of a pipe whose reader has gone.
func closedPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	r.Close()
	return w
}

// fullPipe returns the end of a pipe that is full and is never read.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fds[0]) })
	w := os.NewFile(uintptr(fds[1]), "full pipe")
	t.Cleanup(func() { w.Close() })
	if err := syscall.SetNonblock(fds[1], true); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := syscall.Write(fds[1], make([]byte, 4096)); errors.Is(err, syscall.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.SetNonblock(fds[1], false); err != nil { // the node has the same pipe, and blocks
		t.Fatal(err)
	}
	return w
}
