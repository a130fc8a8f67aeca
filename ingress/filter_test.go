package ingress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/d--j/go-milter"

	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// filteredBy returns what makes a fixture show its messages to a filter at an address.
func filteredBy(t *testing.T, addr string) func(*Config, *wire.Config) {
	t.Helper()
	s, err := filter.New([]filter.Config{{Name: "spam", Rspamd: addr, Late: filter.LateTempfail}})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config, _ *wire.Config) { c.Message.Filters = s }
}

// saying starts a program that answers each message with a body, and keeps the last one that it was shown.
func saying(t *testing.T, body string) (addr string, shown func() string) {
	t.Helper()
	last := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		message, _ := io.ReadAll(r.Body)
		last <- string(message)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), func() string { return <-last }
}

// inForm sends a message by DATA or by BDAT, and wants a reply that begins so.
func (w *fixture) inForm(bdat bool, message, want string) {
	w.t.Helper()
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	if bdat {
		w.say(fmt.Sprintf("BDAT %d LAST\r\n%s", len(message), strings.TrimSuffix(message, "\r\n")), want)
		return
	}
	w.say("DATA", "354")
	w.say(strings.ReplaceAll(message, "\r\n.", "\r\n..")+".", want)
}

// TestFilter_Refuses: what rspamd refuses is refused at the dot in its words, by DATA and by BDAT. The next hop hears
// nothing of a message that fits into the window, and no end of one that streams.
func TestFilter_Refuses(t *testing.T) {
	addr := extern.StartRspamd(t, "127.0.0.1")
	const gtube = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n"
	const head = "From: <a@b.example>\r\nSubject: x\r\nDate: Mon, 30 Nov 2026 20:00:00 +0000\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\n"
	const part = "--b\r\nContent-Type: text/plain\r\n\r\n"
	for _, tt := range []struct {
		name  string
		size  int
		datas int // at the next hop
		mode  mail.Mode
	}{{"held", 100 << 10, 0, mail.ModeHold}, {"streamed", 400 << 10, 1, mail.ModeStream}} {
		for _, bdat := range []bool{false, true} {
			relay := &ingresstest.Relay{}
			w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, filteredBy(t, addr))
			text := head + strings.Repeat(".0123456789abcde\r\n", tt.size/18) + part
			w.inForm(bdat, text+gtube, "550 5.7.1 Gtube pattern id=")
			e := w.last(mail.Refused)
			if relay.Datas != tt.datas || len(relay.Got) != 0 || relay.Aborts != 1 || e.Mode != tt.mode {
				t.Errorf("%s: %d DATA, %d messages, %d aborts, %v", tt.name, relay.Datas, len(relay.Got), relay.Aborts,
					e.Mode)
			}
			if len(e.Filtered) != 1 || e.Filtered[0].Result != "reject" || e.Reason != "filter: spam" ||
				e.Took[mail.StageFilter] == 0 {
				t.Errorf("%s: event %+v", tt.name, e)
			}
			w.inForm(bdat, text, "250")
			got := relay.Got[0].Octets
			plain := strings.ReplaceAll(got, "\r\n..", "\r\n.")
			if bdat == strings.Contains(got, "\r\n..") || !strings.HasSuffix(plain, text) {
				t.Errorf("%s: other octets", tt.name)
			}
			if e := w.last(mail.Relayed); e.Mode != tt.mode || e.Filtered[0].Result != "accept" {
				t.Errorf("%s: event %+v", tt.name, e)
			}
		}
	}
}

