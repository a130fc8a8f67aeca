package wire

import (
	"encoding/binary"
	"syscall"
	"time"
	"unsafe"
)

// The offsets of fields in what the kernel returns about a TCP connection (struct tcp_info in
// include/uapi/linux/tcp.h).
const (
	infoUnacked = 24  // segments that the other side has not acknowledged
	infoNotSent = 144 // octets that were not sent yet
	infoMinRTT  = 148 // microseconds
	infoSize    = 152
)

// waitingOctets returns how many octets of the client wait to be read, 0 if that cannot be known.
func waitingOctets(conn any) int {
	var n int32
	control(conn, func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n)
}

// roundTrip returns the shortest round trip that a TCP connection has seen, and whether the other side has acknowledged
// all that was written. ok is false if that cannot be known.
func roundTrip(conn any) (shortest time.Duration, acknowledged, ok bool) {
	t := &tcpInfo{size: infoSize}
	control(conn, t.read)
	return time.Duration(t.field(infoMinRTT)) * time.Microsecond,
		t.field(infoUnacked) == 0 && t.field(infoNotSent) == 0, t.ok
}

// A tcpInfo is what the kernel returns about a TCP connection, as far as it is read here.
type tcpInfo struct {
	octets [infoSize]byte
	size   uint32
	ok     bool
}

func (t *tcpInfo) read(fd uintptr) {
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&t.octets)), uintptr(unsafe.Pointer(&t.size)), 0)
	t.ok = errno == 0 && t.size >= infoSize
}

func (t *tcpInfo) field(at int) uint32 { return binary.NativeEndian.Uint32(t.octets[at:]) }
