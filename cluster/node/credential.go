package node

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// A login is whom to authenticate as and where.
type login struct {
	user string
	host string // lower case
	port uint16
}

// credentials hold the password of each login.
type credentials map[login]string

// readCredentials reads lines "user@host:port password". Blank lines and lines that begin with "#" do not count. What
// stands in a line is never part of an error: it may be a password in the wrong place.
func readCredentials(file File) (credentials, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(string(file))
	if err != nil {
		return nil, err
	}
	c := make(credentials)
	for i, text := range strings.Split(string(data), "\n") {
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		l, password, ok := cutCredential(text)
		if !ok {
			return nil, fmt.Errorf("%s:%d: want user@host:port and a password", file, i+1)
		}
		if _, twice := c[l]; twice {
			return nil, fmt.Errorf("%s:%d: a second password for %s at %s:%d", file, i+1, l.user, l.host, l.port)
		}
		c[l] = password
	}
	return c, nil
}

func cutCredential(text string) (l login, password string, ok bool) {
	who, password, ok := strings.Cut(text, " ")
	at := strings.LastIndexByte(who, '@')
	if !ok || at < 1 {
		return l, "", false
	}
	host, port, err := net.SplitHostPort(who[at+1:])
	n, perr := strconv.ParseUint(port, 10, 16)
	password = strings.TrimSpace(password)
	if err != nil || perr != nil || n == 0 || host == "" || password == "" {
		return l, "", false
	}
	return login{user: who[:at], host: strings.ToLower(host), port: uint16(n)}, password, true
}

func (c credentials) password(user, host string, port uint16) (string, bool) {
	p, ok := c[login{user, strings.ToLower(host), port}]
	return p, ok
}
