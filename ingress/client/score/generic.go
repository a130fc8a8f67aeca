package score

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// generic returns why name, which is in lower case, looks like one that a provider made by a rule and not the owner of
// the host, or "" if it does not. It reads only the labels before the last two: the rest is the provider's own name.
//
// It is meant to miss many such names and to hit no mail server: a name with a label that says what the host is for
// ("smtp-203-0-113-9") or that its address is fixed is never generic, and a word such as "dynamic" counts only beside a
// digit.
func generic(name string, addr netip.Addr) string {
	host := name
	for range 2 {
		dot := strings.LastIndexByte(host, '.')
		if dot < 0 {
			return ""
		}
		host = host[:dot]
	}
	dynamic, digits := false, false
	for at := 0; at < len(host); {
		from := at
		for at < len(host) && 'a' <= host[at] && host[at] <= 'z' {
			at++
		}
		if word := host[from:at]; word != "" {
			if isPurpose(word) {
				return ""
			}
			dynamic = dynamic || isDynamic(word)
			continue
		}
		digits = digits || ascii.IsDigit(host[at])
		at++
	}
	switch {
	case addr.Is4() && holdsIPv4(host, addr.As4()), addr.Is6() && holdsIPv6(host, addr.As16()):
		return "is made of its address"
	case dynamic && digits:
		return "is one of dynamic addresses"
	}
	return ""
}

// isPurpose reports whether a word of a name means that the host sends mail, or that its address is fixed.
func isPurpose(word string) bool {
	switch word {
	case "mail", "mails", "mailer", "mailgw", "mailhost", "mailout", "email", "mx", "mxout", "smtp", "smtpout",
		"mta", "mout", "relay", "mailrelay", "outbound", "out", "sender", "bounce", "newsletter", "exchange",
		"postfix", "static", "fixed", "fix", "server", "srv", "vps", "dedicated", "colo":
		return true
	}
	return false
}

// isDynamic reports whether a word of a name is used for lines whose address changes.
func isDynamic(word string) bool {
	switch word {
	case "dynamic", "dyn", "dynip", "dynamicip", "dhcp", "dsl", "adsl", "vdsl", "xdsl", "sdsl", "pool", "pools",
		"ppp", "pppoe", "dialup", "dialin", "dial", "dip", "cable", "catv", "cablemodem", "broadband", "fttx",
		"fttb", "ftth", "gprs", "lte", "wimax", "residential", "hsd", "cpe":
		return true
	}
	return false
}

// holdsIPv4 reports whether host has all four octets of an address in it, forward or backward, with a separator between
// them or as four times three digits, as eight hexadecimal digits, or as one number.
func holdsIPv4(host string, octets [4]byte) bool {
	back := octets
	slices.Reverse(back[:])
	if holdsOctets(host, octets, back) {
		return true
	}
	var form [12]byte
	for _, o := range [2][4]byte{octets, back} {
		if strings.Contains(host, string(hex.AppendEncode(form[:0], o[:]))) {
			return true
		}
		padded := form[:0]
		for _, b := range o {
			padded = append(padded, '0'+b/100, '0'+b/10%10, '0'+b%10)
		}
		if strings.Contains(host, string(padded)) {
			return true
		}
	}
	n := uint64(octets[0])<<24 | uint64(octets[1])<<16 | uint64(octets[2])<<8 | uint64(octets[3])
	whole := string(strconv.AppendUint(form[:0], n, 10))
	return len(whole) == 10 && strings.Contains(host, whole) // with fewer digits it may be any number
}

// holdsOctets reports whether host has the four octets as numbers in a row, with one octet between each two.
func holdsOctets(host string, forward, back [4]byte) bool {
	var last [4]int // the last numbers, the newest at the end
	run := 0        // how many of them are in a row
	for at, ended := 0, -1; at < len(host); {
		if !ascii.IsDigit(host[at]) {
			at++
			continue
		}
		from, n := at, 0
		for at < len(host) && ascii.IsDigit(host[at]) {
			n = min(n*10+int(host[at]-'0'), 1000)
			at++
		}
		if run++; ended < 0 || from != ended+1 {
			run = 1
		}
		ended = at
		last = [4]int{last[1], last[2], last[3], n}
		if run >= 4 && (same(last, forward) || same(last, back)) {
			return true
		}
	}
	return false
}

func same(numbers [4]int, octets [4]byte) bool {
	for i, n := range numbers {
		if n != int(octets[i]) {
			return false
		}
	}
	return true
}

// holdsIPv6 reports whether host has an IPv6 address in it: all nibbles or the 16 of its lower half, forward or
// backward, with or without separators; or as text with "-" for ":".
func holdsIPv6(host string, octets [16]byte) bool {
	var forward, back [32]byte
	hex.Encode(forward[:], octets[:])
	for i, c := range forward {
		back[31-i] = c
	}
	plain := make([]byte, 0, len(host))
	for i := range len(host) {
		if host[i] != '.' && host[i] != '-' {
			plain = append(plain, host[i])
		}
	}
	joined := string(plain)
	// A lower half that is mostly zeros, such as ::1, is in no name by accident if its zeros are looked for too.
	if strings.Contains(joined, string(forward[16:])) || strings.Contains(joined, string(back[:16])) {
		return true
	}
	for label := range strings.SplitSeq(host, ".") {
		if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":")); err == nil && a.Is6() && a.As16() == octets {
			return true
		}
	}
	return false
}

// Generic returns why a name of an address looks like one that a provider made by a rule, or "" if it does not.
// Receivers that read names so trust such a host less.
func Generic(name string, addr netip.Addr) string {
	return generic(strings.ToLower(name), addr.Unmap())
}
