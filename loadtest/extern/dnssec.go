package extern

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Signed is an authoritative Knot DNS, whose zones may be signed, with a validating Unbound in front of it.
type Signed struct {
	Addr string // of Unbound

	knot Program
	conf string // of Knot
	dir  string
}

// A Zone is the text of a zone, and how far it is to be believed.
type Zone struct {
	Name, Text string
	Signed     bool
	Bogus      bool // the resolver believes another key
}

// StartSigned runs Knot DNS with zones, and an Unbound that asks it and nothing else, until the test ends.
func StartSigned(t testing.TB, zones ...Zone) *Signed {
	t.Helper()
	unbound := Find(t, "unbound")
	s := &Signed{knot: Find(t, "knotd"), dir: t.TempDir()}
	s.conf = filepath.Join(s.dir, "knot.conf")
	var served strings.Builder
	for _, z := range zones {
		writeFile(t, s.zone(z.Name), z.Text)
		fmt.Fprintf(&served, "  - domain: %s\n", z.Name)
		if z.Signed {
			served.WriteString("    dnssec-signing: on\n    dnssec-policy: signed\n")
		}
	}
	authority := serve(t, func(addr string) *exec.Cmd {
		host, port := split(t, addr)
		writeFile(t, s.conf, fmt.Sprintf(`server:
    rundir: %[1]q
    listen: %[2]s@%[3]s
log:
  - target: stderr
    any: info
database:
    storage: %[1]q
    journal-db-max-size: 16M
    kasp-db-max-size: 5M
    timer-db-max-size: 5M
policy:
  - id: signed
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: %[1]q
    file: "%%s.zone"
    zonefile-load: difference-no-serial
    zonefile-sync: -1
    journal-content: all
zone:
%[4]s`, s.dir, host, port, served.String()))
		return s.knot.Command(context.Background(), "-c", s.conf)
	})
	var anchors, stubs strings.Builder
	for _, z := range zones {
		if z.Signed {
			anchors.WriteString(s.anchor(t, z))
		} else {
			fmt.Fprintf(&stubs, "  domain-insecure: %q\n", z.Name)
		}
	}
	for _, name := range append([]string{"."}, names(zones)...) {
		fmt.Fprintf(&stubs, "stub-zone:\n  name: %q\n  stub-addr: %s\n", name, strings.Replace(authority, ":", "@", 1))
	}
	writeFile(t, filepath.Join(s.dir, "anchors"), anchors.String())
	s.Addr = serve(t, func(addr string) *exec.Cmd {
		conf := filepath.Join(s.dir, "unbound.conf")
		writeFile(t, conf, fmt.Sprintf(`server:
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  directory: %[1]q
  interface: %[2]s
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  trust-anchor-file: "%[1]s/anchors"
  module-config: "validator iterator"
  do-ip6: no
  infra-host-ttl: 1
  local-zone: "test." nodefault
  cache-max-ttl: 0
  cache-max-negative-ttl: 0
%[3]sremote-control:
  control-enable: no
`, s.dir, strings.Replace(addr, ":", "@", 1), stubs.String()))
		return unbound.Command(context.Background(), "-d", "-c", conf)
	})
	return s
}

// names returns the names of zones.
func names(zones []Zone) (out []string) {
	for _, z := range zones {
		out = append(out, z.Name)
	}
	return out
}

func (s *Signed) zone(name string) string { return filepath.Join(s.dir, name+".zone") }

// anchor returns the DS record that the resolver is to believe. Knot makes the key while it loads the zone.
func (s *Signed) anchor(t testing.TB, z Zone) string {
	t.Helper()
	keymgr := Find(t, "keymgr")
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var ds string
	for ds == "" {
		select {
		case <-ctx.Done():
			t.Fatalf("knot has no key of %s", z.Name)
		case <-tick.C:
		}
		out, _ := keymgr.Command(ctx, "-c", s.conf, z.Name, "ds").Output() // fails until there is one
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, " 13 2 ") {
				ds = strings.TrimSpace(strings.Replace(line, " DS ", " IN DS ", 1)) + "\n"
			}
		}
	}
	if z.Bogus {
		last := ds[len(ds)-2:]
		ds = strings.TrimSuffix(ds, last) + map[bool]string{true: "1\n", false: "0\n"}[last == "0\n"]
	}
	return ds
}

// Change replaces the text of a zone, whose SOA record has another number then, and has Knot read and sign it.
func (s *Signed) Change(t testing.TB, name, text string) {
	t.Helper()
	writeFile(t, s.zone(name), text)
	knotc := Find(t, "knotc").Command(t.Context(), "-c", s.conf, "-b", "zone-reload", name)
	if out, err := knotc.CombinedOutput(); err != nil {
		t.Fatalf("knotc: %v: %s", err, out)
	}
}
