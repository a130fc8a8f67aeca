package migrate

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// ourLog are lines of a node: what went home by Postfix and to a provider, and what is in doubt.
//
//go:embed testdata/nodes.log
var ourLog string

// theirLog is the log of the Postfix at home: of the first message whole, of the second a deferral, none of the third;
// one that our log does not have, which came twice, and two by the old MX.
//
//go:embed testdata/home.log
var theirLog string

// regexpTimes finds times in their log.
var regexpTimes = regexp.MustCompile(`(?m)^(2026-11-30T[0-9:]{8})`)

// reconciled compares two texts of logs.
func reconciled(t testing.TB, theirs, ours, nextHop string) *Reconciliation {
	t.Helper()
	r := Reconciler{NextHop: nextHop, Clock: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Zone: time.UTC}
	if err := r.ReadMaillog(strings.NewReader(theirs)); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadLog(strings.NewReader(ours)); err != nil {
		t.Fatal(err)
	}
	return r.Result()
}

// TestReconciler_Postfix: each message is named for what became of it, in each form of the time.
func TestReconciler_Postfix(t *testing.T) {
	for name, theirs := range map[string]string{
		"the form of syslog":   theirLog,
		"the form of RFC 3339": strings.ReplaceAll(theirLog, "Nov 30 ", "2026-11-30T"),
	} {
		t.Run(name, func(t *testing.T) {
			if name != "the form of syslog" {
				theirs = regexpTimes.ReplaceAllString(theirs, "$1.123456+00:00")
			}
			out := reconciled(t, theirs, ourLog, "")
			got := fmt.Sprintf("%d %s %d %d %v %v", out.Joined, ids(out), out.InDoubt, out.Outside, out.WithoutID,
				out.Elsewhere)
			want := "2 missing 4AB1C2D3E6, undelivered 4AB1C2D3E5 deferred, extra 4AB1C2D3F0, twice one@x.test, by " +
				"198.51.100.4 2 1 1 map[mx:big.test:1] map[]"
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// ids returns what a Reconciliation names.
func ids(out *Reconciliation) string {
	var all []string
	for _, m := range out.Missing {
		all = append(all, "missing "+m.ID)
	}
	for _, m := range out.Undelivered {
		all = append(all, "undelivered "+m.ID+" "+m.State)
	}
	for _, m := range out.Extra {
		all = append(all, "extra "+m.ID)
	}
	for _, id := range out.Twice {
		all = append(all, "twice "+id)
	}
	for _, w := range out.OtherWays {
		all = append(all, fmt.Sprintf("by %s %d", w.Client, w.Messages))
	}
	return strings.Join(all, ", ")
}

// TestReconciler_OtherServers: the ids of Exim, Dovecot and Sendmail are found, and those of our log in Postfix's form.
func TestReconciler_OtherServers(t *testing.T) {
	leg := func(reply string) string {
		return `{"time":"2026-11-30T10:00:02.000000Z","msg":"relayed","trace":"t","reply":"` + reply +
			`","legs":[{"next_hop":"smtp://10.0.0.7","host":"10.0.0.7","source":"192.0.2.10"}]}` + "\n"
	}
	for _, c := range []struct{ name, theirs, ours, want string }{
		{"Exim", "2026-11-30 10:00:02 1vPabc-000000000Aa-1XyZ <= x@y.test H=mx1.a.test [192.0.2.10] P=esmtps S=300 " +
			"id=one@x.test\n2026-11-30 10:00:02 1vPabc-000000000Aa-1XyZ => bob <bob@a.test> R=local T=file\n" +
			"2026-11-30 10:00:02 1vPabc-000000000Aa-1XyZ Completed\n", leg("250 OK id=1vPabc-000000000Aa-1XyZ"), ""},
		{"an older Exim that bounces", "2026-11-30 10:00:02 +0000 1vPabc-00000A-Xy <= x@y.test H=mx1.a.test " +
			"[192.0.2.10]\n" +
			"2026-11-30 10:00:02 +0000 1vPabc-00000A-Xy ** bob@a.test: unknown user\n",
			leg("250 OK id=1vPabc-00000A-Xy"),
			"undelivered 1vPabc-00000A-Xy bounced"},
		{"Dovecot", "Nov 30 10:00:02 home dovecot: lmtp(bob@a.test)<12><+AbC3dEf>: msgid=<one@x.test>: saved mail " +
			"to INBOX\n",
			leg("250 2.0.0 <bob@a.test> +AbC3dEf Saved"), ""},
		{"a log of ours in Postfix's form", theirLog[:strings.Index(theirLog, "Nov 30 10:00:03")],
			"2026-11-30T10:00:02.000000Z mx1 postfix/smtp[1]: 0123456789abcdef0123456789abcdef: to=<bob@a.test>, " +
				"relay=10.0.0.7[10.0.0.7]:25, delay=0.1, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: " +
				"queued as " +
				"4AB1C2D3E4)\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := reconciled(t, c.theirs, c.ours, "")
			if got := ids(out); out.Joined != 1 || got != c.want {
				t.Errorf("%d joined, %s, want %s", out.Joined, got, c.want)
			}
		})
	}
}

// TestReconciler_AnotherLog: a log that has none of the messages of a next hop is taken for another host's, unless it
// is said to be its.
func TestReconciler_AnotherLog(t *testing.T) {
	theirs := strings.ReplaceAll(theirLog, "4AB1C2D3", "5AB1C2D3")
	out := reconciled(t, theirs, ourLog, "")
	if out.Joined != 0 || len(out.Missing) != 0 || out.Elsewhere["smtp://10.0.0.7"] != 4 {
		t.Errorf("%+v", out)
	}
	out = reconciled(t, theirs, ourLog, "smtp://10.0.0.7")
	if len(out.Missing) != 3 || out.Outside != 1 {
		t.Errorf("%d are missing and %d outside, want 3 and 1", len(out.Missing), out.Outside)
	}
}

// TestReconciler_IDsUsedAgain: short ids of Postfix come again; each delivery is joined with the message of its time.
func TestReconciler_IDsUsedAgain(t *testing.T) {
	var theirs, ours strings.Builder
	for _, hour := range []int{9, 11, 10} {
		fmt.Fprintf(&theirs, "2026-11-30T%02d:00:02Z home postfix/smtpd[7]: ABCDEF0123: client=x[192.0.2.10]\n"+
			"2026-11-30T%02d:00:03Z home postfix/local[7]: ABCDEF0123: to=<b%d@a.test>, relay=local, status=sent "+
			"(ok)\n",
			hour, hour, hour)
		fmt.Fprintf(&ours, `{"time":"2026-11-30T%02d:00:02.000000Z","msg":"relayed","trace":"t%d",`+
			`"reply":"250 2.0.0 Ok: queued `+
			`as ABCDEF0123","legs":[{"next_hop":"smtp://10.0.0.7","host":"h"}]}`+"\n", hour, hour)
	}
	r := Reconciler{Clock: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Zone: time.UTC}
	if err := r.ReadMaillog(strings.NewReader(theirs.String())); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadLog(strings.NewReader(ours.String())); err != nil {
		t.Fatal(err)
	}
	if out := r.Result(); out.Joined != 3 || len(out.Missing)+len(out.Extra) != 0 {
		t.Errorf("%+v", out)
	}
	for _, d := range r.delivered {
		if want := "b" + strings.TrimPrefix(d.Trace, "t") + "@a.test"; !slices.Contains(d.with.To, want) {
			t.Errorf("%s was joined with %v", d.Trace, d.with.To)
		}
	}
}

// TestLogClock_Years: a time without a year is of the last year in which it is not to come.
func TestLogClock_Years(t *testing.T) {
	c := logClock{time.UTC, time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC)}
	for line, want := range map[string]string{
		"Dec 31 23:59:59 x": "2026-12-31T23:59:59Z", "Jan  2 10:00:00 x": "2027-01-02T10:00:00Z",
		"2026-12-31T23:59:59.5+01:00 x": "2026-12-31T22:59:59Z", "2026-12-31T23:59:59+0100 x": "2026-12-31T22:59:59Z",
		"2026-12-31 23:59:59 x": "2026-12-31T23:59:59Z", "2026-12-31 23:59:59.123 x": "2026-12-31T23:59:59Z",
		"2026-12-31 23:59:59 +0100 x": "2026-12-31T22:59:59Z",
	} {
		at, rest, ok := c.cut(line)
		if got := at.UTC().Truncate(time.Second).Format(time.RFC3339); !ok || got != want || rest != "x" {
			t.Errorf("%s: %s %q %v, want %s", line, got, rest, ok, want)
		}
	}
}

// FuzzReconcile: no octets of a log have it fail, and no message is in two places.
func FuzzReconcile(f *testing.F) {
	f.Add([]byte(theirLog), []byte(ourLog))
	f.Add([]byte("2026-11-30 10:00:02 1vPabc-000000-Xy <= x H=[::1] id=\x1b\n"),
		[]byte("{\"msg\":\"relayed\",\"legs\":[{}]}"))
	f.Fuzz(func(t *testing.T, theirs, ours []byte) {
		out := reconciled(t, string(theirs), string(ours), "")
		for _, m := range out.Extra {
			if slices.Contains(out.Undelivered, m) {
				t.Errorf("%+v is in two places", m)
			}
		}
	})
}
