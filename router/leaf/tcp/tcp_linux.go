package tcp

import (
	"syscall"
	"unsafe"
)

// Unacked returns the octets that were written to a TCP socket and are not acknowledged, those included that were not
// sent yet (SIOCOUTQ, tcp(7)).
func Unacked(fd uintptr) int {
	var n int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0
	}
	return int(n)
}
