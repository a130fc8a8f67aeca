package arc

import (
	"context"
	"crypto"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// Structure is judged before any key.
func TestChain_Structure(t *testing.T) {
	message, all, keys := sealed(t, 3)
	field := func(name string, i int) string {
		header, _ := split([]byte(message))
		for f := range dkim.Fields(header) {
			if f.Is(name) && strings.HasPrefix(string(f.Body()), " i="+string(rune('0'+i))+";") {
				return string(f)
			}
		}
		t.Fatalf("no %s of i=%d", name, i)
		return ""
	}
	without := func(parts ...string) string {
		m := message
		for _, p := range parts {
			m = strings.Replace(m, p, "", 1)
		}
		return m
	}
	replaced := func(field, old, new string) string {
		changed := strings.Replace(field, old, new, 1)
		if changed == field {
			t.Fatalf("no %q in %q", old, field)
		}
		return strings.Replace(message, field, changed, 1)
	}
	as3, ams3, aar3 := field(sealName, 3), field(messageName, 3), field(resultsName, 3)
	as1, ams1, aar1 := field(sealName, 1), field(messageName, 1), field(resultsName, 1)
	as2, ams2, aar2 := field(sealName, 2), field(messageName, 2), field(resultsName, 2)
	tests := []struct {
		name, message, want string
		instances           int
		sealable            error
	}{
		{"no chain", letter + "\r\n" + text, "none", 0, nil},
		{"nothing at all", "", "none", 0, nil},
		{"a whole chain", message, "pass", 3, nil},
		{
			"the sets in another order",
			as1 + aar3 + ams2 + ams3 + aar1 + as3 + as2 + ams1 + aar2 + without(as1, aar3, ams2, ams3, aar1, as3, as2,
				ams1, aar2), "pass", 3, nil,
		},
		{"a gap", without(as2, ams2, aar2), "fail: i=2: set is not complete", 3, nil},
		{"no first set", without(as1, ams1, aar1), "fail: i=1: set is not complete", 3, nil},
		{"no newest seal", without(as3), "fail: i=3: set is not complete", 3, nil},
		{"the newest set removed", without(as3, ams3, aar3), "pass", 2, nil},
		{"a seal twice", as2 + message, "fail: i=2: duplicate field", 3, nil},
		{"results twice", message[:0] + aar1 + message, "fail: i=1: duplicate field", 3, nil},
		{
			"a fourth seal alone", strings.Replace(as3, "i=3", "i=4", 1) + message, "fail: i=4: set is not complete", 4,
			nil,
		},
		{"instance 51", strings.Replace(as3, "i=3", "i=51", 1) + message, "fail: invalid instance", 3, nil},
		{
			"instance 50 alone", strings.Replace(as3, "i=3", "i=50", 1) + message, "fail: i=4: set is not complete", 50,
			ErrFull,
		},
		{"instance of three digits", replaced(as3, "i=3", "i=003"), "fail: invalid instance", 3, nil},
		{"negative instance", replaced(as3, "i=3", "i=-3"), "fail: invalid instance", 3, nil},
		{"only a field that cannot be read", "ARC-Seal: nonsense\r\n" + letter, "fail: syntax error", 0, nil},
		{"no semicolon behind the instance of results", replaced(aar3, "i=3;", "i=3 mx"), "fail: invalid instance", 3,
			nil},
		{"the newest seal says cv=fail", replaced(as3, "cv=pass", "cv=fail"), "fail: sealed as failed", 3, ErrEnded},
		{
			"an older seal says cv=fail", replaced(as2, "cv=pass", "cv=fail"), "fail: i=2 ARC-Seal: cv= is not pass", 3,
			nil,
		},
		{
			"the newest seal says cv=fail above a gap",
			strings.Replace(without(as2), as3, strings.Replace(as3, "cv=pass", "cv=fail", 1), 1),
			"fail: sealed as failed", 3, ErrEnded,
		},
		{"cv=none above the first", replaced(as3, "cv=pass", "cv=none"), "fail: i=3 ARC-Seal: cv= is not pass", 3, nil},
		{"cv=pass in the first", replaced(as1, "cv=none", "cv=pass"), "fail: i=1 ARC-Seal: cv= is not none", 3, nil},
		{"cv= in capitals", replaced(as3, "cv=pass", "cv=PASS"), "fail: i=3 ARC-Seal: cv= is not pass", 3, nil},
		{"h= in a seal", replaced(as3, "cv=pass", "cv=pass; h=from"), "fail: i=3 ARC-Seal: h= is not allowed", 3, nil},
		{"no d=", replaced(as3, "d=hop3", "x=hop3"), "fail: i=3 ARC-Seal: missing required tag", 3, nil},
		{
			"d= of another form", replaced(as3, "d=hop3.example", "d=hop3..example"),
			"fail: i=3 ARC-Seal: syntax error", 3, nil,
		},
		{
			"rsa-sha1", replaced(as3, "ed25519-sha256", "rsa-sha1"), "fail: i=3 ARC-Seal: rsa-sha1 is not accepted", 3,
			nil,
		},
		{
			"a message signature that covers a seal", replaced(ams3, "h=from", "h=arc-seal:from"),
			"fail: i=3 ARC-Message-Signature: covers ARC-Seal", 3, nil,
		},
		{
			"a message signature without From", replaced(ams3, "h=from:from", "h=fram"),
			"fail: i=3 ARC-Message-Signature: From field not signed", 3, nil,
		},
		{"l= in a message signature", replaced(ams3, "c=rel", "l=10; c=rel"),
			"fail: i=3 ARC-Message-Signature: body length limit l= is not accepted", 3, nil},
		{"an expired message signature", replaced(ams3, "c=rel", "x=1699999700; c=rel"),
			"fail: i=3 ARC-Message-Signature: signature expired", 3, nil},
		{"a message signature that has yet to expire", replaced(ams3, "c=rel", "x=1699999701; c=rel"),
			"fail: i=3 ARC-Message-Signature: signature did not verify", 3, nil},
		{"another query method", replaced(ams3, "c=rel", "q=dns/srv; c=rel"),
			"fail: i=3 ARC-Message-Signature: unknown query method", 3, nil},
		{
			"another key type", replaced(ams3, "ed25519-sha256", "rsa-sha256"),
			"fail: i=3 ARC-Message-Signature: key of another type than a=", 3, nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newVerifier(t, Config{Resolver: keys, Now: clock(now)})
			got := validate(t, v, []byte(tt.message))
			if explain(got) != tt.want || got.Instances != tt.instances || got.Sealable() != tt.sealable {
				t.Errorf("got %s, %d instances, %v, want %s, %d, %v", explain(got), got.Instances, got.Sealable(),
					tt.want, tt.instances, tt.sealable)
			}
			after := all[0].seal(t, tt.message, got)
			if got.CV != Fail || tt.sealable != nil {
				return
			}
			// What is sealed as failed is found failed by everybody after.
			if again := validate(t, v, []byte(after)); explain(again) != "fail: sealed as failed" ||
				again.Instances != got.Instances+1 || again.Sealer != "hop1.example" {
				t.Errorf("after sealing: %s by %q", explain(again), again.Sealer)
			}
			// The seal covers its own set alone (RFC 8617 section 5.1.2).
			header, _ := split([]byte(after))
			own := collect(header).sets[got.Instances]
			h := newSealHash()
			h.add(own.results)
			h.add(own.message.field)
			own.seal.b, _ = own.seal.tags.Lookup("b")
			key, err := dkim.ParseKeyRecord(keys[all[0].name][0])
			if err != nil {
				t.Fatal(err)
			}
			value, err := decodeBase64(own.seal.b.Value)
			if err != nil {
				t.Fatal(err)
			}
			if err := key.Verify(dkim.Ed25519SHA256, h.seal(own.seal.field, own.seal.b.Start, own.seal.b.End),
				value); err != nil {
				t.Error(err)
			}
		})
	}
}

