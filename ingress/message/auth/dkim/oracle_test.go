package dkim

import (
	"bytes"
	"crypto"
	"strings"
	"testing"

	oracle "github.com/emersion/go-msgauth/dkim"
	"pgregory.net/rapid"
)

// drawHeader draws a header section of fields with odd white space, folding and repetition.
func drawHeader(t *rapid.T) string {
	name := rapid.SampledFrom([]string{"From", "To", "SUBJECT", "Subject", "date", "Message-ID", "X-Other", "Cc"})
	value := rapid.StringMatching(`( |\t|\r\n |\r\n\t|[a-z:;=]{1,9}){0,12}[a-z]`)
	header := "From: someone@example.com\r\n"
	for range rapid.IntRange(0, 8).Draw(t, "fields") {
		field := name.Draw(t, "name") + ":" + value.Draw(t, "value") + "\r\n"
		if rapid.Bool().Draw(t, "above") {
			header = field + header
		} else {
			header += field
		}
	}
	return header
}

func drawBody(t *rapid.T) string {
	words := rapid.SliceOfN(rapid.SampledFrom([]string{
		" ", "\t", "  ", "\r\n", "\r\n\r\n", " \r\n", "word", "a", ".", "\xff", strings.Repeat("lorem ", 12),
	}), 0, 40)
	return strings.Join(words.Draw(t, "body"), "") + "\r\n"
}

// The oracle verifies what we sign.
func TestSigner_Oracle(t *testing.T) {
	rsaKey, edKey := key(t), ed25519Key(t)
	keys := records{"r._domainkey.example.com": {publish(t, rsaKey)}, "e._domainkey.example.com": {publish(t, edKey)}}
	s := newSigner(t, SignConfig{Keys: []SigningKey{{"example.com", "r", rsaKey}, {"example.com", "e", edKey}}})
	rapid.Check(t, func(rt *rapid.T) {
		header, body := drawHeader(rt), drawBody(rt)
		c := rapid.SampledFrom([]Canonicalization{Simple, Relaxed}).Draw(rt, "c")
		fields, err := s.Sign(nil, []byte(header), c, hashed(c, body))
		if err != nil {
			rt.Fatal(err)
		}
		message := string(fields) + header + "\r\n" + body
		got, err := oracle.VerifyWithOptions(strings.NewReader(message), &oracle.VerifyOptions{
			LookupTXT: func(name string) ([]string, error) { return keys.LookupTXT(t.Context(), name) },
		})
		if err != nil || len(got) != 2 || got[0].Err != nil || got[1].Err != nil {
			rt.Fatalf("%v %+v\n%q", err, got, message)
		}
		if got := explain(verify(t, keys, nil, []byte(message))); got != "pass: , pass: " {
			rt.Fatal(got)
		}
	})
}

// We verify what the oracle signs.
func TestVerifier_Oracle(t *testing.T) {
	signers := map[string]crypto.Signer{"r": key(t), "e": ed25519Key(t)}
	keys := records{
		"r._domainkey.example.com": {publish(t, signers["r"])}, "e._domainkey.example.com": {publish(t, signers["e"])},
	}
	canon := rapid.SampledFrom([]oracle.Canonicalization{oracle.CanonicalizationSimple, oracle.CanonicalizationRelaxed})
	rapid.Check(t, func(rt *rapid.T) {
		header, body := drawHeader(rt), drawBody(rt)
		selector := rapid.SampledFrom([]string{"r", "e"}).Draw(rt, "selector")
		opts := &oracle.SignOptions{
			Domain: "example.com", Selector: selector, Signer: signers[selector],
			HeaderCanonicalization: canon.Draw(rt, "header"), BodyCanonicalization: canon.Draw(rt, "body c"),
			HeaderKeys: append([]string{"From"},
				rapid.SliceOfN(rapid.SampledFrom([]string{"From", "To", "Subject", "subject", "X-Other", "X-None"}), 0,
					9).Draw(rt, "keys")...),
		}
		var message bytes.Buffer
		if err := oracle.Sign(&message, strings.NewReader(header+"\r\n"+body), opts); err != nil {
			rt.Fatal(err)
		}
		if got := explain(verify(t, keys, nil, message.Bytes())); got != "pass: " {
			rt.Fatalf("%s\n%q", got, message.Bytes())
		}
		// One octet changed: both say the same of it, but for white space, where they may only both pass or fail.
		at := rapid.IntRange(0, message.Len()-1).Draw(rt, "at")
		changed := bytes.Clone(message.Bytes())
		if c := changed[at]; c <= ' ' || c >= 'z' || c == ';' || c == '=' || c == ':' {
			return
		}
		changed[at]++
		theirs, err := oracle.VerifyWithOptions(bytes.NewReader(changed), &oracle.VerifyOptions{
			LookupTXT: func(name string) ([]string, error) { return keys.LookupTXT(t.Context(), name) },
		})
		ours := verify(t, keys, nil, changed)
		good := err == nil && len(theirs) == 1 && theirs[0].Err == nil
		if good != (results(ours) == "pass") {
			rt.Fatalf("they %v %v, we %s\n%q", err, good, explain(ours), changed)
		}
	})
}
