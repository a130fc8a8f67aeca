package greylist

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

var key = []byte("a key of sixteen")

func policy(t testing.TB, c Config) *Policy {
	t.Helper()
	c.Key = key
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPolicy_Triplet: what is the same mail has one triplet.
func TestPolicy_Triplet(t *testing.T) {
	p := policy(t, Config{})
	client := netip.MustParseAddr("203.0.113.9")
	for _, c := range []struct {
		name               string
		reverse, forward   string
		reverse2, forward2 string
		same               bool
	}{
		{"an attempt and its retry", "a@x.test", "b@y.test", "a@x.test", "b@y.test", true},
		{"another case", "A@X.test", "B@Y.test", "a@x.test", "b@y.test", true},
		{"quotes that mean nothing", `"a"@x.test`, "b@y.test", "a@x.test", `"b"@y.test`, true},
		{"the number of a list's message", "list-return-1041-b=y.test@x.test", "b@y.test",
			"list-return-1042-b=y.test@x.test", "b@y.test", true},
		{
			"the token of a bounce address", "0100018c2b1f-9f3a-000000@x.test", "b@y.test",
			"0100018c2c77-abcd1-4b-000000@x.test", "b@y.test", true,
		},
		{"a token of letters alone", "bounce-kqzxvwmt-info@x.test", "b@y.test", "bounce-plrsabcd-info@x.test",
			"b@y.test", true},
		{"a token of letters and the recipient", "b=y.test-qwertyuiop@x.test", "b@y.test", "b=y.test-asdfghjklz@x.test",
			"b@y.test", true},
		{"a token of letters alone that is the whole", "kqzxvwmtplrs@x.test", "b@y.test", "zrtpqkwmxvbn@x.test",
			"b@y.test", true},
		{"tokens of letters parted by dots and underscores", "msg.abcdefgh_ijklmnop@x.test", "b@y.test",
			"msg.zyxwvuts_rqponmlk@x.test", "b@y.test", true},
		{"a token of letters once, and one with digits", "em-ABCDEFGHIJ@x.test", "b@y.test", "em-k2l3m4n5@x.test",
			"b@y.test", true},
		{"names that are no tokens", "newsletter@x.test", "b@y.test", "information@x.test", "b@y.test", false},
		{"short words beside each other", "anna-smith@x.test", "b@y.test", "bob-smith@x.test", "b@y.test", false},
		{"a subaddress of the sender", "a+1f@x.test", "b@y.test", "a+zz@x.test", "b@y.test", true},
		{"BATV with another tag", "prvs=0123456789=a@x.test", "b@y.test", "prvs=1123abcdef=a@x.test", "b@y.test", true},
		{"BATV and the bare address", "prvs=0123456789=a@x.test", "b@y.test", "a@x.test", "b@y.test", true},
		{
			"SRS0 of another day", "SRS0=HHHH=TT=z.test=a@x.test", "b@y.test", "SRS0=IIII=UU=z.test=a@x.test",
			"b@y.test", true,
		},
		{
			"SRS1 of another day", "SRS1=HHHH=f.test==GGGG=TT=z.test=a@x.test", "b@y.test",
			"SRS1=IIII=f.test==KKKK=UU=z.test=a@x.test", "b@y.test", true,
		},
		{"the null reverse-path", "", "b@y.test", "", "b@y.test", true},
		{"another sender", "a@x.test", "b@y.test", "c@x.test", "b@y.test", false},
		{
			"another sender behind SRS", "SRS0=HHHH=TT=z.test=a@x.test", "b@y.test", "SRS0=HHHH=TT=z.test=c@x.test",
			"b@y.test", false,
		},
		{"another domain", "a@x.test", "b@y.test", "a@z.test", "b@y.test", false},
		{"another recipient", "a@x.test", "b@y.test", "a@x.test", "c@y.test", false},
		{"another tag of the recipient", "a@x.test", "b@y.test", "a@x.test", "b+t@y.test", false},
		{"null and a sender", "", "b@y.test", "a@x.test", "b@y.test", false},
		{"parts do not run together", "ab@x.test", "b@y.test", "a@bx.test", "b@y.test", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			one := p.Triplet(client, "", ingresstest.Path(c.reverse), ingresstest.Path(c.forward))
			two := p.Triplet(client, "", ingresstest.Path(c.reverse2), ingresstest.Path(c.forward2))
			if (one == two) != c.same {
				t.Errorf("got the same: %v\n%+v\n%+v", !c.same, one, two)
			}
		})
	}
}

