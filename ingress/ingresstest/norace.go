//go:build !race

package ingresstest

// Raced reports whether the race detector is at work. It drops some of what is pooled and makes calls of its own, so
// that time and counts say little under it.
const Raced = false
