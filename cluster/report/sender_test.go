package report

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	netmail "net/mail"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A shelf is a Redis of a test.
type shelf struct {
	mu   sync.Mutex
	all  map[string]map[string]string
	down bool
}

func (s *shelf) keeper() Keeper {
	return Keeper{
		Keep: func(_ context.Context, name string, fields map[string]string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.down {
				return false
			}
			if s.all == nil {
				s.all = make(map[string]map[string]string)
			}
			if s.all[name] == nil {
				s.all[name] = make(map[string]string)
			}
			maps.Copy(s.all[name], fields)
			return true
		},
		Load: func(_ context.Context, name string) (map[string]string, bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return maps.Clone(s.all[name]), !s.down
		},
	}
}

// A reading is what the readers of a test got, and what they answer.
type reading struct {
	mu     sync.Mutex
	got    []string          // "address or URL: report", in the order of their coming
	counts map[string]int    // by result
	answer map[string]int    // by reader; 250 or 200 without one
	texts  map[string][]byte // the last report, by reader
}

func (r *reading) take(to string, text []byte, good int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code := r.answer[to]; code != 0 {
		good = code
	}
	if good < 300 {
		r.got = append(r.got, to)
		if r.texts == nil {
			r.texts = make(map[string][]byte)
		}
		r.texts[to] = text
	}
	return good
}

// A letter is what a test reads of one.
func opened(t *testing.T, message []byte) (header netmail.Header, words, file string, text []byte) {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	_, of, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(m.Body, of["boundary"])
	for {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return m.Header, words, file, text
		}
		if err != nil {
			t.Fatal(err)
		}
		if file = p.FileName(); file == "" {
			all, _ := io.ReadAll(p)
			words = string(all)
			continue
		}
		z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, p))
		if err != nil {
			t.Fatal(err)
		}
		if text, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
}

// A world is the nodes of a test.
type world struct {
	t     *testing.T
	zone  zone
	there sync.Mutex // guards nodes
	nodes map[string]*Sender
	reading
	silent bool // readers of mail do not answer
}

func newWorld(t *testing.T, z zone) *world {
	return &world{t: t, zone: z, nodes: make(map[string]*Sender)}
}

// others returns the names of the other nodes.
func (w *world) others(name string) []string {
	return slices.DeleteFunc(w.names(), func(n string) bool { return n == name })
}

// names returns the names of all nodes.
func (w *world) names() []string {
	w.there.Lock()
	defer w.there.Unlock()
	return slices.Sorted(maps.Keys(w.nodes))
}

// node returns a node.
func (w *world) node(name string) *Sender {
	w.there.Lock()
	defer w.there.Unlock()
	return w.nodes[name]
}

// begin begins a node, and returns what ends it: in order, or by a crash.
func (w *world) begin(name string, k Keeper) (end func(crash bool)) {
	var crashed atomic.Bool
	if keep := k.Keep; keep != nil {
		k.Keep = func(ctx context.Context, name string, fields map[string]string) bool {
			return !crashed.Load() && keep(ctx, name, fields)
		}
	}
	n := &Nodes{
		Counts: NewCounts(time.Now, contact), Name: name, Boot: name + time.Now().String(), Keeper: k,
		Others: func() []string { return w.others(name) },
		Ask: func(_ context.Context, node string, question []byte) ([]byte, error) {
			answer, ok := w.node(node).cfg.Nodes.Answer(question)
			if !ok {
				w.t.Errorf("%s does not understand %s", node, question)
			}
			return answer, nil
		},
	}
	s := NewSender(New(Config{Origin: origin, Nodes: n, Lookup: w.zone.lookup()}), Delivery{
		Owns: func(string) bool { return w.names()[0] == name },
		Mail: func(ctx context.Context, from, to mail.Path, message []byte) (int, string, error) {
			if w.silent {
				<-ctx.Done()
				return 0, "", ctx.Err()
			}
			if from != contact {
				w.t.Errorf("from %s", from)
			}
			_, _, _, text := opened(w.t, message)
			return w.take(to.String(), text, 250), "said", nil
		},
		Post: func(_ context.Context, url string, header http.Header, body []byte) (int, error) {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil || header.Get("Content-Type") != "application/tlsrpt+gzip" {
				w.t.Errorf("posted %v, %v", header, err)
			}
			text, _ := io.ReadAll(z)
			return w.take(url, text, 200), nil
		},
		Say: func(slog.Level, string, ...any) {},
		Count: func(kind, result string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.counts == nil {
				w.counts = make(map[string]int)
			}
			w.counts[kind+" "+result]++
		},
	})
	w.there.Lock()
	w.nodes[name] = s
	w.there.Unlock()
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	return func(crash bool) {
		crashed.Store(crash)
		w.there.Lock()
		delete(w.nodes, name)
		w.there.Unlock()
		cancel()
		running.Wait()
	}
}

