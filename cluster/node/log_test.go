package node

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/config"
)

// TestLogger_Warnings: a warning about the same thing comes once in ten minutes, and is information in between, or
// nothing where the log has warnings alone.
func TestLogger_Warnings(t *testing.T) {
	for level, wantInfo := range map[string]int{"info": 66, "warn": 0} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			l := newLogger(&out, &config.Config{Log: config.Log{Level: level}})
			part := l.With("part", "lists")
			for minute := range 25 {
				for _, zone := range []string{"a.example", "b.example"} {
					why := strings.Repeat("x", minute)
					l.say(slog.LevelWarn, "list is not asked", "zone", zone, "cause", why)
				}
				part.Warn("something else", "lines", minute)
				l.say(slog.LevelError, "reload failed")
				time.Sleep(time.Minute)
			}
			l.flush()
			log := out.String()
			for what, want := range map[string]int{
				`"WARN","msg":"list`: 6, `"WARN","msg":"some`: 3, `"INFO"`: wantInfo, `"ERROR"`: 25,
			} {
				if n := strings.Count(log, what); n != want {
					t.Errorf("%s: %d lines with %s, want %d", level, n, what, want)
				}
			}
		})
	}
}
