package wire

import (
	"strings"
	"testing"
)

// TestBDAT_NotUnderstood shows that no command is carried out behind a BDAT that is not understood: the octets of a
// chunk follow their BDAT at once, so there may be a message.
func TestBDAT_NotUnderstood(t *testing.T) {
	const smuggled = "RSET\r\nMAIL FROM:<evil@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhi\r\n.\r\n"
	for name, bdat := range map[string]string{
		"a control at the end":   "BDAT 80 LAST\x01\r\n",
		"a tab for the blank":    "BDAT\t80 LAST\r\n",
		"a NUL for the blank":    "BDAT 80\x00LAST\r\n",
		"a bare LF":              "BDAT 80 LAST\n",
		"a bare LF, small":       "bdat 80 last\n",
		"a long line":            "BDAT 80 LAST" + strings.Repeat(" ", 2100) + "\r\n",
		"a very long line":       "BDAT 80 LAST" + strings.Repeat(" ", 20000) + "\r\n",
		"a blank before it":      " BDAT 80 LAST\r\n",
		"a control before it":    "\x0bBDAT 80 LAST\r\n",
		"a colon":                "BDAT: 80 LAST\r\n",
		"a vertical tab inside":  "BDAT\x0b80 LAST\r\n",
		"a size without a blank": "BDAT80 LAST\r\n",
	} {
		for _, first := range []string{"", "BDAT 2\r\nab"} {
			t.Run(name+" after "+first, func(t *testing.T) {
				r := start(t, nil)
				p := r.opened()
				p.say(first + bdat + smuggled)
				for {
					line := p.line()
					if line == "" {
						break
					}
					if strings.HasPrefix(line, "354") || strings.HasPrefix(line, "250 2.1") {
						t.Fatalf("got %q", line)
					}
				}
				if n := len(r.accepted()); n != 0 {
					t.Errorf("%d messages:\n%s", n, r.got())
				}
			})
		}
	}
}

// TestBDAT_SimilarWord shows that a word that only begins like BDAT is a command like any other.
func TestBDAT_SimilarWord(t *testing.T) {
	r := start(t, nil)
	p := r.opened()
	p.say("BDATA 5\r\nNOOP\r\n")
	p.want("500")
	p.want("250")
}
