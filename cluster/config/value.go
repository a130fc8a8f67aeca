package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
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
	return fmt.Errorf("%q is not a size such as 50MiB or 65536", text)
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
		return fmt.Errorf("%q is not a duration such as 30s or 1m30s", text)
	}
	*d = Duration(v)
	return nil
}

// String returns the duration as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }

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
		return fmt.Errorf("%q is not a rate such as 300/1m", text)
	}
	*r = Rate{Count: n, Per: d}
	return nil
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
			return fmt.Errorf("%q is not a network such as 10.1.0.0/16", text)
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

// Prefixes returns networks as a slice of prefixes.
func Prefixes(networks []Network) []netip.Prefix {
	out := make([]netip.Prefix, len(networks))
	for i, n := range networks {
		out[i] = n.Prefix
	}
	return out
}
