//go:build !linux

package smtpclient

// unacked returns 0: the system does not say.
func unacked(uintptr) int { return 0 }

// acknowledge does nothing: the system cannot be told.
func acknowledge(uintptr) {}
