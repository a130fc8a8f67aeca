package fleet

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// A Machine is what figures were taken on.
type Machine struct {
	Cores  int      `json:"cores"`
	Model  string   `json:"model"`
	Flags  []string `json:"flags"` // of the processor, those of flagsThatCount
	Kernel string   `json:"kernel"`
	Go     string   `json:"go"`
	Load   string   `json:"load"` // the averages over 1, 5 and 15 minutes when it was asked
}

// flagsThatCount say which instructions the hashes, the ciphers and the signatures of a relay find.
var flagsThatCount = []string{"sha_ni", "aes", "vaes", "avx2", "avx512f", "avx512ifma", "adx", "bmi2"}

// ReadMachine asks the kernel. What it does not tell stays empty: figures are complete without it.
func ReadMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan() && (m.Model == "" || m.Flags == nil); {
			name, value, _ := strings.Cut(in.Text(), ":")
			switch strings.TrimSpace(name) {
			case "model name":
				m.Model = strings.TrimSpace(value)
			case "flags":
				m.Flags = slices.DeleteFunc(strings.Fields(value), func(flag string) bool {
					return !slices.Contains(flagsThatCount, flag)
				})
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(kernel))
	load, _ := os.ReadFile("/proc/loadavg")
	if averages := strings.Fields(string(load)); len(averages) > 3 {
		m.Load = strings.Join(averages[:3], " ")
	}
	return m
}

// String tells what does not change between two runs.
func (m Machine) String() string {
	return fmt.Sprintf("%d x %s, Linux %s, %s", m.Cores, m.Model, m.Kernel, m.Go)
}

// A CPU is how much time all cores had since the machine started, how much of it they were busy, and how much of that
// others had who share the processor.
type CPU struct{ Busy, All, Stolen float64 }

// CPUTime asks the kernel. It is zero where that does not tell.
func CPUTime() (c CPU) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil || i > 8 { // the name; and guests, whose time is counted before
			continue
		}
		c.All += ticks
		if i == 8 {
			c.Stolen = ticks
		}
		if i != 4 && i != 5 { // idle, and waiting for a disk
			c.Busy += ticks
		}
	}
	return c
}

// BusySince is the share of the time since then that the cores were busy.
func (c CPU) BusySince(then CPU) float64 {
	if c.All <= then.All {
		return 0
	}
	return (c.Busy - then.Busy) / (c.All - then.All)
}

// StolenSince is the share of the time since then that others had who share the processor.
func (c CPU) StolenSince(then CPU) float64 {
	if c.All <= then.All {
		return 0
	}
	return (c.Stolen - then.Stolen) / (c.All - then.All)
}
