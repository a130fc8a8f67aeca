//go:build !linux

package wire

import (
	"errors"
	"syscall"
)

// hungUp reports whether the other side of a connection has closed it. That is not seen while octets wait to be
// read.
func hungUp(fd uintptr) bool {
	var octet [1]byte
	n, _, err := syscall.Recvfrom(int(fd), octet[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return false
	}
	return err != nil || n == 0
}
