package printable

import "testing"

// TestText: what could control a terminal, reverse text or hide is replaced, and all else stays.
func TestText(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "plain ~ text": "plain ~ text", "日本語 é": "日本語 é",
		"a\x1b[31mb": "a?[31mb", "a\r\nb\tc": "a??b?c", "\x7f\u009b": "??", // C0, DEL, C1
		"a\u202eb\u2066c\u200fd": "a?b?c?d", "a\u200bb\ufeffc\u2028d": "a?b?c?d", // direction, nothing, a line
		"a\xffb\ufffdc": "a?b?c",
	} {
		if got := Text(s); got != want {
			t.Errorf("%q becomes %q, want %q", s, got, want)
		}
	}
}
