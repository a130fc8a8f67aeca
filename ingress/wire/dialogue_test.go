package wire

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDialogues plays the scripts under testdata/dialogues. A script begins with lines of settings ("set key value")
// and then has one line per step:
//
//	C: text     the client sends text and CRLF; several such lines in a row leave in one write
//	c: text     the client sends text as a Go string literal's inside, without CRLF
//	-           what was said so far is sent (a write ends here)
//	S: prefix   the server's next reply line begins with prefix; "S: (closed)" is the end of the connection
//	R: prefix   the last line of the server's next reply begins with prefix
//	>: call     the Session's next call begins with this
//
// Lines that begin with "#" and blank ones are comment.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, f := range files {
		script, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split("\n"+string(script), "\n== ")[1:] {
			name, body, _ := strings.Cut(part, "\n")
			t.Run(strings.TrimSuffix(filepath.Base(f), ".txt")+"/"+name, func(t *testing.T) {
				t.Parallel()
				play(t, strings.Split(body, "\n"))
			})
		}
	}
}

func play(t *testing.T, lines []string) {
	r := start(t, func(c *Config) {
		c.Places = NewPlaces(Limits{Total: 100, Client: 100})
		for _, l := range lines {
			if rest, ok := strings.CutPrefix(l, "set "); ok {
				setField(t, c, strings.Fields(rest))
			}
		}
	})
	p := r.dial()
	var out strings.Builder
	calls := 0
	send := func() {
		if out.Len() > 0 {
			p.say(out.String())
			out.Reset()
		}
	}
	for i, l := range lines {
		switch {
		case l == "" || l[0] == '#' || strings.HasPrefix(l, "set "):
		case l == "-":
			send()
		case strings.HasPrefix(l, "C: "), l == "C:":
			out.WriteString(strings.TrimPrefix(strings.TrimPrefix(l, "C:"), " ") + "\r\n")
		case strings.HasPrefix(l, "c: "):
			s, err := strconv.Unquote(`"` + l[3:] + `"`)
			if err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
			out.WriteString(s)
		case strings.HasPrefix(l, "S: "):
			send()
			got, want := p.line(), l[3:]
			if want == "(closed)" {
				want = ""
			}
			if !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Fatalf("step %q: got %q\ncalls:\n%s", l, got, r.got())
			}
		case strings.HasPrefix(l, "R: "):
			send()
			if got := p.reply(); !strings.HasPrefix(got, l[3:]) {
				t.Fatalf("step %q: got %q\ncalls:\n%s", l, got, r.got())
			}
		case strings.HasPrefix(l, ">: "):
			send()
			calls = r.expect(t, calls, l[3:])
		default:
			t.Fatalf("no such step: %q", l)
		}
	}
	send()
}

// expect waits for a call that begins with want behind the first n calls, and returns its number.
func (r *rig) expect(t testing.TB, n int, want string) int {
	t.Helper()
	late := time.After(time.Minute)
	for {
		r.mu.Lock()
		for i := n; i < len(r.calls); i++ {
			if strings.HasPrefix(r.calls[i], want) {
				r.mu.Unlock()
				return i + 1
			}
		}
		changed := r.changed()
		r.mu.Unlock()
		select {
		case <-changed:
		case <-late:
			t.Fatalf("no call %q in:\n%s", want, r.got())
		}
	}
}

func setField(t *testing.T, c *Config, f []string) {
	t.Helper()
	num := func() int {
		n, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	dur := func() time.Duration {
		d, err := time.ParseDuration(f[1])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	switch f[0] {
	case "size":
		c.MessageSize = int64(num())
	case "line":
		c.Line = num()
	case "recipients":
		c.Recipients = num()
	case "messages":
		c.Places = NewPlaces(Limits{Messages: num()})
	case "errors":
		c.tune.errorBudget = num()
	case "refused":
		c.tune.refusedBudget = num()
	case "idling":
		c.tune.idlingBudget = num()
	case "rate":
		c.tune.minRate = int64(num())
	case "grace":
		c.tune.grace = dur()
	case "command":
		c.tune.command = dur()
	case "lend":
		c.Lend = dur()
	case "header":
		c.tune.header = dur()
	case "proxy":
		c.Proxy = loopback
	case "xclient":
		c.Xclient = loopback
	case "loosepaths":
		c.LoosePaths = true
	case "tls":
		cfg := certificate(t)
		c.TLS = tlsOf(cfg)
	case "clientcap":
		c.Places = NewPlaces(Limits{Total: 100, Client: num()})
	default:
		t.Fatalf("no such setting: %q", f)
	}
}
