package dkim

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/world"
)

// records are key records by name.
type records = ingresstest.Zone

// clock is a Now that stands still.
func clock(unix int64) func() time.Time { return func() time.Time { return time.Unix(unix, 0) } }

// verify verifies a whole message.
func verify(t testing.TB, keys world.Resolver, now func() time.Time, message []byte) []Signature {
	t.Helper()
	v, err := NewVerifier(Config{Resolver: keys, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	header, body := split(message)
	m, err := v.Begin(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.Write(body)
	return m.Finish()
}

// split cuts a message into header section and body.
func split(message []byte) (header, body []byte) {
	header = Section(message)
	return header, bytes.TrimPrefix(message[len(header):], []byte("\r\n"))
}

// crlf returns text with CRLF at the end of each line, whatever it had.
func crlf(text []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// results returns the results of signatures, one word each.
func results(signatures []Signature) string {
	var words []string
	for _, s := range signatures {
		words = append(words, s.Result.String())
	}
	return strings.Join(words, " ")
}

// today is a time at which the signatures of the suites are still valid where they say so.
const today = 1700000000

// TestVerifier_MailDKIM has all messages of its corpus. What it calls good was signed with rsa-sha1 and mostly before
// RFC 4871, so none but one may pass here.
func TestVerifier_MailDKIM(t *testing.T) {
	dir := ingresstest.Shared(t, "suites", "dkim", "mail-dkim")
	keys := ingresstest.Records(ingresstest.Read(t, dir, "FAKE_DNS.dat"))
	const (
		sha1     = "permerror: rsa-sha1 is not accepted"
		draft    = "permerror: signature missing required tag" // no v=, which drafts before RFC 4871 had not
		version  = "permerror: incompatible version"           // v=0.x of a draft
		noKey    = "permerror: no key for signature"
		keyError = "permerror: key syntax error"
		short    = "permerror: key too short" // what is left once the algorithm is not to blame
		syntax   = "permerror: signature syntax error"
	)
	tests := map[string]struct{ want, modern string }{
		"bad_1.txt":           {draft, short},
		"bad_1878954.txt":     {sha1, "fail: signature did not verify"},
		"bad_ietf01_1.txt":    {draft, short},
		"bad_ietf01_2.txt":    {draft, short},
		"bad_ietf01_3.txt":    {draft, short},
		"badkey1_ed25519.txt": {keyError, keyError},
		"badkey2_ed25519.txt": {"fail: signature did not verify", "fail: signature did not verify"},
		"badkey3_ed25519.txt": {"fail: body hash did not verify", "fail: signature did not verify"},
		"badkey4_ed25519.txt": {noKey, noKey},
		"badkey5_ed25519.txt": {keyError, keyError},
		"badkey_1.txt":        {version, noKey},
		"badkey_2.txt":        {version, "permerror: key revoked"},
		"badkey_3.txt":        {version, "permerror: key of an unknown version"},
		"badkey_4.txt":        {version, keyError},
		"badkey_5.txt":        {version, "permerror: key of an unknown type"},
		"badkey_6.txt":        {version, "permerror: key not for mail"},
		"badkey_7.txt":        {version, "permerror: key not for sha256"},
		"badkey_8.txt":        {sha1, short}, // RFC 6376 has dropped g=, so it is ignored
		"badkey_9.txt":        {sha1, short},
		"badkey_10.txt":       {sha1, short},
		"badkey_11.txt":       {"permerror: key not for sha256", "permerror: key not for sha256"},
		"badkey_12.txt":       {sha1, short},
		"badkey_13.txt":       {sha1, short},
		"badkey_14.txt":       {sha1, "temperror: key unavailable"},
		"badkey_15.txt":       {sha1, "temperror: key unavailable"},
		"good_1878523.txt":    {sha1, short},
		"good_83176.txt":      {sha1, "fail: signature did not verify"},
		"good_ietf00_1.txt":   {draft, ""},
		"good_ietf00_2.txt":   {draft, ""},
		"good_ietf00_3.txt":   {draft, ""},
		"good_ietf00_4.txt":   {draft, ""},
		"good_ietf00_5.txt":   {draft, ""},
		"good_ietf01_1.txt":   {draft, ""},
		"good_ietf01_2.txt":   {draft, ""},
		"good_qp_1.txt":       {sha1, short},
		"good_qp_2.txt":       {sha1, short},
		"good_qp_3.txt":       {sha1, short},
		"good_rfc4871_3.txt":  {sha1, short},
		"good_rfc4871_4.txt":  {sha1, short},
		"goodkey_1.txt":       {sha1, short},
		"goodkey_2.txt":       {sha1, "permerror: key not for sha256"},
		"goodkey_3.txt":       {sha1, short},
		"goodkey_4.txt":       {sha1, short},
		"goodkey_ed25519.txt": {"pass: ", "fail: signature did not verify"},
		"ignore_1.txt":        {version, version}, // v=5
		"ignore_2.txt":        {version, "permerror: unknown algorithm"},
		"ignore_3.txt":        {version, "permerror: unknown algorithm"},
		"ignore_4.txt":        {version, "permerror: unknown query method"},
		"ignore_5.txt":        {sha1, "permerror: unknown query method"},
		"ignore_6.txt":        {sha1, "permerror: unknown query method"},
		"ignore_7.txt":        {sha1, "permerror: signature expired"},
		"ignore_8.txt":        {"permerror: domain mismatch", "permerror: domain mismatch"},
		"mine_ietf01_1.txt":   {draft, ""},
		"mine_ietf01_2.txt":   {draft, ""},
		"mine_ietf01_3.txt":   {draft, ""},
		"mine_ietf01_4.txt":   {draft, ""},
		"mine_ietf05_1.txt":   {version, ""},
		"multiple_1.txt":      {strings.Join([]string{draft, draft, draft, draft}, ", "), ""},
		"multiple_2.txt":      {strings.Join([]string{sha1, sha1, sha1, syntax}, ", "), ""},
		"no_body_1.txt":       {version, ""},
		"no_body_2.txt":       {version, ""},
		"no_body_3.txt":       {version, ""},
	}
	files, err := filepath.Glob(filepath.Join(dir, "corpus", "*.txt"))
	if err != nil || len(files) != 79 {
		t.Fatalf("%d messages, %v", len(files), err)
	}
	old := strings.NewReplacer("a=rsa-sha1", "a=rsa-sha256", "v=0.2", "v=1", "v=0.3", "v=1", "v=0.5", "v=1")
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			tt, ok := tests[name]
			message := crlf(ingresstest.Read(t, file))
			if !ok && (!strings.Contains(name, "dk_") || strings.Contains(string(message), "DKIM-Signature:")) {
				t.Fatal("not in the table") // only those with DomainKey-Signature (RFC 4870) alone may be absent
			}
			if got := explain(verify(t, keys, clock(today), message)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if tt.modern == "" {
				return
			}
			// The same field with an algorithm of today: what else there is to say about it and its key.
			message = []byte(old.Replace(string(message)))
			message = bytes.Replace(message, []byte("DKIM-Signature: "), []byte("DKIM-Signature: "+missing(message)), 1)
			message = bodyHash.ReplaceAll(message, []byte("bh="+strings.Repeat("A", 43)+"=;"))
			if got := explain(verify(t, keys, clock(today), message)); got != tt.modern {
				t.Errorf("with rsa-sha256: got  %s\nwant %s", got, tt.modern)
			}
		})
	}
}

var bodyHash = regexp.MustCompile(`bh=[^;]*;`)

// missing returns the tags that RFC 4871 made mandatory and the message's first signature lacks.
func missing(message []byte) string {
	_, field, _ := bytes.Cut(message, []byte("DKIM-Signature:"))
	field, _, _ = bytes.Cut(field, []byte("\r\nReceived"))
	tags := ""
	if !bytes.Contains(field, []byte("v=")) {
		tags += "v=1; "
	}
	if !bytes.Contains(field, []byte("bh=")) {
		tags += "bh=A; "
	}
	return tags
}

// explain returns results and reasons.
func explain(signatures []Signature) string {
	var all []string
	for _, s := range signatures {
		all = append(all, s.Result.String()+": "+s.Reason)
	}
	return strings.Join(all, ", ")
}

// TestVerifier_Samples has the messages of the other suites whose keys are known. The messages of the RFCs are among
// them: RFC 8463 appendix A.3 is mail-auth/001. The key of mail-auth/002 is an RSAPublicKey.
func TestVerifier_Samples(t *testing.T) {
	dir := ingresstest.Shared(t, "suites", "dkim", "dkimpy")
	key := func(file string) string { return strings.TrimSpace(string(ingresstest.Read(t, dir, file))) }
	football := ingresstest.Records([]byte("brisbane._domainkey.football.example.com v=DKIM1; k=ed25519; " +
		"p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n" +
		"test._domainkey.football.example.com " + key("test.txt")))
	other := ingresstest.Records([]byte("brisbane._domainkey.football.example.com " +
		key("ed25519test.dns") + "\n" +
		"test._domainkey.football.example.com " + key("test.txt")))
	exim := ingresstest.Records([]byte("sed._domainkey.test.ex " + key("eximtest.dns")))
	tests := []struct {
		file string
		keys records // nil: those at the head of the file
		want string
	}{
		{"mail-auth/001.txt", nil, "pass: , pass: "},
		{"mail-auth/002.txt", nil, "pass: "},
		{"mail-auth/003.txt", nil, "pass: , pass: "},
		{"mail-auth/004.txt", nil, "pass: "},
		{"mail-auth/005.txt", nil, "pass: "},
		{"mail-auth/006.txt", nil, "pass: "},
		{"mailauth/signed.eml", football, "pass: , pass: "},
		{"dkimpy/rfc6376.signed.msg", football, "pass: , pass: "},
		{"dkimpy/rfc6376.signed.msg", other, "fail: signature did not verify, pass: "},
		{"dkimpy/ed25519test2.msg", exim, "pass: "},
		{"dkimpy/message.mbox", football, "permerror: no key for signature"},
		{"dkimpy/test2.message", football, "permerror: no key for signature"},
		{"dkimpy/test.message", football, ""},
		{"dkimpy/ed25519test.msg", football, ""},
		{"dkimpy/rfc6376.msg", football, ""},
		{"dkimpy/test_extra.message", football, ""},
		{"dkimpy/test_nofrom.message", football, ""},
		{"mailauth/authtest.eml", football, "permerror: no key for signature"},
		{"mailauth/bimi.eml", football, "permerror: no key for signature, permerror: no key for signature"},
		{"mailauth/message1.eml", football, ""},
		{"mailauth/message2.eml", football, "permerror: no key for signature"},
		{"mailauth/message3.eml", football, "permerror: no key for signature, permerror: no key for signature"},
		{"mailauth/message4.eml", football, "permerror: no key for signature"},
		{"mailauth/zbimi.eml", football, "permerror: no key for signature"},
		{"mailauth/zproov.eml", football, "permerror: no key for signature"},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			folder, file := filepath.Split(tt.file)
			message := crlf(ingresstest.Read(t, ingresstest.Shared(t, "suites", "dkim", folder), file))
			keys := tt.keys
			if keys == nil {
				head, rest, _ := bytes.Cut(message, []byte("\r\n\r\n"))
				keys, message = ingresstest.Records(head), rest
			}
			if got := explain(verify(t, keys, clock(1600000000), message)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestParseKeyRecord_Samples has the key records of dkimpy and of Mail::DKIM.
func TestParseKeyRecord_Samples(t *testing.T) {
	dir := ingresstest.Shared(t, "suites", "dkim", "dkimpy")
	reason := func(record string) string {
		key, err := ParseKeyRecord(record)
		if err != nil {
			return err.(*Failure).Reason
		}
		return fmt.Sprintf("%T %d testing=%t strict=%t", key.Key, key.Bits, key.Testing, key.Strict)
	}
	for file, want := range map[string]string{
		"badk.txt":        "key of an unknown type",
		"badversion.txt":  "key of an unknown version", // DKIM1: and not DKIM1;
		"test.txt":        "*rsa.PublicKey 1024 testing=false strict=false",
		"test2.txt":       "*rsa.PublicKey 1024 testing=false strict=false", // k= is rsa where it is absent
		"test_bad.txt":    "key syntax error",
		"test_tlsrpt.txt": "key not for mail",
		"ed25519test.dns": "ed25519.PublicKey 256 testing=false strict=false",
		"eximtest.dns":    "ed25519.PublicKey 256 testing=false strict=false",
	} {
		if got := reason(strings.TrimSpace(string(ingresstest.Read(t, dir, file)))); got != want {
			t.Errorf("%s: got %s, want %s", file, got, want)
		}
	}
	dir = ingresstest.Shared(t, "suites", "dkim", "mail-dkim")
	keys := ingresstest.Records(ingresstest.Read(t, dir, "FAKE_DNS.dat"))
	for name, want := range map[string]string{
		"s1024._domainkey.yahoo.com":         "*rsa.PublicKey 1024 testing=true strict=false",
		"test6._domainkey.messiah.edu":       "*rsa.PublicKey 1024 testing=false strict=true",
		"test5._domainkey.messiah.edu":       "key too short",
		"testrevoked._domainkey.messiah.edu": "key revoked",
		"testbad2._domainkey.messiah.edu":    "key syntax error",
		"shan._domainkey.vmt2.cis.att.net":   "key too short",
		"invalid._domainkey.wander.science":  "key syntax error", // ASN.1 around an Ed25519 key
	} {
		if got := reason(keys[name][0]); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
