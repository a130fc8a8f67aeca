package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/events"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// startReceiver runs the example of a receiver, and returns its address and the lines that it logs.
func startReceiver(t *testing.T, secret string) (addr string, lines <-chan string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "receiver")
	if out, err := exec.Command("go", "build", "-o", binary, "../../deploy/receiver").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	addr = extern.FreeAddr(t)
	cmd := exec.Command(binary, addr)
	cmd.Env = append(os.Environ(), "MILLRACE_SECRET="+secret)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	logged := make(chan string, 100)
	ended := make(chan struct{})
	go func() { // ends with the program
		defer close(ended)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			logged <- scan.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	return addr, logged
}

const abuseReport = "From: fbl@isp.example\r\n" +
	"Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n--b\r\n" +
	"Content-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nVersion: 1\r\n" +
	"Original-Rcpt-To: <info@example.com>\r\n--b--\r\n"

// TestTeller: the example of a receiver takes what a node posts, one event for each recipient, once.
func TestTeller(t *testing.T) {
	secret := strings.TrimSpace(string(NewReceiverSecret()))
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, lines := startReceiver(t, secret)
	b := startNode(t, fmt.Sprintf("once: true\nevents:\n  allow_private: [127.0.0.1]\n  receivers:\n    - {name: r, "+
		"url: \"http://%s/mail\", secret_file: %q, types: [delivered, deferred, bounced, rejected, failed, "+
		"complained]}\n",
		addr, file), nil)
	dest := smtptest.Start(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()})
	b.rules(t, fmt.Sprintf("domain example.com\nfbl@example.com smtp://%[1]s complaints=yes\nno@example.com reject "+
		"550 5.1.1 Moved\ntrap@example.com drop\n@example.com smtp://%[1]s\n", dest.Addr()))
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := b.dial(t)
	c.say("EHLO client.example", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	c.say("RCPT TO:<info@example.com>", 250)
	c.say("RCPT TO:<info2@example.com>", 250)
	c.say("RCPT TO:<550@example.com>", 550)
	c.say("RCPT TO:<451@example.com>", 451)
	c.say("RCPT TO:<no@example.com>", 550)
	c.say("RCPT TO:<trap@example.com>", 250)
	c.say("DATA", 354)
	c.say("Subject: x\r\n\r\nx\r\n.", 250)
	c.say("MAIL FROM:<>", 250)
	c.say("RCPT TO:<fbl@example.com>", 250)
	c.say("DATA", 354)
	c.say(abuseReport+".", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	c.say("RCPT TO:<late@example.com>", 250)
	c.say("RSET", 250)

	want := []string{
		`message.bounced from <alice@sender.example> to <550@example.com>: 550`,
		`message.complained from <> to <fbl@example.com>: 250`,
		`message.deferred from <alice@sender.example> to <451@example.com>: 451`,
		`message.delivered from <> to <fbl@example.com>: 250`,
		`message.delivered from <alice@sender.example> to <info2@example.com>: 250`,
		`message.delivered from <alice@sender.example> to <info@example.com>: 250`,
		`message.failed from <alice@sender.example> to <late@example.com>: 0`,
		`message.rejected from <alice@sender.example> to <no@example.com>: 550`,
	}
	var got []string
	for range want {
		_, line, _ := strings.Cut(<-lines, "Z ")
		line, _, _ = strings.Cut(line, ` "`)
		got = append(got, line)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := b.Shutdown(t.Context()); err != nil { // what waits was posted
		t.Error(err)
	}
	select {
	case line := <-lines:
		t.Errorf("an event more: %s", line)
	default:
	}
}

// A listener keeps what a teller posts.
type listener struct {
	mu    sync.Mutex
	posts []map[string]any
}

func (l *listener) post(_ context.Context, r hook.Request) (hook.Response, error) {
	var e map[string]any
	if err := json.Unmarshal(r.Body, &e); err != nil {
		return hook.Response{}, err
	}
	e["webhook-id"], e["to"] = r.Header.Get("webhook-id"), r.URL
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posts = append(l.posts, e)
	return hook.Response{Status: http.StatusNoContent}, nil
}

// posted returns what receivers are told of events, as JSON, one element for each post.
func posted(t *testing.T, receivers []events.Receiver, all ...mail.Event) (out []string, ids []string) {
	t.Helper()
	l := new(listener)
	for i := range receivers {
		receivers[i].Types = events.Types()
	}
	tell := &teller{
		node: "mx1.example.net", hosts: func(domain string) bool { return strings.HasSuffix(domain, "example.com") },
		queue: make(chan mail.Event, 10), stop: make(chan struct{}), ended: make(chan struct{}),
		drop: func() { t.Error("dropped") }, client: new(hook.Client),
	}
	tell.sender = events.Start(events.Config{
		Receivers: receivers, Queue: 100, Octets: 1 << 20, Post: l.post, Now: time.Now,
		Count: func(string, events.Result) {}, Trouble: func(string, int, error) {},
	})
	for _, e := range all {
		e.Time = time.Now()
		tell.tell(&e)
	}
	tell.sender.Close(t.Context())
	for _, p := range l.posts {
		ids = append(ids, p["webhook-id"].(string))
		delete(p, "timestamp")
		delete(p, "webhook-id")
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	slices.Sort(out)
	return out, ids
}

func path(t *testing.T, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s, true)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTeller_Isolation: an event has the data of its recipient alone, and goes to whom it is for.
func TestTeller_Isolation(t *testing.T) {
	reply := mail.NewReply(550, 1, 1, "b@other.example is not here")
	to := func(s string) mail.To {
		return mail.To{
			Forward: path(t, s), Rule: mail.Rule{Pattern: s}, Outcome: mail.Refused, Verb: "DATA", Reply: reply,
		}
	}
	e := mail.Event{
		Kind: mail.Refused, Ends: true, Host: "mx.dest.example", Reverse: path(t, "x@sender.example"),
		To: []mail.To{to("a@Example.COM"), to("b@other.example")},
	}
	got, _ := posted(t, []events.Receiver{
		{Name: "com", URL: "com", Domains: []string{"example.com"}},
		{Name: "rule", URL: "rule", Rules: []string{"b@other.example"}},
	}, e)
	const data = `"host":"mx.dest.example","id":"00000000000000000000000000000000","node":"mx1.example.net",` +
		`"recipient":%[1]q,"reply":{"code":550,"enhanced":"5.1.1"},"rule":%[1]q,"sender":"x@sender.example"`
	want := []string{
		`{"data":{` + fmt.Sprintf(data, "a@Example.COM") + `},"to":"com","type":"message.bounced"}`,
		`{"data":{` + fmt.Sprintf(data, "b@other.example") + `},"to":"rule","type":"message.bounced"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	e.To = e.To[:1]
	got, _ = posted(t, []events.Receiver{{Name: "all"}}, e)
	if len(got) != 1 || !strings.Contains(got[0], `"text":"b@`) {
		t.Errorf("alone: %s", got)
	}
}

// TestTeller_SeveralNextHops: of a message to several next hops each recipient's event has what its own one did.
func TestTeller_SeveralNextHops(t *testing.T) {
	again := mail.NewReply(451, 3, 0, "Recipients ended differently")
	hop := func(host string) mail.NextHop { return mail.NextHop{Host: host} }
	to := func(s, host string, r mail.Reply) mail.To {
		return mail.To{
			Forward: path(t, s), Outcome: mail.Deferred, Verb: "DATA", Reply: again,
			Targets: []mail.Target{{Forward: path(t, s), NextHop: hop(host), Reply: r}},
		}
	}
	e := mail.Event{
		Kind: mail.Deferred, Ends: true, InDoubt: true, Host: "mx.x.example",
		To: []mail.To{
			to("a@example.com", "x.example", again), to("b@example.com", "y.example", mail.NewReply(250, 0, 0, "OK")),
			to("c@example.com", "y.example", mail.NewReply(452, 2, 2, "Full")),
		},
		Legs: []mail.Leg{
			{NextHop: hop("x.example"), Session: mail.Taken{Host: "mx.x.example"}},
			{NextHop: hop("y.example"), Session: mail.Taken{Host: "mx.y.example"}},
		},
	}
	e.To[0].Targets[0].InDoubt = true
	got, _ := posted(t, []events.Receiver{{Name: "all"}}, e)
	if len(got) != 3 {
		t.Fatalf("got %s", got)
	}
	for i, want := range []struct{ host, kind, doubt string }{
		{"mx.x.example", "failed", `"in_doubt":true`}, {"mx.y.example", "delivered", ""},
		{"mx.y.example", "deferred", ""},
	} {
		if !strings.Contains(got[i], want.host) || !strings.Contains(got[i], "message."+want.kind) ||
			strings.Contains(got[i], "in_doubt") != (want.doubt != "") {
			t.Errorf("got %s, want %s", got[i], want)
		}
	}
}

// TestTeller_Mixed: of a recipient that some of its next hops refused and others took, the reply and the host are those
// of one that took it.
func TestTeller_Mixed(t *testing.T) {
	hop := func(host string) mail.NextHop { return mail.NextHop{Host: host} }
	ok := mail.NewReply(250, 0, 0, "OK")
	e := mail.Event{Kind: mail.Relayed, Ends: true, Host: "mx.y.example", Reply: ok, To: []mail.To{{
		Forward: path(t, "a@example.com"), Outcome: mail.Relayed, Verb: "DATA", Reply: ok,
		Targets: []mail.Target{
			{NextHop: hop("x.example"), Reply: mail.NewReply(550, 1, 1, "No")}, {NextHop: hop("y.example"), Reply: ok},
		},
	}}, Legs: []mail.Leg{
		{NextHop: hop("x.example"), Session: mail.Taken{Host: "mx.x.example"}},
		{NextHop: hop("y.example"), Session: mail.Taken{Host: "mx.y.example"}},
	}}
	got, _ := posted(t, []events.Receiver{{Name: "all"}}, e)
	if len(got) != 1 || !strings.Contains(got[0], `"host":"mx.y.example"`) || !strings.Contains(got[0], `"code":250`) {
		t.Errorf("got %s", got)
	}
}

// TestTeller_Complaint: of a report a receiver is told of the address complained of if that is its own.
func TestTeller_Complaint(t *testing.T) {
	e := mail.Event{
		Kind: mail.Relayed, Ends: true,
		To: []mail.To{{
			Forward: path(t, "fbl@example.com"), Outcome: mail.Relayed, Verb: "DATA", Complaints: true,
			Reply: mail.NewReply(250, 0, 0, "OK"),
		}, {Forward: path(t, "other@example.com"), Outcome: mail.Relayed, Verb: "DATA"}},
		Complaint: &mail.Complaint{Feedback: "abuse", Recipients: []mail.Path{
			path(t, "x@foreign.example"), path(t, "a@sub.example.com"), path(t, "b@example.com"),
		}, Arrived: time.Unix(0, 0).UTC()},
	}
	got, _ := posted(t, []events.Receiver{
		{Name: "all", URL: "all"}, {Name: "own", URL: "own", Domains: []string{"sub.example.com", "example.com"}},
		{Name: "part", URL: "part", Domains: []string{"example.com"}},
	}, e)
	complaints := slices.DeleteFunc(got, func(s string) bool { return !strings.Contains(s, "message.complained") })
	const with = `"complaint":{"arrived":"1970-01-01T00:00:00Z","feedback":"abuse","recipient":"a@sub.example.com"}`
	const without = `"complaint":{"arrived":"1970-01-01T00:00:00Z","feedback":"abuse"}`
	if len(complaints) != 3 || !strings.Contains(complaints[0], with) || !strings.Contains(complaints[1], with) ||
		!strings.Contains(complaints[2], without) {
		t.Errorf("got %s", strings.Join(complaints, "\n"))
	}
}

// TestTeller_Types: what became of a recipient, and what says so.
func TestTeller_Types(t *testing.T) {
	ok, again, never := mail.NewReply(250, 0, 0, "OK"), mail.NewReply(451, 3, 0, "x"), mail.NewReply(550, 1, 1, "x")
	for _, tt := range []struct {
		name string
		e    mail.Event
		to   mail.To
		want string
	}{
		{"relayed", mail.Event{Ends: true}, mail.To{Outcome: mail.Relayed, Verb: "DATA", Reply: ok}, "delivered"},
		{"put off", mail.Event{}, mail.To{Outcome: mail.Deferred, Verb: "RCPT", Reply: again}, "deferred"},
		{"asked for in another transaction", mail.Event{}, mail.To{
			Outcome: mail.Deferred, Verb: "RCPT", Reply: mail.AnotherTransaction("too many next hops").Reply,
		}, ""},
		{"refused by us", mail.Event{}, mail.To{Outcome: mail.Refused, Verb: "RCPT", Reply: never}, "rejected"},
		{"refused there", mail.Event{Host: "h"}, mail.To{Outcome: mail.Refused, Verb: "RCPT", Reply: never}, "bounced"},
		{"broken off", mail.Event{Ends: true}, mail.To{Outcome: mail.Aborted}, "failed"},
		{"in doubt", mail.Event{Ends: true, InDoubt: true}, mail.To{Outcome: mail.Deferred, Verb: "DATA", Reply: again},
			"failed"},
		{"dropped", mail.Event{Ends: true}, mail.To{Outcome: mail.Dropped, Drop: true, Verb: "DATA", Reply: ok}, ""},
		{"told of before", mail.Event{Ends: true}, mail.To{Outcome: mail.Refused, Verb: "RCPT", Reply: never}, ""},
		{"taken there, and put off for the sake of another one", mail.Event{Ends: true},
			mail.To{Outcome: mail.Deferred, Verb: "DATA", Reply: again, Targets: []mail.Target{{Reply: ok}}},
			"delivered"},
		{"taken by one of two", mail.Event{Ends: true}, mail.To{
			Outcome: mail.Deferred, Verb: "DATA", Reply: again, Targets: []mail.Target{{Reply: ok}, {Reply: again}},
		}, "deferred"},
	} {
		tt.to.Forward = path(t, "a@example.com")
		tt.e.To = []mail.To{tt.to}
		got, _ := posted(t, []events.Receiver{{Name: "r"}}, tt.e)
		if tt.want == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || !strings.Contains(got[0], `"type":"message.`+tt.want+`"`) {
			t.Errorf("%s: got %s", tt.name, got)
		}
	}
}

// TestTeller_IDs: a message that comes again and is answered from the ledger has the id of the first time, and
// elsewhere each transaction has its own.
func TestTeller_IDs(t *testing.T) {
	event := func(trace, entry byte) mail.Event {
		return mail.Event{Ends: true, Trace: mail.TraceID{trace}, To: []mail.To{{
			Forward: path(t, "a@example.com"), Outcome: mail.Relayed, Verb: "DATA", Entry: mail.TraceID{entry},
		}}}
	}
	_, ids := posted(t, []events.Receiver{{Name: "r"}}, event(1, 1), event(2, 1), event(3, 0), event(4, 0))
	slices.Sort(ids)
	if len(ids) != 4 || len(slices.Compact(ids)) != 3 {
		t.Errorf("got %s", ids)
	}
}

// TestTeller_Offer: the hand-over never waits, and what strangers cause for nothing leaves half of the room.
func TestTeller_Offer(t *testing.T) {
	dropped := 0
	tell := &teller{queue: make(chan mail.Event, 10), drop: func() { dropped++ }}
	to := []mail.To{{Forward: path(t, "a@example.com")}}
	for range 100 {
		tell.offer(&mail.Event{Kind: mail.Refused, To: to})
	}
	if len(tell.queue) != 6 || dropped != 94 {
		t.Errorf("%d wait and %d were dropped", len(tell.queue), dropped)
	}
	for range 100 {
		tell.offer(&mail.Event{Kind: mail.Relayed, To: to})
	}
	tell.offer(&mail.Event{Kind: mail.Anomaly, To: to})
	tell.offer(&mail.Event{Kind: mail.Refused})
	if len(tell.queue) != 10 || dropped != 94+96 {
		t.Errorf("%d wait and %d were dropped", len(tell.queue), dropped)
	}
	(*teller)(nil).offer(&mail.Event{Kind: mail.Relayed, To: to})
}

// TestTeller_DeadReceiver: mail is relayed as without receivers while none answers, what waits has a bound, and what is
// dropped is counted.
func TestTeller_DeadReceiver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, NewReceiverSecret(), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startNode(t, fmt.Sprintf("events:\n  queue: 10\n  allow_private: [127.0.0.1]\n  receivers:\n    - "+
		"{name: dead, url: \"http://%s/\", secret_file: %q}\n", extern.FreeAddr(t), file), nil)
	c := b.dial(t)
	const all = 100
	for range all {
		c.send("info@example.com")
		<-b.seen
	}
	if n := len(b.dest.Messages()); n != all {
		t.Errorf("%d of %d messages", n, all)
	}
	if waits := b.events.teller.sender.Waiting()["dead"]; waits > 10 {
		t.Errorf("%d events wait, 10 at most may", waits)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(b.log.String(), `"msg":"a receiver of events does not take them","receiver":"dead"`) {
		t.Errorf("the log says nothing of it: %s", b.log.String())
	}
}

// TestReload_ReceiverSecrets: a reload takes new secrets, and a file that holds none changes nothing and is named.
func TestReload_ReceiverSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, NewReceiverSecret(), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startNode(t, fmt.Sprintf("events: {receivers: [{name: r, url: \"https://r.example/\", secret_file: %q}]}\n",
		file), nil)
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("whsec_c2hvcnQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := b.Reload(t.Context())
	var wrong config.Problems
	if !errors.As(err, &wrong) || wrong[0].File != file || wrong[0].Line != 1 ||
		!strings.Contains(err.Error(), "the secret has 5 octets") || strings.Contains(err.Error(), "c2hvcnQ") {
		t.Errorf("got %v", err)
	}
}

// TestConnect_Receivers: a receiver that is not there is named.
func TestConnect_Receivers(t *testing.T) {
	b := startNode(t, "", nil)
	file := filepath.Join(b.dir, "secret")
	if err := os.WriteFile(file, NewReceiverSecret(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(filepath.Join(b.dir, "millrace.yaml"), []byte(fmt.Sprintf("hostname: mx1.example.net\n"+
		"postmaster: ops@elsewhere.example\nroutes: routes.txt\nlisten: [{addr: \"127.0.0.1:0\"}]\n"+
		"dns: {servers: [%q]}\nevents: {receivers: [{name: r, url: \"https://inside.test/\", secret_file: secret}]}\n",
		dnstest.Start(t, "inside.test. 60 A 127.0.0.1").Addr())), "")
	if err != nil {
		t.Fatal(err)
	}
	trials, err := Connect(t.Context(), cfg)
	i := slices.IndexFunc(trials, func(tr Trial) bool { return tr.Field == "events.receivers[0].url" })
	if err != nil || i < 0 || trials[i].OK || !strings.Contains(trials[i].Why, "on loopback") {
		t.Errorf("got %+v, %v", trials, err)
	}
}

// TestEvents_Documented: docs/events.md has each type and each field, and no other.
func TestEvents_Documented(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := func(heading string) (names []string) {
		_, table, _ := strings.Cut(string(page), heading)
		table, _, _ = strings.Cut(table, "\n\n")
		for row := range strings.Lines(table) {
			if cell, found := strings.CutPrefix(row, "| `"); found {
				name, _, _ := strings.Cut(cell, "`")
				names = append(names, name)
			}
		}
		return names
	}
	var types, fields []string
	for _, kind := range events.Types() {
		types = append(types, "message."+string(kind))
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[events.Data]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields = append(fields, name)
	}
	for heading, want := range map[string][]string{"| `type` |": types, "| Field of `data` |": fields} {
		got := documented(heading)
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s: documented %q, written %q", heading, got, want)
		}
	}
}
