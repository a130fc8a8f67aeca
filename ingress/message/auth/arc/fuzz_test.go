package arc

import (
	"bytes"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// FuzzChain validates and seals whatever comes. Without the keys of the sets nothing passes; what is sealed on top is
// found as it should be.
func FuzzChain(f *testing.F) {
	message, all, keys := sealed(f, 2)
	f.Add([]byte(message))
	f.Add([]byte(letter))
	f.Add([]byte("ARC-Seal: i=1; cv=fail\r\nARC-Message-Signature: i=1\r\nARC-Authentication-Results: (c) i = 1; " +
		"x\r\n"))
	f.Add([]byte("ARC-Seal:i=50\r\n \r\n\r\n"))
	f.Add([]byte("arc-seal :\r\narc-"))
	f.Add([]byte(" folded into nothing"))
	known, unknown := newVerifier(f, Config{Resolver: keys, Now: clock(now)}), newVerifier(f,
		Config{Resolver: records{}, Now: clock(now)})
	f.Fuzz(func(t *testing.T, message []byte) {
		got := validate(t, unknown, message)
		if got.CV != None && got.CV != Fail || got.Instances < 0 || got.Instances > MaxInstance ||
			(got.CV == Fail) != (got.Reason != "") {
			t.Fatalf("%+v", got)
		}
		for _, c := range []byte(got.Reason) {
			if c < ' ' || c > '~' || strings.IndexByte("()\\", c) >= 0 {
				t.Fatalf("reason %q", got.Reason)
			}
		}
		header, body := split(message)
		if got.CV == None && bytes.Contains(bytes.ToLower(header), []byte("\narc-seal:")) {
			t.Fatal("a seal was not seen")
		}
		got = validate(t, known, message)
		hash, _ := hashes(body)(dkim.Relaxed)
		fields, err := all[0].sealer.Seal(nil, header, "mx.example; none", dkim.Relaxed, hash, got)
		if err != nil || len(fields) == 0 {
			folded := len(header) > 0 && ascii.IsFWS(header[0])
			if got.Sealable() == nil && err != dkim.ErrTooManyFields && !folded {
				t.Fatalf("not sealed: %v, %+v", err, got)
			}
			return
		}
		after := validate(t, known, append(fields, message...))
		switch {
		case after.Instances != got.Instances+1 || after.Sealer != "hop1.example":
			t.Fatalf("%+v after %+v", after, got)
		case got.CV == Fail && explain(after) != "fail: sealed as failed":
			t.Fatalf("%s after %s", explain(after), explain(got))
		case got.CV != Fail && after.CV != Pass && len(header)+len(fields) < dkim.MaxHeader:
			t.Fatalf("%s after %s", explain(after), explain(got))
		}
	})
}

// FuzzRelaxed compares the canonical form of a seal with that of package dkim, wherever b= is.
func FuzzRelaxed(f *testing.F) {
	f.Add([]byte("ARC-Seal: i=1;\r\n b=abc def;\t\r\n c=d\r\n"), 10, 13)
	f.Add([]byte("a:\r\n \r\nb"), 0, 0)
	f.Add([]byte("A \t: x\r y\n z \r\r\n\r\n"), 1, 4)
	f.Fuzz(func(t *testing.T, text []byte, start, end int) {
		field := dkim.Field(text)
		if field.Name() == nil || bytes.ContainsAny(field.Name(), " \t\r\n") {
			return
		}
		want := dkim.NewHeaderHash()
		want.Field(dkim.Relaxed, field)
		body := len(field.Body())
		start = min(max(start, 0), body)
		end = min(max(end, start), body)
		if start > 0 && end > start {
			// b= is parted from what stands around it by octets that end no line.
			if colon := bytes.IndexByte(field, ':') + 1; field[colon+start-1] == '\r' {
				return
			}
			want.Own(dkim.Relaxed, field, start, end)
		} else {
			want.Own(dkim.Relaxed, field, 0, 0)
			start, end = body, body
		}
		h := newSealHash()
		h.add(field)
		if got := h.seal(field, start, end); got != want.Sum() {
			t.Errorf("%q without %d to %d", text, start, end)
		}
	})
}
