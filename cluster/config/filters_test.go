package config

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/message/filter"
)

// TestParse_Filters: what is wrong with a filter is named with its place.
func TestParse_Filters(t *testing.T) {
	const one = "{name: a, rspamd: \"127.0.0.1:11333\"}"
	for _, tt := range []struct{ name, yaml, want string }{
		{"a filter", "filters: [" + one + "]", ""},
		{"a socket", "filters: [{name: a, rspamd: \"unix:/run/rspamd.sock\"}]", ""},
		{"a name of a host", "filters: [{name: a, rspamd: \"rspamd:11333\"}]", ""},
		{"all keys", "filters: [{name: a, rspamd: \"h:1\", password_file: file, deadline: 1s, concurrency: 1, " +
			"late: tempfail, quarantine: reject}]", ""},
		{"no list", "filters: " + one, "4:1: filters: want a list, not keys"},
		{"no name", "filters: [{rspamd: \"h:1\"}]", "4:11: filters[0].name: is required"},
		{"a name that is no label", "filters: [{name: \"a b\", rspamd: \"h:1\"}]",
			"4:18: filters[0].name: is required"},
		{"two of one name", "filters: [" + one + ", " + one + "]", "filters[1].name: a stands twice"},
		{"milters", "filters: [{name: a, milter: \"unix:/run/m.sock\"}, {name: b, milter: \"127.0.0.1:8891\"}]", ""},
		{"both", "filters: [{name: a, rspamd: \"h:1\", milter: \"h:2\"}]", "filters[0].milter: stands beside rspamd"},
		{"the address of a milter as others write it", "filters: [{name: a, milter: \"inet:8891@127.0.0.1\"}]",
			"filters[0].milter: is neither host:port nor unix: and a path"},
		{"no address", "filters: [{name: a}]", "filters[0].rspamd: is required, or milter"},
		{"a URL", "filters: [{name: a, rspamd: \"http://h:1/\"}]", "filters[0].rspamd: is neither"},
		{"no port", "filters: [{name: a, rspamd: h}]", "filters[0].rspamd: is neither"},
		{"part of a path", "filters: [{name: a, rspamd: \"unix:rspamd.sock\"}]",
			"filters[0].rspamd: is not unix: and the whole"},
		{"another word for late", "filters: [{name: a, rspamd: \"h:1\", late: acept}]",
			`filters[0].late: "acept" is none of accept, tempfail; did you mean accept`},
		{"another word for quarantine", "filters: [{name: a, rspamd: \"h:1\", quarantine: drop}]",
			"filters[0].quarantine: "},
		{"no time", "filters: [{name: a, rspamd: \"h:1\", deadline: 0s}]", "filters[0].deadline: is zero"},
		{"too much time", "filters: [{name: a, rspamd: \"h:1\", deadline: 3m}]", "filters[0].deadline: is above 2m"},
		{"more than the dot has", "deadlines: {commit: 1m, data: 10s, write: 10s}\n" +
			"filters: [{name: a, rspamd: \"h:1\", deadline: 1m}]",
			"filters[0].deadline: 1m is not inside deadlines.commit, 1m"},
		{"no message at a time", "filters: [{name: a, rspamd: \"h:1\", concurrency: 0}]",
			"filters[0].concurrency: is zero"},
		{"fewer than none", "filters: [{name: a, rspamd: \"h:1\", concurrency: -1}]",
			"filters[0].concurrency: is not between"},
		{"no password", "filters: [{name: a, rspamd: \"h:1\", password_file: none}]",
			"filters[0].password_file: there is no file"},
		{"too many", "filters: [" + strings.Repeat(one+", ", 17) + "]", "filters: are 17, and 16"},
		{"a key that is not there", "filters: [{name: a, rspamd: \"h:1\", timeout: 1s}]",
			"filters[0].timeout: no such key"},
	} {
		_, err := parse(configFile(t), []byte(smallest+tt.yaml+"\n"), "", noEnv)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestFilterConfig: the words of the section are those of the package.
func TestFilterConfig(t *testing.T) {
	f := Filter{Name: "a", Rspamd: "h:1", Deadline: Duration(time.Second), Concurrency: 3}
	if cfg := f.FilterConfig(); cfg.Late != filter.LateAccept || cfg.Quarantine != filter.QuarantineField ||
		cfg.Deadline != time.Second || cfg.Concurrency != 3 || cfg.Rspamd != "h:1" || cfg.Name != "a" {
		t.Errorf("got %+v", cfg)
	}
	if cfg := (&Filter{Milter: "h:1"}).FilterConfig(); cfg.Late != filter.LateTempfail || cfg.Milter != "h:1" {
		t.Errorf("got %+v", cfg)
	}
	if cfg := (&Filter{Milter: "h:1", Late: "accept"}).FilterConfig(); cfg.Late != filter.LateAccept {
		t.Errorf("got %+v", cfg)
	}
	f.Late, f.Quarantine = "tempfail", "reject"
	if cfg := f.FilterConfig(); cfg.Late != filter.LateTempfail || cfg.Quarantine != filter.QuarantineReject {
		t.Errorf("got %+v", cfg)
	}
}
