//go:build !race

package simulation

// underRace reports whether the race detector is on, with which all takes ten times as long.
const underRace = false
