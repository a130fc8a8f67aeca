package node

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxPending is how many octets of log can wait for a reader: some seconds of a busy node. What comes beyond is
	// dropped.
	maxPending = 4 << 20
	// maxSpare bounds the buffer that is kept when it is empty.
	maxSpare = 64 << 10
	// reportEvery is the least time between two lines of the log that say that lines are missing.
	reportEvery = 5 * time.Second
)

// A logWriter writes whole lines to the log in the background, many in one call. Its methods are safe for concurrent
// use, and only flush waits. When the reader of the log is too slow, or has gone, lines are dropped and counted, and
// the log tells how many as soon as it is read again. mu is never held during a write.
type logWriter struct {
	out  io.Writer
	form logForm // of the lines that it writes itself
	max  int     // octets that can wait

	mu      sync.Mutex
	pending *bytes.Buffer
	spare   *bytes.Buffer // nil while it is being written
	idle    chan struct{} // closed when the writer has ended; nil while none runs
	dropped uint64        // lines since the start

	reported   uint64 // those that a line of the log has told of
	reportedAt time.Time
}

func newLogWriter(out io.Writer) *logWriter {
	return &logWriter{out: out, max: maxPending, pending: new(bytes.Buffer), spare: new(bytes.Buffer)}
}

// Write keeps the lines of one event, or drops them; slog calls it once a record. It never fails.
func (w *logWriter) Write(lines []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending.Len()+len(lines) > w.max {
		w.dropped += countLines(lines)
		return len(lines), nil
	}
	w.pending.Write(lines)
	w.wake()
	return len(lines), nil
}

func countLines(lines []byte) uint64 { return uint64(bytes.Count(lines, []byte("\n"))) }

// wake starts the writer unless it runs. The caller holds mu.
func (w *logWriter) wake() {
	if w.idle == nil {
		w.idle = make(chan struct{})
		// Ends when no line waits. flush awaits it, unless the reader of the log keeps it for longer: then it ends
		// with the process.
		go w.run(w.idle)
	}
}

// Crowded reports whether half of the room for lines is taken. Lines that a stranger can cause at will are not to be
// written then.
func (w *logWriter) Crowded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pending.Len() > w.max/2
}

// drop counts lines that were left out because the log is crowded.
func (w *logWriter) drop(lines int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped += uint64(lines)
}

// Dropped returns the number of lines that were dropped since the start.
func (w *logWriter) Dropped() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

// run writes until no line waits. It rests before each write, so that a busy node writes many lines in one call.
func (w *logWriter) run(idle chan struct{}) {
	for {
		time.Sleep(pace)
		lines := w.take()
		if lines == nil {
			close(idle)
			return
		}
		n, err := w.out.Write(lines.Bytes()) // an error is not logged, because the log is what failed
		w.written(lines, n, err)
	}
}

// take returns the lines that wait, and one that tells how many were dropped before, if that is due. It returns nil if
// there is none: then the writer has ended.
func (w *logWriter) take() *bytes.Buffer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dropped > w.reported && time.Since(w.reportedAt) >= reportEvery {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were dropped", 0)
		r.AddAttrs(slog.Uint64("lines", w.dropped-w.reported))
		w.reported, w.reportedAt = w.dropped, r.Time
		_ = w.form.handler(w.pending, "").Handle(context.Background(), r) // a bytes.Buffer never fails
	}
	if w.pending.Len() == 0 {
		w.idle = nil
		return nil
	}
	lines := w.pending
	w.pending, w.spare = w.spare, nil
	return lines
}

// written takes the buffer of a write back, of which n octets were written. After an error the lines behind them count
// as dropped.
func (w *logWriter) written(lines *bytes.Buffer, n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.dropped += countLines(lines.Bytes()[min(n, lines.Len()):])
	}
	lines.Reset()
	if lines.Cap() > maxSpare {
		lines = new(bytes.Buffer)
	}
	w.spare = lines
}

// flush has the log tell of all lines that were dropped, and waits until no line waits, at most for limit.
func (w *logWriter) flush(limit time.Duration) {
	w.mu.Lock()
	w.reportedAt = time.Time{}
	w.wake()
	idle := w.idle
	w.mu.Unlock()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-idle:
	case <-late.C:
	}
}
