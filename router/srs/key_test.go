package srs

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/millrace/millrace/router/mail"
)

// TestConfig_Validate: the error names the field that is wrong.
func TestConfig_Validate(t *testing.T) {
	key := []byte(keyA)
	tests := []struct {
		name, want string
		c          Config
	}{
		{"all is well", "", Config{Domain: "srs.example", Keys: [][]byte{key}}},
		{"with many keys", "", Config{Domain: "srs.example", Keys: make16(key)}},
		{"no domain", "domain", Config{Keys: [][]byte{key}}},
		{"an address literal", "domain", Config{Domain: "[192.0.2.1]", Keys: [][]byte{key}}},
		{"a U-label", "domain", Config{Domain: "bücher.example", Keys: [][]byte{key}}},
		{"no key", "keys", Config{Domain: "srs.example"}},
		{"too many keys", "keys", Config{Domain: "srs.example", Keys: append(make16(key), key)}},
		{"a short key", "keys[1]", Config{Domain: "srs.example", Keys: [][]byte{key, key[:15]}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.c)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var field *mail.FieldError
			if !errors.As(err, &field) || field.Field != tt.want {
				t.Fatalf("got %v, want one of %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "of one of") {
				t.Error("it shows the key")
			}
		})
	}
}

func make16(key []byte) [][]byte {
	keys := make([][]byte, MaxKeys)
	for i := range keys {
		keys[i] = key
	}
	return keys
}

func TestNew_CopiesKeys(t *testing.T) {
	key := []byte(keyA)
	w, err := New(Config{Domain: "srs.example", Keys: [][]byte{key}, Now: at(noon)})
	if err != nil {
		t.Fatal(err)
	}
	clear(key)
	if got, want := forward(t, w, path(t, senders[0])), forward(t, rewriter(t, "srs.example", noon, keyA),
		path(t, senders[0])); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNew_DefaultClock(t *testing.T) {
	w, err := New(Config{Domain: "srs.example", Keys: [][]byte{[]byte(keyA)}})
	if err != nil {
		t.Fatal(err)
	}
	if home := reverse(t, w, forward(t, w, path(t, senders[0]))); home.String() != senders[0] {
		t.Error(home)
	}
}

func TestParseKeys(t *testing.T) {
	many := ""
	for i := range MaxKeys {
		many += strconv.Itoa(i) + "-0123456789abcdef\n"
	}
	tests := []struct {
		name, in string
		want     []string
		line     int
	}{
		{"one key", keyA + "\n", []string{keyA}, 0},
		{"no line feed at the end", keyA, []string{keyA}, 0},
		{
			"two keys in their order, comments, blank lines, blanks and CRLF",
			"# new\r\n\r\n \t" + keyB + " \r\n# old\r\n" + keyA + "\r\n", []string{keyB, keyA}, 0,
		},
		{"16 octets do", "0123456789abcdef", []string{"0123456789abcdef"}, 0},
		{"1024 octets do", strings.Repeat("x", 1024) + "\r\n", []string{strings.Repeat("x", 1024)}, 0},
		{"a number sign inside is the key's", "0123456789abcde#", []string{"0123456789abcde#"}, 0},
		{"15 octets do not", keyA + "\n\n0123456789abcde\n", nil, 3},
		{"1025 octets do not", keyA + "\n" + strings.Repeat("x", 1025) + "\n", nil, 2},
		{"nor does a line without end", keyA + "\n" + strings.Repeat("x", 1<<20), nil, 2},
		{"octets that are not printable", keyA + "\n" + keyA[:8] + "\x00" + keyB, nil, 2},
		{"a byte order mark", "\ufeff" + keyA, nil, 1},
		{"the same key twice", keyA + "\n" + keyB + "\n" + keyA, nil, 3},
		{"no key", "# none\n\n", nil, 1},
		{"nothing", "", nil, 1},
		{"too many", many + keyA, nil, MaxKeys + 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseKeys(iotest.OneByteReader(strings.NewReader(tt.in)))
			if tt.want == nil {
				var wrong *mail.LineErrors
				if !errors.As(err, &wrong) || len(wrong.List) != 1 || wrong.List[0].Line != tt.line || got != nil {
					t.Fatalf("got %q, %v, want an error of line %d", got, err, tt.line)
				}
				if strings.Contains(err.Error(), "of one of") {
					t.Errorf("it says %q", err)
				}
				return
			}
			if err != nil || string(bytes.Join(got, []byte("\n"))) != strings.Join(tt.want, "\n") {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
			if err := (Config{Domain: "srs.example", Keys: got}).Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestParseKeys_AllLines: each line that is wrong is told.
func TestParseKeys_AllLines(t *testing.T) {
	_, err := ParseKeys(strings.NewReader("short\n" + keyA + "\nk\xc3\xbcrzer als n\xc3\xb6tig\n" + keyA + "\n"))
	var wrong *mail.LineErrors
	if !errors.As(err, &wrong) || len(wrong.List) != 3 {
		t.Fatal(err)
	}
	for i, line := range []int{1, 3, 4} {
		if wrong.List[i].Line != line {
			t.Errorf("got %v", wrong.List[i])
		}
	}
}

// TestParseKeys_ReadError: the reader's error is returned.
func TestParseKeys_ReadError(t *testing.T) {
	r := io.MultiReader(strings.NewReader(keyA+"\n"), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := ParseKeys(r); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
