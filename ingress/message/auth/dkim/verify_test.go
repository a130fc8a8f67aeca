package dkim

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// rfcKey is the private key of RFC 6376 appendix C.
const rfcKey = `-----BEGIN RSA PRIVATE KEY-----
MIICXwIBAAKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFC
jxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gb
to/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB
AoGBALmn+XwWk7akvkUlqb+dOxyLB9i5VBVfje89Teolwc9YJT36BGN/l4e0l6QX
/1//6DWUTB3KI6wFcm7TWJcxbS0tcKZX7FsJvUz1SbQnkS54DJck1EZO/BLa5ckJ
gAYIaqlA9C0ZwM6i58lLlPadX/rtHb7pWzeNcZHjKrjM461ZAkEA+itss2nRlmyO
n1/5yDyCluST4dQfO8kAB3toSEVc7DeFeDhnC1mZdjASZNvdHS4gbLIA1hUGEF9m
3hKsGUMMPwJBAPW5v/U+AWTADFCS22t72NUurgzeAbzb1HWMqO4y4+9Hpjk5wvL/
eVYizyuce3/fGke7aRYw/ADKygMJdW8H/OcCQQDz5OQb4j2QDpPZc0Nc4QlbvMsj
7p7otWRO5xRa6SzXqqV3+F0VpqvDmshEBkoCydaYwc2o6WQ5EBmExeV8124XAkEA
qZzGsIxVP+sEVRWZmW6KNFSdVUpk3qzK0Tz/WjQMe5z0UunY9Ax9/4PVhp/j61bf
eAYXunajbBSOLlx4D+TunwJBANkPI5S9iylsbLs6NkaMHV6k5ioHBBmgCak95JGX
GMot/L2x0IYyMLAz6oLWh2hm7zwtb0CgOrPo1ke44hFYnfc=
-----END RSA PRIVATE KEY-----
`

