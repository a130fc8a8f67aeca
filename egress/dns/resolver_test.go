package dns

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestConfig_Validate: Validate names the field.
func TestConfig_Validate(t *testing.T) {
	for _, tt := range []struct {
		config Config
		field  string
	}{
		{Config{}, ""},
		{Config{Servers: []string{"192.0.2.1:53", "[2001:db8::1]:53"}}, ""},
		{Config{Servers: []string{"192.0.2.1:53", "192.0.2.1"}}, "servers[1]"},
		{Config{Servers: []string{"dns.example:53"}}, "servers[0]"},
		{Config{Servers: []string{"192.0.2.1:0"}}, "servers[0]"},
		{Config{Concurrency: -1}, "concurrency"},
	} {
		err := tt.config.Validate()
		var e *mail.FieldError
		if got := ""; errors.As(err, &e) {
			got = e.Field
			if got != tt.field {
				t.Errorf("%+v: got %v, want %s", tt.config, err, tt.field)
			}
		} else if tt.field != "" {
			t.Errorf("%+v: got %v, want %s", tt.config, err, tt.field)
		}
	}
}

func TestSystemServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if got := systemServers(path); !slices.Equal(got, []string{"127.0.0.1:53"}) {
		t.Errorf("no file: got %q", got)
	}
	if err := os.WriteFile(path,
		[]byte("search x\nnameserver 192.0.2.53\nnameserver nonsense\nnameserver 2001:db8::53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := systemServers(path); !slices.Equal(got, []string{"192.0.2.53:53", "[2001:db8::53]:53"}) {
		t.Errorf("got %q", got)
	}
}
