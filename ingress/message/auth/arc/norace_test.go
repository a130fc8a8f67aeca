//go:build !race

package arc

// raced says that the race detector is at work, under which time says little.
const raced = false
