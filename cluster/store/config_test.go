package store

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// A URL says where Redis is.
func TestConfig_URL(t *testing.T) {
	for _, c := range []struct {
		url       string
		addrs     string
		user      string
		db        int
		master    string
		clustered bool
		tls       bool
	}{
		{url: "redis://127.0.0.1:6379/0", addrs: "127.0.0.1:6379"},
		{url: "redis://redis.example", addrs: "redis.example:6379"},
		{url: "redis://u:p%40@[2001:db8::1]:7000/3", addrs: "[2001:db8::1]:7000", user: "u:p@", db: 3},
		{url: "rediss://:p@redis.example/", addrs: "redis.example:6379", user: ":p", tls: true},
		{url: "redis://a:1?addr=b:2&addr=c:3", addrs: "a:1 b:2 c:3", clustered: true},
		{url: "redis://a:1?cluster=true", addrs: "a:1", clustered: true},
		{
			url: "redis://a:26379/2?master_name=m&addr=b:26379&sentinel_password=s", addrs: "a:26379 b:26379",
			master: "m", db: 2,
		},
	} {
		o, err := Config{URL: c.url}.options()
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		user := ""
		if o.Username != "" || o.Password != "" {
			user = o.Username + ":" + o.Password
		}
		if strings.Join(o.Addrs, " ") != c.addrs || user != c.user || o.DB != c.db || o.MasterName != c.master ||
			clustered(o) != c.clustered || (o.TLSConfig != nil) != c.tls {
			t.Errorf("%s: %+v", c.url, o)
		}
		if !o.ContextTimeoutEnabled || o.MaxRetries != -1 || o.DialerRetries != 1 {
			t.Errorf("%s: a dead server would be waited for", c.url)
		}
	}
}

// The error names the wrong field and does not show the password.
func TestConfig_Validate(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		field  string
	}{
		{"no scheme", Config{URL: "127.0.0.1:6379"}, "url"},
		{"another scheme", Config{URL: "http://secret@127.0.0.1"}, "url"},
		{"not a URL", Config{URL: "redis://u:secret@a b"}, "url"},
		{"no host", Config{URL: "redis:///0"}, "url"},
		{"an unknown option", Config{URL: "redis://:secret@a/?retries=3"}, "url"},
		{"a query that breaks", Config{URL: "redis://:secret@a/?%zz"}, "url"},
		{"a database that is no number", Config{URL: "redis://:secret@a/x"}, "url"},
		{"a database of a cluster", Config{URL: "redis://:secret@a/1?cluster=true"}, "url"},
		{"a cluster with a master", Config{URL: "redis://:secret@a?cluster=true&master_name=m"}, "url"},
		{"a cluster that is neither", Config{URL: "redis://:secret@a?cluster=maybe"}, "url"},
		{"an address without port", Config{URL: "redis://:secret@a?addr=b"}, "url"},
		{"a brace", Config{Prefix: "a{"}, "prefix"},
		{"a timeout of nothing", Config{Timeout: 1}, "timeout"},
		{"fewer replicas than none", Config{URL: "redis://:secret@a", Wait: -1}, "wait"},
		{"more replicas than there are", Config{URL: "redis://:secret@a", Wait: 17}, "wait"},
		{"replicas of nothing", Config{Wait: 1}, "wait"},
		{"replicas in a cluster", Config{URL: "redis://:secret@a?addr=b:1", Wait: 1}, "wait"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.config)
			var field *mail.FieldError
			if !errors.As(err, &field) || field.Field != c.field {
				t.Fatalf("got %v, want one of %s", err, c.field)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{
		"redis://a:1/2", "rediss://u:p@[::1]", "redis://a?addr=b:1&cluster=true", "redis://%", "x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, url string) {
		o, err := Config{URL: url}.options()
		if err != nil || o == nil {
			return
		}
		if len(o.Addrs) == 0 || slices.Contains(o.Addrs, "") || o.DB < 0 || (clustered(o) && o.DB != 0) {
			t.Errorf("%q: %+v", url, o)
		}
	})
}
