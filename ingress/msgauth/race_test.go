//go:build race

package msgauth

// raced says that the race detector is at work, under which time says little.
const raced = true
