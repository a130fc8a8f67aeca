package activity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// start is when the rows of these tests begin.
var start = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// newLog returns a Log whose clock stands at start until it is moved.
func newLog(t testing.TB, cfg Config) (*Log, *time.Time) {
	t.Helper()
	now := start
	if cfg.Keep == 0 {
		cfg.Keep = time.Hour
	}
	if cfg.Octets == 0 {
		cfg.Octets = MinOctets
	}
	cfg.Now = func() time.Time { return now }
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l, &now
}

func ids(p Page) (out []string) {
	for i := range p.Rows {
		out = append(out, p.Rows[i].ID)
	}
	return out
}

// TestRow_Pack: a row is kept as it is, but that its texts are cut at a character.
func TestRow_Pack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Row{
			At:     start.Add(time.Duration(rapid.Int64Range(0, 1<<50).Draw(t, "at"))),
			Octets: rapid.Int64Min(0).Draw(t, "octets"), More: rapid.IntMin(0).Draw(t, "more"),
		}
		r.Score = rapid.Float64().Draw(t, "score")
		for _, s := range r.texts() {
			*s = rapid.StringN(0, 100, maxText).Draw(t, "text")
		}
		for range rapid.IntRange(0, 4).Draw(t, "steps") {
			r.Steps = append(r.Steps, Step{"s", rapid.StringN(0, 50, maxStep).Draw(t, "step"), time.Second})
		}
		got := packed(r.pack(nil)).unpack()
		got.At = got.At.UTC()
		if !reflect.DeepEqual(got, r) {
			t.Fatalf("got %+v, want %+v", got, r)
		}
	})
	r := Row{At: start, To: strings.Repeat("あ", maxText), Steps: make([]Step, 2*maxSteps)}
	got := packed(r.pack(nil)).unpack()
	if len(got.To) > maxText || strings.Trim(got.To, "あ") != "" || len(got.Steps) != maxSteps {
		t.Errorf("%d octets, %d steps", len(got.To), len(got.Steps))
	}
}

// TestLog_Memory: whatever strangers send, the memory has its bound, and what was delivered is still there.
func TestLog_Memory(t *testing.T) {
	l, now := newLog(t, Config{})
	l.Add(&Row{At: *now, ID: "delivered", Status: Delivered})
	for i := range 20_000 {
		*now = now.Add(time.Millisecond)
		long := strings.Repeat("x", 1000)
		l.Add(&Row{At: *now, ID: fmt.Sprint(i), Status: Rejected, To: long, Detail: long})
		if used := l.mail.octets + l.others.octets; used > MinOctets {
			t.Fatalf("%d octets after %d rows", used, i)
		}
	}
	if len(l.others.rows) > 2*l.others.len()+1 {
		t.Errorf("%d rows take %d slots", l.others.len(), len(l.others.rows))
	}
	if got := ids(l.Find(Query{Status: Delivered})); !slices.Equal(got, []string{"delivered"}) {
		t.Errorf("got %v", got)
	}
	if got := ids(l.Find(Query{Limit: 2})); !slices.Equal(got, []string{"19999", "19998"}) {
		t.Errorf("got %v", got)
	}
	if since := l.kept().Since; !since.After(start) || !since.Before(*now) {
		t.Errorf("nothing is missing since %v, at %v", since, *now)
	}
}

// TestLog_Retention: a row that is too old is in no answer, and soon in no memory.
func TestLog_Retention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Config{Keep: time.Hour, Octets: MinOctets, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { // ends with ctx
			defer close(ended)
			l.Run(ctx)
		}()
		l.Add(&Row{At: time.Now(), ID: "a", Status: Delivered})
		l.Add(&Row{At: time.Now(), ID: "b", Status: Rejected})
		time.Sleep(time.Hour - time.Second)
		l.Add(&Row{At: time.Now(), ID: "c", Status: Rejected})
		if got := ids(l.Find(Query{})); !slices.Equal(got, []string{"c", "b", "a"}) {
			t.Errorf("before: %v", got)
		}
		time.Sleep(2 * time.Second)
		if got := ids(l.Find(Query{})); !slices.Equal(got, []string{"c"}) {
			t.Errorf("behind: %v", got)
		}
		time.Sleep(expireEvery)
		synctest.Wait()
		cancel()
		<-ended
		if n := l.mail.len() + l.others.len(); n != 1 {
			t.Errorf("%d rows are kept", n)
		}
	})
}

