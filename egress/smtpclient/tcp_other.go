//go:build !linux

package smtpclient

// acknowledge does nothing: the system cannot be told.
func acknowledge(uintptr) {}
