package public

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	start  = time.Date(2026, 11, 30, 12, 34, 56, 0, time.UTC)
	client = netip.MustParseAddr("192.0.2.7")
)

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

// serve starts a server on loopback and returns it.
func serve(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer is what the handler of a server answers, without a network.
func (s *Server) answer(method, target string, header http.Header, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = "192.0.2.7:4711"
	for name, values := range header {
		r.Header[name] = values
		if name == "Host" {
			r.Host = values[0]
		}
	}
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, r)
	return w
}

// refuse has an event of a refusal seen, and returns its id.
func refuse(f *Refusals, e mail.Event) mail.TraceID {
	e.Trace = mail.NewTraceID()
	if e.Time.IsZero() {
		e.Time = start
	}
	if !e.Client.IsValid() {
		e.Client = client
	}
	f.See(&e)
	return e.Trace
}

func refusals(t *testing.T, now func() time.Time) *Refusals {
	t.Helper()
	f, err := NewRefusals(now)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestWhy: the page says where, why and what to do, in both languages, of each kind of refusal, and nothing of whom it
// was about.
func TestWhy(t *testing.T) {
	f := refusals(t, at(start))
	s := serve(t, Config{Now: at(start), Pages: Pages{
		Why: func(_ context.Context, id mail.TraceID) ([]Refused, error) { return f.Find(id), nil },
	}})
	upstream := &mail.Refusal{Reply: mail.NewReply(550, 1, 1, "bob@secret.example unknown"), Host: "mx.secret.example"}
	for _, tt := range []struct {
		name   string
		event  mail.Event
		en, ja []string
	}{
		{"listed", mail.Event{
			Verb: "RCPT", Reply: mail.NewReply(554, 7, 1, "192.0.2.7 listed by zen.secret.example (code 127.0.0.2)"),
		},
			[]string{"554 5.7.1 … listed by … (code …)", "The client&#39;s address is in a DNS list.",
				"Look the address up at that list and have it removed.", "RCPT TO", "This answer is final",
				"2026-11-30 12:34 UTC"},
			[]string{"DNS ブロックリストに載っています。", "宛先アドレス", "最終的なもの"}},
		{"no such user", mail.Event{Verb: "RCPT", Reply: mail.NewReply(550, 1, 1, "No such user here")},
			[]string{"The address does not exist."}, []string{"このアドレスは存在しません。"}},
		{"DMARC", mail.Event{Verb: "DATA", Reply: mail.NewReply(550, 7, 26,
			"The DMARC policy of secret.example rejects this message: neither SPF nor DKIM authenticates that domain")},
			[]string{"550 5.7.26 The DMARC policy of … rejects", "Sign with DKIM as the domain in From"},
			[]string{"DKIM 署名"}},
		{"put off at the greeting", mail.Event{Verb: "CONNECT", Reply: mail.NewReply(421, 7, 0,
			"Too many connections, try again later")},
			[]string{"when your server connected", "tries again by itself"}, []string{"自動的に再送します"}},
		{"the destination's words", mail.Event{Verb: "RCPT", Reply: upstream.Reply, Host: upstream.Host,
			Cause: upstream},
			[]string{"550 5.1.1<", "The server of the recipient gave this answer"},
			[]string{"宛先のサーバーがこの応答を返しました"}},
		{"what stands for them", mail.Event{Verb: "RCPT", Reply: mail.NewReply(550, 1, 1, "No such mailbox"),
			Host: upstream.Host, Cause: upstream},
			[]string{"550 5.1.1 No such mailbox", "The address behind the alias does not exist."},
			[]string{"転送先のアドレスが存在しません。"}},
		{"the words of a rule", mail.Event{Verb: "RCPT", Reason: mail.ReasonRule,
			Reply: mail.NewReply(550, 7, 1, "Write to carol@secret.example")},
			[]string{"The owner of the address, or the administrator"}, []string{"所有者または管理者"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := refuse(f, tt.event)
			for lang, want := range map[string][]string{"en-US,en;q=0.9": tt.en, "ja,en;q=0.8": tt.ja} {
				w := s.answer("GET", "/why?id="+id.String(), http.Header{"Accept-Language": {lang}}, "")
				if w.Code != http.StatusOK {
					t.Fatalf("%s: %d", lang, w.Code)
				}
				for _, text := range append(want, "id="+id.String()) {
					if !strings.Contains(w.Body.String(), text) {
						t.Errorf("%s: no %q in\n%s", lang, text, w.Body)
					}
				}
				for _, text := range []string{"secret", "192.0.2", "bob", "carol", "zen"} {
					if strings.Contains(w.Body.String(), text) {
						t.Errorf("%s: %q stands in\n%s", lang, text, w.Body)
					}
				}
			}
		})
	}
	for target, want := range map[string]int{
		"/": 200, "/why": 200, "/why?id=" + mail.NewTraceID().String(): 404, "/why?id=abc": 400,
		"/why?id=" + strings.Repeat("g", 32): 400, "/why?id=" + strings.Repeat("0", 32): 400, "/other": 404,
		"/verify?token=x": 404, "/egress-list": 404, "/.well-known/mta-sts.txt": 404, "/style.css": 200,
	} {
		if w := s.answer("GET", target, nil, ""); w.Code != want {
			t.Errorf("%s: got %d, want %d", target, w.Code, want)
		}
	}
}

// TestWhy_Unavailable: trouble is said as such, and not that nothing is known.
func TestWhy_Unavailable(t *testing.T) {
	s := serve(t, Config{Pages: Pages{
		Why: func(context.Context, mail.TraceID) ([]Refused, error) { return nil, errors.New("busy") },
	}})
	w := s.answer("GET", "/why?id="+mail.NewTraceID().String(), nil, "")
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "busy") {
		t.Errorf("got %d\n%s", w.Code, w.Body)
	}
}

