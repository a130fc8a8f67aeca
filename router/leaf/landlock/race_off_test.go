//go:build !race

package landlock_test

// linkedWithC reports whether the test is linked with C, as the race detector has it.
const linkedWithC = false
