package peers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// A finding is what a program says of one message.
type finding struct {
	File string `json:"file"`
	DKIM []struct {
		D, S, B string
		Result  string
		Why     string
	} `json:"dkim"`
	DKIMWhy string `json:"dkim_why"` // why it gave up on all of them
	ARC     string `json:"arc"`      // pass, none, or a word of its own for a chain that fails
	ARCWhy  string `json:"arc_why"`
}

// dkim returns what became of the signature with these tags, "" if the program does not tell of it. Not all tell of b=.
func (f *finding) dkim(d, s, b string) (result, why string) {
	for _, g := range f.DKIM {
		if strings.EqualFold(g.D, d) && strings.EqualFold(g.S, s) && (g.B == "" || g.B == b) {
			if result != "pass" {
				result, why = g.Result, g.Why
			}
		}
	}
	return result, why + f.DKIMWhy
}

// A program judges all messages of a folder. It returns its findings by file.
type program struct {
	name    string
	ed25519 bool // whether it can verify that
	senders int  // how many signatures of senders it verifies at least
	wrong   map[string]string
	run     func(t *testing.T) map[string]finding
}

// What the programs get wrong, by message: nothing of ours verifies there. One that does again has to be taken out.
const (
	noField   = "refuses a message with a line in its header section that is no field"
	blank     = "does not take the blank before a colon that RFC 5322 section 4.5 allows"
	noEnd     = "does not verify a message that ends within its header section"
	duplicate = "makes its own hash wrong where a field stands twice of which RFC 5322 section 3.6 allows one"
)

var (
	wrongOfDKIMPy = map[string]string{
		// begins with a byte order mark
		"corpus/MimeKit__UnitTests_TestData_messages_feedback-report.txt":                                 noField,
		"corpus/MimeKit__UnitTests_TestData_messages_issue358.txt":                                        noField,
		"corpus/cpython__msg_35.txt":                                                                      noField,
		"corpus/enmime__testdata_mail_qp-utf8-header-no-break.raw":                                        noField,
		"corpus/james-mime4j__core_src_test_resources_mimetools-testmsgs_hdr-fakeout.msg":                 noField,
		"corpus/james-mime4j__core_src_test_resources_testmsgs_basic-plain-with-bad-header-separator.msg": noField,
		"corpus/james-mime4j__core_src_test_resources_testmsgs_malformedHeader-nocrlfcrlf.msg":            noField,
		"corpus/mail__spec_fixtures_emails_error_emails_multiple_references_with_one_invalid.eml":         noField,
		"corpus/mail__spec_fixtures_emails_plain_emails_raw_email_incorrect_header.eml":                   noField,
		"corpus/james-mime4j__core_src_test_resources_testmsgs_obsolete.msg":                              blank,
		"corpus/mail-parser__resources_eml_malformed_019.eml":                                             blank,
		"corpus/mail__spec_fixtures_emails_rfc2822_example13.eml":                                         blank,
	}
	wrongOfMailauth = map[string]string{
		"arc/valimail-eml/cv_empty.eml":                noEnd,
		"arc/valimail-eml/cv_no_body.eml":              noEnd,
		"corpus/cpython__msg_35.txt":                   noEnd,
		"corpus/enmime__testdata_mail_header-only.raw": noEnd,
		"corpus/mail-dkim__t_corpus_no_body_1.txt":     noEnd,
		"dkim/mail-dkim/corpus/no_body_1.txt":          noEnd,
	}
	wrongOfRspamd = map[string]string{
		"corpus/cpython__msg_20.txt": duplicate, // Cc
		"corpus/cpython__msg_25.txt": duplicate, // To
		// Subject, as in all below
		"corpus/mail__c_fixtures_emails_mime_emails_raw_email_with_multipart_mixed_quoted_boundary.eml": duplicate,
		"corpus/mail__spec_fixtures_emails_mime_emails_raw_email_with_binary_encoded.eml":               duplicate,
		"corpus/mailauth__test_fixtures_message2.eml":                                                   duplicate,
		"corpus/mailauth__test_fixtures_message4.eml":                                                   duplicate,
		"dkim/mailauth/message2.eml":                                                                    duplicate,
		"dkim/mailauth/message4.eml":                                                                    duplicate,
		"corpus/james-mime4j__core_src_test_resources_testmsgs_obsolete.msg":                            blank,
		"corpus/mail-parser__resources_eml_malformed_019.eml":                                           blank,
		"corpus/mail__spec_fixtures_emails_rfc2822_example13.eml":                                       blank,
		"corpus/spamassassin__sample-spam.txt":                                                          testPattern,
	}
)

// testPattern is why rspamd says nothing of a message.
const testPattern = "looks no further once it has met the test pattern for spam"

// script runs a program over a folder, once, and reads its lines.
func script(t *testing.T, p extern.Program, name, dir string) map[string]finding {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd := p.Command(t.Context(), filepath.Join("testdata", "crosscheck", name), dir)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %.1000s", name, err, complaints.String())
	}
	found := make(map[string]finding)
	for line := range bytes.Lines(out.Bytes()) {
		var f finding
		if err := json.Unmarshal(line, &f); err != nil {
			t.Fatalf("%s: %v: %.200q", name, err, line)
		}
		found[f.File] = f
	}
	return found
}

// An rspamd answers over HTTP, in symbols whose options name the signatures.
func askRspamd(t *testing.T, addr, dir string) map[string]finding {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]finding)
	var mu sync.Mutex
	world.Parallel(len(files), func(i int) {
		f, err := askRspamdOne(t.Context(), addr, files[i])
		if err != nil {
			t.Errorf("rspamd: %s: %v", filepath.Base(files[i]), err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		found[f.File] = f
	})
	return found
}

func askRspamdOne(ctx context.Context, addr, file string) (finding, error) {
	f := finding{File: filepath.Base(file), ARC: "none"}
	octets, err := os.Open(file)
	if err != nil {
		return f, err
	}
	defer octets.Close()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/checkv2", octets)
	if err != nil {
		return f, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return f, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return f, fmt.Errorf("%s", r.Status)
	}
	var answer struct {
		Symbols map[string]struct{ Options []string } `json:"symbols"`
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		return f, err
	}
	for name, symbol := range answer.Symbols {
		options := strings.Join(symbol.Options, ", ")
		switch name {
		case "R_DKIM_ALLOW", "R_DKIM_REJECT", "R_DKIM_PERMFAIL", "R_DKIM_TEMPFAIL":
			result := "pass"
			if name != "R_DKIM_ALLOW" {
				result = strings.ToLower(strings.TrimPrefix(name, "R_DKIM_"))
			}
			for _, o := range symbol.Options {
				d, s, _ := strings.Cut(o, ":s=")
				f.DKIM = append(f.DKIM, struct{ D, S, B, Result, Why string }{D: d, S: s, Result: result, Why: options})
			}
		case "ARC_ALLOW":
			f.ARC = "pass"
		case "ARC_REJECT", "ARC_INVALID", "ARC_DNSFAIL":
			f.ARC, f.ARCWhy = "fail", name+" "+options
		}
	}
	return f, nil
}
