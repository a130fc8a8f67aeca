package dnstest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TXT returns TXT records as text of a zone, each in strings of at most 255 octets (RFC 1035 section 3.3).
func TXT(records map[string]string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(records)) {
		fmt.Fprintf(&b, "%s. 300 IN TXT", name)
		for text := records[name]; ; text = text[255:] {
			fmt.Fprintf(&b, ` "%s"`, quoted.Replace(text[:min(255, len(text))]))
			if len(text) <= 255 {
				break
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
