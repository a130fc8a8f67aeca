package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestParse_AllFaults: everything that is wrong with a section is said at once, each with its place.
func TestParse_AllFaults(t *testing.T) {
	for _, tt := range []struct {
		name, yaml string
		want       []string // after the name of the file
	}{
		{
			"score", `score:
  deadline: 2m
  defer: -1
  reject: -2
  url: nowhere
  tarpit: 1h
  greylist: {from: 5, to: 4, delay: 48h, keep: 9000h}
  karma: {volume: -1, networks: 40}
  rates: {client: 300/900h, sender: 2000000/1m}
  weights: {no-such: 1, spf-fail: 1001}
  allow: [192.0.2.1/24, "192.0.2.1 for=nothing"]
  block_file: blocked
`,
			[]string{
				"5:13: score.deadline: 2m is not inside deadlines.rcpt",
				"6:10: score.defer: is not above 0", "7:11: score.reject: is below defer",
				"8:8: score.url: is no URL", "9:11: score.tarpit: is not between",
				"10:3: score.greylist.window: is not longer than delay",
				"10:27: score.greylist.to: is not above greylist.from",
				"10:37: score.greylist.delay: is not from 0 to 1 day",
				"10:48: score.greylist.keep: is not from 0 to 366 days",
				"11:19: score.karma.volume: is negative", "11:33: score.karma.networks: is not from 0 to 32",
				"12:19: score.rates.client: needs a time", "12:37: score.rates.sender: needs a count",
				"13:22: score.weights[no-such]: no such signal", "13:35: score.weights[spf-fail]: is not between",
				"14:11: score.allow[0]: has bits", "14:25: score.allow[1]: has for=",
				"blocked:2:1: score.block_file: ", "blocked:4:1: score.block_file: ",
			},
		},
		{
			"lists", `score:
  lists:
    - {zone: "a b", weight: 1}
    - {zone: zen.example, weight: 0}
    - {zone: dbl.example, weight: 2, of: name}
    - {zone: zen.example, codes: {127.0.0.300: 1, 127.0.0.2: 2}}
`,
			[]string{
				"6:14: score.lists[0].zone: ", "7:35: score.lists[1].weight: is 0",
				"8:42: score.lists[2].of: \"name\" is",
				"9:14: score.lists[3].zone: zen.example is a list already", "9:48: score.lists[3].codes[127.0.0.300]: ",
			},
		},
		{
			"redis", "redis:\n  url: \"redis://:hunter2@h?retries=3\"\n  prefix: \"a{b\"\n  timeout: 20s\n",
			[]string{
				"5:8: redis.url: has an unknown key", "6:11: redis.prefix: has a brace",
				"7:12: redis.timeout: is not between 1ms and 10s",
			},
		},
		{
			"cluster", `cluster:
  name: "a b"
  bind: nowhere
  advertise: 0.0.0.0:1
  peer: ""
  join: ["x:0", y]
  members: ["c d", b]
  weight: 2000
  key_file: file
  tls: {ca: file, cert: file}
`,
			[]string{
				"5:9: cluster.name: wants", "6:9: cluster.bind: ", "7:14: cluster.advertise: wants",
				"8:9: cluster.peer: ",
				"9:10: cluster.join[0]: wants", "9:17: cluster.join[1]: ", "10:13: cluster.members[0]: is not",
				"11:11: cluster.weight: is not between", "13:3: cluster.tls.key: is required",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := configFile(t)
			blocked := filepath.Join(filepath.Dir(file), "blocked")
			if err := os.WriteFile(blocked, []byte("192.0.2.1\nx y\n\n192.0.2.1/24\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := parse(file, []byte(smallest+tt.yaml), "", noEnv)
			if err == nil {
				t.Fatal("nothing is wrong")
			}
			got := strings.Split(err.Error(), "\n")
			for _, line := range got {
				if !strings.HasPrefix(line, file+":") && !strings.HasPrefix(line, blocked+":") {
					t.Errorf("without a place: %s", line)
				}
			}
			for _, want := range tt.want {
				n := 0
				for _, line := range got {
					if strings.HasPrefix(line, file+":"+want) || strings.HasPrefix(line, filepath.Dir(file)+"/"+want) {
						n++
					}
				}
				if n != 1 {
					t.Errorf("%d times %s", n, want)
				}
			}
			if len(got) != len(tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%d complaints, want %d:\n%v", len(got), len(tt.want), err)
			}
		})
	}
}
