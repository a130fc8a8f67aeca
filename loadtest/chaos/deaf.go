package main

import (
	"errors"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// deaf is a filter of a socket that takes no octet: what comes is dropped by the kernel before TCP sees it, so that it
// is neither acknowledged nor refused, as if the cable were cut.
var deaf = unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}}

// deafenSocket cuts what comes to a socket.
func deafenSocket(fd int) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &deaf)
}

// passOctets has the kernel take n octets of each packet that comes to a socket and acknowledge those alone, as if the
// sender had sent no more.
func passOctets(fd, n int) error {
	filter := []unix.SockFilter{ // of a packet that begins with its TCP header
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 12}, // its length in words is the high half of this octet
		{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 2},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x3c},
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: uint32(n)},
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// deafen cuts what comes to the connections that this process has taken at an address and port 25, and returns how many
// there are.
func deafen(addr string) (n int, err error) {
	err = sockets(addr, 25, func(fd int) error {
		if _, err := unix.Getpeername(fd); err != nil {
			return nil // the listener
		}
		n++
		return deafenSocket(fd)
	})
	return n, err
}

// narrow has the kernel take few octets that the destination at an address has not read.
func narrow(addr string) error {
	return sockets(addr, 25, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10)
	})
}

// sockets calls f with each socket of this process at an address and a port, 0 for any.
func sockets(addr string, port int, f func(fd int) error) error {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err != nil {
			continue
		}
		own, err := unix.Getsockname(fd)
		if err != nil {
			continue // no socket
		}
		at, ok := own.(*unix.SockaddrInet4)
		if !ok || port != 0 && at.Port != port || netip.AddrFrom4(at.Addr).String() != addr {
			continue
		}
		if err := f(fd); err != nil {
			return err
		}
	}
	return nil
}

// lose has the kernel lose one of so many packets to the sockets of this process at an address, whatever their port; 0
// ends that.
func lose(addr string, one uint32) error {
	const random = 0xfffff038 // SKF_AD_OFF + SKF_AD_RANDOM: a number that the kernel rolls
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: random},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: ^uint32(0) / max(one, 1), Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	}
	return sockets(addr, 0, func(fd int) error {
		if one == 0 {
			err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) { // it has none
				return nil
			}
			return err
		}
		err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
		if errors.Is(err, unix.EOPNOTSUPP) { // a listener
			return nil
		}
		return err
	})
}
