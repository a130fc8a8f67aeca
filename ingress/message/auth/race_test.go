//go:build race

package auth

// raced says that the race detector is at work, under which time says little.
const raced = true
