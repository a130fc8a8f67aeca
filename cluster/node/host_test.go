package node

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/millrace/millrace/cluster/config"
)

// TestHostWarnings: a node says what of its host carries messages to a disk, or loses lines of the log.
func TestHostWarnings(t *testing.T) {
	const (
		header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
		group  = "0::/system.slice/millrace.service\n"
		burst  = "run/systemd/units/log-rate-limit-burst:millrace.service"
		each   = "run/systemd/units/log-rate-limit-interval:millrace.service"
		limit  = "journald drops lines of the log beyond "
	)
	for _, tt := range []struct {
		name    string
		files   map[string]string // links end in "@"
		journal bool
		want    string // the warnings' beginnings
	}{
		{"a host of which nothing can be read", nil, false, ""},
		{"no swap", map[string]string{"proc/swaps": header}, false, ""},
		{"a partition", map[string]string{"proc/swaps": header + "/dev/sda2 partition 1 0 -2\n"}, false, "swap is on"},
		{"a file, and a node in no group", map[string]string{
			"proc/swaps": header + "/swap.img file 1 0 -2\n", "proc/self/cgroup": "0::/\n",
		}, false, "swap is on"},
		{"compressed memory", map[string]string{"proc/swaps": header + "/dev/zram0 partition 1 0 5\n"}, false, ""},
		{"a unit that is not swapped", map[string]string{
			"proc/swaps": header + "/dev/sda2 partition 1 0 -2\n", "proc/self/cgroup": group,
			"sys/fs/cgroup/system.slice/millrace.service/memory.swap.max": "0\n",
		}, false, ""},
		{"a slice that is not swapped", map[string]string{
			"proc/swaps": header + "/dev/sda2 partition 1 0 -2\n", "proc/self/cgroup": group,
			"sys/fs/cgroup/system.slice/memory.swap.max":                  "0\n",
			"sys/fs/cgroup/system.slice/millrace.service/memory.swap.max": "max\n",
		}, false, ""},
		{"a container that is not swapped", map[string]string{
			"proc/swaps": header + "/dev/sda2 partition 1 0 -2\n", "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.swap.max": "0\n",
		}, false, ""},
		{"a unit that may be swapped", map[string]string{
			"proc/swaps": header + "/dev/sda2 partition 1 0 -2\n", "proc/self/cgroup": group,
			"sys/fs/cgroup/system.slice/millrace.service/memory.swap.max": "max\n",
		}, false, "swap is on"},
		{"journald as it comes", nil, true, limit + "10000 in 30s"},
		{"a log that goes elsewhere", nil, false, ""},
		{"journald without a limit", map[string]string{
			"etc/systemd/journald.conf": "[Journal]\n#RateLimitBurst=1\nRateLimitIntervalSec=0\n",
		}, true, ""},
		{"a part that says otherwise", map[string]string{
			"etc/systemd/journald.conf":               "[Journal]\nRateLimitIntervalSec=0\n",
			"usr/lib/systemd/journald.conf.d/10.conf": "[Journal]\nRateLimitIntervalSec = 1min\nRateLimitBurst=500\n",
		}, true, limit + "500 in 1m0s"},
		{"the later of two parts, and the administrator's of two with one name", map[string]string{
			"etc/systemd/journald.conf.d/10.conf":     "RateLimitBurst=7\n",
			"usr/lib/systemd/journald.conf.d/10.conf": "RateLimitBurst=8\n",
			"usr/lib/systemd/journald.conf.d/05.conf": "RateLimitBurst=9\n",
		}, true, limit + "7 in 30s"},
		{"a unit that may log enough", map[string]string{
			"proc/self/cgroup": group, burst + "@": "1000000", each + "@": "1000000",
		}, true, ""},
		{"a unit that may not", map[string]string{
			"proc/self/cgroup": group, burst + "@": "1000", each + "@": "5000000",
		}, true, limit + "1000 in 5s"},
		{"another unit that may", map[string]string{
			"proc/self/cgroup": "0::/system.slice/relay.service\n", burst + "@": "1000000", each + "@": "1000000",
		}, true, limit + "10000 in 30s"},
	} {
		root := make(fstest.MapFS)
		for name, text := range tt.files {
			file := &fstest.MapFile{Data: []byte(text)}
			if link, ok := strings.CutSuffix(name, "@"); ok {
				name, file.Mode = link, fs.ModeSymlink|0o777
			}
			root[name] = file
		}
		got := strings.Join(hostWarnings(root, tt.journal), "; ")
		if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestMemoryWarning: a budget for messages that the machine does not have is warned of.
func TestMemoryWarning(t *testing.T) {
	info := func(text string) fstest.MapFS {
		return fstest.MapFS{"proc/meminfo": &fstest.MapFile{Data: []byte(text)}}
	}
	for _, tt := range []struct {
		name   string
		root   fstest.MapFS
		budget config.Size
		want   string
	}{
		{"enough", info("MemTotal:        1048576 kB\nMemFree: 1 kB\n"), 512 << 20, ""},
		{"a machine that is too small", info("MemTotal:         493568 kB\n"), 512 << 20,
			"512MiB of messages in memory: this machine has 482MiB in all"},
		{"a unit that was meant otherwise", info("MemTotal:       8388608 kB\n"), 512 << 30, "512GiB of messages"},
		{"not known", fstest.MapFS{}, 512 << 30, ""},
		{"no number", info("MemTotal: much kB\n"), 512 << 30, ""},
	} {
		c, err := config.Parse(configFile(t), []byte(smallest), "")
		if err != nil {
			t.Fatal(err)
		}
		c.Limits.HoldBudget = tt.budget
		got := config.Problems(memoryWarning(c, memoryOf(tt.root)))
		if len(got) > 0 != (tt.want != "") || tt.want != "" && !strings.Contains(got.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTimeSpan(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "0": 0, "45": 45 * time.Second, "1min": time.Minute, "500ms": 500 * time.Millisecond,
		"2 h": 2 * time.Hour, "": -1, "s": -1, "1year": -1, "1h 2s": -1, "99999999999999999999s": -1,
	} {
		got, ok := timeSpan(s)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

// TestIsJournal: the journal is what systemd says it is, and no other file.
func TestIsJournal(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isJournal(file) || isJournal(new(strings.Builder)) {
		t.Error("a file is the journal")
	}
	t.Setenv("JOURNAL_STREAM", "1:1")
	if isJournal(file) {
		t.Error("another file is the journal")
	}
	t.Setenv("JOURNAL_STREAM", identity(t, file))
	if !isJournal(file) {
		t.Error("the journal is not known")
	}
}

// identity returns what systemd calls a file.
func identity(t *testing.T, file *os.File) string {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}
