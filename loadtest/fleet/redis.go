package fleet

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
)

// StartRedis runs a Redis that keeps nothing, at an address, with further arguments. Its files are in dir.
func StartRedis(ctx context.Context, addr, dir string, args ...string) (*Process, error) {
	program, err := extern.Look("redis-server")
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	own := filepath.Join(dir, "redis"+port)
	if err := os.MkdirAll(own, 0o700); err != nil {
		return nil, err
	}
	args = append(args, "--bind", host, "--port", port, "--protected-mode", "no", "--dir", own, "--save", "")
	p, err := Launch(program.Command(context.Background(), args...), own+".log")
	if err != nil {
		return nil, err
	}
	if err := AwaitPort(ctx, p, addr); err != nil {
		p.End()
		return nil, err
	}
	return p, nil
}

// RedisSays sends one command over a connection of its own and returns the reply; the members of an array each on its
// line.
func RedisSays(addr string, words ...string) (string, error) {
	const patience = 30 * time.Second
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	command := fmt.Sprintf("*%d\r\n", len(words))
	for _, w := range words {
		command += fmt.Sprintf("$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := io.WriteString(conn, command); err != nil {
		return "", err
	}
	return readRedis(bufio.NewReader(conn))
}

// readRedis reads one reply.
func readRedis(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil || len(line) < 3 {
		return "", cmp.Or(err, io.ErrUnexpectedEOF)
	}
	rest := strings.TrimSpace(line[1:])
	n, err := strconv.Atoi(rest)
	switch line[0] {
	case '-':
		return "", errors.New("redis: " + rest)
	case '$':
		if err != nil || n < 0 {
			return "", err
		}
		text := make([]byte, n+2)
		_, err := io.ReadFull(in, text)
		return string(text[:n]), err
	case '*':
		var all []string
		for range n {
			one, err := readRedis(in)
			if err != nil {
				return "", err
			}
			all = append(all, one)
		}
		return strings.Join(all, "\n"), nil
	}
	return rest, nil
}
