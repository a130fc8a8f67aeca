package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
)

// TestCredentials: credentials are read, and never repeated in an error.
func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "smarthosts")
	for _, tt := range []struct{ name, text, want string }{
		{"a line", "relay@smarthost.example:587 hunter2\n", ""},
		{
			"a user with an at sign, and a password with a blank",
			"# c\n\nu@example.com@Smarthost.Example:465  hunter 2 \n", "",
		},
		{"no password", "relay@smarthost.example:587\n", "smarthosts:1: want"},
		{"no port", "\nhunter2@smarthost.example hunter2\n", "smarthosts:2: want"},
		{"no user", "@smarthost.example:587 hunter2\n", "smarthosts:1: want"},
		{"more than one mistake", "a@h:1\nb@h:1 hunter2\nb@h:1 hunter3\n", "smarthosts:3: a second"},
		{"two passwords", "a@h:1 hunter2\na@h:1 hunter3\n", "smarthosts:2: a second password for a at h:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := readCredentials(config.File(file))
			if (err == nil) != (tt.want == "") ||
				err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter")) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if err := os.WriteFile(file, []byte("u@example.com@Smarthost.Example:465 hunter 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readCredentials(config.File(file))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := c.password("u@example.com", "smarthost.EXAMPLE", 465); !ok || p != "hunter 2" {
		t.Errorf("got %q, %v", p, ok)
	}
	if _, ok := c.password("u@example.com", "smarthost.example", 587); ok {
		t.Error("a password is given to another port")
	}
}
