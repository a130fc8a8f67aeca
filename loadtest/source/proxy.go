package source

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// ProxyV1 returns the PROXY protocol header, version 1, that carries the address of a client.
func ProxyV1(client, server netip.AddrPort) []byte {
	family := "TCP4"
	if client.Addr().Is6() {
		family = "TCP6"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, client.Addr(), server.Addr(), client.Port(),
		server.Port())
}

// ProxyV2 returns the PROXY protocol header, version 2, that carries the address of a client.
func ProxyV2(client, server netip.AddrPort) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21)
	size := uint16(12)
	if client.Addr().Is4() {
		b = append(b, 0x11)
	} else {
		b = append(b, 0x21)
		size = 36
	}
	b = binary.BigEndian.AppendUint16(b, size)
	b = append(b, client.Addr().AsSlice()...)
	b = append(b, server.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return binary.BigEndian.AppendUint16(b, server.Port())
}