// TestLog_Find: each filter leaves the rows that it wants.
func TestLog_Find(t *testing.T) {
	l, now := newLog(t, Config{Node: "a"})
	for _, r := range []Row{
		{
			ID: "1", From: "Ann@Example.org", To: "info@example.com", Status: Delivered, Action: Forwarded,
			Client: "192.0.2.7", Reply: "250 Ok",
		},
		{
			ID: "2", From: "<>", To: "sales@example.com", Status: Bounced, Action: DeliveryFailed,
			Client: "2001:db8::1", Reply: "550 Full",
		},
		{
			ID: "3", From: "bob@example.net", To: "info@other.example", Status: Rejected, Action: RejectedByUs,
			Detail: "dmarc", Judgement: Judgement{SPF: "fail", DKIM: "none", DMARC: "fail", ARC: "none"},
		},
		{ID: "4", Status: Rejected, Action: RejectedByUs, Client: "192.0.2.99", Detail: "score"},
	} {
		*now = now.Add(time.Minute)
		r.At = *now
		l.Add(&r)
	}
	*now = now.Add(time.Minute)
	for filters, want := range map[string]string{
		"": "4 3 2 1", "id=2": "2", "from=ann@example.org": "1", "from=%3C%3E": "2", "from=EXAMPLE": "3 1",
		"to=@EXAMPLE.com": "2 1", "to=info": "3 1", "to=info@example.com": "1", "client=192.0.2.0/24": "4 1",
		"client=2001:db8::1": "2", "status=rejected": "4 3", "action=delivery_failed": "2", "auth=dmarc=fail": "3",
		"auth=spf=pass": "", "auth=dkim=none": "3", "auth=arc=none": "3", "detail=FULL": "2", "detail=score": "4",
		"node=a": "4 3 2 1", "node=b": "", "since=2m30s": "4 3", "until=2m30s": "2 1", "limit=1": "4",
		"to=info&status=delivered": "1",
	} {
		v, err := url.ParseQuery(filters)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseQuery(v, *now)
		if err != nil {
			t.Errorf("%s: %v", filters, err)
		}
		if got := strings.Join(ids(l.Find(q)), " "); got != want {
			t.Errorf("%s: got %q, want %q", filters, got, want)
		}
	}
	for domains, want := range map[string]string{
		"example.com": "2 1", "com": "2 1", "ample.com": "", "example.com other.example": "3 2 1",
	} {
		got := strings.Join(ids(l.Find(Query{Domains: strings.Fields(domains)})), " ")
		if got != want {
			t.Errorf("the rows of %s: %q, want %q", domains, got, want)
		}
	}
}

// TestParseQuery: what is no filter is named.
func TestParseQuery(t *testing.T) {
	for filters, want := range map[string]string{
		"subject=x": "no filter", "status=sent": "delivered", "action=x": "forwarded", "client=x": "no address",
		"auth=dmarc": "dmarc=fail", "auth=x=pass": "dmarc=fail", "since=yesterday": "7d", "until=-1h": "7d",
		"limit=0": "from 1 to 200", "limit=201": "from 1 to 200", "before=x": "no end of a page", "since=99999d": "7d",
		"to=" + strings.Repeat("x", 600): "longer",
	} {
		v, _ := url.ParseQuery(filters)
		if _, err := ParseQuery(v, start); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", filters, err, want)
		}
	}
	for filters, want := range map[string]string{
		"to=info": "no address", "": "no address", "status=bounced": "no filter",
	} {
		v, _ := url.ParseQuery(filters)
		if _, err := ParseSenders(v, start); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("senders, %s: %v, want %s", filters, err, want)
		}
	}
}

// FuzzParseQuery: no filter breaks a search.
func FuzzParseQuery(f *testing.F) {
	f.Add("to=@example.com&before=1-a&since=7d&client=::1&auth=spf=pass")
	f.Add("before=9223372036854775806-&until=0001-01-01T00:00:00Z")
	hide := func(s string) string { return "hidden" + s[strings.LastIndexByte(s, '@'):] }
	l, now := newLog(f, Config{Node: "a", Hide: hide})
	l.Add(&Row{At: *now, From: "a@b", To: "c@d", Status: Delivered, Client: "192.0.2.1"})
	f.Fuzz(func(t *testing.T, filters string) {
		v, err := url.ParseQuery(filters)
		if err != nil {
			return
		}
		q, err := ParseQuery(v, start)
		if err != nil {
			return
		}
		if p := l.Find(q); len(p.Rows) > 1 {
			t.Errorf("%d rows", len(p.Rows))
		}
		l.Senders(q)
	})
}

