//go:build !linux

package smtpclient

// unacked is 0: only Linux is asked what the peer has acknowledged.
func unacked(uintptr) int { return 0 }
