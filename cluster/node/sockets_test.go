package node

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/ingress/wire"
)

// TestSockets_Count: each connection that is opened for mail takes a descriptor until it is closed, and where none is
// left there is an error of ours at once, and a session that idles is ended.
func TestSockets_Count(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path := filepath.Join(t.TempDir(), "lmtp")
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	ended := 0
	s := sockets{places: wire.NewPlaces(wire.Limits{Files: 2}), idle: func() { ended++ }}
	tcp := smtpclient.Target{Network: "tcp", Addr: l.Addr().String(), Host: "mx.example"}
	first, err := s.connect(t.Context(), tcp)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := first.(syscall.Conn); !ok {
		t.Error("its descriptor cannot be asked")
	}
	if _, ok := first.(io.ReaderFrom); !ok {
		t.Error("it has lost a method of a TCP connection")
	}
	second, err := s.connect(t.Context(), smtpclient.Target{Network: "unix", Addr: path})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.connect(t.Context(), tcp)
	var failed *smtpclient.DialError
	if !errors.As(err, &failed) || !errors.Is(err, syscall.EMFILE) || failed.Stage != smtpclient.StageConnect {
		t.Errorf("the third: %v", err)
	}
	if _, err = s.dial(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, syscall.EMFILE) || ended != 2 {
		t.Errorf("a link: %v; %d sessions were ended", err, ended)
	}
	first.Close()
	first.Close()
	if _, err := s.connect(t.Context(), smtpclient.Target{Network: "unix", Addr: path + "x"}); err == nil {
		t.Error("connected to nothing")
	}
	third, err := s.dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Errorf("after one was closed, and one had failed: %v", err)
	}
	if s.take() {
		t.Error("one descriptor was given back twice")
	}
	third.Close()
	second.Close()
}

// TestSockets_Links: a link of another node for which there is no descriptor is closed, and the next one is not.
func TestSockets_Links(t *testing.T) {
	bound, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := sockets{places: wire.NewPlaces(wire.Limits{Files: 1})}
	l := linkListener{bound, s}
	if !s.take() {
		t.Fatal("no descriptor")
	}
	refused, err := net.Dial("tcp", bound.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	accepted := make(chan net.Conn, 1)
	go func() { // ends with the listener at the latest
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	if _, err := refused.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the first one reads %v", err)
	}
	s.places.GiveFile()
	taken, err := net.Dial("tcp", bound.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := <-accepted
	bound.Close()
	if c == nil || s.take() {
		t.Fatal("the second one was not taken, or not counted")
	}
	c.Close()
	if !s.take() {
		t.Error("its descriptor was not given back")
	}
}