// FuzzNodes_Answer: what another node sends breaks nothing.
func FuzzNodes_Answer(f *testing.F) {
	f.Add([]byte(`{"find_activity":{"to":"@d","before":"1-a","limit":-1}}`))
	f.Add([]byte(`{"senders_activity":{"client":"x","until":"2026-11-30T12:00:00Z"}}`))
	l, now := newLog(f, Config{Node: "a"})
	l.Add(&Row{At: *now, From: "a@b", To: "c@d", Status: Delivered, Client: "192.0.2.1"})
	n := &Nodes{Log: l, Name: "a"}
	f.Fuzz(func(t *testing.T, question []byte) {
		if answer, ok := n.Answer(question); ok && !json.Valid(answer) {
			t.Errorf("%q", answer)
		}
		others := &Nodes{
			Name: "b", Others: func() []string { return []string{"a"} },
			Ask: func(context.Context, string, []byte) ([]byte, error) { return question, nil },
		}
		others.Find(t.Context(), Query{})
		others.Senders(t.Context(), Query{})
	})
}

// TestLog_Hidden: where the rows have hashes, an address is still found by what it is in clear.
func TestLog_Hidden(t *testing.T) {
	hide := func(s string) string { return "h" + s[strings.LastIndexByte(s, '@'):] }
	l, now := newLog(t, Config{Hide: hide})
	l.Add(&Row{At: *now, ID: "1", From: "h@example.org", To: "h@example.com", Status: Delivered})
	for _, to := range []string{"info@example.com", "@example.com", "h"} {
		if got := ids(l.Find(Query{To: to})); len(got) != 1 {
			t.Errorf("%s: got %v", to, got)
		}
	}
	if s := l.Senders(Query{To: "info@example.com"}); len(s.Senders) != 1 {
		t.Errorf("senders: %+v", s)
	}
}

// cluster returns nodes that ask each other.
func cluster(t testing.TB, names ...string) map[string]*Nodes {
	all := make(map[string]*Nodes)
	for _, name := range names {
		l, _ := newLog(t, Config{Node: name})
		all[name] = &Nodes{Log: l, Name: name, Others: func() (others []string) {
			for _, o := range names {
				if o != name {
					others = append(others, o)
				}
			}
			return others
		}, Ask: func(_ context.Context, node string, question []byte) ([]byte, error) {
			answer, ok := all[node].Answer(question)
			if !ok {
				return nil, errors.New("no question")
			}
			if len(answer) > 60000 {
				return nil, fmt.Errorf("an answer of %d octets", len(answer))
			}
			return answer, nil
		}}
	}
	return all
}

// TestNodes_Pages: the pages of a cluster have each row once and in order, whichever node is asked, also where rows
// have one time and where a node cannot answer a whole page at once.
func TestNodes_Pages(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := cluster(t, "a", "b", "c")
		want := 0
		for _, name := range []string{"a", "b", "c"} {
			for range rapid.IntRange(0, 30).Draw(rt, "rows") {
				want++
				r := Row{
					At: start.Add(-time.Duration(rapid.IntRange(0, 10).Draw(rt, "age"))),
					ID: fmt.Sprint(want), Status: rapid.SampledFrom(Statuses()).Draw(rt, "status"),
				}
				if rapid.Bool().Draw(rt, "large") {
					for range maxSteps {
						r.Steps = append(r.Steps, Step{Text: strings.Repeat("x", maxStep)})
					}
				}
				all[name].Log.Add(&r)
			}
		}
		q := Query{Limit: rapid.IntRange(1, 20).Draw(rt, "limit")}
		seen := make(map[string]bool)
		last := cursor{at: start.Add(time.Hour).UnixNano()}
		for pages := 0; ; pages++ {
			p := all["b"].Find(t.Context(), q)
			for i := range p.Rows {
				at := cursorOf(&p.Rows[i])
				if seen[p.Rows[i].ID] || at.compare(last) >= 0 {
					rt.Fatalf("%s comes twice or late", p.Rows[i].ID)
				}
				seen[p.Rows[i].ID], last = true, at
			}
			if p.Next == "" {
				break
			}
			if q.Before = p.Next; pages > 2*want {
				rt.Fatal("the pages have no end")
			}
		}
		if len(seen) != want {
			rt.Fatalf("%d rows of %d", len(seen), want)
		}
	})
}