// to returns who got reports, and forgets it.
func (w *world) to() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.got)
	got := strings.Join(w.got, " ")
	w.got = nil
	return got
}

// example is a domain with two readers of either kind, one of them elsewhere.
var example = zone{
	"_smtp._tls.example.com":                          "v=TLSRPTv1; rua=mailto:tls@example.com,https://r.example/tls",
	"example.com._report._dmarc.reader.example":       "v=DMARC1",
	"news.example.com._report._dmarc.reader.example":  "v=DMARC1",
	"example.com._report._dmarc.other-reader.example": "v=spf1",
}

const exampleRUA = "mailto:r@example.com!10m,mailto:r@reader.example,mailto:r@other-reader.example"

// counted counts sessions and messages of example.com at a node.
func (w *world) counted(name string, n int) {
	c := w.node(name).cfg.Nodes.Counts
	for range n {
		c.Session(session(nil))
		c.See(message(func(_ *mail.Event, v *mail.Evaluation) { v.Policy.RUA = exampleRUA }))
	}
}

// sum returns the successful sessions that the last report to a reader tells of.
func (w *world) sum(url string) (sessions uint64, contact string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var r tlsReport
	if err := json.Unmarshal(w.texts[url], &r); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range r.Policies {
		sessions += p.Summary.Successful
	}
	return sessions, r.Contact
}

const day1 = 24 * time.Hour

// TestSender_Days: each reader gets one report of each day that has something to tell, within the next one.
func TestSender_Days(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, example)
		end := w.begin("a", Keeper{})
		defer end(false)
		w.counted("a", 3)
		time.Sleep(day1 + firstAfter - time.Minute)
		if got := w.to(); got != "" {
			t.Errorf("before it is time: %s", got)
		}
		time.Sleep(spreadOver + 20*time.Minute)
		const all = "https://r.example/tls r@example.com r@reader.example tls@example.com"
		if got := w.to(); got != all {
			t.Errorf("got %q", got)
		}
		if n, who := w.sum("https://r.example/tls"); n != 3 || who != contact.String() {
			t.Errorf("%d sessions, contact %s", n, who)
		}
		w.counted("a", 5)
		time.Sleep(day1)
		if got := w.to(); got != all {
			t.Errorf("of the second day: got %q", got)
		}
		if n, _ := w.sum("https://r.example/tls"); n != 5 {
			t.Errorf("of the second day: %d sessions", n)
		}
		time.Sleep(2 * day1)
		if got := w.to(); got != "" {
			t.Errorf("of days without mail: %s", got)
		}
		if w.counts["dmarc not_authorised"] != 2 || w.counts["tls sent"] != 4 || w.counts["dmarc sent"] != 4 {
			t.Errorf("counted %v", w.counts)
		}
	})
}