// Results fields may have comments.
func TestParseResults(t *testing.T) {
	for body, want := range map[string]string{
		"i=1; mx.example; none":                              "mx.example; none",
		" (a (b\\)) c) i (x) = (y)\r\n 07 (z) ; mx.example ": "mx.example",
		"i=50;": "",
		"i=1":   "!", "i=0; a": "!", "I=1; a": "!", "j=1; a": "!", "(i=1; a": "!", "": "!", "i=1 2; a": "!",
		"i=; a": "!",
	} {
		i, payload, ok := parseResults([]byte(body))
		got := string(payload)
		if !ok {
			got = "!"
		}
		if got != want || ok != (i >= 1 && i <= MaxInstance) {
			t.Errorf("%q: got %d, %q, want %q", body, i, got, want)
		}
	}
}

// Seal refuses what is no field body.
func TestSeal_FieldBody(t *testing.T) {
	all, _ := hops(t, 1)
	for aar, good := range map[string]bool{
		"mx.example; none": true, "mx.example;\r\n\tspf=pass": true, "mx.example; \xc3\xa4": true,
		"": false, " ": false, "a\r\nBcc: x": false, "a\r\n": false, "a\r\n \r\n b": false, "a\nb": false,
		"a\rb": false, "a\x00": false, "\r\n a": false,
	} {
		fields, err := all[0].sealer.Seal([]byte("X"), []byte(letter), aar, dkim.Relaxed, [32]byte{}, Result{})
		if (err == nil) != good || !good && string(fields) != "X" ||
			good && !strings.HasPrefix(string(fields), "XARC-Seal: i=1;") {
			t.Errorf("%q: %v, %q", aar, err, fields)
		}
	}
}

