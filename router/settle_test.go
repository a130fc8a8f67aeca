package router

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestReload_WhileWritten: a file that is being written and ends at the end of a line is not taken for the whole.
func TestReload_WhileWritten(t *testing.T) {
	const whole, cut = "a@h.example x@t.example\n@g.example x@t.example\n", "a@h.example x@t.example\n"
	const later = whole + "@f.example x@t.example\n"
	tests := []struct {
		name   string
		writes []string // one each half second, from the moment of the reload on
		want   string
		took   time.Duration
	}{
		{"written long ago", nil, later, 0},
		{"cut, and whole after half a second", []string{cut, later}, later, 2 * quiet},
		{"cut, and not mended", []string{cut}, cut, quiet},
		{"written at each look", []string{cut, cut, cut, cut, cut, cut, cut, cut, cut, cut}, whole, 4 * quiet},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, whole)
			synctest.Test(t, func(t *testing.T) {
				overwriteAt(t, file, whole, time.Now().Add(-time.Hour))
				r := newRouter(t, testConfig(file))
				overwriteAt(t, file, later, time.Now().Add(-time.Minute))
				done := make(chan struct{})
				if len(tt.writes) > 0 {
					overwriteAt(t, file, tt.writes[0], time.Now())
				}
				go func() { // ends with the writes
					defer close(done)
					for i := 1; i < len(tt.writes); i++ {
						time.Sleep(quiet / 2)
						overwriteAt(t, file, tt.writes[i], time.Now())
					}
				}()
				began := time.Now()
				err := r.Reload(t.Context())
				if took := time.Since(began); took != tt.took || errors.Is(err, errChanging) != (tt.want == whole) {
					t.Errorf("%v after %v", err, took)
				}
				for _, text := range r.Files() {
					if text != tt.want {
						t.Errorf("the rules are %q", text)
					}
				}
				<-done
			})
		})
	}
}

// TestReload_Cut: the end of the context ends the wait for a file that is being written, and nothing changes.
func TestReload_Cut(t *testing.T) {
	file := write(t, "a@h.example x@t.example\n")
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, testConfig(file))
		overwriteAt(t, file, "a@h.example y@t.example\n", time.Now())
		ctx, cancel := context.WithTimeout(t.Context(), quiet/4)
		defer cancel()
		began := time.Now()
		if err := r.Reload(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != quiet/4 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if r.Version() != 1 {
			t.Errorf("version %d", r.Version())
		}
	})
}

// TestSettled_WhileRead: a file that changes while it is read is read again, at the start as well.
func TestSettled_WhileRead(t *testing.T) {
	file := write(t, "a@h.example x@t.example\n")
	synctest.Test(t, func(t *testing.T) {
		r := &Router{cfg: testConfig(file)}
		r.current.Store(&version{})
		reads := 0
		err := r.settled(t.Context(), func() error {
			if reads++; reads < 3 {
				overwriteAt(t, file, "a@h.example x@t.example\n", time.Now().Add(time.Duration(reads)))
				return errors.New("half a line")
			}
			return nil
		})
		if err != nil || reads != 3 {
			t.Errorf("%d reads, %v", reads, err)
		}
		reads = 0
		err = r.settled(t.Context(), func() error {
			reads++
			overwriteAt(t, file, "a@h.example x@t.example\n", time.Now().Add(time.Duration(reads)))
			return nil
		})
		if !errors.Is(err, errChanging) || reads != looks {
			t.Errorf("%d reads, %v", reads, err)
		}
	})
}

// TestSettled_Future: a file whose time lies in the future is read when two looks see the same.
func TestSettled_Future(t *testing.T) {
	file := write(t, "a@h.example x@t.example\n")
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, testConfig(file))
		overwriteAt(t, file, "a@h.example y@t.example\n", time.Now().Add(time.Hour))
		began := time.Now()
		if err := r.Reload(t.Context()); err != nil || time.Since(began) != quiet || r.Version() != 2 {
			t.Errorf("version %d, %v", r.Version(), err)
		}
	})
}