// TestSender_PutOff: a report that is put off is made again within the day, for those who have not got it; what is
// refused is not, and after the day it is given up.
func TestSender_PutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, example)
		w.answer = map[string]int{
			"https://r.example/tls": 503, "r@example.com": 451, "r@reader.example": 550, "tls@example.com": 250,
		}
		end := w.begin("a", Keeper{})
		defer end(false)
		w.counted("a", 1)
		time.Sleep(day1 + firstAfter + spreadOver + 10*time.Minute)
		if got := w.to(); got != "tls@example.com" {
			t.Errorf("got %q", got)
		}
		w.mu.Lock()
		w.answer = map[string]int{"r@example.com": 451, "https://r.example/tls": 302}
		w.mu.Unlock()
		time.Sleep(day1)
		if got := w.to(); got != "" {
			t.Errorf("got %q", got)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.counts["tls refused"] != 1 || w.counts["dmarc refused"] != 1 || w.counts["dmarc given_up"] != 1 ||
			w.counts["dmarc put_off"] < 15 || w.counts["tls put_off"] > 6 {
			t.Errorf("counted %v", w.counts)
		}
	})
}

// TestSender_Again: a report that was put off is sent once its reader takes it.
func TestSender_Again(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, example)
		w.answer = map[string]int{"r@example.com": 451}
		end := w.begin("a", Keeper{})
		defer end(false)
		w.counted("a", 1)
		time.Sleep(day1 + firstAfter + spreadOver + 10*time.Minute)
		w.to()
		w.mu.Lock()
		w.answer = nil
		w.mu.Unlock()
		time.Sleep(againAfter + time.Minute)
		if got := w.to(); got != "r@example.com" {
			t.Errorf("got %q", got)
		}
	})
}

// TestSender_Slow: while readers do not answer, what is counted is kept within a minute all the same.
func TestSender_Slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, example), new(shelf)
		w.silent = true
		end := w.begin("a", s.keeper())
		defer end(false)
		w.counted("a", 1)
		time.Sleep(day1 + time.Second)
		subject := Subject{TLS, "example.com", dayOf(time.Now())}
		for n := range uint64((firstAfter + spreadOver) / (2 * time.Minute)) {
			w.node("a").cfg.Nodes.Counts.Session(session(nil))
			time.Sleep(2 * time.Minute)
			fields, _ := s.keeper().Load(t.Context(), subject.name())
			var p Part
			for _, text := range fields {
				if err := json.Unmarshal([]byte(text), &p); err != nil {
					t.Fatal(err)
				}
			}
			if len(p.Rows) != 1 || p.Rows[0].N != n+1 {
				t.Fatalf("of %d sessions there are kept: %+v", n+1, p.Rows)
			}
		}
	})
}

// TestSender_Size: a report that is larger than its reader takes is not sent.
func TestSender_Size(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, zone{})
		end := w.begin("a", Keeper{})
		defer end(false)
		w.node("a").cfg.Nodes.Counts.See(message(func(_ *mail.Event, v *mail.Evaluation) {
			v.Policy.RUA = "mailto:small@example.com!1k,mailto:large@example.com!1m"
		}))
		time.Sleep(day1 + firstAfter + spreadOver + 10*time.Minute)
		if got := w.to(); got != "large@example.com" {
			t.Errorf("got %q", got)
		}
		if w.counts["dmarc refused"] != 1 {
			t.Errorf("counted %v", w.counts)
		}
	})
}

// TestSender_Nodes: one node sends what all of them counted. A node that is lost is missed, and the report says so,
// unless what it counted was kept.
func TestSender_Nodes(t *testing.T) {
	for _, tt := range []struct {
		name        string
		kept, crash bool
		want        uint64
		partial     bool
	}{
		{"lost without Redis", false, true, 3, true},
		{"drained with Redis", true, false, 7, false},
		{"lost with Redis", true, true, 7, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, example)
				var k Keeper
				if tt.kept {
					k = new(shelf).keeper()
				}
				a, b, c := w.begin("a", k), w.begin("b", k), w.begin("c", k)
				w.counted("a", 1)
				w.counted("b", 2)
				w.counted("c", 4)
				time.Sleep(5 * time.Minute)
				c(tt.crash)
				time.Sleep(day1 + firstAfter + spreadOver)
				a(false) // b takes over what a has sent
				time.Sleep(30 * time.Minute)
				b(false)
				n, who := w.sum("https://r.example/tls")
				if n != tt.want || strings.Contains(who, "partial") != tt.partial {
					t.Errorf("%d sessions, contact %s", n, who)
				}
				if got := w.to(); got != "https://r.example/tls r@example.com r@reader.example tls@example.com" {
					t.Errorf("got %q", got)
				}
			})
		})
	}
}

