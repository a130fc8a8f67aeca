package smtpclient

import (
	"syscall"
	"unsafe"
)

// unacked returns the octets that were written to a TCP socket and are not acknowledged, those included that were not
// sent yet (SIOCOUTQ, tcp(7)).
func unacked(fd uintptr) int {
	var n int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0
	}
	return int(n)
}

// acknowledge has the kernel acknowledge what has come on a TCP socket now, and what comes next as soon as it comes, in
// place of waiting for octets to send along with it (TCP_QUICKACK, tcp(7)). That holds until the next write.
func acknowledge(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) // without it, it is only slower
}
