package extern

import (
	"net/http"
	"strings"
	"testing"
)

// TestVerifiers_Modules: interpreters find the modules of the cache.
func TestVerifiers_Modules(t *testing.T) {
	for name, find := range map[string]func(t *testing.T) Program{
		"python3": func(t *testing.T) Program { return Python(t, "dkim", "nacl.signing") },
		"perl": func(t *testing.T) Program {
			return Perl(t, "Mail::DKIM::Verifier", "Mail::DKIM::ARC::Verifier", "JSON::PP")
		},
		"node": func(t *testing.T) Program { return Node(t, "mailauth") },
	} {
		t.Run(name, func(t *testing.T) {
			if p := find(t); p.Path() == "" {
				t.Error("no path")
			}
		})
	}
}

// TestRspamd_Answers: rspamd answers about a message.
func TestRspamd_Answers(t *testing.T) {
	addr := StartRspamd(t, "127.0.0.1:1")
	r, err := http.Post("http://"+addr+"/checkv2", "", strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Error(r.Status)
	}
}