// TestSender_Down: while what was kept is not known, no report is made; it is when it is known again.
func TestSender_Down(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t, example), new(shelf)
		end := w.begin("a", s.keeper())
		defer end(false)
		w.counted("a", 1)
		time.Sleep(day1)
		s.mu.Lock()
		s.down = true
		s.mu.Unlock()
		time.Sleep(6 * time.Hour)
		if got := w.to(); got != "" {
			t.Errorf("got %q", got)
		}
		s.mu.Lock()
		s.down = false
		s.mu.Unlock()
		time.Sleep(2 * time.Hour)
		if got := w.to(); got == "" {
			t.Error("no report was made again")
		}
	})
}

// TestReporter_Preview: a report is shown as it would be sent, with its readers.
func TestReporter_Preview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, example)
		end := w.begin("a", Keeper{})
		defer end(false)
		w.counted("a", 1)
		r := w.node("a").Reporter
		p, err := r.Preview(t.Context(), DMARC, "example.com", time.Now())
		if err != nil || !strings.Contains(p.Report, "<count>1</count>") || len(p.Readers) != 2 || len(p.Refused) != 1 {
			t.Errorf("got %+v, %v", p, err)
		}
		if p, err := r.Preview(t.Context(), TLS, "other.example", time.Now()); err != nil || p.Report != "" {
			t.Errorf("got %+v, %v", p, err)
		}
		if _, err := r.Preview(t.Context(), TLS, "example.com", time.Now().Add(-2*day1)); !errors.Is(err, errOtherDay) {
			t.Errorf("got %v", err)
		}
	})
}

// TestMade_Letter: a letter has the fields that the RFCs ask for, and no line is too long.
func TestMade_Letter(t *testing.T) {
	c := NewCounts(time.Now, contact)
	c.Session(session(nil))
	c.See(message(nil))
	today := dayOf(time.Now())
	o := origin
	o.Organization = `A "quoted" one`
	for kind, want := range map[Kind]map[string]string{
		TLS: {
			"Content-Type": "multipart/report; report-type=\"tlsrpt\"; boundary=\"=_report\"", "Tls-Required": "No",
			"Tls-Report-Domain": "example.com", "Tls-Report-Submitter": "relay.example",
			"Subject": "Report Domain: example.com Submitter: relay.example Report-ID: " +
				"<2026-01-01-tls-example.com@relay.example>",
			"file": "relay.example!example.com!1767225600!1767311999.json.gz",
		},
		DMARC: {
			"Content-Type": "multipart/mixed; boundary=\"=_report\"", "Tls-Required": "",
			"Message-Id": "<2026-01-01-dmarc-example.com@relay.example>", "Auto-Submitted": "auto-generated",
			"file": "relay.example!example.com!1767225600!1767311999.xml.gz",
		},
	} {
		s := Subject{kind, "example.com", 1767225600}
		m := Make(&o, s, c.Part(kind, today, "example.com"), []string{"partial: x"})
		letter := m.letter(mail.Path{Local: "r", Domain: "example.com"}, time.Now())
		header, words, file, text := opened(t, letter)
		if !bytes.Equal(text, m.Text) || !strings.Contains(words, "partial: x") {
			t.Errorf("%s: got %q, %q", kind, words, text)
		}
		for name, value := range want {
			got := header.Get(name)
			if name == "file" {
				got = file
			}
			if got != value {
				t.Errorf("%s: %s is %q, want %q", kind, name, got, value)
			}
		}
		if from, err := header.AddressList("From"); err != nil || from[0].Name != o.Organization {
			t.Errorf("from %v, %v", from, err)
		}
		for line := range strings.Lines(string(letter)) {
			if !strings.HasSuffix(line, "\r\n") || len(line) > 200 {
				t.Errorf("a line %q", line)
			}
		}
	}
}
