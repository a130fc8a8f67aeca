//go:build !linux

package landlock

import "errors"

// Confine returns an error: this system has no Landlock.
func Confine([]string) error { return errors.New("this system has no Landlock") }