// Seal needs the chain that was validated.
func TestSeal_OtherChain(t *testing.T) {
	message, all, _ := sealed(t, 2)
	header, _ := split([]byte(message))
	for name, prior := range map[string]Result{
		"more sets":  {CV: Pass, Instances: 1},
		"fewer sets": {CV: Pass, Instances: 3},
	} {
		if fields, err := all[0].sealer.Seal(nil, header, "mx.example; none", dkim.Relaxed, [32]byte{},
			prior); err == nil || fields != nil {
			t.Errorf("%s: %q, %v", name, fields, err)
		}
	}
}

// A signerFunc is a key whose signatures pass through a function.
type signerFunc struct {
	crypto.Signer
	pass func(sign func() ([]byte, error)) ([]byte, error)
}

func (f signerFunc) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return f.pass(func() ([]byte, error) { return f.Signer.Sign(r, digest, o) })
}

// Seal tells whose key did not sign.
func TestSeal_BrokenKey(t *testing.T) {
	all, _ := hops(t, 1)
	cfg := all[0].sealer.cfg
	calls := 0
	broken := errors.New("no entropy")
	cfg.Key.Key = signerFunc{cfg.Key.Key, func(sign func() ([]byte, error)) ([]byte, error) {
		if calls++; calls == 2 {
			return nil, broken
		}
		return sign()
	}}
	fields, err := newSealer(t, cfg).Seal(nil, []byte(letter), "mx.example; none", dkim.Relaxed, [32]byte{}, Result{})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), all[0].name) || fields != nil || calls != 2 {
		t.Errorf("%v, %q after %d calls", err, fields, calls)
	}
	many := strings.Repeat("DKIM-Signature: v=1\r\n", 600) + letter
	if _, err := all[0].sealer.Seal(nil, []byte(many), "mx.example; none", dkim.Relaxed, [32]byte{},
		Result{}); !errors.Is(err, dkim.ErrTooManyFields) {
		t.Errorf("too many fields: %v", err)
	}
}

// Message signature covers what it should.
func TestSeal_Coverage(t *testing.T) {
	message, _, _ := sealed(t, 2)
	header, _ := split([]byte(message))
	tags := collect(header).sets[1].message.tags
	const want = "from:from:subject:subject:date:date:message-id:message-id:to:to:dkim-signature"
	if got := strings.Join(strings.Fields(string(tags.Get("h"))), ""); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for line := range strings.Lines(message) {
		if len(line) > 100 {
			t.Errorf("a line of %d octets: %q", len(line), line)
		}
	}
}

// Configurations are refused by field.
func TestConfig_Validate(t *testing.T) {
	all, _ := hops(t, 1)
	key := all[0].sealer.cfg.Key
	wrong := func(change func(*SealConfig)) error {
		cfg := SealConfig{Key: key}
		change(&cfg)
		_, err := NewSealer(cfg)
		return err
	}
	for field, err := range map[string]error{
		"Resolver":     func() error { _, err := New(Config{}); return err }(),
		"Key.Domain":   wrong(func(c *SealConfig) { c.Key.Domain = "a b" }),
		"Key.Selector": wrong(func(c *SealConfig) { c.Key.Selector = "" }),
		"Key.Key":      wrong(func(c *SealConfig) { c.Key.Key = nil }),
	} {
		var got *mail.FieldError
		if !errors.As(err, &got) || got.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

// Header section has a limit.
func TestVerifier_LongHeader(t *testing.T) {
	_, keys := hops(t, 1)
	v := newVerifier(t, Config{Resolver: keys, header: 10})
	if _, err := v.Begin(context.Background(), []byte("X: 4567\r\n\r\nbody that does not count")); err != nil {
		t.Error(err)
	}
	if _, err := v.Begin(context.Background(), []byte("X: 456789\r\n")); err != ErrHeaderTooLong {
		t.Errorf("got %v", err)
	}
}
