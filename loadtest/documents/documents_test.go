package documents

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	ingress "github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// What a test tells itself in the namespace that it runs in again.
const (
	pageVariable   = "DOCUMENTS_PAGE"
	binaryVariable = "DOCUMENTS_BINARY"
)

// apart runs a test again in a namespace of its own, for a page.
func apart(t *testing.T, test, page string) {
	t.Helper()
	cmd, err := fleet.Apart(t.Context(), "-test.run=^"+test+"$", "-test.v", "-test.timeout=8m")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), pageVariable+"="+page, binaryVariable+"="+world.Binary(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
		return
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// quickstart is the page that a stranger begins with.
const quickstart = "docs/quickstart.md"

// TestPages follows each page that has commands, in the order in which they stand there.
func TestPages(t *testing.T) {
	if page := os.Getenv(pageVariable); page != "" {
		m := newMachine(t, os.Getenv(binaryVariable))
		m.prepare(page)
		m.follow(page, blocksOf(read(t, filepath.Join(extern.Root(), page))))
		return
	}
	for name, page := range pages(t) {
		runs := false
		for _, b := range blocksOf(page) {
			runs = runs || b.isRun()
		}
		if !runs || name == quickstart || strings.HasSuffix(name, ".ja.md") {
			continue
		}
		t.Run(name, func(t *testing.T) { apart(t, "TestPages", name) })
	}
}

// prepare makes what a page takes for there: the files of the quickstart, and what testdata has for the page, by a
// script, in its working folder and in /etc.
func (m *machine) prepare(page string) {
	m.t.Helper()
	m.run("before "+page, "millrace init /etc/millrace --domain example.com --to alice@mailbox.example\n")
	if script, err := os.ReadFile(filepath.Join("testdata", filepath.Base(page), "before.sh")); err == nil {
		m.run("before "+page, string(script))
	}
	for from, to := range map[string]string{"work": m.work, "etc": "/etc"} {
		dir := filepath.Join("testdata", filepath.Base(page), from)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// TestQuickstart: three commands on a fresh machine, and the records that the first one prints, lead to mail that is
// served, forwarded and signed. Another machine sends it, and an Exim receives it.
func TestQuickstart(t *testing.T) {
	page := read(t, filepath.Join(extern.Root(), quickstart))
	if os.Getenv(pageVariable) == "" {
		apart(t, "TestQuickstart", quickstart)
		return
	}
	m := newMachine(t, os.Getenv(binaryVariable))
	blocks := blocksOf(page)
	serving := 0
	for serving < len(blocks) && !strings.Contains(blocks[serving].text, "millrace serve ") {
		serving++
	}
	if serving == len(blocks) {
		t.Fatal("nothing serves")
	}
	if steps := commandsOf(blocks[:serving+1]); len(steps) != 3 {
		t.Errorf("%d commands until mail is served, want 3: %q", len(steps), steps)
	}
	m.follow(quickstart, blocks[:serving+1])
	sent := 0
	for i := range blocks {
		if blocks[i].note == runBy+"TestQuickstart" {
			sent++
			out, err := m.command("bash", "-ec", blocks[i].text).CombinedOutput() // beside the machine, not on it
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	}
	if sent != 1 {
		t.Errorf("the page sends %d messages", sent)
	}
	var got []extern.Message
	world.Await(t, "it arrives", func() bool { got = m.received(); return len(got) > 0 })
	if len(got) != 1 || !strings.HasSuffix(got[0].Reverse, "@srs.example.com") ||
		got[0].Forward[0] != "alice@mailbox.example" {
		t.Fatalf("got %+v", got)
	}
	verify(t, got[0].Content)
	m.follow(quickstart, blocks[serving+1:])
}

// commandsOf returns the commands of the blocks that are run.
func commandsOf(blocks []block) (commands []string) {
	for i := range blocks {
		for line := range strings.Lines(blocks[i].text) {
			if blocks[i].isRun() && strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "#") {
				commands = append(commands, strings.TrimSpace(line))
			}
		}
	}
	return commands
}

// txt asks for nothing but TXT records.
type txt struct {
	ingress.Resolver
	dns *net.Resolver
}

func (r txt) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return r.dns.LookupTXT(ctx, name)
}

// verify wants the ARC set that the destination asks of mail that is forwarded, which verifies with what is in the DNS.
func verify(t *testing.T, content []byte) {
	t.Helper()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(dnsAddr, "53"))
	}}
	header, body, _ := bytes.Cut(content, []byte("\r\n\r\n"))
	header = append(header, "\r\n\r\n"...)
	v, err := arc.New(arc.Config{Resolver: txt{dns: resolver}})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := v.Begin(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	result := chain.Finish(func(c dkim.Canonicalization) ([sha256.Size]byte, bool) {
		h := dkim.NewBodyHash(c)
		_, _ = h.Write(body) // it has no error
		return h.Sum(), true
	})
	if result.CV != arc.Pass || result.Sealer != "example.com" {
		t.Errorf("the chain of %q is %v (%s):\n%s", result.Sealer, result.CV, result.Reason, content)
	}
}

// TestQuickstart_Readme: the README has the three commands of the quickstart.
func TestQuickstart_Readme(t *testing.T) {
	all := pages(t)
	comment := regexp.MustCompile(` +#.*`)
	readme := comment.ReplaceAllString(all["README.md"], "")
	for _, command := range commandsOf(blocksOf(all[quickstart])[:3]) {
		if !strings.Contains(readme, comment.ReplaceAllString(command, "")+"\n") {
			t.Errorf("README.md does not have %q", command)
		}
	}
}

// TestCluster_Redis: Redis takes the file that the page about clusters shows, and does as it says.
func TestCluster_Redis(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "redis.conf")
	for _, b := range blocksOf(pages(t)["docs/cluster.md"]) {
		if b.file() == "/etc/redis/redis.conf" {
			world.Save(t, file, b.text)
		}
	}
	_, port, _ := strings.Cut(world.FreeAddr(t), ":")
	server := extern.Find(t, "redis-server").Command(t.Context(), file, "--bind", "127.0.0.1", "--port", port,
		"--dir", dir)
	p, err := fleet.Launch(server, filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.End)
	ask := func(args ...string) string {
		out, _ := extern.Find(t, "redis-cli").Command(t.Context(), append([]string{
			"-p", port, "-a", "put-a-long-one-here", "--no-auth-warning",
		}, args...)...).Output() // what it says is looked at
		return strings.Join(strings.Fields(string(out)), " ")
	}
	world.Await(t, "it answers or ends", func() bool { return p.Gone() || ask("PING") == "PONG" })
	for key, want := range map[string]string{
		"maxmemory-policy": "volatile-ttl", "maxmemory": "1073741824", "appendonly": "yes", "save": "",
	} {
		if got := ask("CONFIG", "GET", key); got != strings.TrimSpace(key+" "+want) {
			t.Errorf("got %s, want %s of %s", got, want, key)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
