package mail

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestParsePath_IsemailSuite compares ParsePath with Dominic Sayers' isemail suite, each address read as an SMTP path.
// The differences are listed here with their reasons.
func TestParsePath_IsemailSuite(t *testing.T) {
	const (
		longLocal = "local parts of up to 256 octets are taken: SRS, VERP and BATV write longer ones than 64"
		longPath  = "local part and domain are bounded each for itself, not the path"
	)
	// By address, else by diagnosis, as the suite and its copy for npm call it.
	differences := map[string]string{
		"":                               "the empty path is the null reverse-path",
		"ISEMAIL_RFC5322_LOCAL_TOOLONG":  longLocal,
		"rfc5322LocalTooLong":            longLocal,
		"ISEMAIL_RFC5322_TOOLONG":        longPath,
		"rfc5322TooLong":                 longPath,
		"ISEMAIL_RFC5321_IPV6DEPRECATED": "a :: that stands for one group only is deprecated, yet means one address",
	}
	differences["deprecatedIPv6"] = differences["ISEMAIL_RFC5321_IPV6DEPRECATED"]
	root, file := filepath.Join("..", ".."), filepath.Join("shared", "suites", "addresses", "isemail.json")
	data, err := os.ReadFile(filepath.Join(root, "..", file))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(root, ".cache", file)) // from a package
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no ../shared: suites/addresses")
	}
	if err != nil {
		t.Fatal(err)
	}
	var tests []struct {
		ID                 int
		Address, Diagnosis string
		RFC5321            string
	}
	if err := json.Unmarshal(data, &tests); err != nil {
		t.Fatal(err)
	}
	if len(tests) < 150 {
		t.Errorf("only %d addresses", len(tests))
	}
	for _, tt := range tests {
		p, err := ParsePath(tt.Address, true)
		accepted := err == nil
		why, differs := differences[tt.Diagnosis]
		if tt.Address == "" {
			why, differs = differences[""]
		}
		if wanted := tt.RFC5321 == "accept"; accepted == wanted == differs {
			t.Errorf("%d %q (%s): accepted is %v (%v), the suite says %s, our difference is %q", tt.ID, tt.Address,
				tt.Diagnosis, accepted, err, tt.RFC5321, why)
		}
		if accepted && p.String() != tt.Address {
			t.Errorf("%d %q is written back as %q", tt.ID, tt.Address, p)
		}
	}
}
