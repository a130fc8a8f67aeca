package config

import (
	"strings"
	"testing"
)

// TestParse_NoSecretInComplaints: what stands where a key should is not repeated, because it may be a secret that was
// pasted one line too low. Keys are.
func TestParse_NoSecretInComplaints(t *testing.T) {
	for _, tt := range []struct{ yaml, want string }{
		{
			"secret_file:\nc2VjcmV0IG9mIG91cnM=\n",
			"2:1: a colon and a blank part a key from its value, as in key: value",
		},
		{"secret_file:\nc2VjcmV0:b2Ygb3Vycw\n", "2:1: a blank stands behind the colon, as in key: value"},
		{"secret_file:\nc2VjcmV0 b2Ygb3Vycw\n", "2:1: a colon stands behind a key, as in key: value"},
		{
			"secret_file=x\n",
			"1:1: a colon and a blank part a key from its value, as in secret_file: value",
		},
		{"myhostname mx1.example.net\n", "1:1: a colon stands behind a key, as in myhostname: value"},
	} {
		_, err := parse("x.yaml", []byte(tt.yaml), "", noEnv)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("%q:\ngot %v, want %s", tt.yaml, err, tt.want)
		}
	}
}