// TestNodes_Trouble: a node that does not answer is named with the reason, and the rows of the others are there.
func TestNodes_Trouble(t *testing.T) {
	all := cluster(t, "a", "b", "c", "d")
	for name, n := range all {
		n.Log.Add(&Row{At: start, ID: name, To: "x@example.com", From: "y@example.com", Status: Delivered})
	}
	all["b"].Log = nil
	ask := all["a"].Ask
	all["a"].Ask = func(ctx context.Context, node string, question []byte) ([]byte, error) {
		switch node {
		case "c":
			return []byte(`{"node":"","ok":false,"says":["there is no check"]}`), nil
		case "d":
			return nil, errors.New("connection refused")
		}
		return ask(ctx, node, question)
	}
	page := all["a"].Find(t.Context(), Query{})
	if got := ids(page); !slices.Equal(got, []string{"a"}) {
		t.Errorf("got %v", got)
	}
	senders := all["a"].Senders(t.Context(), Query{To: "x@example.com"})
	for _, nodes := range [][]Kept{page.Nodes, senders.Nodes} {
		var got []string
		for _, k := range nodes {
			got = append(got, k.Node+": "+k.Failed)
		}
		want := []string{"a: ", "b: " + errOff.Error(), "c: " + errOlder.Error(), "d: connection refused"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	}
	if page := all["a"].Find(t.Context(), Query{Node: "a"}); len(page.Nodes) != 1 {
		t.Errorf("%d nodes were asked for the rows of one", len(page.Nodes))
	}
}

// TestNodes_Senders: who sent to an address, since when and how often, over the cluster.
func TestNodes_Senders(t *testing.T) {
	all := cluster(t, "a", "b")
	add := func(node, from, to string, minute int, s Status) {
		all[node].Log.Add(&Row{At: start.Add(time.Duration(minute) * time.Minute), From: from, To: to, Status: s})
	}
	add("a", "news@shop.example", "me+shop@example.com", 1, Delivered)
	add("b", "News@shop.example", "me+shop@example.com", 2, Rejected)
	add("b", "spam@leak.example", "ME+shop@example.com", 3, Delivered)
	add("b", "other@x.example", "me@example.com", 4, Delivered)
	add("a", "", "me+shop@example.com", 5, Rejected)
	got := all["a"].Senders(t.Context(), Query{To: "me+shop@example.com"})
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	want := []Sender{
		{From: "spam@leak.example", First: at(3), Last: at(3), Messages: 1, Delivered: 1},
		{From: "news@shop.example", First: at(1), Last: at(2), Messages: 2, Delivered: 1},
	}
	for i := range got.Senders {
		got.Senders[i].First, got.Senders[i].Last = got.Senders[i].First.UTC(), got.Senders[i].Last.UTC()
	}
	if !reflect.DeepEqual(got.Senders, want) || got.More {
		t.Errorf("got %+v", got)
	}
	for i := range maxSenders + 1 {
		add("a", fmt.Sprintf("%d@x.example", i), "me+shop@example.com", 10, Delivered)
	}
	got = all["b"].Senders(t.Context(), Query{To: "me+shop@example.com"})
	if len(got.Senders) != maxSenders || !got.More {
		t.Errorf("%d senders, more: %v", len(got.Senders), got.More)
	}
}

// TestNodes_SendersFit: senders with addresses as long as a client likes do not make a node's answer too long for the
// link; the newest are there.
func TestNodes_SendersFit(t *testing.T) {
	all := cluster(t, "a", "b")
	for i := range maxSenders {
		all["a"].Log.Add(&Row{
			At: start.Add(time.Duration(i)), From: fmt.Sprintf("%s%d@x.example", strings.Repeat("&", 60), i),
			To: "me@example.com", Status: Rejected,
		})
	}
	got := all["b"].Senders(t.Context(), Query{To: "me@example.com"})
	if len(got.Senders) == 0 || !strings.HasSuffix(got.Senders[0].From, fmt.Sprintf("&%d@x.example", maxSenders-1)) ||
		!got.More {
		t.Errorf("%d senders, more: %v, of %+v", len(got.Senders), got.More, got.Nodes)
	}
}

// usual returns a row as most are.
func usual(i int) *Row {
	return &Row{
		At: start.Add(time.Duration(i)), ID: "0af7651916cd43dd8448eb211c80319c", From: "ann@example.org",
		To: "info@example.com", Status: Delivered, Action: Forwarded, Client: "192.0.2.7",
		Rule: "routes.txt:7 info@example.com", Reply: "250 2.0.0 Ok",
	}
}

// BenchmarkLog_Add: a row is one allocation, off the path of its message.
func BenchmarkLog_Add(b *testing.B) {
	l, _ := newLog(b, Config{Octets: 64 << 20})
	b.ReportAllocs()
	for i := range b.N {
		l.Add(usual(i))
	}
}

// BenchmarkLog_Find: a search that finds nothing reads all rows.
func BenchmarkLog_Find(b *testing.B) {
	l, _ := newLog(b, Config{Octets: 64 << 20})
	for i := range 100_000 {
		l.Add(usual(i))
	}
	for b.Loop() {
		if p := l.Find(Query{To: "sales@example.com"}); len(p.Rows) != 0 {
			b.Fatal("found")
		}
	}
}
