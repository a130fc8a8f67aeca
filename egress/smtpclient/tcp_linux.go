package smtpclient

import "syscall"

// acknowledge has the kernel acknowledge what has come on a TCP socket now, and what comes next as soon as it comes, in
// place of waiting for octets to send along with it (TCP_QUICKACK, tcp(7)). That holds until the next write.
func acknowledge(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) // without it, it is only slower
}
