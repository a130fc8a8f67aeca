//go:build browser

package browser_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

const token = "0123456789abcdef"

// chromium returns the browser of .cache/browser, else that of the machine, and where it finds libraries and fonts.
func chromium(t *testing.T) (path string, env []string) {
	root := filepath.Join(extern.Root(), ".cache", "browser", "usr")
	path = filepath.Join(root, "lib", "chromium", "chromium")
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath("chromium"); err != nil {
			t.Fatal("no chromium; to get it: .ci/tools browser")
		}
	}
	fonts := filepath.Join(t.TempDir(), "fonts.conf")
	world.Save(t, fonts, fmt.Sprintf(`<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>`+
		`<dir>%s</dir><dir>/usr/share/fonts</dir><cachedir>%s</cachedir></fontconfig>`,
		filepath.Join(root, "share", "fonts"), t.TempDir()))
	libraries, err := filepath.Glob(filepath.Join(root, "lib", "*-linux-gnu*"))
	if err != nil {
		t.Fatal(err)
	}
	return path, []string{"FONTCONFIG_FILE=" + fonts, "LD_LIBRARY_PATH=" + strings.Join(libraries, ":")}
}

// TestDashboard: in a browser, in both languages, on a wide and on a narrow window, in light and in dark, no page
// breaks its own policy, runs what strangers wrote, scrolls sideways or is hard to read by axe; the flow shows mail as
// it comes, and all can be done by the keyboard. SHOTS is a folder for pictures of the pages.
func TestDashboard(t *testing.T) {
	home := smtptest.Start(t, smtptest.Behaviour{Recipients: map[string]smtptest.Answer{
		"full": {Reply: "552 5.2.2 <img src=x onerror=alert(1)> is full"},
	}})
	file := filepath.Join(t.TempDir(), "token")
	world.Save(t, file, token+"\n")
	r := world.Start(t, world.World{
		Routes: "domain * dmarc=off require_auth=no subaddress=+\n@x.example smtp://" + home.Addr() +
			"\n@drop.example drop\n",
		DNS: dnstest.Start(t, "x.example. 60 IN MX 10 mx1.test.example.\n"),
		Config: fmt.Sprintf("admin: {addr: \"127.0.0.1:0\", token_file: %q}\nactivity: {}\nstate: %q\n", file,
			t.TempDir()),
	})
	send := func(reverse string, forward ...string) {
		s, err := source.Dial(t.Context(), source.Config{Addr: r.Addr, Helo: "<script>alert(1)</script>"})
		if err != nil {
			return // the test is over
		}
		defer s.Abort(false)
		if _, err := s.Send(source.Message{
			Reverse: reverse, Forward: forward, Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
		}); err != nil {
			t.Logf("%s: %v", forward, err)
		}
	}
	long := strings.Repeat("a", 60) + "@" + strings.Repeat(strings.Repeat("long", 10)+".", 4) + "example"
	for _, m := range [][2]string{
		{"ann@client.example", "info@x.example"}, {`"<script>alert(1)</script>"@evil.example`, "info@x.example"},
		{long, "info@x.example"}, {"", "info+shop@x.example"}, {"ann@client.example", "full@x.example"},
		{"ann@client.example", "any@drop.example"}, {"ann@client.example", "someone@elsewhere.example"},
	} {
		send(m[0], m[1])
	}
	ctx, cancel := context.WithCancel(t.Context())
	sending := make(chan struct{})
	go func() { // ends with ctx
		defer close(sending)
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				send("ann@client.example", "live@x.example")
			}
		}
	}()
	path, env := chromium(t)
	cmd := extern.Find(t, "node").Command(t.Context(), "testdata/dashboard.cjs",
		"http://"+r.Node.AdminAddr().String(), token, r.Addr)
	cmd.Env = append(cmd.Environ(), env...)
	cmd.Env = append(cmd.Env, "CHROMIUM="+path, "SHOTS="+os.Getenv("SHOTS"),
		"NODE_PATH="+filepath.Join(extern.Root(), ".cache", "browser-node", "node_modules"))
	out, err := cmd.CombinedOutput()
	cancel()
	<-sending
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
