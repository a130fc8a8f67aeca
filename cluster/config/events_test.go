package config

import (
	"strings"
	"testing"
)

// TestParse_Events: what is wrong with the section is named with its place, and no URL is repeated.
func TestParse_Events(t *testing.T) {
	const one = "{name: a, url: \"https://h.x/\", secret_file: file}"
	for _, tt := range []struct{ name, yaml, want string }{
		{"a receiver", "events: {receivers: [" + one + "]}", ""},
		{"no receiver", "events: {queue: 7}", "4:1: events.receivers: is required"},
		{
			"two of one name", "events: {receivers: [" + one + ", " + one + "]}",
			"4:80: events.receivers[1].name: a stands twice",
		},
		{"no name", "events: {receivers: [{url: \"https://h.x/\", secret_file: file}]}",
			"4:22: events.receivers[0].name: is required"},
		{"a name that is no label", "events: {receivers: [{name: \"a b\", url: \"https://h.x/\", secret_file: file}]}",
			"4:29: events.receivers[0].name: is required"},
		{"no URL", "events: {receivers: [{name: a, secret_file: file}]}", "events.receivers[0].url: is required"},
		{"clear text", "events: {receivers: [{name: a, url: \"http://h.x/\", secret_file: file}]}",
			"4:37: events.receivers[0].url: begins with http://, which is for addresses in listed private networks"},
		{"clear text to a host that is listed",
			"events: {allow_private: [10.0.0.1], receivers: [{name: a, url: \"http://10.0.0.1\", secret_file: file}]}",
			""},
		{"a password", "events: {receivers: [{name: a, url: \"https://u:geheim@h.x/\", secret_file: file}]}",
			"events.receivers[0].url: holds a user name"},
		{"no secret", "events: {receivers: [{name: a, url: \"https://h.x/\"}]}",
			"events.receivers[0].secret_file: is required: millrace key new --webhook makes one"},
		{"a secret that is not there", "events: {receivers: [{name: a, url: \"https://h.x/\", secret_file: none}]}",
			"events.receivers[0].secret_file: there is no file"},
		{"a type", "events: {receivers: [{name: a, url: \"https://h.x/\", secret_file: file, types: [bounce]}]}",
			`events.receivers[0].types[0]: "bounce" is none of delivered, deferred, bounced, ` +
				"rejected, failed, complained; " +
				"did you mean bounced"},
		{"no type", "events: {receivers: [{name: a, url: \"https://h.x/\", secret_file: file, types: []}]}",
			"events.receivers[0].types: is empty"},
		{"an address as a domain",
			"events: {receivers: [{name: a, url: \"https://h.x/\", secret_file: file, domains: [a@h.example]}]}",
			`events.receivers[0].domains[0]: "a@h.example" is not a domain name`},
		{"an empty rule", "events: {receivers: [{name: a, url: \"https://h.x/\", secret_file: file, rules: [\"\"]}]}",
			"events.receivers[0].rules[0]: is empty"},
		{"all networks", "events: {allow_private: [0.0.0.0/0], receivers: [" + one + "]}",
			"4:26: events.allow_private[0]: holds every address"},
		{"no room", "events: {queue: 0, memory: 1KiB, receivers: [" + one + "]}", "events.memory: is below 64KiB"},
		{
			"too much room", "events: {queue: 1000001, receivers: [" + one + "]}",
			"4:17: events.queue: 1000001 is not between",
		},
		{
			"too many", "events: {receivers: [" + strings.Repeat(one+", ", 101) + "]}",
			"events.receivers: are 101, and 100",
		},
		{"another word", "webhooks: {}", "did you mean events"},
		{"a key that is not there", "events: {receiver: []}", "did you mean receivers"},
	} {
		_, err := parse(configFile(t), []byte(smallest+tt.yaml+"\n"), "", noEnv)
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "geheim"):
			t.Errorf("%s: %v repeats it", tt.name, err)
		}
	}
}

// TestParse_EventTypes: a receiver is told of all but what strangers cause for nothing.
func TestParse_EventTypes(t *testing.T) {
	c, err := parse(configFile(t), []byte(smallest+
		"events: {receivers: [{name: a, url: \"https://h.x/\", secret_file: file, domains: [Bücher.example]}]}\n"),
		"", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	r := c.Events.Receivers[0]
	if got := strings.Join(r.Types, " "); got != "delivered deferred bounced failed complained" ||
		c.Events.Queue != 10000 || c.Events.Memory != 16<<20 || r.Domains[0] != "xn--bcher-kva.example" {
		t.Errorf("got %+v of %+v", r, c.Events)
	}
}