// TestFilter_Answers: what a filter says is done, and what it asks for beyond fields is not.
func TestFilter_Answers(t *testing.T) {
	for _, tt := range []struct {
		name, says, want string
		delivered        bool
		kind             mail.Kind
	}{
		{"accept", `{"action": "no action"}`, "250 2.0.0 Ok: queued", true, mail.Relayed},
		{"put off", `{"action": "soft reject", "messages": {"smtp_message": "Try later"}}`,
			"451 4.7.1 Try later", false, mail.Deferred},
		{"discard", `{"action": "discard"}`, "250 2.0.0 OK id=", false, mail.Dropped},
		{"a field", `{"action": "add header", "milter": {"add_headers": {"Subject": "changed", "X-Ham": "1"}}}`, "250",
			true, mail.Relayed},
		{"nonsense", `<html>`, "451 4.7.1 This message could not be examined now", false, mail.Deferred},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, shown := saying(t, tt.says)
			for _, size := range []int{100, 400 << 10} {
				relay := &ingresstest.Relay{}
				w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, filteredBy(t, addr))
				message := "Subject: x\r\n\r\n" + strings.Repeat(".x\r\n", size/4)
				w.inForm(false, message, tt.want)
				if got := shown(); got != message {
					t.Errorf("%d octets are shown of %d", len(got), len(message))
				}
				if (len(relay.Got) == 1) != tt.delivered {
					t.Fatalf("%d messages were delivered", len(relay.Got))
				}
				e := w.last(tt.kind)
				if tt.kind != mail.Relayed && e.Reason != "filter: spam" {
					t.Errorf("reason %q", e.Reason)
				}
				if !tt.delivered {
					continue
				}
				fields, rest, _ := strings.Cut(relay.Got[0].Octets, "Subject: ")
				if "Subject: "+strings.ReplaceAll(rest, "\r\n..", "\r\n.") != message {
					t.Error("the message is another one")
				}
				held := tt.name == "a field" && size == 100
				if strings.HasSuffix(fields, "\r\nX-Spam: Yes\r\nX-Ham: 1\r\n") != held {
					t.Errorf("above it stands %q", fields)
				}
			}
		})
	}
}

// TestFilter_Policy: where a rule says report, what a filter says is written down and not done; where it says off, no
// filter is asked; and recipients with another word come alone.
func TestFilter_Policy(t *testing.T) {
	addr, shown := saying(t, `{"action": "reject"}`)
	with := func(how mail.Filter) func(q mail.Query) ([]mail.Route, error) {
		return func(q mail.Query) ([]mail.Route, error) {
			routes, err := ingresstest.To("far.example")(q)
			routes[0].Policy.Filter = how
			return routes, err
		}
	}
	rules := rules{"on": with(mail.FilterOn), "report": with(mail.FilterReport), "off": with(mail.FilterOff)}
	relay := &ingresstest.Relay{}
	w := serve(t, rules, relay, filteredBy(t, addr))
	for to, want := range map[string]string{"on": "550 5.7.1", "report": "250", "off": "250"} {
		for _, body := range []string{"x\r\n", strings.Repeat("0123456789abcde\r\n", 30000)} {
			w.say("MAIL FROM:<a@b.example>", "250")
			w.say("RCPT TO:<"+to+"@example.com>", "250")
			for other := range rules {
				if other != to {
					w.say("RCPT TO:<"+other+"@example.com>", "452 4.5.3")
				}
			}
			w.say("DATA", "354")
			w.say("Subject: x\r\n\r\n"+body+".", want)
			if to == "off" {
				continue
			}
			shown()
			kind := mail.Relayed
			if to == "on" {
				kind = mail.Refused
			}
			if e := w.last(kind); len(e.Filtered) != 1 || e.Filtered[0].Result != "reject" {
				t.Errorf("%s: %+v", to, e.Filtered)
			}
		}
	}
	if len(relay.Got) != 4 {
		t.Errorf("%d messages were delivered", len(relay.Got))
	}
}

// A doorman is a milter that refuses recipients whose local part is spam, and clients that call themselves bad.example.
type doorman struct {
	milter.NoOpMilter
	names chan string
}

func (g doorman) Helo(name string, _ milter.Modifier) (*milter.Response, error) {
	if name == "bad.example" {
		return milter.RespReject, nil
	}
	return milter.RespContinue, nil
}

