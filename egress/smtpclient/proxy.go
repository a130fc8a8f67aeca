package smtpclient

import (
	"context"
	"errors"
	"net"

	"golang.org/x/net/proxy"
)

var errNoProxy = errors.New("the library of SOCKS5 does not speak on a connection of ours")

// connectBy connects to a target by its SOCKS5 proxy. The connection is the one to the proxy, so that the kernel can be
// asked about it; what it says of acknowledgements is the proxy's word.
func connectBy(ctx context.Context, t Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	failed := func(err error) error { return &DialError{Host: t.Host, Stage: StageConnect, Err: err} }
	dialer, err := proxy.SOCKS5("tcp", t.Proxy, nil, proxy.Direct)
	if err != nil {
		return nil, failed(err)
	}
	speaker, ok := dialer.(interface {
		DialWithConn(ctx context.Context, c net.Conn, network, address string) (net.Addr, error)
	})
	if !ok {
		return nil, failed(errNoProxy)
	}
	var d net.Dialer
	socket, err := d.DialContext(ctx, "tcp", t.Proxy)
	if err != nil {
		return nil, failed(err)
	}
	if _, err := speaker.DialWithConn(ctx, socket, "tcp", t.Addr); err != nil {
		socket.Close()
		return nil, failed(err)
	}
	return socket, nil
}
