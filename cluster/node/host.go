package node

import (
	"cmp"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/config"
)

// hostWarnings returns what an administrator should know of the host whose files are below root: that messages in
// memory may be written to a swap device, and, where the log goes to the journal, that journald would drop lines of it.
func hostWarnings(root fs.FS, journal bool) (warnings []string) {
	if swaps(root) {
		warnings = append(warnings,
			"swap is on: messages in memory may be written to it (MemorySwapMax=0 in the unit, or swapoff -a)")
	}
	if !journal {
		return warnings
	}
	burst, interval := journalLimit(root)
	if perSecond := float64(burst) / max(interval.Seconds(), 1e-6); interval > 0 && burst > 0 && perSecond < busyLines {
		warnings = append(warnings, fmt.Sprintf("journald drops lines of the log beyond %d in %s "+
			"(LogRateLimitIntervalSec=1s and LogRateLimitBurst=1000000 in the unit)", burst, interval))
	}
	return warnings
}

// memoryOf returns the memory of a machine in octets, 0 if it is not known.
func memoryOf(root fs.FS) (octets uint64) {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "MemTotal:" && words[2] == "kB" {
			octets, _ = strconv.ParseUint(words[1], 10, 53)
		}
	}
	return octets << 10
}

// memoryWarning returns what is to be said if messages may take more of the memory than a machine can spare.
func memoryWarning(c *config.Config, octets uint64) []config.Problem {
	if octets == 0 || uint64(c.Limits.HoldBudget) <= octets/4*3 {
		return nil
	}
	return []config.Problem{c.Problem("limits.hold_budget", fmt.Sprintf("%s of messages in memory: this machine has "+
		"%s in all, and the system ends a node that takes more; %s leaves room", c.Limits.HoldBudget,
		config.Size(octets>>20<<20), config.Size(max(octets>>21<<20, 1<<20))))}
}

// busyLines is how many lines a second a busy node may log.
const busyLines = 10000

// swaps reports whether memory of this process may be written to a swap device. What zram takes stays in memory.
func swaps(root fs.FS) bool {
	text, err := fs.ReadFile(root, "proc/swaps")
	if err != nil {
		return false
	}
	_, devices, _ := strings.Cut(string(text), "\n")
	if !slices.ContainsFunc(strings.Fields(devices), isSwapFile) {
		return false
	}
	// A limit of 0 on a group holds for those inside it. In a container the root is a group, too.
	for group := groupOf(root); ; group = filepath.Dir(group) {
		limit, err := fs.ReadFile(root, filepath.Join("sys/fs/cgroup", group, "memory.swap.max"))
		if err == nil && strings.TrimSpace(string(limit)) == "0" {
			return false
		}
		if group == "/" {
			return true
		}
	}
}

// isSwapFile reports whether a field of /proc/swaps is the name of a device or file that is not memory.
func isSwapFile(field string) bool {
	return strings.HasPrefix(field, "/") && !strings.HasPrefix(field, "/dev/zram")
}

// groupOf returns the control group of this process, from the root of their tree (cgroups(7)), "/" if it is not known.
func groupOf(root fs.FS) string {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return "/"
	}
	for line := range strings.Lines(string(text)) {
		if group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Clean("/" + group)
		}
	}
	return "/"
}

// journalLimit returns how many lines of this process's unit journald takes in an interval; a zero is no limit.
func journalLimit(root fs.FS) (burst int, interval time.Duration) {
	burst, interval = 10000, 30*time.Second // journald.conf(5)
	for _, line := range journaldSettings(root) {
		key, value, _ := strings.Cut(line, "=")
		switch key, value = strings.TrimSpace(key), strings.TrimSpace(value); key {
		case "RateLimitBurst":
			if n, err := strconv.Atoi(value); err == nil {
				burst = n
			}
		case "RateLimitIntervalSec", "RateLimitInterval":
			if d, ok := timeSpan(value); ok {
				interval = d
			}
		}
	}
	// systemd leaves what a unit says as the text of links. It leaves no 0, which is not to be had by a unit.
	unit := filepath.Base(groupOf(root))
	if text, err := fs.ReadLink(root, "run/systemd/units/log-rate-limit-burst:"+unit); err == nil {
		if n, err := strconv.Atoi(text); err == nil {
			burst = n
		}
	}
	if text, err := fs.ReadLink(root, "run/systemd/units/log-rate-limit-interval:"+unit); err == nil {
		if us, err := strconv.ParseInt(text, 10, 64); err == nil {
			interval = time.Duration(us) * time.Microsecond
		}
	}
	return burst, interval
}

// journaldSettings returns the lines of journald's configuration, those that count later behind the others.
func journaldSettings(root fs.FS) (lines []string) {
	var files []string
	for _, dir := range []string{"etc", "run", "usr/local/lib", "usr/lib"} {
		if _, err := fs.Stat(root, dir+"/systemd/journald.conf"); err == nil {
			files = append(files, dir+"/systemd/journald.conf") // the first of them counts
			break
		}
	}
	// Of parts with the same name that of the first folder counts, and they are read in the order of their names.
	var parts []string
	for _, dir := range []string{"etc", "run", "usr/local/lib", "usr/lib"} {
		found, _ := fs.Glob(root, dir+"/systemd/journald.conf.d/*.conf") // the pattern is well formed
		for _, file := range found {
			same := func(other string) bool { return filepath.Base(other) == filepath.Base(file) }
			if !slices.ContainsFunc(parts, same) {
				parts = append(parts, file)
			}
		}
	}
	slices.SortFunc(parts, func(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) })
	for _, file := range append(files, parts...) {
		text, err := fs.ReadFile(root, file)
		if err == nil {
			lines = append(lines, strings.Split(string(text), "\n")...)
		}
	}
	return lines
}

// timeSpan reads a time as systemd writes it, in one unit (systemd.time(7)): 30s, 1min, 500ms, or seconds.
func timeSpan(s string) (time.Duration, bool) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.Atoi(s[:digits])
	unit, ok := map[string]time.Duration{
		"": time.Second, "s": time.Second, "sec": time.Second, "ms": time.Millisecond, "us": time.Microsecond,
		"m": time.Minute, "min": time.Minute, "h": time.Hour,
	}[strings.TrimSpace(s[digits:])]
	return time.Duration(n) * unit, ok && err == nil
}