// key parses rfcKey.
func key(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ParseKey([]byte(rfcKey))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// publish returns the record of a key.
func publish(t testing.TB, k crypto.Signer) string {
	t.Helper()
	record, err := KeyRecord(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return record
}

const dinner = "From: Joe SixPack <joe@football.example.com>\r\n" +
	"To: Suzie Q <suzie@shopping.example.net>\r\n" +
	"Subject: Is dinner ready?\r\n" +
	"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n" +
	"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"

const dinnerBody = "Hi.\r\n\r\nWe lost the game. Are you hungry yet?\r\n\r\nJoe.\r\n"

// The sample of RFC 6376 appendix A.
func TestVerifier_RFC6376AppendixA(t *testing.T) {
	message := "DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;\r\n" +
		"      c=simple/simple; q=dns/txt; i=joe@football.example.com;\r\n" +
		"      h=Received : From : To : Subject : Date : Message-ID;\r\n" +
		"      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n" +
		"      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB\r\n" +
		"      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut\r\n" +
		"      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV\r\n" +
		"      4bmp/YzhwvcubU4=;\r\n" +
		"Received: from client1.football.example.com  [192.0.2.1]\r\n" +
		"      by submitserver.example.com with SUBMISSION;\r\n" +
		"      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)\r\n" + dinner + "\r\n" + dinnerBody
	keys := records{"brisbane._domainkey.example.com": {publish(t, key(t))}}
	got := verify(t, keys, nil, []byte(message))
	if explain(got) != "pass: " {
		t.Fatal(explain(got))
	}
	s := got[0]
	if s.Domain != "example.com" || s.Selector != "brisbane" || s.Identity != "joe@football.example.com" ||
		s.KeyBits != 1024 ||
		s.HeaderB() != "AuUoFEfD" || s.Algorithm.String() != "rsa-sha256" || s.HeaderCanon != Simple ||
		s.BodyCanon != Simple ||
		strings.Join(s.Names, ":") != "received:from:to:subject:date:message-id" || !s.Signed.IsZero() ||
		!s.Expires.IsZero() {
		t.Errorf("%+v", s)
	}
}

// The sample of RFC 8463 appendix A.3.
func TestVerifier_RFC8463AppendixA3(t *testing.T) {
	message := "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n" +
		" d=football.example.com; i=@football.example.com;\r\n" +
		" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n" +
		" subject : date : message-id : from : subject : date;\r\n" +
		" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n" +
		" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n" +
		" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n" +
		"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n" +
		" d=football.example.com; i=@football.example.com;\r\n" +
		" q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n" +
		" date : message-id : from : subject : date;\r\n" +
		" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n" +
		" b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n" +
		" DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n" +
		" dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\n" + dinner + "\r\n" +
		strings.Replace(dinnerBody, "game. Are", "game.  Are", 1)
	keys := records{
		"brisbane._domainkey.football.example.com": {"v=DKIM1; k=ed25519; " +
			"p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="},
		"test._domainkey.football.example.com": {"v=DKIM1; k=rsa; " +
			"p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR" +
			"iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj" +
			"+PL6lHvqMKrM3rG" +
			"4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"},
	}
	got := verify(t, keys, nil, []byte(message))
	if explain(got) != "pass: , pass: " || got[0].KeyBits != 256 || !got[0].Signed.Equal(time.Unix(1528637909, 0)) {
		t.Fatalf("%s %+v", explain(got), got)
	}
}

// signed puts a signature with these tags above a message; bh= and b= are filled in where they are empty.
func signed(t testing.TB, tags, header, body string) string {
	t.Helper()
	return signedWith(t, key(t), tags, header, body)
}

func signedWith(t testing.TB, k crypto.Signer, tags, header, body string) string {
	t.Helper()
	list, err := parseTags(nil, []byte(tags), true)
	if err != nil {
		t.Fatal(err)
	}
	headerCanon, bodyCanon, err := ParseCanonicalizations(list.Get("c"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := ParseHeaderNames(list.Get("h"))
	if err != nil {
		t.Fatal(err)
	}
	b := NewBodyHash(bodyCanon)
	b.Write([]byte(body))
	sum := b.Sum()
	tags = strings.Replace(tags, "bh=;", "bh="+base64.StdEncoding.EncodeToString(sum[:])+";", 1)
	own := Field("DKIM-Signature: " + tags)
	digest := Digest(NewHeaderHash(), &Picker{}, []byte(header), names, headerCanon, own, -1, Tag{})
	value, err := SignDigest(k, digest)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(tags, " b=") {
		tags += base64.StdEncoding.EncodeToString(value)
	}
	return "DKIM-Signature: " + tags + "\r\n" + header + "\r\n" + body
}

// Signatures are judged.
func TestVerifier(t *testing.T) {
	const base = "v=1; a=rsa-sha256; d=example.com; s=sel; c=relaxed/relaxed; h=from:to:subject:date; bh=; "
	good := publish(t, key(t))
	tests := []struct {
		name   string
		tags   string
		record []string // nil: good
		change func(string) string
		want   string
	}{
		{"a good one passes", base + "b=", nil, nil, "pass: "},
		{"relaxed forms pass with other white space", base + "b=", nil, func(m string) string {
			return strings.Replace(strings.Replace(m, "Subject: Is dinner", "SUBJECT :  Is\r\n\tdinner", 1), "We lost",
				"We \t lost", 1) + "\r\n\r\n"
		}, "pass: "},
		{"a changed header field fails", base + "b=", nil, func(m string) string {
			return strings.Replace(m, "Is dinner", "is dinner", 1)
		}, "fail: signature did not verify"},
		{"a changed body fails", base + "b=", nil, func(m string) string {
			return m + "-- \r\nfooter\r\n"
		}, "fail: body hash did not verify"},
		{"a field that is not signed may change", base + "b=", nil, func(m string) string {
			return strings.Replace(m, "20030712", "x", 1)
		}, "pass: "},
		{"a field added below is taken first", base + "b=", nil, func(m string) string {
			return strings.Replace(m, "\r\n\r\n", "\r\nSubject: new\r\n\r\n", 1)
		}, "fail: signature did not verify"},
		{"a field added above is not looked at", base + "b=", nil, func(m string) string {
			return "Subject: new\r\n" + m
		}, "pass: "},
		{"an oversigned field must not be added", strings.Replace(base, "h=", "h=subject:", 1) + "b=", nil,
			func(m string) string { return "Subject: new\r\n" + m }, "fail: signature did not verify"},
		{
			"an oversigned signature does not sign itself", strings.Replace(base, "h=", "h=dkim-signature:", 1) + "b=",
			nil, nil, "pass: ",
		},
		{"a signature that was changed fails", base + "b=", nil, func(m string) string {
			return strings.Replace(m, "v=1;", "v=1; y=2;", 1)
		}, "fail: signature did not verify"},
		{"white space within b= is not signed", base + "b=", nil, func(m string) string {
			return strings.Replace(m, " b=", " b=\r\n ", 1)
		}, "pass: "},
		{"tags behind b= are signed", base + "b=", nil, func(m string) string {
			return strings.Replace(m, "\r\nFrom", "; n=1\r\nFrom", 1)
		}, "fail: signature did not verify"},
		{"tags whose name ends in b are kept", base + "xb=1; b=", nil, nil, "pass: "},
		{"simple forms are exact", strings.Replace(base, "c=relaxed/relaxed; ", "", 1) + "b=", nil,
			func(m string) string {
				return strings.Replace(m, "We lost", "We  lost", 1)
			}, "fail: body hash did not verify"},
		{
			"c= with one name means simple for the body", strings.Replace(base, "relaxed/relaxed", "relaxed", 1) + "b=",
			nil, nil, "pass: ",
		},
		{
			"names are taken in any case",
			strings.NewReplacer("rsa-sha256", "RSA-SHA256", "relaxed", "Relaxed", "example.com",
				"Example.COM").Replace(base) + "b=", nil, nil, "pass: ",
		},

		{"no version", strings.Replace(base, "v=1; ", "", 1) + "b=", nil, nil,
			"permerror: signature missing required tag"},
		{"another version", strings.Replace(base, "v=1", "v=2", 1) + "b=", nil, nil, "permerror: incompatible version"},
		{"no selector", strings.Replace(base, "s=sel; ", "", 1) + "b=", nil, nil,
			"permerror: signature missing required tag"},
		{
			"rsa-sha1", strings.Replace(base, "sha256", "sha1", 1) + "b=", nil, nil,
			"permerror: rsa-sha1 is not accepted",
		},
		{
			"an unknown algorithm", strings.Replace(base, "rsa-sha256", "dsa-sha256", 1) + "b=", nil, nil,
			"permerror: unknown algorithm",
		},
		{"a query method that is not DNS", base + "q=http; b=", nil, nil, "permerror: unknown query method"},
		{"several query methods", base + "q=http:dns/txt; b=", nil, nil, "pass: "},
		{
			"From is not signed", strings.Replace(base, "from:", "", 1) + "b=", nil, nil,
			"permerror: From field not signed",
		},
		{"a body hash of another length", strings.Replace(base, "bh=;", "bh=AAAA;", 1) + "b=", nil, nil,
			"permerror: signature syntax error"},
		{"a body hash that is no base64", strings.Replace(base, "bh=;", "bh=%%%;", 1) + "b=", nil, nil,
			"permerror: signature syntax error"},
		{"an empty b=", base + "b= ;", nil, nil, "permerror: signature syntax error"},
		{
			"a domain that is none", strings.Replace(base, "d=example.com", "d=exam ple.com", 1) + "b=", nil, nil,
			"permerror: signature syntax error",
		},
		{
			"a selector that is none", strings.Replace(base, "s=sel", "s=.", 1) + "b=", nil, nil,
			"permerror: signature syntax error",
		},
		{"a duplicate tag", base + "b=", nil, func(m string) string {
			return strings.Replace(m, "v=1;", "v=1; v=1;", 1)
		}, "permerror: signature syntax error"},

		{"an identity in a subdomain", base + "i=joe@a.example.com; b=", nil, nil, "pass: "},
		{"an identity elsewhere", base + "i=joe@badexample.com; b=", nil, nil, "permerror: domain mismatch"},
		{"an identity in quoted-printable", base + "i=joe=40a=2Eexample.com; b=", nil, nil, "pass: "},
		{"an identity without a domain", base + "i=joe; b=", nil, nil, "permerror: signature syntax error"},
		{"an identity with a control", base + "i=joe=0D=0A@example.com; b=", nil, nil,
			"permerror: signature syntax error"},

		{"a body length", base + "l=5; b=", nil, nil, "policy: body length limit l= is not accepted"},
		{"a body length that is none", base + "l=x; b=", nil, nil, "permerror: signature syntax error"},
		{"expired", base + "t=1; x=700; b=", nil, nil, "permerror: signature expired"},
		{"not expired by a clock that is five minutes off", base + "t=1; x=701; b=", nil, nil, "pass: "},
		{"expires when it was made", base + "t=1000; x=1000; b=", nil, nil, "pass: "},
		{"expired before it was made", base + "t=2000; x=1999; b=", nil, nil, "permerror: signature syntax error"},
		{"made in the future", base + "t=3000; b=", nil, nil, "pass: "},
		{"a time that is none", base + "t=-1; b=", nil, nil, "permerror: signature syntax error"},

		{"no key", base + "b=", []string{}, nil, "permerror: no key for signature"},
		{"two keys", base + "b=", []string{good, good}, nil, "permerror: multiple key records"},
		{"DNS trouble", base + "b=", []string{ingresstest.ServFail}, nil, "temperror: key unavailable"},
		{"a key of another type", base + "b=", []string{"k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="},
			nil, "permerror: key of another type than a="},
		{"a testing key passes what is good", base + "b=", []string{good + "; t=y"}, nil, "pass: "},
		{"a testing key makes a failure neutral", base + "b=", []string{good + "; t=y:s"}, func(m string) string {
			return m + "x"
		}, "neutral: body hash did not verify (key in testing)"},
		{"a strict key refuses subdomains", base + "i=joe@a.example.com; b=", []string{good + "; t=s"}, nil,
			"permerror: domain mismatch"},
		{"a strict key takes its own domain", base + "i=joe@EXAMPLE.com; b=", []string{good + "; t=s"}, nil, "pass: "},
		{"a revoked key", base + "b=", []string{"v=DKIM1; p="}, nil, "permerror: key revoked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			record := tt.record
			if record == nil {
				record = []string{good}
			}
			message := signed(t, tt.tags, dinner, dinnerBody)
			if tt.change != nil {
				message = tt.change(message)
			}
			got := verify(t, records{"sel._domainkey.example.com": record}, clock(1000), []byte(message))
			if explain(got) != tt.want {
				t.Errorf("got  %s\nwant %s", explain(got), tt.want)
			}
		})
	}
}

// Keys of the wrong size are refused.
func TestParseKeyRecord_Size(t *testing.T) {
	const der512 = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALgSoqXVSEmfcIsOzw7oRuCCOwsmtX/SJnTWxYyj2leFxfS/AVJ+dYfY" +
		"+hXqMsT7l+MZvvh/R1WzN4MO/kI/7XsCAwEAAQ=="
	if _, err := ParseKeyRecord("p=" + der512); err == nil || err.(*Failure).Reason != "key too short" {
		t.Error(err)
	}
	if _, err := ParseKeyRecord("p=" + strings.Repeat("A", 5000)); err == nil ||
		err.(*Failure).Reason != "key too large" {
		t.Error(err)
	}
}

const tags = "v=1; a=rsa-sha256; d=example.com; s=sel; c=relaxed/simple; h=from:to:subject:date; bh=; b="

func newVerifier(t testing.TB, cfg Config) *Verifier {
	t.Helper()
	v, err := NewVerifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// predictor returns the index of the topmost signature that predicts the hash of the body, or -1.
func predictor(m *Verification) int {
	return slices.IndexFunc(m.Header(), func(s Signature) bool { return s.HeaderVerified })
}

// The header is judged before the body comes.
func TestVerification_Header(t *testing.T) {
	keys := records{"sel._domainkey.example.com": {publish(t, key(t))}}
	header, body := split([]byte(signed(t, tags, dinner, dinnerBody)))
	sum := sha256.Sum256([]byte(dinnerBody))
	for _, tt := range []struct {
		name string
		body []byte
		want string
	}{
		{"and the body is the one foretold", body, "pass: "},
		{"and the body is another", append(slices.Clone(body), "footer\r\n"...), "fail: body hash did not verify"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := newVerifier(t, Config{Resolver: keys}).Begin(t.Context(), header)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			m.Want(Relaxed)
			at := predictor(m)
			if at != 0 {
				t.Fatalf("predicted by %d", at)
			}
			if s := m.Header()[at]; !s.HeaderVerified || s.Result != Pending || s.BodyHash != sum ||
				s.BodyCanon != Simple {
				t.Fatalf("%+v", s)
			}
			m.Write(tt.body)
			if got := explain(m.Finish()); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if _, ok := m.BodyHash(Relaxed); !ok {
				t.Error("the wanted hash is missing")
			}
			if got, ok := m.BodyHash(Simple); !ok || (got == sum) != (tt.want == "pass: ") {
				t.Errorf("hash %x, %t", got, ok)
			}
		})
	}
}

// A settled signature costs no body hash.
func TestVerification_NoBodyHash(t *testing.T) {
	header, _ := split([]byte(signed(t, tags, dinner, dinnerBody)))
	m, err := newVerifier(t, Config{Resolver: records{}}).Begin(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	if at := predictor(m); at != -1 {
		t.Errorf("predicted by %d", at)
	}
	m.Write([]byte(dinnerBody))
	if m.bodies[Simple] != nil || m.bodies[Relaxed] != nil {
		t.Error("the body is hashed for nobody")
	}
	m.Finish()
}

// Stuffed octets are read without their dots.
func TestVerification_WriteOctets(t *testing.T) {
	body := ".\r\n..a\r\nb\r\n.\r\n"
	header, _ := split([]byte(signed(t, tags, dinner, body)))
	keys := records{"sel._domainkey.example.com": {publish(t, key(t))}}
	stuffed := string(header) + "\r\n" + strings.ReplaceAll("\r\n"+body, "\n.", "\n..")[2:]
	var dots []uint32
	for i := len(header) + 2; i < len(stuffed); i++ {
		if stuffed[i-1] == '\n' && stuffed[i] == '.' {
			dots = append(dots, uint32(i))
		}
	}
	for cut := range len(stuffed) {
		m, err := newVerifier(t, Config{Resolver: keys}).Begin(t.Context(), header)
		if err != nil {
			t.Fatal(err)
		}
		o := mail.Octets{Segments: net.Buffers{[]byte(stuffed[:cut]), []byte(stuffed[cut:])}, Dots: dots}
		m.WriteOctets(o, len(header)+2)
		if got := explain(m.Finish()); got != "pass: " {
			t.Fatalf("cut at %d: %s", cut, got)
		}
	}
	var plain bytes.Buffer
	for p := range (mail.Octets{Segments: net.Buffers{[]byte(stuffed)}, Dots: dots, Form: mail.Plain}).PlainFrom(3) {
		plain.Write(p)
	}
	if plain.String() != stuffed[3:] {
		t.Errorf("plain octets lost dots: %q", plain.String())
	}
}

// A meeting answers once as many questions are open as it expects.
type meeting struct {
	records
	all sync.WaitGroup
}

func (m *meeting) LookupTXT(ctx context.Context, name string) ([]string, error) {
	m.all.Done()
	m.all.Wait()
	return m.records.LookupTXT(ctx, name)
}

// Keys are asked for at the same time and once.
func TestVerifier_Keys(t *testing.T) {
	keys := &meeting{records: records{}}
	message := dinner + "\r\n" + dinnerBody
	for _, selector := range []string{"a", "b", "a", "c"} {
		keys.records[selector+"._domainkey.example.com"] = []string{publish(t, key(t))}
		header, body, _ := strings.Cut(message, "\r\n\r\n")
		message = signed(t, strings.Replace(tags, "s=sel", "s="+selector, 1), header+"\r\n", body)
	}
	keys.all.Add(3)
	if got := results(verify(t, keys, nil, []byte(message))); got != "pass pass pass pass" {
		t.Error(got)
	}
}

// The search for keys ends.
func TestVerification_Close(t *testing.T) {
	message := []byte(signed(t, tags, dinner, dinnerBody))
	t.Run("with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan struct{})
		m, err := newVerifier(t, Config{Resolver: ingresstest.Blocked{Asked: asked}}).Begin(ctx, message)
		if err != nil {
			t.Fatal(err)
		}
		<-asked
		cancel()
		got := m.Finish()
		if explain(got) != "temperror: key unavailable" || !errors.Is(got[0].Cause, context.Canceled) {
			t.Errorf("%s %v", explain(got), got[0].Cause)
		}
	})
	t.Run("when the message is given up", func(t *testing.T) {
		asked := make(chan struct{})
		m, err := newVerifier(t, Config{Resolver: ingresstest.Blocked{Asked: asked}}).Begin(t.Context(), message)
		if err != nil {
			t.Fatal(err)
		}
		<-asked
		m.Close()
		m.Close()
	})
}

// Only so many signatures are verified.
func TestVerifier_TooManySignatures(t *testing.T) {
	keys := records{"sel._domainkey.example.com": {publish(t, key(t))}}
	one, rest, _ := strings.Cut(signed(t, tags, dinner, dinnerBody), "\r\n")
	v := newVerifier(t, Config{Resolver: keys, tune: tuning{signatures: 3}})
	m, err := v.Begin(t.Context(), []byte(strings.Repeat(one+"\r\n", 10)+rest))
	if err != nil {
		t.Fatal(err)
	}
	m.Write([]byte(dinnerBody))
	if got := results(m.Finish()); got != "pass pass pass" || m.Unverified() != 7 {
		t.Errorf("%s, %d unverified", got, m.Unverified())
	}
}

// A long header section is not looked at.
func TestVerifier_LongHeader(t *testing.T) {
	v := newVerifier(t, Config{Resolver: records{}, tune: tuning{header: 100}})
	if _, err := v.Begin(t.Context(), []byte(dinner)); !errors.Is(err, ErrHeaderTooLong) {
		t.Error(err)
	}
}

// Configs are validated.
func TestConfig_Validate(t *testing.T) {
	if err := (Config{}).Validate(); !strings.Contains(fmt.Sprint(err), "Resolver: ") {
		t.Errorf("the resolver is not named in %v", err)
	}
	if _, err := NewVerifier(Config{}); err == nil {
		t.Error("no keys, no error")
	}
}

// Results have names.
func TestResult_String(t *testing.T) {
	var all []string
	for r := Pending; r <= PermError+1; r++ {
		all = append(all, r.String())
	}
	if got := strings.Join(all, " "); got != "none pass fail policy neutral temperror permerror result 7" {
		t.Error(got)
	}
}

// Parsed keys are kept in bounds.
func TestKeyFinder(t *testing.T) {
	c := NewKeyFinder(records{})
	record := publish(t, key(t))
	first, err := c.parse(record)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.parse(record); err != nil || again != first {
		t.Error("parsed again")
	}
	if _, err := c.parse("p="); err == nil || len(c.parsed) != 1 {
		t.Error("a revoked key is kept")
	}
	if _, err := c.parse(record + "; n=" + strings.Repeat("x", maxCachedRecord)); err != nil || len(c.parsed) != 1 {
		t.Error("a long record is kept")
	}
	for i := range maxCachedKeys + 1 {
		if _, err := c.parse(fmt.Sprintf("%s; n=%d", record, i)); err != nil {
			t.Fatal(err)
		}
		if len(c.parsed) > maxCachedKeys {
			t.Fatalf("%d keys", len(c.parsed))
		}
	}
}
