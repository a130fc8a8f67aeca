package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/router/mail"
)

// TestCheck_SiteFiles: bad files of Sites and reactions are named by line.
func TestCheck_SiteFiles(t *testing.T) {
	for _, tt := range []struct{ name, sites, reactions, want string }{
		{"nothing", "", "", ""},
		{"a limit that is none", "site a .a.example\nlimits a colour=3", "",
			`sites.txt:2:10: egress.sites_file: "colour=3": no such limit`},
		{"limits of no site", "\nlimits gogle connections=3", "", "sites.txt:2:1: egress.sites_file: no site gogle"},
		{"a reaction that is none", "", "\n421 4.7.0 google * -> stop",
			`reactions.txt:2:23: egress.reactions_file: "stop" is no action`},
		{"both files", "limits gogle connections=3", "421 4.7.0 x -> stop",
			"sites.txt:1:1: egress.sites_file: no site gogle|reactions.txt:1:1: egress.reactions_file: want CODE"},
		{"a reaction for no site", "", "421 4.7.0 gogle * -> nothing",
			"reactions.txt:1:11: egress.reactions_file: no site gogle"},
		{
			"a reaction for a site of one's own", "site a .a.example",
			"421 4.7.0 a * -> nothing\n421 4.7.0 mx.b.example * -> nothing", "",
		},
		{
			"a reaction for a host of a site", "site a .a.example", "# x\n421 4.7.0 mx.a.example * -> nothing",
			"reactions.txt:2:11: egress.reactions_file: mx.a.example is of site a",
		},
		{
			"a reaction for another name of a next hop", "", "421 4.7.0 lmtp://a.example:24 * -> nothing",
			"reactions.txt:1:11: egress.reactions_file: the name of Site lmtp://a.example:24 is lmtp://a.example",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := configFile(t)
			for name, text := range map[string]string{"sites.txt": tt.sites, "reactions.txt": tt.reactions} {
				if err := os.WriteFile(filepath.Join(filepath.Dir(file), name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, err := config.Parse(file,
				[]byte(smallest+
					"postmaster: ops@elsewhere.example\negress:\n  sites_file: sites.txt\n  reactions_file: "+
					"reactions.txt\n"), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = Check(c, nil)
			if tt.want == "" && err != nil {
				t.Errorf("got %v", err)
			}
			for want := range strings.SplitSeq(tt.want, "|") {
				if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
		})
	}
}

// TestReload_SiteFiles: the limits of a file of Sites are in force, and are read anew on reload.
func TestReload_SiteFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sites", "limits * messages=1\n")
	write("reactions", "451 4.7.99 * * -> suspend 5m\n")
	b := startNode(t,
		fmt.Sprintf("egress: {sites_file: %q, reactions_file: %q}", filepath.Join(dir, "sites"),
			filepath.Join(dir, "reactions")), nil)
	// connections returns how many connections the destination sees for so many messages.
	connections := func(messages int) int {
		before := b.dest.Counts().Connections
		for range messages {
			b.dial(t).send("info@example.com")
			<-b.seen
		}
		return b.dest.Counts().Connections - before
	}
	reacts := func() feedback.Kind {
		a, _ := b.parts.files.sites.Load().reactions.Match("any", 451, mail.EnhancedCode{Subject: 7, Detail: 99}, "")
		return a.Kind
	}
	if n, kind := connections(3), reacts(); n != 3 || kind != feedback.Suspend {
		t.Errorf("at the start: %d connections, reaction %d", n, kind)
	}

	write("sites", fmt.Sprintf("limits * messages=1\nlimits smtp://%s messages=2 spread=2\n", b.dest.Addr()))
	write("reactions", "451 4.7.99 * * -> fewer sessions\n")
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, kind := connections(4), reacts(); n != 2 || kind != feedback.Fewer {
		t.Errorf("after a reload: %d connections, reaction %d", n, kind)
	}
	if n := b.parts.files.spread(mail.Site("smtp://" + b.dest.Addr())); n != 2 {
		t.Errorf("%d owners", n)
	}

	write("sites", "\nlimits * messages=none\n")
	if err := b.Reload(t.Context()); err == nil || !strings.Contains(err.Error(),
		`sites:2:10: egress.sites_file: "messages=none"`) {
		t.Errorf("got %v", err)
	}
	if n := connections(4); n != 2 {
		t.Errorf("after a bad reload: %d connections", n)
	}
}
