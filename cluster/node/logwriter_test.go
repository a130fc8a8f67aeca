package node

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A stoppedReader is a log that is not read until release is closed.
type stoppedReader struct {
	release chan struct{}
	read    bytes.Buffer
}

func (s *stoppedReader) Write(p []byte) (int, error) {
	<-s.release
	return s.read.Write(p)
}

// TestLogWriter_Stopped: while the log is not read, writing waits for nothing and lines are kept up to a bound. When it
// is read again it tells how many lines are missing.
func TestLogWriter_Stopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stoppedReader{release: make(chan struct{})}
		w := newLogWriter(out)
		w.max = 1000
		line := func(i int) []byte { return fmt.Appendf(nil, "%09d\n", i) }
		w.Write(line(0))
		time.Sleep(time.Second) // the writer waits for the reader
		if w.Crowded() {
			t.Error("an empty buffer is crowded")
		}
		for i := range 500 {
			w.Write(line(i + 1))
		}
		if n := w.Dropped(); n != 400 || !w.Crowded() {
			t.Errorf("%d lines were dropped", n)
		}
		began := time.Now()
		w.flush(time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("flush waited %s", took)
		}
		close(out.release)
		w.flush(time.Second)
		lines := strings.SplitAfter(out.read.String(), "\n")
		want := `"level":"WARN","msg":"log lines were dropped","lines":400`
		if len(lines) != 103 || !strings.Contains(lines[101], want) {
			t.Errorf("%d lines, of which the last is %s", len(lines), lines[len(lines)-2])
		}
	})
}

// TestLogWriter_Slow: a log that drops again and again says so once in five seconds, and once more at the end.
func TestLogWriter_Slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := newLogWriter(&out)
		w.max = 150
		for range 120 { // 12 s
			for range 20 {
				w.Write([]byte("123456789\n"))
			}
			time.Sleep(100 * time.Millisecond)
		}
		w.flush(time.Second)
		missing, times := 0, 0
		for _, line := range strings.Split(out.String(), "\n") {
			var n int
			if _, text, ok := strings.Cut(line, `"lines":`); ok {
				fmt.Sscan(text, &n)
				missing += n
				times++
			}
		}
		if written := strings.Count(out.String(), "123456789\n"); written+missing != 2400 || times != 4 {
			t.Errorf("%d lines written and %d missing are not 2400; told %d times", written, missing, times)
		}
	})
}

type brokenLog struct{}

func (brokenLog) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestLogWriter_Broken: lines that the log did not take are counted, and the writer ends.
func TestLogWriter_Broken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLogWriter(brokenLog{})
		for range 7 {
			w.Write([]byte("x\n"))
		}
		w.flush(time.Minute)
		if n := w.Dropped(); n < 7 || n > 9 { // the lines that tell of lost lines are lost as well
			t.Errorf("%d lines were dropped", n)
		}
	})
}
