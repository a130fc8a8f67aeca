package wire

import (
	"encoding/binary"
	"syscall"
)

// States of a TCP connection after the other side closed or reset it, as the kernel numbers them
// (include/net/tcp_states.h).
const (
	tcpClose     = 7
	tcpCloseWait = 8
)

// hungUp reports whether the other side of a TCP connection has closed it, whatever waits to be read. The state is the
// first octet of what the kernel returns about a connection.
func hungUp(fd uintptr) bool {
	info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	if err != nil {
		return false
	}
	var octets [4]byte
	binary.NativeEndian.PutUint32(octets[:], uint32(info))
	return octets[0] == tcpClose || octets[0] == tcpCloseWait
}
