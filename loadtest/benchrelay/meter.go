package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A meter tells what a relay takes: of one process, or of a control group, which counts all processes that were ever in
// it, those that have ended too. The zero meter is that of nothing.
type meter struct {
	pid   int
	group string // a folder of /sys/fs/cgroup
}

// groupRoots are where control groups are, of either version.
var groupRoots = []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/cpuacct"}

// newGroup makes a control group.
func newGroup(name string) (string, error) {
	for _, root := range groupRoots {
		group := filepath.Join(root, fmt.Sprintf("benchrelay-%d-%s", os.Getpid(), name))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		if _, err := (meter{group: group}).cpu(); err == nil {
			return group, nil
		}
		_ = os.Remove(group) // of no use, and the next one is tried
	}
	return "", errors.New("no control groups that count CPU time can be made below /sys/fs/cgroup")
}

// cpu is the CPU time taken so far, user and system.
func (m meter) cpu() (time.Duration, error) {
	switch {
	case m.group != "":
		return groupTime(m.group)
	case m.pid != 0:
		return processTime(m.pid)
	}
	return 0, nil
}

func groupTime(group string) (time.Duration, error) {
	if text, err := os.ReadFile(filepath.Join(group, "cpuacct.usage")); err == nil {
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return time.Duration(n), err
	}
	text, err := os.ReadFile(filepath.Join(group, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s counts no CPU time", group)
}

// processTime is that of a process, all its threads together. Its clock is that of clock_getcpuclockid(3), which counts
// in nanoseconds where /proc/PID/stat counts in hundredths of a second.
func processTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, errors.Join(fmt.Errorf("process %d is gone", pid), err)
	}
	return time.Duration(t.Nano()), nil
}

// processes are those that run now.
func (m meter) processes() []int {
	if m.group == "" {
		return []int{m.pid}
	}
	text, _ := os.ReadFile(filepath.Join(m.group, "cgroup.procs")) // a group that is gone has none
	var pids []int
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// memory is what the processes hold now, in KiB: what several of them share counts once (PSS).
func (m meter) memory() int {
	total := 0
	for _, pid := range m.processes() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)) // one that has ended holds nothing
		for line := range strings.Lines(string(text)) {
			var kib int
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
				total += kib
			}
		}
	}
	return total
}

// settle waits until a relay has done what it does behind an answer, such as removing a message from a queue.
func (m meter) settle() {
	const (
		look = 20 * time.Millisecond
		idle = look / 50
		most = 100 // looks
	)
	before, _ := m.cpu() // an error is told by the reading that follows
	for quiet, looks := 0, 0; quiet < 3 && looks < most; looks++ {
		time.Sleep(look)
		now, _ := m.cpu()
		if quiet++; now-before > idle {
			quiet = 0
		}
		before = now
	}
}

// end kills what is left in the group, and removes it.
func (m meter) end() {
	if m.group == "" {
		return
	}
	for range 50 {
		pids := m.processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // an error means that it is gone
		}
		if os.Remove(m.group) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