// TestTable: each row fits a reply that is made of it, and is the one that is found where several fit.
func TestTable(t *testing.T) {
	table, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	if len(table.rows) < 150 {
		t.Fatalf("%d rows", len(table.rows))
	}
	for i, r := range table.rows {
		key, text := splitReply(r.reply)
		reply := mail.Reply{Code: key.code, Enhanced: key.enhanced}
		switch {
		case key.code == 0:
			reply.Code = 550
		case key.code < 100:
			reply.Code, reply.Enhanced = key.code*100+50, mail.EnhancedCode{Subject: 9, Detail: 9}
		}
		reply.Text = strings.ReplaceAll(strings.ReplaceAll(text, differs, "some other text"), " / ", "\n")
		if got := table.find(reply); got != i {
			t.Errorf("%s: found %d", r.reply, got)
		}
		for lang := range r.cause {
			if r.cause[lang] == "" || r.fix[lang] == "" || strings.ContainsAny(r.cause[lang]+r.fix[lang], "`[") {
				t.Errorf("%s: %s has %q, %q", r.reply, lang, r.cause[lang], r.fix[lang])
			}
		}
	}
	if table.find(mail.NewReply(550, 1, 1, "another text")) >= 0 {
		t.Error("a text of another has a row")
	}
	texts, err := readTexts()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range texts.words["en"] {
		if text == "" || texts.words["ja"][name] == "" {
			t.Errorf("%s lacks a language", name)
		}
	}
}

// TestRefusals: what is remembered ends with its time, is bounded whatever a client does, and stays if another client
// is refused without end.
func TestRefusals(t *testing.T) {
	now := start
	f := refusals(t, func() time.Time { return now })
	no := mail.Event{Verb: "RCPT", Reply: mail.NewReply(550, 1, 1, "No such user here")}
	honest := refuse(f, no)
	flood := no
	for i := range 100_000 {
		flood.Client = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		refuse(f, flood)
	}
	if len(f.Find(honest)) != 1 {
		t.Error("a network that is refused without end had another one's refusal forgotten")
	}
	kept := 0
	for i := range f.crowds {
		kept += len(f.crowds[i].memos)
	}
	if kept > 2*crowdSize {
		t.Errorf("%d refusals of two networks are kept", kept)
	}
	several := no
	several.Trace, several.Time, several.Client = mail.NewTraceID(), start, client
	f.See(&several)
	f.See(&several) // another recipient, or the end of the transaction
	several.Reply = mail.NewReply(450, 7, 1, "Too many messages to this recipient, try again in 7 seconds")
	f.See(&several)
	if got := f.Find(several.Trace); len(got) != 2 || got[0].Code != 550 || got[1].Code != 450 {
		t.Errorf("two kinds of refusal under one id: got %v", got)
	}
	f.See(&mail.Event{Trace: honest, Time: start, Client: client, Reply: mail.NewReply(250, 0, 0, "OK")})
	now = start.Add(keptFor + 2*time.Minute)
	if got := f.Find(honest); len(got) != 0 {
		t.Errorf("after a week: %v", got)
	}
	var none *Refusals
	none.See(&no)
	if none.Find(honest) != nil {
		t.Error("nothing remembers")
	}
}

