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
	differences := map[int]string{
		1:  "the empty path is the null reverse-path",
		26: longLocal,
		59: longLocal,
		60: longLocal,
		39: longPath,
		40: longPath,
		71: "a :: that stands for one group only is deprecated, yet means one address",
	}
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "suites", "addresses", "isemail.json"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no ../shared beside the module: suites/addresses/isemail.json")
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
		why, differs := differences[tt.ID]
		if wanted := tt.RFC5321 == "accept"; accepted == wanted == differs {
			t.Errorf("%d %q (%s): accepted is %v (%v), the suite says %s, our difference is %q", tt.ID, tt.Address,
				tt.Diagnosis, accepted, err, tt.RFC5321, why)
		}
		if accepted && p.String() != tt.Address {
			t.Errorf("%d %q is written back as %q", tt.ID, tt.Address, p)
		}
	}
}
