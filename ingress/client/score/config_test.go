package score

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestConfig_Validate: the error names the field that makes no sense.
func TestConfig_Validate(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string // the field, "" if it is valid
	}{
		{"nothing is configured", func(c *Config) {}, ""},
		{"all is", func(c *Config) {
			*c = Config{
				Hostnames: []string{"mx1.example.org."}, OwnAddrs: []netip.Addr{ours}, Deadline: time.Second, Defer: 5,
				Reject: 8, Grey: Band{-1, 5}, Tarpit: time.Second,
				Greet: time.Second, RejectAt: "connect",
				Weights: map[string]float64{"helo-self": -3, "karma": 0},
				Allow:   []Entry{{Client: "10.0.0.0/8"}}, Block: []Entry{{Helo: "*"}, {Domain: "spam.example"}},
			}
		}, ""},
		{"a reject below the default of defer", func(c *Config) { c.Reject = 4 }, ""},
		{"a defer above the default of reject", func(c *Config) { c.Defer = 14 }, ""},
		{"a reject below defer", func(c *Config) { c.Defer, c.Reject = 5, 4 }, "reject"},
		{"a defer that meets every client", func(c *Config) { c.Defer = -1 }, "defer"},
		{"a reject that meets every client", func(c *Config) { c.Reject = -1 }, "defer"},
		{"a threshold that is no number", func(c *Config) { c.Reject = math.NaN() }, "reject"},
		{"a threshold without end", func(c *Config) { c.Defer = math.Inf(1) }, "defer"},
		{"a deadline below zero", func(c *Config) { c.Deadline = -1 }, "deadline"},
		{"a deadline beyond a minute", func(c *Config) { c.Deadline = time.Hour }, "deadline"},
		{"a tarpit beyond half a minute", func(c *Config) { c.Tarpit = time.Minute }, "tarpit"},
		{"a greeting beyond half a minute", func(c *Config) { c.Greet = time.Minute }, "greet"},
		{"a band that ends before it begins", func(c *Config) { c.Grey = Band{5, 2} }, "grey.to"},
		{"a band that is no number", func(c *Config) { c.Grey = Band{math.NaN(), 2} }, "grey.from"},
		{"a refusal at DATA", func(c *Config) { c.RejectAt = "data" }, "reject_at"},
		{"a hostname that is no domain name", func(c *Config) {
			c.Hostnames = []string{"a.example", "-"}
		}, "hostnames[1]"},
		{"a signal that does not exist", func(c *Config) {
			c.Weights = map[string]float64{"weather": 1}
		}, "weights[weather]"},
		{"a signal of lists", func(c *Config) { c.Weights = map[string]float64{"dnsbl": 1} }, "weights[dnsbl]"},
		{"a weight that is no number", func(c *Config) {
			c.Weights = map[string]float64{"no-ptr": math.NaN()}
		}, "weights[no-ptr]"},
		{"a purpose of what is blocked", func(c *Config) { c.Block = []Entry{{Client: "192.0.2.1", For: ForScore}} },
			"block[0].for"},
		{"an entry about nothing", func(c *Config) { c.Allow = []Entry{{Client: "192.0.2.1"}, {}} }, "allow[1].client"},
		{"an entry about two things", func(c *Config) {
			c.Block = []Entry{{Client: "192.0.2.1", Helo: "a.example"}}
		}, "block[0].client"},
		{"an entry about no address", func(c *Config) { c.Block = []Entry{{Client: "192.0.2"}} }, "block[0].client"},
		{"a prefix with bits behind it", func(c *Config) {
			c.Block = []Entry{{Client: "192.0.2.1/24"}}
		}, "block[0].client"},
		{"a prefix of mapped addresses", func(c *Config) {
			c.Block = []Entry{{Client: "::ffff:192.0.2.0/120"}}
		}, "block[0].client"},
		{"an address with a zone", func(c *Config) { c.Block = []Entry{{Client: "fe80::1%eth0"}} }, "block[0].client"},
		{"a name with a blank", func(c *Config) { c.Block = []Entry{{Helo: "a b"}} }, "block[0].helo"},
		{"a pattern with many stars", func(c *Config) { c.Block = []Entry{{Domain: "*a*b*"}} }, "block[0].domain"},
		{"a reason with a line break", func(c *Config) {
			c.Block = []Entry{{Client: "192.0.2.1", Why: "a\nb"}}
		}, "block[0].why"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var cfg Config
			c.change(&cfg)
			got := ""
			var f *mail.FieldError
			if _, err := New(cfg); errors.As(err, &f) {
				got = f.Field
			} else if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestParseEntry(t *testing.T) {
	for _, c := range []struct {
		line string
		want Entry
		err  string
	}{
		{"203.0.113.7", Entry{Client: "203.0.113.7"}, ""},
		{" 2001:db8::/32\tan old  friend ", Entry{Client: "2001:db8::/32", Why: "an old  friend"}, ""},
		{"helo:*.dyn.example no lines", Entry{Helo: "*.dyn.example", Why: "no lines"}, ""},
		{"domain:spam.example", Entry{Domain: "spam.example"}, ""},
		{"helo:[203.0.113.7]", Entry{Helo: "[203.0.113.7]"}, ""},
		{"198.51.100.0/24 for=score,dmarc a partner", Entry{
			Client: "198.51.100.0/24", For: ForScore | ForDMARC, Why: "a partner",
		}, ""},
		{"domain:l.example\tfor=dmarc", Entry{Domain: "l.example", For: ForDMARC}, ""},
		{"192.0.2.1 for=places", Entry{Client: "192.0.2.1", For: ForPlaces}, ""},
		{"helo:l.example for=places", Entry{}, "has places, which are for an address or a prefix alone"},
		{"203.0.113.7 a friend for=dmarc", Entry{Client: "203.0.113.7", Why: "a friend for=dmarc"}, ""},
		{"203.0.113.7 for= x", Entry{},
			"has for= with something else than places, score and dmarc, separated by commas"},
		{"203.0.113.7 for=dmarc,,score", Entry{},
			"has for= with something else than places, score and dmarc, separated by commas"},
		{"spam.example", Entry{}, "is neither an address nor a prefix"},
		{"helo:", Entry{}, "one of an address or prefix, a name in EHLO and a domain is needed"},
		{"", Entry{}, "one of an address or prefix, a name in EHLO and a domain is needed"},
		{"203.0.113.7/24", Entry{}, "has bits behind its length"},
		{"domain:a@b", Entry{}, "is neither a domain nor a pattern of one"},
		{"203.0.113.7 \x1b[1m", Entry{}, "is not printable ASCII of at most 200 octets"},
	} {
		got, err := ParseEntry(c.line)
		fault := ""
		if err != nil {
			fault = err.Error()
		}
		if got != c.want || fault != c.err {
			t.Errorf("ParseEntry(%q) = %+v, %q, want %+v, %q", c.line, got, fault, c.want, c.err)
		}
	}
}

func TestParseEntries(t *testing.T) {
	got, err := ParseEntries("block.txt", strings.NewReader("# ours\n\n203.0.113.7 spam\nhelo:x.example\n"))
	if err != nil || len(got) != 2 || got[0].Location != "block.txt:3" || got[1].Location != "block.txt:4" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err = ParseEntries("block.txt", strings.NewReader("\nwhat\n")); err == nil ||
		err.Error() != "block.txt:2: is neither an address nor a prefix" {
		t.Errorf("got %v", err)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a.example", "a.example", true},
		{"a.example", "b.a.example", false},
		{"*.a.example", "b.a.example", true},
		{"*.a.example", "c.b.a.example", true},
		{"*.a.example", "a.example", false},
		{"mx*.a.example", "mx.a.example", true},
		{"mx*.a.example", "mx10.a.example", true},
		{"*-dsl-*", "a-dsl-b.example", true},
		{"*-dsl-*", "a-dslb.example", false},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
	} {
		if got := glob(c.pattern, c.name); got != c.want {
			t.Errorf("glob(%q, %q) = %t", c.pattern, c.name, got)
		}
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		arg  string
		kind heloKind
	}{
		{"mail.example.net", heloName}, {"mail.example.net.", heloName}, {"host_1.example.net", heloName},
		{"a.b", heloName}, {"xn--e1afmkfd.example", heloName},
		{"пример.example", heloForeign},
		{"[203.0.113.9]", heloLiteral}, {"[IPv6:2001:db8::9]", heloLiteral}, {"[ipv6:2001:db8::9]", heloLiteral},
		{"localhost", heloBare}, {"WIN-4711", heloBare}, {"localhost.", heloBare},
		{"203.0.113.9", heloUnquoted}, {"2001:db8::9", heloUnquoted}, {"::1%eth0", heloUnquoted},
		{"", heloInvalid}, {".", heloInvalid}, {"a..b", heloInvalid}, {"[203.0.113.9", heloInvalid},
		{"[300.0.113.9]", heloInvalid}, {"[2001:db8::9]", heloInvalid},
		{"a b.example", heloInvalid}, {"300.0.113.9", heloInvalid}, {"a.123", heloInvalid},
		{"user@a.example", heloInvalid}, {"-a.example", heloInvalid},
		{"\xff.example", heloInvalid}, {strings.Repeat("a", 64) + ".example", heloInvalid},
	} {
		if got, _ := classify(c.arg); got != c.kind {
			t.Errorf("classify(%q) = %d, want %d", c.arg, got, c.kind)
		}
	}
}