// TestSee_Allocations: a refusal that is remembered costs no allocation once its network has its room.
func TestSee_Allocations(t *testing.T) {
	f := refusals(t, nil)
	e := mail.Event{
		Verb: "RCPT", Time: start, Client: client,
		Reply: mail.NewReply(450, 7, 1, "Greylisted, try again in 5 minutes"),
	}
	for range crowdSize {
		refuse(f, e)
	}
	if n := testing.AllocsPerRun(100, func() { e.Trace = mail.NewTraceID(); f.See(&e) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestPolicy: a policy is chosen by the Host field, in any case, with a port and a last dot.
func TestPolicy(t *testing.T) {
	s := serve(t, Config{Pages: Pages{Policy: func(domain string) (string, bool) {
		return "version: STSv1\r\n", domain == "example.com"
	}}})
	for host, want := range map[string]int{
		"mta-sts.example.com": 200, "MTA-STS.Example.com.": 200, "mta-sts.example.com:443": 200,
		"example.com": 404, "mta-sts.example.org": 404, "mta-sts.": 404, "mta-sts.a b": 404, "": 404,
		"mta-sts.mta-sts.example.com": 404,
	} {
		w := s.answer("GET", "/.well-known/mta-sts.txt", http.Header{"Host": {host}}, "")
		if w.Code != want {
			t.Errorf("%q: got %d, want %d", host, w.Code, want)
		}
		if want == 200 && (w.Body.String() != "version: STSv1\r\n" ||
			w.Header().Get("Content-Type") != "text/plain; charset=utf-8") {
			t.Errorf("%q: got %s %q", host, w.Header().Get("Content-Type"), w.Body)
		}
	}
}

func TestEgress(t *testing.T) {
	s := serve(t, Config{Pages: Pages{Egress: func(format string) (string, bool) {
		return "list " + format, format == "" || format == "json"
	}}})
	for target, want := range map[string]string{
		"/egress-list":             "200 text/plain; charset=utf-8 list ",
		"/egress-list?format=json": "200 application/json list json",
		"/egress-list?format=x":    "400 ",
	} {
		w := s.answer("GET", target, nil, "")
		if got := fmt.Sprint(w.Code, " ", w.Header().Get("Content-Type"), " ", w.Body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q", target, got)
		}
	}
}

// TestVerify: the link alone confirms nothing, its button does, once, and no page of another site can press it.
func TestVerify(t *testing.T) {
	var asked []string
	s := serve(t, Config{Pages: Pages{Verify: func(_ context.Context, token string) error {
		asked = append(asked, token)
		switch len(asked) {
		case 1:
			return nil
		case 2:
			return ErrNoToken
		}
		return errors.New("no state at /var/lib/secret")
	}}})
	link := "/verify?token=" + url.QueryEscape(`a"><script>b`)
	for _, method := range []string{"GET", "HEAD"} {
		if w := s.answer(method, link, nil, ""); w.Code != 200 || strings.Contains(w.Body.String(), "<script>") {
			t.Errorf("%s: %d\n%s", method, w.Code, w.Body)
		}
	}
	if len(asked) > 0 {
		t.Fatal("a link confirmed something")
	}
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	cross := form.Clone()
	cross.Set("Sec-Fetch-Site", "cross-site")
	if w := s.answer("POST", "/verify", cross, "token=t"); w.Code != http.StatusForbidden || len(asked) > 0 {
		t.Errorf("another site: %d", w.Code)
	}
	for i, want := range []struct {
		code int
		text string
	}{{200, "Confirmed."}, {404, "not valid"}, {503, "Try again"}} {
		w := s.answer("POST", "/verify", form, "token=t%2B1")
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.text) ||
			strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%d: got %d\n%s", i, w.Code, w.Body)
		}
	}
	if strings.Join(asked, " ") != "t+1 t+1 t+1" {
		t.Errorf("asked %q", asked)
	}
	for _, body := range []string{
		"", "token=", "token=" + strings.Repeat("x", maxToken+1), strings.Repeat("x", 1<<20),
	} {
		if w := s.answer("POST", "/verify", form, body); w.Code != http.StatusBadRequest {
			t.Errorf("%.20q: %d", body, w.Code)
		}
	}
}

// TestLimits: a client that asks without end is put off, others are not, and behind a server in front it is the client
// that counts.
func TestLimits(t *testing.T) {
	now := start
	s := serve(t, Config{
		Now: func() time.Time { return now }, Forwarded: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")},
		Pages: Pages{Egress: func(string) (string, bool) { return "", true }},
	})
	ask := func(forwarded string) int {
		h := http.Header{}
		if forwarded != "" {
			h.Set("X-Forwarded-For", forwarded)
		}
		w := s.answer("GET", "/egress-list", h, "")
		if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
		}
		return w.Code
	}
	for range requests.Burst {
		if code := ask("203.0.113.1, 2001:db8::1"); code != 200 {
			t.Fatal(code)
		}
	}
	if code := ask("203.0.113.2, 2001:db8::2"); code != http.StatusTooManyRequests {
		t.Errorf("another address of the same /64: %d", code)
	}
	if code := ask("2001:db8::1, 203.0.113.1"); code != 200 {
		t.Errorf("another client: %d", code)
	}
	now = now.Add(time.Second)
	if code := ask("2001:db8::3"); code != 200 {
		t.Errorf("a second later: %d", code)
	}
	for i := range 3 * maxClients {
		s.clients.ask(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	if n := len(s.clients.used); n > maxClients {
		t.Errorf("%d clients are remembered", n)
	}
}

// TestLimits_Connections: a client has clientConns connections, and a place again when one is closed.
func TestLimits_Connections(t *testing.T) {
	c := newClients(at(start))
	of := clientOf(client)
	for range clientConns {
		if !c.connects(of, false) {
			t.Fatal("within the limit")
		}
	}
	if c.connects(of, false) {
		t.Error("one more than the limit")
	}
	if !c.connects(clientOf(netip.MustParseAddr("2001:db8::1")), false) || !c.connects(of, true) {
		t.Error("another client, or a server in front")
	}
	c.left(of)
	c.left(of)
	if !c.connects(of, false) {
		t.Error("after one was closed")
	}
	for range maxConns {
		c.connects(of, true)
	}
	if c.connects(clientOf(netip.MustParseAddr("198.51.100.1")), false) {
		t.Error("more connections than there are")
	}
}

// TestLimits_ConnectionsOfNetwork: a stranger with all addresses of a /48 leaves places for others, and has them again
// when connections are closed.
func TestLimits_ConnectionsOfNetwork(t *testing.T) {
	c := newClients(at(start))
	var open []netip.Prefix
	for i := range 2 * maxConns {
		a := netip.MustParseAddr("2001:db8::").As16()
		a[6], a[7] = byte(i>>8), byte(i)
		if of := clientOf(netip.AddrFrom16(a)); c.connects(of, false) {
			open = append(open, of)
		}
	}
	if len(open) != networkConns {
		t.Errorf("%d connections of one network", len(open))
	}
	if !c.connects(clientOf(netip.MustParseAddr("2001:db8:1::1")), false) {
		t.Error("another network has none")
	}
	for _, of := range open {
		c.left(of)
	}
	if !c.connects(open[0], false) || c.all != 2 || len(c.open) != 4 {
		t.Errorf("%d connections of %v are left", c.all, c.open)
	}
}

// TestHeaders: each answer has the fields of security, the refused ones too.
func TestHeaders(t *testing.T) {
	s := serve(t, Config{})
	for _, target := range []string{"/", "/why?id=x", "/none", "/style.css", "/../../etc/passwd", "/why/../style.css"} {
		w := s.answer("GET", target, nil, "")
		for name, want := range map[string]string{
			"Content-Security-Policy": "frame-ancestors 'none'", "X-Frame-Options": "DENY",
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		} {
			if !strings.Contains(w.Header().Get(name), want) {
				t.Errorf("%s: %s is %q", target, name, w.Header().Get(name))
			}
		}
		if strings.Contains(w.Body.String(), "root:") {
			t.Errorf("%s: a file of the machine", target)
		}
	}
	if w := s.answer("DELETE", "/why", nil, ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %d", w.Code)
	}
}

// TestServer: the server answers over TCP and ends with Shutdown; one that speaks TLS uses the certificate that is in
// force.
func TestServer(t *testing.T) {
	plain := serve(t, Config{})
	get := func(c *http.Client, url string) int {
		t.Helper()
		defer c.CloseIdleConnections()
		answer, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode
	}
	bare := &http.Client{Transport: &http.Transport{}}
	if code := get(bare, "http://"+plain.Addr().String()+"/style.css"); code != 200 {
		t.Error(code)
	}
	other := httptest.NewTLSServer(nil) // for its certificate
	defer other.Close()
	secured := serve(t, Config{TLS: func() *tls.Config { return other.TLS }})
	roots := other.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	verifying := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: verifying}}
	if code := get(c, "https://"+secured.Addr().String()+"/style.css"); code != 200 {
		t.Error(code)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var field *mail.FieldError
	if _, err := Listen(Config{Addr: taken.Addr().String()}); !errors.As(err, &field) || field.Field != "addr" {
		t.Errorf("an address that is taken: %v", err)
	}
	if _, err := Listen(Config{}); !errors.As(err, &field) {
		t.Errorf("no address: %v", err)
	}
}

func TestPreferred(t *testing.T) {
	for accept, want := range map[string]string{
		"": "en", "ja": "ja", "ja-JP": "ja", "en;q=0.5, ja;q=0.9": "ja", "fr, en": "en", "JA": "ja", "de": "en",
		"en, ja": "en", "ja;q=0": "en", "ja;q=x, en;q=0.1": "en", ";;;,,": "en",
	} {
		if got := preferred(accept); got != want {
			t.Errorf("%q: got %s", accept, got)
		}
	}
}

// FuzzHandler: whatever a stranger asks, the answer is one of HTTP with the fields of security, and what the stranger
// wrote stands in no page as markup.
func FuzzHandler(f *testing.F) {
	f.Add("GET", "/why?id=x", "ja;q=0.5", "mta-sts.example.com", "1.2.3.4, ::1", "token=a")
	f.Add("POST", "/verify?lang=<b>", "en", "x", "x", "token=<script>")
	f.Add("GET", "/verify?token=%3Cscript%3E", "", "[::1]:1", ",", "")
	var seconds atomic.Int64 // so that no limit ends the test
	cfg := Config{
		Addr: "127.0.0.1:0", Forwarded: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Now: func() time.Time { return start.Add(time.Duration(seconds.Add(1)) * time.Minute) },
	}
	cfg.Pages = Pages{
		Why: func(context.Context, mail.TraceID) ([]Refused, error) {
			return []Refused{{Stage: "rcpt", Code: 550}}, nil
		},
		Policy: func(string) (string, bool) { return "p", true },
		Egress: func(string) (string, bool) { return "e", true },
		Verify: func(context.Context, string) error { return nil },
	}
	s, err := Listen(cfg)
	if err != nil {
		f.Fatal(err)
	}
	s.Start()
	f.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	f.Fuzz(func(t *testing.T, method, target, language, host, forwarded, body string) {
		r, err := http.NewRequest(method, "http://127.0.0.1/", strings.NewReader(body))
		u, urlErr := url.ParseRequestURI(target)
		if err != nil || urlErr != nil || u.Host != "" {
			return
		}
		r.URL, r.Host, r.RemoteAddr = u, host, "192.0.2.7:1"
		r.Header.Set("Accept-Language", language)
		r.Header.Set("X-Forwarded-For", forwarded)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		page := w.Body.String()
		if w.Header().Get("X-Frame-Options") != "DENY" || strings.Contains(page, "<script") ||
			strings.Contains(page, "<b>") {
			t.Fatalf("%s %q: %d\n%s", method, target, w.Code, page)
		}
	})
}
