package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
)

// BenchmarkFilter sends messages through nodes without a filter, and with a milter of this process that says accept to
// the client, to the recipient, or to the end of the message. Its work is counted in the row.
func BenchmarkFilter(b *testing.B) {
	for _, size := range sizes {
		for _, subject := range []struct {
			name string
			at   byte
		}{{"none", 0}, {"accept-connect", 'C'}, {"accept-rcpt", 'R'}, {"accept-end", 'E'}} {
			b.Run(fmt.Sprintf("size=%s/x=%s", size.name, subject.name), func(b *testing.B) {
				extra := "listen: [{addr: \"127.0.0.1:0\"}]\n"
				if subject.at != 0 {
					extra += fmt.Sprintf("filters: [{name: m, milter: %q, deadline: 30s}]\n", acceptsAt(b, subject.at))
				}
				run(b, serve(b, b.TempDir(), extra, unjudged(sink(b, false))), false, body(size.octets))
			})
		}
	}
}

// acceptsAt runs a milter that goes on until a command and accepts there, and returns its address.
func acceptsAt(b *testing.B, at byte) (addr string) {
	b.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { socket.Close() })
	go func() { // ends when the socket is closed
		for {
			conn, err := socket.Accept()
			if err != nil {
				return
			}
			go goOnUntil(conn, at) // ends with the connection
		}
	}()
	return socket.Addr().String()
}

// goOnUntil serves one connection with a node.
func goOnUntil(conn net.Conn, at byte) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	answer := func(letter byte, data string) bool {
		b := append(binary.BigEndian.AppendUint32(nil, uint32(1+len(data))), letter)
		_, err := conn.Write(append(b, data...))
		return err == nil
	}
	for well := true; well; {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		if _, err := in.Discard(int(binary.BigEndian.Uint32(head[:])) - 1); err != nil {
			return
		}
		switch head[4] {
		case 'D', 'Q':
		case 'O':
			well = answer('O', "\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00")
		case at:
			well = answer('a', "")
		default:
			well = answer('c', "")
		}
	}
}
