package ingresstest

import (
	"syscall"
	"testing"
	"time"
)

// CPU is the time that this process has computed, which other programs of the machine make no longer.
func CPU(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
