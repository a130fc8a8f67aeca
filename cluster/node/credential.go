package node

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/mail"
)

// A login is a user at a next hop.
type login struct {
	user string
	host string // lower case
	port uint16
}

// credentials hold the password of each login.
type credentials map[login]string

// readCredentials reads lines "user@host:port password". Blank lines and lines that begin with "#" do not count. It
// returns nil if file is "". The error is *mail.LineErrors, or the one of reading, and never repeats the text of a
// line, which may be a password in the wrong place.
func readCredentials(file config.File) (credentials, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(string(file))
	if err != nil {
		return nil, err
	}
	c := make(credentials)
	wrong := mail.LineErrors{File: string(file)}
	for i, text := range strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		l, password, ok := cutCredential(text)
		_, twice := c[l]
		switch {
		case !ok:
			wrong.Add(i+1, 1, "want user@host:port and a password")
		case twice:
			wrong.Add(i+1, 1, fmt.Sprintf("a second password for %s at %s:%d", l.user, l.host, l.port))
		default:
			c[l] = password
		}
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// cutCredential splits a line of the credentials file. It reports false if the line is malformed.
func cutCredential(text string) (l login, password string, ok bool) {
	name, password, ok := strings.Cut(text, " ")
	at := strings.LastIndexByte(name, '@')
	if !ok || at < 1 {
		return l, "", false
	}
	host, port, err := net.SplitHostPort(name[at+1:])
	n, perr := strconv.ParseUint(port, 10, 16)
	password = strings.TrimSpace(password)
	if err != nil || perr != nil || n == 0 || host == "" || password == "" {
		return l, "", false
	}
	return login{user: name[:at], host: strings.ToLower(host), port: uint16(n)}, password, true
}

// password returns the password of a login. It reports false for an unknown login.
func (c credentials) password(user, host string, port uint16) (string, bool) {
	p, ok := c[login{user, strings.ToLower(host), port}]
	return p, ok
}