// TestPolicy_Proved: a domain that the client proved stands for its network.
func TestPolicy_Proved(t *testing.T) {
	p := policy(t, Config{})
	a, b := ingresstest.Path("a@x.test"), ingresstest.Path("b@y.test")
	triplet := func(client, proved string) mail.Triplet {
		return p.Triplet(netip.MustParseAddr(client), proved, a, b)
	}
	one := triplet("203.0.113.9", "x.test")
	if one != triplet("198.51.100.7", "x.test") || one.Client.IsValid() || strings.Contains(one.Group, "x.test") {
		t.Errorf("%+v", one)
	}
	for _, other := range []mail.Triplet{triplet("203.0.113.9", "z.test"), triplet("203.0.113.9", "")} {
		if other == one {
			t.Errorf("%+v twice", other)
		}
	}
}

// TestPolicy_Secrecy: a triplet carries the times of the Config and no address in clear.
func TestPolicy_Secrecy(t *testing.T) {
	p := policy(t, Config{Delay: time.Minute})
	alice, bob := ingresstest.Path("alice@x.test"), ingresstest.Path("bob@y.test")
	got := p.Triplet(netip.MustParseAddr("::ffff:203.0.113.9"), "", alice, bob)
	want := mail.Triplet{
		Client: netip.MustParseAddr("203.0.113.9"), Key: got.Key, Delay: time.Minute, Window: DefaultWindow,
		Keep: DefaultKeep,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(got.Key) != 22 || strings.Contains(got.Key, "alice") {
		t.Errorf("key %q", got.Key)
	}
	other, err := New(Config{Key: []byte("another key of this")})
	if err != nil {
		t.Fatal(err)
	}
	if other.Triplet(got.Client, "", alice, bob).Key == got.Key {
		t.Error("the key does not matter")
	}
}

// TestPolicy_Refusal: the refusal says when to come again.
func TestPolicy_Refusal(t *testing.T) {
	p := policy(t, Config{})
	r := p.Refusal(299*time.Second + time.Millisecond)
	if got, want := r.Reply.String(), "450 4.7.1 Greylisted, try again in 300 seconds"; got != want ||
		r.Reason != "greylisted" {
		t.Errorf("got %q, reason %q", got, r.Reason)
	}
}

// TestConfig_Validate: the error names the field that is wrong.
func TestConfig_Validate(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		want   string
	}{
		{"the defaults", Config{Key: key}, ""},
		{"no key", Config{}, "key"},
		{"a negative delay", Config{Key: key, Delay: -1}, "delay"},
		{"a delay of days", Config{Key: key, Delay: 48 * time.Hour, Window: 72 * time.Hour}, "delay"},
		{"a window inside the delay", Config{Key: key, Delay: time.Hour, Window: time.Hour}, "window"},
		{"a negative keep", Config{Key: key, Keep: -1}, "keep"},
		{"a keep of years", Config{Key: key, Keep: 9000 * time.Hour}, "keep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := c.config.Validate(); err != nil {
				got, _, _ = strings.Cut(err.Error(), ":")
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzSender: what stays of a sender has no digit, is no longer than it was, and stays as it is when taken again,
// unless it was wrapped in itself.
func FuzzSender(f *testing.F) {
	for _, s := range []string{"", "a", "+", "a+b", "list-return-12-b=y.test", "prvs=1=", "prvs==", "srs0====",
		"srs1=a=b==c=d=e=f", "1-2-3", "a1.-b", "\xff9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, local string) {
		got := sender(local)
		if strings.ContainsAny(got, "0123456789") {
			t.Errorf("%q keeps a digit: %q", local, got)
		}
		if len(got) > len(local) {
			t.Errorf("%q grew: %q", local, got)
		}
		if sender(strings.ToUpper(local)) != sender(strings.ToLower(strings.ToUpper(local))) && ascii.Is(local) {
			t.Errorf("%q: case matters", local)
		}
	})
}
