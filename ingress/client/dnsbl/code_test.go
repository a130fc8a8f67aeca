package dnsbl

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// TestPattern: each form of Match matches its codes.
func TestPattern(t *testing.T) {
	for _, tt := range []struct{ name, match, yes, no string }{
		{"a code", "127.0.0.2", "127.0.0.2", "127.0.0.1 127.0.0.3 127.1.0.2"},
		{"a prefix", "127.0.0.4/30", "127.0.0.4 127.0.0.7", "127.0.0.3 127.0.0.8"},
		{"a prefix with host bits", "127.0.0.6/30", "127.0.0.4 127.0.0.7", "127.0.0.3 127.0.0.8"},
		{"a prefix of one code", "127.0.0.4/32", "127.0.0.4", "127.0.0.5"},
		{"everything", "127.0.0.0/8", "127.0.0.0 127.255.254.255", ""},
		{"a range", "127.0.0.2-127.0.0.11", "127.0.0.2 127.0.0.9 127.0.0.11", "127.0.0.1 127.0.0.12"},
		{"a range over octets", "127.0.0.255-127.0.1.1", "127.0.0.255 127.0.1.0 127.0.1.1", "127.0.0.254 127.0.1.2"},
		{"any octet", "127.0.*.3", "127.0.0.3 127.0.255.3", "127.0.0.2 127.1.0.3"},
		{"a range of octets", "127.0.[2..20].3", "127.0.2.3 127.0.20.3", "127.0.1.3 127.0.21.3 127.0.3.4"},
		{"a choice of octets", "127.0.0.[2;4..7;10]", "127.0.0.2 127.0.0.4 127.0.0.7 127.0.0.10",
			"127.0.0.3 127.0.0.8 127.0.0.11"},
		{"a bit", "127.0.0.&4", "127.0.0.4 127.0.0.6 127.0.0.255", "127.0.0.3 127.0.0.8 127.0.1.4"},
		{"two bits", "127.0.0.&12", "127.0.0.12 127.0.0.14", "127.0.0.4 127.0.0.8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := parseCode(tt.match)
			if err != nil {
				t.Fatal(err)
			}
			for want, list := range map[bool]string{true: tt.yes, false: tt.no} {
				for _, code := range addrs(list) {
					n, _ := number(code)
					if got := p.matches(n); got != want {
						t.Errorf("%v matches: %v, want %v", code, got, want)
					}
				}
			}
		})
	}
}

