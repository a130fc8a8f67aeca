package extern

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// KnotKey is a key that StartKnot's server takes changes from, as the file of a program has it.
const KnotKey = "hmac-sha256:update.key:bWlsbHJhY2UgdGVzdHMga25vdCB1cGRhdGVzLi4uLi4="

// StartKnot runs Knot DNS with a zone until the test ends and returns the address that it answers at. Who signs with
// KnotKey may change the zone by DNS UPDATE.
func StartKnot(t testing.TB, zone, text string) (addr string) {
	t.Helper()
	knot := Find(t, "knotd")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, zone+".zone"), text)
	_, secret, _ := strings.Cut(strings.TrimPrefix(KnotKey, "hmac-sha256:"), ":")
	return serve(t, func(addr string) *exec.Cmd {
		host, port := split(t, addr)
		file := filepath.Join(dir, "knot.conf")
		writeFile(t, file, fmt.Sprintf(`server:
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
key:
  - id: update.key
    algorithm: hmac-sha256
    secret: %[4]s
acl:
  - id: changes
    key: update.key
    action: [query, update]
  - id: questions
    action: query
template:
  - id: default
    storage: %[1]q
    file: "%%s.zone"
zone:
  - domain: %[5]s
    acl: [changes, questions]
`, dir, host, port, secret, zone))
		return knot.Command(context.Background(), "-c", file)
	})
}
