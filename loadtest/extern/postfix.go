package extern

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// accounts are the users that programs expect where they are installed, each with a group of its own.
var accounts = []string{
	"postfix", "postdrop", "Debian-exim", "opensmtpd", "opensmtpq", "opendkim", "opendmarc", "policyd-spf", "postsrsd",
}

// firstAccount is the number of the first of them, above those of a system and below those of people.
const firstAccount = 64000

// Account returns the number of a user, and of its group, in what Accounts returns.
func Account(name string) int { return firstAccount + slices.Index(accounts, name) }

// Accounts returns the content of /etc/passwd and /etc/group with all users that programs expect.
func Accounts() (passwd, group string) {
	passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
	group = "root:x:0:\nnogroup:x:65534:\n"
	for _, name := range accounts {
		passwd += fmt.Sprintf("%s:x:%d:%[2]d::/nonexistent:/usr/sbin/nologin\n", name, Account(name))
		group += fmt.Sprintf("%s:x:%d:\n", name, Account(name))
	}
	return passwd, group
}

// PreparePostfix makes the folders of a Postfix whose main.cf and master.cf are in dir: queue and data, as main.cf is
// to name them. It needs the right to hand folders to other users.
func PreparePostfix(dir string) error {
	own := Account("postfix")
	queues := strings.Fields("active bounce corrupt defer deferred flush hold incoming maildrop private public saved " +
		"trace")
	for _, sub := range append([]string{"../data"}, queues...) {
		path := filepath.Join(dir, "queue", sub)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := os.Chown(path, own, own); err != nil {
			return fmt.Errorf("a folder of Postfix: %w", err)
		}
	}
	return os.MkdirAll(filepath.Join(dir, "queue", "pid"), 0o755)
}