func (g doorman) RcptTo(to, _ string, _ milter.Modifier) (*milter.Response, error) {
	g.names <- to
	if strings.HasPrefix(to, "spam@") {
		return milter.RejectWithCodeAndReason(554, "5.7.9 Not here")
	}
	return milter.RespContinue, nil
}

// startDoorman starts a doorman, and returns its address and the recipients that it was told of.
func startDoorman(t *testing.T) (addr string, names chan string) {
	t.Helper()
	g := doorman{names: make(chan string, 100)}
	server := milter.NewServer(milter.WithMilter(func() milter.Milter { return g }))
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { // ends when the server is closed
		defer close(served)
		_ = server.Serve(socket)
	}()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return socket.Addr().String(), g.names
}

// TestFilter_AtRcpt: what a milter refuses is refused at RCPT, before the next hop hears of it, but for postmaster; and
// it is told of no recipient that the next hop does not take.
func TestFilter_AtRcpt(t *testing.T) {
	addr, told := startDoorman(t)
	s, err := filter.New([]filter.Config{{Name: "door", Milter: addr, Late: filter.LateTempfail}})
	if err != nil {
		t.Fatal(err)
	}
	relay := &ingresstest.Relay{Refuse: map[string]error{
		"gone@example.com": mail.Refuse(550, 1, 1, "No such user", "upstream", nil),
	}}
	to := ingresstest.To("far.example")
	rules := rules{"spam": to, "info": to, "gone": to, "postmaster": to}
	w := serve(t, rules, relay, func(c *Config, _ *wire.Config) { c.Message.Filters = s })
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<spam@example.com>", "554 5.7.9 Not here id=")
	if e := w.last(mail.Refused); e.Reason != "filter: door" || e.Verb != "RCPT" || said(&e) != "door reject RCPT" {
		t.Errorf("event %+v", e)
	}
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("RCPT TO:<gone@example.com>", "550 5.1.1")
	w.say("DATA", "354")
	w.say(text+".", "250")
	close(told)
	var all []string
	for one := range told {
		all = append(all, one)
	}
	if got := strings.Join(all, " "); got != "spam@example.com info@example.com gone@example.com info@example.com" {
		t.Errorf("told of %s", got)
	}
	if got := fmt.Sprint(relay.Got[0].Forwards); got != "[info@example.com]" {
		t.Errorf("delivered to %s", got)
	}
}

// said returns what filters said by an event.
func said(e *mail.Event) string {
	var all []string
	for i := range e.Filtered {
		f := &e.Filtered[i]
		all = append(all, f.Name+" "+f.Result)
		if f.Rcpt {
			all[len(all)-1] += " RCPT"
		}
	}
	return strings.Join(all, ", ")
}

// TestFilter_SparedAtRcpt: what a milter says against recipients that are taken all the same, because their rule says
// report or each client reaches them, is written down with the message, or with the end of a transaction without one.
func TestFilter_SparedAtRcpt(t *testing.T) {
	addr, _ := startDoorman(t)
	s, err := filter.New([]filter.Config{{Name: "door", Milter: addr, Late: filter.LateTempfail}})
	if err != nil {
		t.Fatal(err)
	}
	report := func(q mail.Query) ([]mail.Route, error) {
		routes, err := ingresstest.To("far.example")(q)
		routes[0].Policy.Filter = mail.FilterReport
		return routes, err
	}
	w := serve(t, rules{"spam": report, "info": report}, &ingresstest.Relay{},
		func(c *Config, _ *wire.Config) { c.Message.Filters = s })
	for _, tt := range []struct {
		ends string
		kind mail.Kind
		want string
	}{{"DATA", mail.Relayed, "door accept, door reject RCPT"}, {"RSET", mail.Aborted, "door reject RCPT"}} {
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<spam@example.com>", "250")
		w.say("RCPT TO:<info@example.com>", "250")
		if tt.ends == "DATA" {
			w.say("DATA", "354")
			w.say(text+".", "250")
		} else {
			w.say("RSET", "250")
		}
		if e := w.last(tt.kind); said(&e) != tt.want {
			t.Errorf("%s: %s", tt.ends, said(&e))
		}
	}
}

