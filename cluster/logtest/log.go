// Package logtest has a log that a test reads while its subject writes it.
//
// It owns the text. It refuses to know what a line means. Only tests may import it.
//
// Invariants: the zero Log is empty and ready for use; all methods are safe for concurrent use.
package logtest

import (
	"bytes"
	"strings"
	"sync"
)

// A Log keeps what is written.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write keeps a line.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String returns all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Count returns how often s was written.
func (l *Log) Count(s string) int { return strings.Count(l.String(), s) }

// Has reports whether s was written.
func (l *Log) Has(s string) bool { return l.Count(s) > 0 }
