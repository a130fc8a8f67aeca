package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// TestDKIMRotate: new keys are made beside the old ones, and the old ones go only when the new ones can be looked up.
func TestDKIMRotate(t *testing.T) {
	dir, zone := initialised(t)
	names := dnstest.Start(t, zone)
	file := filepath.Join(dir, configName)
	edit(t, file, `# dns: {servers: ["127.0.0.1:53"]}`, `dns: {servers: ["`+names.Addr()+`"]}`)
	if err := os.Chmod(filepath.Join(dir, "dkim-rsa.pem"), groupMode); err != nil {
		t.Fatal(err)
	}
	rotate := func(day string, json bool) (string, error) {
		var out bytes.Buffer
		v := dkimRotateVerb{configFlag: configFlag{file}, Domain: "example.org", jsonFlag: jsonFlag{json}}
		v.now = func() time.Time { at, _ := time.Parse(time.DateOnly, day); return at }
		err := v.rotate(streams{out: &out, err: &out})
		return out.String(), err
	}
	text, err := rotate("2026-12-01", true)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Made []published
		Add  map[string]string
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got.Made) != 2 {
		t.Fatalf("%v: %s", err, text)
	}
	for i, want := range []string{"rsa20261201._domainkey.example.org", "ed20261201._domainkey.example.org"} {
		if got.Made[i].Name != want {
			t.Errorf("made %s, want %s", got.Made[i].Name, want)
		}
	}
	if info, err := os.Stat(got.Made[0].KeyFile); err != nil || info.Mode().Perm() != groupMode {
		t.Errorf("who may read the new key differs: %v, %v", info, err)
	}
	if _, err := rotate("2026-12-01", false); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a second time on that day: %v", err)
	}
	edit(t, file, "# Clients are judged", got.Add["domains"]+"\n# Clients are judged")
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.Check(cfg, nil); err != nil || len(cfg.DKIM.Domains) != 4 {
		t.Fatalf("%v: %d keys", err, len(cfg.DKIM.Domains))
	}
	text, err = rotate("2026-12-02", false)
	if err != nil || !strings.Contains(text, "rsa1 -> rsa20261201: publish rsa20261201._domainkey.example.org: "+
		"rsa1 signs") {
		t.Errorf("%v: %s", err, text)
	}
	names.SetFault("*", "TXT", dnstest.Fault{Rcode: "SERVFAIL"})
	if _, err := rotate("2026-12-02", false); err == nil || !strings.Contains(err.Error(), "leave both") {
		t.Errorf("a name server that fails: %v", err)
	}
	names.SetFault("*", "TXT", dnstest.Fault{})
	if err := names.SetZone(zone + got.Made[0].Name + ". 60 IN " +
		"TXT " + dkim.ZoneText(got.Made[0].Record) + "\n"); err != nil {
		t.Fatal(err)
	}
	text, err = rotate("2026-12-02", false)
	if err != nil || !strings.Contains(text, "rsa1 -> rsa20261201: remove rsa1 from ") ||
		!strings.Contains(text, "its record may go on 2026-12-16") || !strings.Contains(text, "ed1 -> ed20261201: "+
		"publish ") {
		t.Errorf("%v: %s", err, text)
	}
}
