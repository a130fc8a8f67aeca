package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// A File is the name of a file or folder. A relative one counts from the folder of the configuration file.
type File string

// A Size is a number of octets. It is written as a whole number with B, KiB, MiB, GiB (powers of 1024) or KB, MB, GB
// (powers of 1000) behind it, or with nothing.
type Size int64

var sizeUnits = []struct {
	suffix string
	octets int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1},
}

// UnmarshalText reads a Size.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(string(text), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.octets {
			break
		}
		*s = Size(n * u.octets)
		return nil
	}
	return fmt.Errorf("%q is not a size such as 50MiB or 65536%s", text, sizeMeant(string(text)))
}

// sizeMeant returns what was probably meant by a text that is no size, as the end of a complaint.
func sizeMeant(text string) string {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.ToUpper(strings.TrimSpace(text[len(digits):]))
	if strings.HasPrefix(digits, "-") {
		return ": it is below zero"
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return ""
	}
	for _, prefix := range []string{"K", "M", "G"} {
		if strings.HasPrefix(unit, prefix) {
			return ": write " + digits + prefix + "iB or " + digits + prefix + "B"
		}
	}
	if unit == "" {
		return ": it is too large"
	}
	return ""
}

// String returns the size with the largest binary unit that divides it.
func (s Size) String() string {
	for i := 2; i >= 0; i-- {
		if u := sizeUnits[i]; s != 0 && int64(s)%u.octets == 0 {
			return strconv.FormatInt(int64(s)/u.octets, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// A Duration is a time.Duration written as Go writes it: 30s, 1m30s, 500ms.
type Duration time.Duration

// UnmarshalText reads a Duration, which is not negative.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 30s or 1m30s%s", text, durationMeant(string(text)))
	}
	*d = Duration(v)
	return nil
}

// durationMeant returns what was probably meant by a text that is no duration, as the end of a complaint.
func durationMeant(text string) string {
	plain := strings.ToLower(strings.ReplaceAll(text, " ", ""))
	digits := strings.TrimRight(plain, "abcdefghijklmnopqrstuvwxyz")
	n, err := strconv.Atoi(digits)
	switch unit := plain[len(digits):]; {
	case strings.HasPrefix(plain, "-"):
		return ": it is below zero"
	case err != nil || n > 1e6:
		return ""
	case unit == "":
		return fmt.Sprintf(": a unit stands behind it, %ds or %dm", n, n)
	case strings.HasPrefix(unit, "d"):
		return fmt.Sprintf(": write %dh", 24*n)
	case strings.HasPrefix(unit, "w"):
		return fmt.Sprintf(": write %dh", 7*24*n)
	case strings.HasPrefix(unit, "mil"):
		return fmt.Sprintf(": write %dms", n)
	case strings.ContainsAny(unit[:1], "hms"):
		return fmt.Sprintf(": write %d%s", n, unit[:1])
	}
	return ""
}

// String returns the duration as it is written in a configuration: 1m, 9m30s.
func (d Duration) String() string { return written(time.Duration(d)) }

// written returns a duration without the units that are zero at its end.
func written(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// A Rate is a number of events in a time, written as 300/1m. The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// UnmarshalText reads a Rate. Both parts have to be above zero.
func (r *Rate) UnmarshalText(text []byte) error {
	count, per, ok := strings.Cut(string(text), "/")
	n, err := strconv.Atoi(count)
	d, err2 := time.ParseDuration(per)
	if !ok || errors.Join(err, err2) != nil || n <= 0 || d <= 0 {
		return fmt.Errorf("%q is not a rate such as 300/1m%s", text, rateMeant(count, per))
	}
	*r = Rate{Count: n, Per: d}
	return nil
}

// rateMeant returns what was probably meant by the parts of a text that is no rate, as the end of a complaint.
func rateMeant(count, per string) string {
	n, err := strconv.Atoi(strings.TrimSpace(count))
	unit := strings.ToLower(strings.TrimSpace(per))
	d, _ := time.ParseDuration(per)
	switch {
	case err == nil && unit != "" && d == 0 && unit[0] == '0', d < 0:
		return ": the time behind the slash is above zero"
	case err == nil && n <= 0:
		return ": it is not above zero; what has no limit is left out"
	case err == nil && unit == "":
		return fmt.Sprintf(": the time stands behind it, %d/1m", n)
	case err == nil && strings.ContainsAny(unit[:1], "hms"):
		return fmt.Sprintf(": write %d/1%s", n, unit[:1])
	case err == nil && unit[0] == 'd':
		return fmt.Sprintf(": write %d/24h", n)
	}
	return ""
}

// Rates is a word about the rates that hold where the configuration names none: "none" turns them off.
type Rates string

// UnmarshalText reads the word.
func (r *Rates) UnmarshalText(text []byte) error {
	if string(text) != "none" {
		return fmt.Errorf("%q is not none; a rate is set in score.rates", text)
	}
	*r = Rates(text)
	return nil
}

// UnmarshalText reads the word none in place of rates.
func (r *ScoreRates) UnmarshalText(text []byte) error {
	if string(text) != "none" {
		return fmt.Errorf("%q is neither none nor keys and values", text)
	}
	r.None = true
	return nil
}

// A Network is an IP prefix, or one address.
type Network struct{ netip.Prefix }

// UnmarshalText reads a Network. Bits behind the prefix are refused: most often they are a typing error.
func (n *Network) UnmarshalText(text []byte) error {
	p, err := netip.ParsePrefix(string(text))
	if err != nil {
		a, aerr := netip.ParseAddr(string(text))
		if aerr != nil || a.Zone() != "" {
			return fmt.Errorf("%q is not a network such as 10.1.0.0/16%s", text, networkMeant(string(text)))
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return fmt.Errorf("%q: write an IPv4 network as such", text)
	}
	if p != p.Masked() {
		return fmt.Errorf("%q has bits behind the prefix; did you mean %s", text, p.Masked())
	}
	n.Prefix = p
	return nil
}

// networkMeant returns what is wrong with a text that is no network, as the end of a complaint.
func networkMeant(text string) string {
	addr, bits, slash := strings.Cut(text, "/")
	a, err := netip.ParseAddr(strings.TrimSpace(addr))
	mask, maskErr := netip.ParseAddr(bits)
	switch {
	case strings.ContainsAny(text, "“”‘’"):
		return ": the quotes are typographic"
	case strings.Contains(text, "*"):
		return ": a star stands for nothing, write the length behind a slash"
	case strings.Contains(text, "-") && !slash:
		return ": a range is written as networks, one beside the other"
	case strings.HasPrefix(text, "["):
		return ": no brackets stand around it"
	case err == nil && slash && maskErr == nil && mask.Is4():
		ones := 0
		for _, b := range mask.As4() {
			ones += strings.Count(strconv.FormatUint(uint64(b), 2), "1")
		}
		return fmt.Sprintf(": write %s/%d", addr, ones)
	case err == nil && slash:
		return fmt.Sprintf(": behind the slash stands a number from 0 to %d", a.BitLen())
	case strings.ContainsAny(text, "abcdefghijklmnopqrstuvwxyz") && !strings.Contains(text, ":"):
		return ": names are not looked up"
	}
	return ""
}

// A Source is an address to connect from, and our name in EHLO there, written with a blank between. Without a name that
// is egress.helo.
type Source struct {
	Addr netip.Addr
	Helo string
}

// UnmarshalText reads a Source.
func (s *Source) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	if len(words) == 0 || len(words) > 2 {
		return fmt.Errorf("%q is not an IP address, and a name in EHLO behind it", text)
	}
	a, err := netip.ParseAddr(words[0])
	if err != nil {
		return fmt.Errorf("%q is not an IP address", words[0])
	}
	s.Addr, s.Helo = a, ""
	if len(words) == 1 {
		return nil
	}
	s.Helo = words[1]
	if name, ok := rules.ALabels(s.Helo); ok {
		s.Helo = name
	} else if _, ok := mail.LiteralAddr(s.Helo); !ok {
		return errors.New("the name behind the address is neither a domain name nor an address literal: " +
			rules.DomainMistake(s.Helo))
	}
	return nil
}

// String returns the source as it is written.
func (s Source) String() string { return strings.TrimSuffix(s.Addr.String()+" "+s.Helo, " ") }

// Prefixes returns networks as a slice of prefixes.
func Prefixes(networks []Network) []netip.Prefix {
	out := make([]netip.Prefix, len(networks))
	for i, n := range networks {
		out[i] = n.Prefix
	}
	return out
}
