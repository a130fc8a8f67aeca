package dnsbl

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// TestConfig_Validate: the error names the field that makes no sense.
func TestConfig_Validate(t *testing.T) {
	good := List{Zone: "zen.example", Weight: 1}
	with := func(l List) func(*Config) { return func(c *Config) { c.Lists = append(c.Lists, l) } }
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"the defaults", func(*Config) {}, ""},
		{"no list needs nothing", func(c *Config) { *c = Config{} }, ""},
		{"the same zone for addresses and domains", with(List{Zone: "zen.example", Kind: Domains, Weight: 1}), ""},
		{"the same zone under two names", with(List{Zone: "zen.example", Name: "again", Weight: 1}), ""},
		{"the last dot", with(List{Zone: "other.example.", Weight: -1}), ""},
		{"an empty zone", with(List{Weight: 1}), "lists[1].zone"},
		{"the root", with(List{Zone: ".", Weight: 1}), "lists[1].zone"},
		{"a zone that is no name", with(List{Zone: "zen example", Weight: 1}), "lists[1].zone"},
		{
			"a zone too long for IPv6", with(List{Zone: strings.Repeat("a.", 95) + "example", Weight: 1}),
			"lists[1].zone",
		},
		{"a zone twice", with(List{Zone: "ZEN.example.", Weight: 1}), "lists[1].zone"},
		{"a name that is a zone", with(List{Zone: "key.zen.example", Name: "zen.example", Weight: 1}), "lists[1].name"},
		{"a name that is not one", with(List{Zone: "key.zen.example", Name: "a\r\nb", Weight: 1}), "lists[1].name"},
		{"a weight that is no number", with(List{Zone: "b.example", Weight: math.NaN()}), "lists[1].weight"},
		{"a weight without end", with(List{Zone: "b.example", Weight: math.Inf(1)}), "lists[1].weight"},
		{"no weight", with(List{Zone: "b.example"}), "lists[1].weight"},
		{
			"codes without a weight", with(List{Zone: "b.example", Weight: 3, Codes: []Code{{Match: "127.0.0.2"}}}),
			"lists[1].weight",
		},
		{
			"a code that is not one",
			with(List{Zone: "b.example", Codes: []Code{{"127.0.0.2", 1, false}, {"10.0.0.1", 1, false}}}),
			"lists[1].codes[10.0.0.1]",
		},
		{
			"a code's weight that is no number",
			with(List{Zone: "b.example", Codes: []Code{{"127.0.0.2", math.NaN(), false}}}), "lists[1].codes[127.0.0.2]",
		},
		{
			"a refusal with a weight", with(List{Zone: "b.example", Codes: []Code{{"127.0.0.2", 1, true}}}),
			"lists[1].codes[127.0.0.2]",
		},
		{"an unknown kind", with(List{Zone: "b.example", Weight: 1, Kind: 9}), "lists[1].kind"},
		{"an unknown family", with(List{Zone: "b.example", Weight: 1, Family: 9}), "lists[1].family"},
		{
			"the family of domains", with(List{Zone: "b.example", Weight: 1, Kind: Domains, Family: IPv6}),
			"lists[1].family",
		},
		{"no store", func(c *Config) { c.Store = nil }, "store"},
		{"no resolver", func(c *Config) { c.Resolver = nil }, "resolver"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Lists: []List{good}, Store: newFakeStore(), Resolver: ingresstest.Zone{}}
			tt.change(&c)
			err := c.Validate()
			var field *mail.FieldError
			if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &field) || field.Field != tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			s, made := New(c)
			if (made == nil) != (err == nil) {
				t.Fatalf("New says %v, Validate %v", made, err)
			}
			if s != nil {
				s.Close()
			}
		})
	}
}

// TestSet_Keep: a TTL has a floor and a cap.
func TestSet_Keep(t *testing.T) {
	for _, tt := range []struct {
		name      string
		min, max  time.Duration
		ttl, want time.Duration
	}{
		{"what the list says", 0, 0, 15 * time.Minute, 15 * time.Minute},
		{"a TTL of 0 is a minute", 0, 0, 0, time.Minute},
		{"a TTL below zero is a minute", 0, 0, -time.Second, time.Minute},
		{"a day is an hour", 0, 0, 24 * time.Hour, time.Hour},
		{"without a floor 0 stays 0", -1, 0, 0, 0},
		{"and never goes below", -1, 0, -time.Second, 0},
		{"a floor of one's own", 5 * time.Second, 0, time.Second, 5 * time.Second},
		{"a cap of one's own", 0, 2 * time.Minute, time.Hour, 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Set{cfg: Config{tune: tuning{minTTL: tt.min, maxTTL: tt.max}}.withDefaults()}
			if got := s.cfg.tune.keep(tt.ttl); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
