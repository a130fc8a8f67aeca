package dial

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestFamily: which addresses of a host are connected to, in which order, by the family and by where we connect from.
func TestFamily(t *testing.T) {
	addrs := func(list string) (out []netip.Addr) {
		for s := range strings.FieldsSeq(list) {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	const both, four, six = "2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2", "192.0.2.1 192.0.2.2", "2001:db8::1"
	for _, c := range []struct {
		family, sources, host, want string
	}{
		{"", "", both, "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"},
		{"any", "198.51.100.1 2001:db8:1::1", both, "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"},
		{"prefer-ipv4", "", both, "192.0.2.1 2001:db8::1 192.0.2.2 2001:db8::2"},
		{"prefer-ipv4", "", six, six},
		{"ipv4", "", both, four},
		{"ipv4", "", six, ""},
		{"ipv6", "", both, "2001:db8::1 2001:db8::2"},
		{"ipv6", "", four, ""},
		{"any", "198.51.100.1 198.51.100.2", both, four},
		{"any", "::ffff:198.51.100.1", both, four},
		{"any", "2001:db8:1::1", both, "2001:db8::1 2001:db8::2"},
		{"prefer-ipv4", "2001:db8:1::1", both, "2001:db8::1 2001:db8::2"},
		{"prefer-ipv4", "198.51.100.1 2001:db8:1::1", both, "192.0.2.1 2001:db8::1 192.0.2.2 2001:db8::2"},
		{"any", "198.51.100.1", six, ""},
	} {
		t.Run(c.family+" from "+c.sources+" to "+c.host, func(t *testing.T) {
			f, ok := ParseFamily(c.family)
			if !ok || c.family != "" && f.String() != c.family {
				t.Fatalf("read as %v", f)
			}
			got, err := f.within(addrs(c.sources)).of("mx.test", addrs(c.host))
			var refusal *mail.Refusal
			if c.want == "" && (!errors.As(err, &refusal) || refusal.Reply.Code != 451) {
				t.Errorf("got %v, %v", got, err)
			}
			var words []string
			for _, a := range got {
				words = append(words, a.String())
			}
			if s := strings.Join(words, " "); s != c.want {
				t.Errorf("got %s", s)
			}
		})
	}
	if _, ok := ParseFamily("IPv4"); ok {
		t.Error("names are in lower case")
	}
}