// TestParseCode: a Match that can never count is refused.
func TestParseCode(t *testing.T) {
	for _, tt := range []struct{ match, want string }{
		{"", "is no code"},
		{"listed", "is no code"},
		{"127.0.0", "is no code"},
		{"127.0.0.256", "is no code"},
		{"127.0.0.02", "is no code"},
		{"127.0.0.2-", "is no code"},
		{"127.0.0.2-5", "is no code"},
		{"127.0.0.[]", "is no code"},
		{"127.0.0.[5..2]", "is no code"},
		{"127.0.0.[2:5]", "is no code"},
		{"127.0.0.&0", "is no code"},
		{"127.0.0.&", "is no code"},
		{"127.0.0.9-127.0.0.2", "ends before it begins"},
		{"192.0.2.1", "is not in 127.0.0.0/8"},
		{"126.0.0.0-127.0.0.2", "is not in 127.0.0.0/8"},
		{"127.0.0.2-128.0.0.1", "is not in 127.0.0.0/8"},
		{"126.0.0.0/7", "is not in 127.0.0.0/8"},
		{"0.0.0.0/0", "is not in 127.0.0.0/8"},
		{"*.0.0.2", "is not in 127.0.0.0/8"},
		{"::1", "is not in 127.0.0.0/8"},
		{"::ffff:127.0.0.2", "is not in 127.0.0.0/8"},
		{"::ffff:127.0.0.0/104", "is not in 127.0.0.0/8"},
		{"127.255.255.254", "never counts"},
		{"127.255.255.0/24", "never counts"},
		{"127.255.255.*", "never counts"},
	} {
		t.Run(tt.match, func(t *testing.T) {
			if _, err := parseCode(tt.match); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// mixed is a code map with every form of Match.
var mixed = []Code{
	{Match: "127.0.0.0/8", Weight: 1},
	{Match: "127.0.0.2-127.0.0.11", Weight: 5},
	{Match: "127.0.0.10/31", Weight: 0},
	{Match: "127.0.0.3", Weight: 8},
	{Match: "127.0.*.5", Weight: -2},
	{Match: "127.0.1.255", Refused: true},
}

// TestCodeMap: an answer is worth its heaviest code.
func TestCodeMap(t *testing.T) {
	all := List{Zone: "all.example", Weight: 10}
	white := List{
		Zone:  "white.example",
		Codes: []Code{{Match: "127.0.[0..255].1", Weight: -1}, {Match: "127.0.[0..255].3", Weight: -8}},
	}
	codes := List{Zone: "codes.example", Codes: mixed}
	old := List{Zone: "old.example", Codes: []Code{{Match: "127.0.0.1", Weight: 3}}}
	for _, tt := range []struct {
		name   string
		list   List
		answer string
		means  reading
		code   string
		weight float64
	}{
		{"no code is not listed", all, "", notListed, "", 0},
		{"without a map every code counts", all, "127.0.0.9", listed, "127.0.0.9", 10},
		{
			"the first of several that weigh the same is the smallest", all, "127.0.0.9 127.0.0.2 127.0.0.4", listed,
			"127.0.0.2", 10,
		},
		{"the narrowest match counts", codes, "127.0.0.3", listed, "127.0.0.3", 8},
		{"a range beats what surrounds it", codes, "127.0.0.4", listed, "127.0.0.4", 5},
		{"a weight of 0 takes codes out of a range", codes, "127.0.0.10", listed, "", 0},
		{"of two codes the heavier counts", codes, "127.0.0.4 127.0.0.3", listed, "127.0.0.3", 8},
		{"a code that counts beats one that does not", codes, "127.0.0.10 127.9.9.9", listed, "127.9.9.9", 1},
		{"octets are wider than a range here", codes, "127.0.0.5 ", listed, "127.0.0.5", 5},
		{"octets reach beyond the range", codes, "127.0.7.5", listed, "127.0.7.5", -2},
		{"what the list calls a refusal is one", codes, "127.0.1.255", refused, "127.0.1.255", 0},
		{"a code without a match does not count", white, "127.0.0.2", listed, "", 0},
		{"a list that speaks for the client", white, "127.0.5.3", listed, "127.0.5.3", -8},
		{"the heavier of two below zero", white, "127.0.5.1 127.0.6.3", listed, "127.0.6.3", -8},
		{"a refused query", all, "127.255.255.254", refused, "127.255.255.254", 0},
		{"every code of that range", all, "127.255.255.0", refused, "127.255.255.0", 0},
		{"the code just before that range counts", all, "127.255.254.255", listed, "127.255.254.255", 10},
		{"a refusal beside a code", all, "127.0.0.2 127.255.255.255", refused, "127.255.255.255", 0},
		{"an address that is no code", all, "192.0.2.80", refused, "192.0.2.80", 0},
		{"an address of a parked domain beside a code", codes, "127.0.0.2 192.0.2.80", refused, "192.0.2.80", 0},
		{"just outside", all, "128.0.0.0", refused, "128.0.0.0", 0},
		{"an IPv6 address", all, "2001:db8::1", refused, "2001:db8::1", 0},
		{"an IPv4-mapped code", all, "::ffff:127.0.0.2", refused, "::ffff:127.0.0.2", 0},
		{"127.0.0.1 is a refusal", all, "127.0.0.1", refused, "127.0.0.1", 0},
		{"also where a wide match holds it", codes, "127.0.0.1", refused, "127.0.0.1", 0},
		{"unless the map is about it", old, "127.0.0.1", listed, "127.0.0.1", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if wrong := Faults([]List{tt.list}); len(wrong) > 0 {
				t.Fatal(wrong)
			}
			m, err := tt.list.codes()
			if err != nil {
				t.Fatal(err)
			}
			means, code, weight := m.read(addrs(tt.answer))
			got := ""
			if code.IsValid() {
				got = code.String()
			}
			if means != tt.means || got != tt.code || weight != tt.weight {
				t.Errorf("got %v %q %v, want %v %q %v", means, got, weight, tt.means, tt.code, tt.weight)
			}
		})
	}
}

// FuzzParseCode: a Match that is accepted lies where codes lie and matches as many codes as it says.
func FuzzParseCode(f *testing.F) {
	for _, s := range []string{"127.0.0.2", "127.0.0.4/30", "127.0.0.2-127.0.0.11", "127.0.*.3", "127.0.0.&4",
		"127.0.[0..255].[1;3..5]", "127.0.0.0/8", "0.0.0.0/0", "127.255.255.0/24", "[127].*.*.*", "127...0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseCode(text)
		if err != nil {
			return
		}
		if p.first > p.last || p.first < loopbackFirst || p.last > loopbackLast || p.first >= refusedFirst {
			t.Fatalf("%q is from %x to %x", text, p.first, p.last)
		}
		if !p.matches(p.first) || !p.matches(p.last) || p.matches(loopbackFirst-1) || p.matches(loopbackLast+1) {
			t.Fatalf("%q does not match where it begins or ends, or matches beyond", text)
		}
		if p.last-p.first > 1<<16 {
			return
		}
		n := 0
		for code := p.first; code <= p.last; code++ {
			if p.matches(code) {
				n++
			}
		}
		if n != p.size() {
			t.Fatalf("%q matches %d codes and says %d", text, n, p.size())
		}
	})
}

// FuzzRead: what no answer may ever do. Octets are taken four at a time as codes, or sixteen at a time as IPv6
// addresses if there are so many and the first is even.
func FuzzRead(f *testing.F) {
	f.Add([]byte{127, 0, 0, 2}, 5.0)
	f.Add([]byte{127, 0, 0, 2, 127, 0, 0, 10, 127, 0, 1, 255}, -5.0)
	f.Add([]byte{127, 255, 255, 254}, 10.0)
	f.Add([]byte{192, 0, 2, 1, 127, 0, 0, 3}, 10.0)
	f.Add([]byte{32, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 10.0)
	f.Fuzz(func(t *testing.T, octets []byte, weight float64) {
		l := List{Zone: "zen.example", Codes: append([]Code{{Match: "127.0.0.2", Weight: weight}}, mixed...)}
		if len(Faults([]List{l})) > 0 {
			return
		}
		m, err := l.codes()
		if err != nil {
			t.Fatal(err)
		}
		var answer []netip.Addr
		for len(octets) >= 4 {
			n := 4
			if len(octets) >= 16 && octets[0]%2 == 0 {
				n = 16
			}
			a, _ := netip.AddrFromSlice(octets[:n])
			answer, octets = append(answer, a), octets[n:]
		}
		means, code, got := m.read(answer)
		switch {
		case (means == notListed) != (len(answer) == 0):
			t.Fatalf("%v means %v", answer, means)
		case means != listed && got != 0:
			t.Fatalf("%v counts %v although it means %v", answer, got, means)
		case means == listed && hasOutside(answer):
			t.Fatalf("%v counts", answer)
		case got != 0 && (!code.Is4() || !code.IsLoopback()):
			t.Fatalf("%v counts for %v", answer, code)
		}
		if means == refused || math.IsNaN(got) {
			return
		}
		rand.Shuffle(len(answer), func(i, j int) { answer[i], answer[j] = answer[j], answer[i] })
		if also, code2, again := m.read(answer); also != means || code2 != code || again != got {
			t.Fatalf("%v is worth %v %v %v or %v %v %v, by order", answer, means, code, got, also, code2, again)
		}
	})
}

// hasOutside reports whether an address of the answer is no code or a refusal.
func hasOutside(answer []netip.Addr) bool {
	codes, never := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("127.255.255.0/24")
	for _, a := range answer {
		if !codes.Contains(a) || never.Contains(a) {
			return true
		}
	}
	return false
}