// A voted is a store that keeps votes.
type voted struct {
	ingresstest.Store
	votes chan mail.Vote
}

func (v *voted) Vote(_ context.Context, of mail.Vote) bool { v.votes <- of; return true }

// TestFilter_Karma: what a filter refuses counts against a client that is scored, once, and nothing of it is a
// destination's; what it says of mail to postmaster, or of mail whose rule says report, does not count.
func TestFilter_Karma(t *testing.T) {
	store := &voted{votes: make(chan mail.Vote, 100)}
	learns, err := karma.New(karma.Config{Store: store, Volume: 1, Networks: 1})
	if err != nil {
		t.Fatal(err)
	}
	scorer, err := score.New(score.Config{Store: store, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	says := func(body string) func(*Config, *wire.Config) {
		addr, _ := saying(t, body)
		by := filteredBy(t, addr)
		return func(c *Config, wc *wire.Config) {
			by(c, wc)
			c.Client.Score, c.Client.Karma = scorer, learns
		}
	}
	to := ingresstest.To("far.example")
	report := func(q mail.Query) ([]mail.Route, error) {
		routes, err := to(q)
		routes[0].Policy.Filter = mail.FilterReport
		return routes, err
	}
	all := rules{"a": to, "b": to, "c": to, "d": to, "postmaster": to, "report": report}
	send := func(w *fixture, rcpt, want string) {
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<"+rcpt+"@example.com>", "250")
		w.say("DATA", "354")
		w.say(text+".", want)
	}
	send(serve(t, all, &ingresstest.Relay{}, says(`{"action": "no action"}`)), "a", "250")
	refuses := says(`{"action": "reject", "messages": {"smtp_message": "Spam message rejected"}}`)
	w := serve(t, all, &ingresstest.Relay{}, refuses)
	for range 3 {
		send(w, "postmaster", "550")
		send(w, "report", "250")
		send(w, "a", "550")
		send(w, "b", "550")
	}
	send(w, "c", "550")
	send(w, "d", "550")
	if err := learns.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(store.votes)
	for v := range store.votes {
		if v.Domain == "(filters)" && v.Weight == -3 {
			continue
		}
		if v.Domain != "example.com" || v.Weight != 1 { // of the destination, which took the first message and reports
			t.Errorf("voted %+v", v)
		}
	}
	// Four that the destination took; of the filters one that they took and eight refusals, of which six are to two
	// mailboxes.
	if s := learns.Stats(); s.Seen != 13 || s.Votes != 2 || s.Tolerated != 6 {
		t.Errorf("got %+v", s)
	}
}

// TestFilter_RefusesClient: a client that a milter refuses reaches postmaster alone.
func TestFilter_RefusesClient(t *testing.T) {
	addr, _ := startDoorman(t)
	s, err := filter.New([]filter.Config{{Name: "door", Milter: addr}})
	if err != nil {
		t.Fatal(err)
	}
	relay := &ingresstest.Relay{}
	to := ingresstest.To("far.example")
	w := serve(t, rules{"info": to, "postmaster": to}, relay, func(c *Config, _ *wire.Config) { c.Message.Filters = s })
	w.say("EHLO bad.example", "250")
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "550 5.7.1 A content filter refuses this message id=")
	w.say("RCPT TO:<postmaster@example.com>", "250")
	w.say("RCPT TO:<info@example.com>", "550 5.7.1 A content filter refuses this message id=")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if got := fmt.Sprint(relay.Got[0].Forwards); got != "[postmaster@example.com]" {
		t.Errorf("delivered to %s", got)
	}
}

// TestFilter_OffBesideRefused: a message for recipients that want no filter is shown to none, whatever other recipients
// were refused before.
func TestFilter_OffBesideRefused(t *testing.T) {
	addr, _ := startDoorman(t)
	s, err := filter.New([]filter.Config{{Name: "door", Milter: addr}})
	if err != nil {
		t.Fatal(err)
	}
	off := func(q mail.Query) ([]mail.Route, error) {
		routes, err := ingresstest.To("far.example")(q)
		routes[0].Policy.Filter = mail.FilterOff
		return routes, err
	}
	rules := rules{"spam": ingresstest.To("far.example"), "off": off}
	w := serve(t, rules, &ingresstest.Relay{}, func(c *Config, _ *wire.Config) { c.Message.Filters = s })
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<spam@example.com>", "554 5.7.9 Not here")
	w.say("RCPT TO:<off@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if e := w.last(mail.Relayed); len(e.Filtered) != 0 {
		t.Errorf("it was shown: %+v", e.Filtered)
	}
}

// TestFilter_Predicted: a message that is foretold is shown to a filter while it streams, and one that is refused at
// its end is not committed, nor marked as foretold wrongly.
func TestFilter_Predicted(t *testing.T) {
	for says, want := range map[string]string{"no action": "250", "reject": "550 5.7.1", "discard": "250"} {
		addr, shown := saying(t, `{"action": "`+says+`"}`)
		c := serveAuth(t, info, &ingresstest.Relay{}, true, filteredBy(t, addr))
		text := signed(t, c.sender, from("b.example", ""), lines(600<<10))
		c.send("a@b.example", text, want, "info@example.com")
		if got := shown(); !strings.HasSuffix(got, text) || !strings.HasPrefix(got, "Authentication-Results: ") {
			t.Errorf("%s: shown are %d octets, %.100q", says, len(got), got)
		}
		e := c.end()
		if e.Mode != mail.ModePredict || len(c.store.Marks()) != 0 || c.relay.Datas != 1 {
			t.Errorf("%s: %v, %d marks, %d DATA", says, e.Mode, len(c.store.Marks()), c.relay.Datas)
		}
		if says == "no action" {
			c.verify(1)
		} else if len(c.relay.Got) != 0 || c.relay.Aborts != 1 {
			t.Errorf("%s: %d are delivered, %d aborts", says, len(c.relay.Got), c.relay.Aborts)
		}
	}
}

// TestFilter_Several: a message for several next hops is shown once, and goes to all of them or to none.
func TestFilter_Several(t *testing.T) {
	for says, want := range map[string]string{"no action": "250", "reject": "550 5.7.1", "discard": "250"} {
		for _, size := range []int{100, 400 << 10} {
			var times atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				times.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, `{"action": "`+says+`"}`)
			}))
			defer s.Close()
			relay := &ingresstest.Relay{}
			store := new(heardStore)
			w := serve(t, rules{"team": several(mail.MixedAccept, "a@x.example", "b@y.example")}, relay,
				guard(t, func(c *Config) {
					filteredBy(t, strings.TrimPrefix(s.URL, "http://"))(c, nil)
					c.Message.Once = once.New(store, once.NewKeys([][]byte{[]byte("a key of sixteen octets")}),
						func(mail.Event) {}, time.Now)
				}))
			w.say("MAIL FROM:<s@client.example>", "250")
			w.say("RCPT TO:<team@example.com>", "250")
			w.say("DATA", "354")
			w.say("Subject: x\r\n\r\n"+strings.Repeat("0123456789abcde\r\n", size/17)+".", want)
			copies := map[bool]int{true: 2, false: 0}[says == "no action"]
			if len(relay.Got) != copies || times.Load() != 1 {
				t.Errorf("%s, %d octets: %d copies, shown %d times", says, size, len(relay.Got), times.Load())
			}
			if says != "no action" && len(store.all) != 0 {
				t.Errorf("%s: the ledger was told %+v", says, store.all)
			}
		}
	}
}
