package dkim

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// Tag lists.
func TestTagList(t *testing.T) {
	for _, tt := range []struct {
		name string
		list string
		want string // name=value joined by |
		err  error
	}{
		{"one tag", "v=1", "v=1", nil},
		{"a semicolon at the end", "v=1; a=x;", "v=1|a=x", nil},
		{"white space at the end", "v=1; \r\n ", "v=1", nil},
		{"folding everywhere", " v\r\n\t=\r\n 1 ;\ta = b c\t", "v=1|a=b c", nil},
		{"an equals sign in a value", "p=ab==;q=1", "p=ab==|q=1", nil},
		{"an empty value", "p=;s= ", "p=|s=", nil},
		{"names are case-sensitive", "a=1;A=2", "a=1|A=2", nil},
		{"octets above 127", "n=h\xc3\xa9", "n=h\xc3\xa9", nil},
		{"a hyphen in a name", "v=1; x-foo=1; a-=2", "v=1|x-foo=1|a-=2", nil},
		{"no tag", "", "", errTagSyntax},
		{"a hyphen first", "-a=1", "", errTagSyntax},
		{"white space alone", " ", "", errTagSyntax},
		{"no equals sign", "v=1; t; a=2", "", errTagSyntax},
		{"nothing between semicolons", "v=1;;a=2", "", errTagSyntax},
		{"two semicolons at the end", "v=1;;", "", errTagSyntax},
		{"a semicolon at the beginning", ";v=1", "", errTagSyntax},
		{"no name", "=1", "", errTagSyntax},
		{"a name with a digit first", "1v=1", "", errTagSyntax},
		{"a name with white space", "a b=1", "", errTagSyntax},
		{"a control in a value", "a=\x00", "", errTagSyntax},
		{"a line end that folds nothing", "a=b\r\nc", "", errTagSyntax},
		{"a bare line feed", "a=b\n c", "", errTagSyntax},
		{"a duplicate", "a=1; b=2; a=1", "", errTagDuplicate},
		{"too many", strings.Repeat("a=1;", 1) + manyTags(maxTags), "", errTagCount},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := ParseTagList([]byte(tt.list))
			var got []string
			for _, tag := range list {
				got = append(got, tag.Name+"="+string(tag.Value))
			}
			if g := strings.Join(got, "|"); g != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", g, err, tt.want, tt.err)
			}
		})
	}
}

// Signatures and key records may have nothing between two semicolons.
func TestTagList_Gaps(t *testing.T) {
	for list, want := range map[string]string{
		"v=1;;a=2": "v=1|a=2", "v=1;;": "v=1", ";v=1": "v=1", "v=1; ;\r\n\t; a=2 ;; ;": "v=1|a=2", "v=1;;;;;;": "v=1",
		"": "!", ";": "!", " ; ;": "!", "v=1;\r\n;a=2": "!", "v=1; a;": "!", "v=1;;v=2": "!",
	} {
		tags, err := parseTags(nil, []byte(list), true)
		var got []string
		for _, tag := range tags {
			got = append(got, tag.Name+"="+string(tag.Value))
		}
		if err != nil {
			got = []string{"!"}
		}
		if g := strings.Join(got, "|"); g != want {
			t.Errorf("%q: got %q, want %q", list, g, want)
		}
	}
}

// manyTags returns n tags with names of their own.
func manyTags(n int) string {
	var s strings.Builder
	for i := range n {
		s.WriteString("t" + strings.Repeat("x", i) + "=1;")
	}
	return s.String()
}

func FuzzTagList(f *testing.F) {
	f.Add([]byte("v=1; a=rsa-sha256;\r\n\tb = abc\r\n def ;"))
	f.Add([]byte(" v = ; x=y=z ; "))
	f.Add([]byte("a=1;;"))
	f.Add([]byte("a=1;;x-y=2; ;"))
	f.Fuzz(func(t *testing.T, s []byte) {
		list, err := parseTags(nil, s, true)
		if strict, strictly := ParseTagList(s); strictly == nil && (err != nil || len(strict) != len(list)) {
			t.Fatalf("%q is read strictly and not with gaps: %v", s, err)
		}
		if err != nil {
			if list != nil {
				t.Fatal("a list and an error")
			}
			return
		}
		// Written down again it parses as the same.
		var again []byte
		for _, tag := range list {
			if !bytes.Equal(trimFWS(s[tag.Start:tag.End]), tag.Value) {
				t.Fatalf("%q does not stand at %d to %d", tag.Value, tag.Start, tag.End)
			}
			again = append(append(append(append(again, tag.Name...), '='), tag.Value...), ';')
		}
		second, err := ParseTagList(again) // without gaps
		if err != nil || len(second) != len(list) {
			t.Fatalf("%q: %v", again, err)
		}
		for i, tag := range second {
			if tag.Name != list[i].Name || !bytes.Equal(tag.Value, list[i].Value) {
				t.Fatalf("%v became %v", list[i], tag)
			}
		}
	})
}

func FuzzKeyRecord(f *testing.F) {
	f.Add("v=DKIM1; k=rsa; " +
		"p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYz" +
		"CNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hst" +
		"T5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB")
	f.Add("k=ed25519; t=y:s; h=sha256; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	f.Add("v=DKIM1; p=")
	f.Fuzz(func(t *testing.T, record string) {
		key, err := ParseKeyRecord(record)
		if err != nil {
			var failure *Failure
			if !errors.As(err, &failure) || failure.Result != PermError || failure.Reason == "" {
				t.Fatal(err)
			}
			return
		}
		if key.Bits != 256 && (key.Bits < MinRSABits || key.Bits > MaxRSABits) {
			t.Fatalf("%d bits", key.Bits)
		}
		// What was parsed can be published, and any signature be refused.
		again, err := KeyRecord(key.Key)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := ParseKeyRecord(again); err != nil || second.Bits != key.Bits {
			t.Fatal(err)
		}
		for _, a := range []Algorithm{UnknownAlgorithm, RSASHA256, Ed25519SHA256} {
			if key.Verify(a, [32]byte{}, make([]byte, 64)) == nil {
				t.Fatal("zeros verify")
			}
		}
	})
}
