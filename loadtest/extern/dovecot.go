package extern

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// dovecotConfig serves LMTP for every address and keeps one Maildir per address. Each service runs as the one user that
// there is in the sandbox; nothing is looked up, restricted or rewritten.
const dovecotConfig = `
base_dir = DIR/run
state_dir = DIR/run
log_path = /dev/stderr
default_internal_user = dovecot
default_internal_group = dovecot
default_login_user = dovecot
default_vsz_limit = 0
protocols = lmtp
ssl = no
hostname = dovecot.test
postmaster_address = postmaster@dovecot.test
auth_username_chars =
auth_username_format = %u
recipient_delimiter =
mail_location = maildir:DIR/mail/%u
mail_save_crlf = yes
first_valid_uid = 1000
lmtp_add_received_header = no
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = static
  args = uid=1000 gid=1000 home=DIR/mail/%u allow_all_users=yes
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
service lmtp {
  inet_listener lmtp {
    address = HOST
    port = PORT
  }
  unix_listener DIR/lmtp {
    mode = 0600
  }
}
`

// StartDovecotLMTP runs Dovecot's LMTP server, which accepts mail for every address, until the test ends. It returns
// its TCP address, the path of its Unix socket, and a function that reads what has been delivered, ordered by recipient
// and then by time, one Message per recipient; a message is there once LMTP has answered for it. Content lacks the
// Return-Path and Delivered-To fields that Dovecot put on top.
func StartDovecotLMTP(t testing.TB) (tcpAddr, unixPath string, messages func() []Message) {
	t.Helper()
	// The name of a Unix socket is limited to about 100 octets, and t.TempDir holds the test's name.
	dir, err := os.MkdirTemp("", "dovecot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, sub := range []string{"run", "mail"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "dovecot.conf")
	tcpAddr = serve(t, func(addr string) *exec.Cmd {
		host, port := split(t, addr)
		writeFile(t, config, strings.NewReplacer("DIR", dir, "HOST", host, "PORT", port).Replace(dovecotConfig))
		return sandbox(t, "dovecot", "dovecot", "-F", "-c", config)
	})
	return tcpAddr, filepath.Join(dir, "lmtp"), func() []Message {
		var got []Message
		boxes, err := filepath.Glob(filepath.Join(dir, "mail", "*", "new"))
		if err != nil {
			t.Fatal(err)
		}
		for _, box := range boxes {
			recipient := filepath.Base(filepath.Dir(box))
			for _, file := range readFolder(t, box) {
				got = append(got, dovecotMessage(recipient, file))
			}
		}
		return got
	}
}

// dovecotAuthConfig answers who may authenticate: each user with one password.
const dovecotAuthConfig = `
base_dir = DIR/run
state_dir = DIR/run
log_path = /dev/stderr
default_internal_user = dovecot
default_internal_group = dovecot
default_login_user = dovecot
default_vsz_limit = 0
protocols =
ssl = no
auth_mechanisms = plain login
auth_username_chars =
disable_plaintext_auth = no
passdb {
  driver = static
  args = password=PASSWORD
}
userdb {
  driver = static
  args = uid=1000 gid=1000 home=DIR
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
service auth {
  inet_listener {
    address = HOST
    port = PORT
  }
}
`

// StartDovecotAuth runs Dovecot's authentication server until the test ends, for which each user has the password, one
// word, and returns its TCP address. Postfix asks it (smtpd_sasl_path).
func StartDovecotAuth(t testing.TB, password string) (addr string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dovecot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "dovecot.conf")
	return serve(t, func(addr string) *exec.Cmd {
		host, port := split(t, addr)
		fill := strings.NewReplacer("DIR", dir, "HOST", host, "PORT", port, "PASSWORD", password)
		writeFile(t, config, fill.Replace(dovecotAuthConfig))
		return sandbox(t, "dovecot", "dovecot", "-F", "-c", config)
	})
}

// dovecotMessage reads a file of the Maildir that Dovecot keeps for a recipient.
func dovecotMessage(recipient, file string) Message {
	m := Message{Forward: []string{recipient}}
	if line, rest, _ := strings.Cut(file, "\r\n"); strings.HasPrefix(line, "Return-Path: ") {
		m.Reverse, file = path(strings.TrimPrefix(line, "Return-Path: ")), rest
	}
	// Delivered-To is written only where the transaction had one recipient.
	if line, rest, _ := strings.Cut(file, "\r\n"); line == "Delivered-To: "+recipient {
		file = rest
	}
	m.Content = []byte(file)
	return m
}
