package ingress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A book is a Router: local part to what becomes of it.
type book map[string]func(q mail.Query) ([]mail.Route, error)

func (b book) Route(q mail.Query) ([]mail.Route, error) {
	if f, ok := b[q.Forward.LocalPart()]; ok {
		return f(q)
	}
	return nil, mail.Refuse(550, 1, 1, "No such user here", "no rule", nil)
}

func to(host string, forwards ...string) func(q mail.Query) ([]mail.Route, error) {
	return func(q mail.Query) ([]mail.Route, error) {
		r := mail.Route{
			NextHop: mail.NextHop{Host: host}, Reverse: q.Reverse, Rewrote: len(forwards) > 0,
			Forwards: []mail.Path{q.Forward},
		}
		if len(forwards) > 0 {
			r.Forwards = nil
		}
		for _, f := range forwards {
			local, domain, _ := strings.Cut(f, "@")
			r.Forwards = append(r.Forwards, mail.Path{Local: local, Domain: domain})
		}
		return []mail.Route{r}, nil
	}
}

// A hop is a Relay that keeps what it was given, and refuses what its tables say.
type hop struct {
	mu       sync.Mutex
	begins   int
	datas    int
	lends    int
	aborts   int
	refuse   map[string]error // by forward-path, at RCPT
	early    error            // given by Write
	dot      []mail.Outcome   // given by Commit; nil: 250
	data     error            // given by Data
	utf8     bool
	reached  chan struct{} // closed when Commit is reached, which then waits for release; nil: it does not
	release  chan struct{}
	wanted   bool
	got      []delivered
	slow     time.Duration // how long Data takes
	patience time.Duration // from the call of Data to Commit's deadline
}

type delivered struct {
	d        mail.Delivery
	forwards []string
	octets   string
	form     mail.Form
	writes   int
}

func (h *hop) Begin(_ context.Context, d mail.Delivery) (mail.Transaction, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begins++
	return &hopTx{h: h, delivered: delivered{d: d}}, nil
}

func (h *hop) lent() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lends
}

type hopTx struct {
	h *hop
	delivered
	lent, data bool
	dataAt     time.Time
}

func (t *hopTx) Rcpt(_ context.Context, p mail.Path) error {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	t.lent = false
	if err := t.h.refuse[p.String()]; err != nil {
		return err
	}
	t.forwards = append(t.forwards, p.String())
	return nil
}

func (t *hopTx) Data(_ context.Context, f mail.Form) error {
	t.h.mu.Lock()
	t.h.datas++
	t.h.mu.Unlock()
	t.form, t.data, t.dataAt = f, true, time.Now()
	if t.h.slow > 0 {
		<-time.After(t.h.slow)
	}
	return t.h.data
}

func (t *hopTx) Write(o mail.Octets) error {
	t.writes++
	t.take(o)
	return t.h.early
}

func (t *hopTx) take(o mail.Octets) {
	for _, s := range o.Segments {
		t.octets += string(s)
	}
}

func (t *hopTx) Commit(ctx context.Context, o mail.Octets) []mail.Outcome {
	t.take(o)
	if t.h.reached != nil {
		close(t.h.reached)
		<-t.h.release
	}
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	if due, ok := ctx.Deadline(); ok {
		t.h.patience = due.Sub(t.dataAt)
	}
	t.h.got = append(t.h.got, t.delivered)
	if t.h.dot != nil {
		return t.h.dot
	}
	out := make([]mail.Outcome, len(t.forwards))
	for i := range out {
		out[i] = mail.Outcome{Reply: mail.NewReply(250, 0, 0, "Ok: queued as 4711"), Host: "mx.far.example"}
	}
	return out
}

func (t *hopTx) Abort() {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	t.h.aborts++
}

func (t *hopTx) Lend() bool {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	if t.data || t.lent {
		return false
	}
	t.h.lends++
	t.lent = true
	return true
}

func (t *hopTx) Renew(ctx context.Context) error {
	if !t.lent {
		return nil
	}
	forwards := t.forwards
	t.forwards = nil
	for _, f := range forwards {
		local, domain, _ := strings.Cut(f, "@")
		if err := t.Rcpt(ctx, mail.Path{Local: local, Domain: domain}); err != nil {
			return err
		}
	}
	return nil
}

func (t *hopTx) Wanted() bool {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	return t.h.wanted
}

func (t *hopTx) SMTPUTF8() bool { return t.h.utf8 }

// A fixture is a served session with a client's end of it.
type fixture struct {
	t      *testing.T
	conn   net.Conn
	in     *bufio.Reader
	mu     sync.Mutex
	events []mail.Event
	slabs  wire.Slabs
	srv    *wire.Server
}

func serve(t *testing.T, router Router, relay Relay, change func(*Config, *wire.Config)) *fixture {
	t.Helper()
	w := &fixture{t: t}
	cfg := Config{
		Router: router, Relay: relay, Emit: w.emit,
		Message: message.Config{Hostname: "mx1.example.net", LoopTagKeys: [][]byte{[]byte("sixteen octets..")}},
	}
	var s *Server
	wc := wire.Config{Hostname: cfg.Message.Hostname, Slabs: &w.slabs,
		NewSession: func(_ context.Context, c *wire.Client) wire.Session { return s.NewSession(c, nil) }}
	if change != nil {
		change(&cfg, &wc)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := wire.NewServer(wc)
	if err != nil {
		t.Fatal(err)
	}
	w.srv = srv
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when the listener is closed by Shutdown
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		<-done
		if n := w.slabs.Lent(); n != 0 {
			t.Errorf("%d slabs are still taken", n)
		}
	})
	w.connect(l.Addr().String())
	return w
}

// connect opens a connection and says EHLO.
func (w *fixture) connect(addr string) {
	w.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	w.conn, w.in = conn, bufio.NewReader(conn)
	w.want("220 ")
	w.say("EHLO client.example", "250")
}

func (w *fixture) emit(e mail.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// say sends a line and wants a reply that begins so. It returns the reply.
func (w *fixture) say(line, want string) string {
	w.t.Helper()
	if _, err := io.WriteString(w.conn, line+"\r\n"); err != nil {
		w.t.Fatal(err)
	}
	return w.want(want)
}

func (w *fixture) want(want string) string {
	w.t.Helper()
	var all strings.Builder
	for {
		line, err := w.in.ReadString('\n')
		if err != nil {
			w.t.Fatalf("waiting for %q after %q: %v", want, all.String(), err)
		}
		all.WriteString(line)
		if len(line) > 3 && line[3] == ' ' {
			break
		}
	}
	if !strings.HasPrefix(all.String(), want) {
		w.t.Fatalf("got %q, want %q", all.String(), want)
	}
	return all.String()
}

// last gives the last event of a kind.
func (w *fixture) last(k mail.Kind) mail.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.events) - 1; i >= 0; i-- {
		if w.events[i].Kind == k {
			return w.events[i]
		}
	}
	w.t.Errorf("no event %v", k)
	return mail.Event{}
}

const text = "Subject: hi\r\n\r\n..stuffed\r\nbye\r\n"

func TestAMessageIsPassedBelowOurReceivedField(t *testing.T) {
	h := &hop{}
	w := serve(t, book{"info": to("far.example", "alice@far.example")}, h, nil)
	w.say("MAIL FROM:<a@b.example> BODY=8BITMIME SIZE=100", "250 2.1.0")
	w.say("RCPT TO:<info@example.com>", "250 2.1.5")
	w.say("DATA", "354")
	reply := w.say(text+".", "250 2.0.0 Ok: queued as 4711 id=")
	got := h.got[0]
	fields, rest, _ := strings.Cut(got.octets, "Subject: ")
	if len(fields) > got.d.Extra {
		t.Errorf("our fields take %d octets, upstream was told of %d", len(fields), got.d.Extra)
	}
	if "Subject: "+rest != text {
		t.Errorf("below the fields: %q", rest)
	}
	id := strings.TrimSpace(reply[strings.Index(reply, " id=")+4:])
	for _, part := range []string{"Received: from client.example ([127.0.0.1])\r\n\tby mx1.example.net with ESMTP id " +
		id, "\tfor <info@example.com>;", " (hop="} {
		if !strings.Contains(fields, part) {
			t.Errorf("Received lacks %q: %q", part, fields)
		}
	}
	if got.form != mail.Stuffed || got.writes != 0 || fmt.Sprint(got.forwards) != "[alice@far.example]" ||
		got.d.Params.Body != mail.Body8BitMIME {
		t.Errorf("delivered %+v", got)
	}
	e := w.last(mail.Relayed)
	if e.Mode != mail.ModeHold || e.Host != "mx.far.example" || e.Trace.String() != id ||
		e.Octets != int64(len(text))-1 && e.Octets != int64(len(text)) || e.Recipients != 1 {
		t.Errorf("event %+v", e)
	}
}

func TestALargeMessageStreams(t *testing.T) {
	h := &hop{}
	w := serve(t, book{"info": to("far.example")}, h, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	large := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n..dot\r\n", 20000)
	w.say(large+".", "250")
	got := h.got[0]
	if _, rest, _ := strings.Cut(got.octets, "Subject: "); "Subject: "+rest != large {
		t.Error("the octets changed")
	}
	if got.writes < 2 || w.last(mail.Relayed).Mode != mail.ModeStream {
		t.Errorf("%d writes, %v", got.writes, w.last(mail.Relayed).Mode)
	}
}

func TestTheNextHopsAnswerIsOurs(t *testing.T) {
	full := &mail.Refusal{Reply: mail.NewReply(452, 2, 2, "Mailbox full\nlater"), Host: "mx.far.example"}
	h := &hop{refuse: map[string]error{"full@far.example": full}}
	w := serve(t, book{"full": to("far.example", "full@far.example"), "info": to("far.example")}, h, nil)
	w.say("MAIL FROM:<>", "250")
	got := w.say("RCPT TO:<full@example.com>", "452-4.2.2 Mailbox full\r\n452 4.2.2 later id=")
	if e := w.last(mail.Refused); !strings.Contains(got, e.Trace.String()) || e.Host != "mx.far.example" ||
		e.Verb != "RCPT" {
		t.Errorf("event %+v", e)
	}
	w.say("RCPT TO:<nobody@example.com>", "550 5.1.1 No such user here id=")
	w.say("DATA", "451")
	h.dot = []mail.Outcome{{Reply: mail.NewReply(554, 7, 1, "Spam"), Host: "mx.far.example"}}
	w.say("RSET", "250")
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "554 5.7.1 Spam id=")
	if e := w.last(mail.Refused); e.Verb != "DATA" || e.Reply.Code != 554 {
		t.Errorf("event %+v", e)
	}
	h.dot = []mail.Outcome{{Reply: mail.NewReply(252, 0, 0, "whatever")}}
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250 2.0.0 whatever id=")
	if h.begins != 3 {
		t.Errorf("%d transactions begun, want 3", h.begins)
	}
}

func TestRecipientsShareATransactionOrWait(t *testing.T) {
	h := &hop{}
	w := serve(t,
		book{"one": to("far.example"), "two": to("far.example"), "other": to("else.example"),
			"gone": func(q mail.Query) ([]mail.Route, error) {
				return []mail.Route{{Action: mail.Drop}}, nil
			}}, h, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<gone@example.com>", "250")
	w.say("RCPT TO:<one@example.com>", "250")
	w.say("RCPT TO:<other@example.com>", "452 4.5.3")
	w.say("RCPT TO:<two@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if got := fmt.Sprint(h.got[0].forwards); got != "[one@example.com two@example.com]" || h.begins != 1 {
		t.Errorf("forwards %s in %d transactions", got, h.begins)
	}
	if strings.Contains(h.got[0].octets, "for <") || strings.Count(h.got[0].octets, "(hop=") != 3 {
		t.Errorf("Received names a recipient, or marks are missing: %q", h.got[0].octets)
	}
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<gone@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250 2.0.0 OK id=")
	if h.begins != 1 || w.last(mail.Dropped).Recipients != 1 {
		t.Error("a dropped message reached a next hop")
	}
}

func TestAFanOutWithinOneNextHop(t *testing.T) {
	no := mail.Refuse(550, 1, 1, "no", "upstream", nil)
	later := mail.Refuse(451, 2, 1, "later", "upstream", nil)
	reject := func(f func(mail.Query) ([]mail.Route, error)) func(mail.Query) ([]mail.Route, error) {
		return func(q mail.Query) ([]mail.Route, error) {
			r, err := f(q)
			r[0].Policy.Mixed = mail.MixedReject
			return r, err
		}
	}
	both := to("far.example", "a@far.example", "b@far.example")
	tests := []struct {
		name   string
		refuse map[string]error
		route  func(mail.Query) ([]mail.Route, error)
		rcpt   string
		begins int
	}{
		{"both accept", nil, both, "250", 1},
		{"one refuses for good, the rule accepts", map[string]error{"b@far.example": no}, both, "250", 1},
		{"one refuses for good, the rule rejects", map[string]error{"b@far.example": no}, reject(both), "550", 2},
		{"one refuses for now", map[string]error{"a@far.example": later}, both, "451", 2},
		{"both refuse", map[string]error{"a@far.example": no, "b@far.example": no}, both, "550", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &hop{refuse: tt.refuse}
			w := serve(t, book{"team": tt.route, "info": to("far.example", "info@far.example")}, h, nil)
			w.say("MAIL FROM:<a@b.example>", "250")
			w.say("RCPT TO:<team@example.com>", tt.rcpt)
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			w.say(text+".", "250")
			got := h.got[len(h.got)-1].forwards
			if tt.begins == 2 && fmt.Sprint(got) != "[info@far.example]" {
				t.Errorf("a recipient that we refused was delivered to: %v", got)
			}
			if h.begins != tt.begins {
				t.Errorf("%d transactions, want %d", h.begins, tt.begins)
			}
		})
	}
}

func TestASilentClientsSessionIsLent(t *testing.T) {
	h := &hop{refuse: map[string]error{}}
	w := serve(t, book{"info": to("far.example"), "two": to("far.example")}, h, func(c *Config, wc *wire.Config) {
		c.Message.Lend = 30 * time.Millisecond
		wc.Lend = 30 * time.Millisecond
	})
	lends := func(n int) {
		t.Helper()
		for due := time.Now().Add(10 * time.Second); ; {
			got := h.lent()
			if got >= n {
				return
			}
			if time.Now().After(due) {
				t.Fatalf("lent %d times, want %d", got, n)
			}
			<-time.After(time.Millisecond)
		}
	}
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	lends(1)
	w.say("DATA", "354")
	if _, err := io.WriteString(w.conn, "Subject: slow\r\n"); err != nil {
		t.Fatal(err)
	}
	lends(2)
	w.say("\r\nbody\r\n.", "250")
	if len(h.got) != 1 || !strings.HasSuffix(h.got[0].octets, "Subject: slow\r\n\r\nbody\r\n") {
		t.Fatalf("delivered %+v", h.got)
	}
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	lends(3)
	h.mu.Lock()
	h.refuse["info@example.com"] = mail.Refuse(550, 1, 1, "gone meanwhile", "upstream", nil)
	h.mu.Unlock()
	w.say("DATA", "550 5.1.1 gone meanwhile id=")
	if len(h.got) != 1 {
		t.Error("a message without a recipient was delivered")
	}
}

func TestAMessageThatEndsBadlyIsNotDelivered(t *testing.T) {
	early := mail.Refuse(552, 3, 4, "Too big for us", "upstream", nil)
	large := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n", 20000)
	looped := strings.Repeat("Received: x\r\n", 51) + "\r\n"
	tests := []struct {
		name, octets, want string
		change             func(*hop)
	}{
		{"the next hop refuses DATA", text, "451 4.3.2 busy", func(h *hop) {
			h.data = mail.Refuse(451, 3, 2, "busy", "upstream", nil)
		}},
		{"the next hop refuses within the body", large, "552 5.3.4 Too big for us", func(h *hop) { h.early = early }},
		{"the next hop is lost within the body", large, "451 4.3.0", func(h *hop) {
			h.early = errors.New("broken pipe")
		}},
		{"it has passed too many hosts", looped, "554 5.4.6", nil},
		{"a bare LF", "Subject: x\n\r\n", "550 5.6.11", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &hop{}
			if tt.change != nil {
				tt.change(h)
			}
			w := serve(t, book{"info": to("far.example")}, h, nil)
			w.say("MAIL FROM:<a@b.example>", "250")
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			if got := w.say(tt.octets+".", tt.want); !strings.Contains(got, " id=") {
				t.Errorf("no id in %q", got)
			}
			w.say("NOOP", "250")
			if len(h.got) != 0 || h.aborts != 1 {
				t.Errorf("%d delivered, %d aborted", len(h.got), h.aborts)
			}
		})
	}
}

func TestALoopThroughUsIsRefused(t *testing.T) {
	h := &hop{}
	w := serve(t, book{"info": to("far.example"), "other": to("far.example")}, h, nil)
	send := func(rcpt, octets, want string) string {
		t.Helper()
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<"+rcpt+"@example.com>", "250")
		w.say("DATA", "354")
		w.say(octets+".", want)
		return h.got[len(h.got)-1].octets
	}
	once := send("info", text, "250")
	send("info", once, "554 5.4.6 This message passed here before for the same recipient id=")
	twice := send("other", once, "250")
	send("info", twice, "554 5.4.6")
	passed := strings.Repeat("Received: x (hop=0011223344556677)\r\n", 5)
	send("info", passed+text, "250")
	send("info", "Received: y (hop=0011223344556677)\r\n"+passed+text,
		"554 5.4.6 This message passed here too often id=")
}

func TestALoopIsSeenForEachOfManyRecipients(t *testing.T) {
	h := &hop{}
	routes := book{}
	for i := range 100 {
		routes[fmt.Sprintf("u%d", i)] = to("far.example")
	}
	w := serve(t, routes, h, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	for i := range 100 {
		w.say(fmt.Sprintf("RCPT TO:<u%d@example.com>", i), "250")
	}
	w.say("DATA", "354")
	w.say(text+".", "250")
	back := h.got[0].octets
	for _, i := range []int{0, 5, 50, 99} {
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say(fmt.Sprintf("RCPT TO:<u%d@example.com>", i), "250")
		w.say("DATA", "354")
		w.say(back+".", "554 5.4.6")
	}
}

func TestTheDotsPatienceCountsFromTheClientsLastOctet(t *testing.T) {
	h := &hop{slow: 50 * time.Millisecond}
	w := serve(t, book{"info": to("far.example")}, h, func(c *Config, _ *wire.Config) {
		c.Message.Commit = time.Minute
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if h.patience > time.Minute || h.patience < 50*time.Second {
		t.Errorf("Commit may end %v after Data began, want a minute after the message ended", h.patience)
	}
}

func TestReceivedIsASCII(t *testing.T) {
	h := &hop{utf8: true}
	w := serve(t, book{"ü": to("far.example", "u@far.example")}, h, nil)
	w.say("MAIL FROM:<a@b.example> SMTPUTF8", "250")
	w.say("RCPT TO:<ü@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if got := h.got[0].octets; strings.Contains(got, "for <") || !strings.Contains(got, "with UTF8SMTP id") {
		t.Errorf("got %q", got)
	}
}

func TestARefusalAtDATATellsNoDestination(t *testing.T) {
	h := &hop{refuse: map[string]error{}}
	w := serve(t, book{"info": to("far.example", "secretalice@far.example")}, h, func(_ *Config, wc *wire.Config) {
		wc.Lend = 20 * time.Millisecond
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	for h.lent() == 0 {
		<-time.After(time.Millisecond)
	}
	h.mu.Lock()
	h.refuse["secretalice@far.example"] = mail.Refuse(550, 1, 1, "<secretalice@far.example> refused now", "upstream",
		nil)
	h.mu.Unlock()
	w.say("DATA", "550 5.1.1 <info@example.com> refused now id=")
}

func TestASlowStreamGivesWayWhenOthersWait(t *testing.T) {
	h := &hop{}
	w := serve(t, book{"info": to("far.example")}, h, func(c *Config, _ *wire.Config) {
		c.Message.Lend = 10 * time.Millisecond
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	large := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n", 10000)
	if _, err := io.WriteString(w.conn, large); err != nil {
		t.Fatal(err)
	}
	<-time.After(50 * time.Millisecond) // nobody waits: the client may take its time
	h.mu.Lock()
	h.wanted = true
	aborts := h.aborts
	h.mu.Unlock()
	if aborts != 0 {
		t.Fatal("a slow client lost its session to nobody")
	}
	for aborts == 0 {
		<-time.After(time.Millisecond)
		h.mu.Lock()
		aborts = h.aborts
		h.mu.Unlock()
	}
	w.say(".", "451 4.4.5 Too slow while others wait for this destination id=")
}

func TestSMTPUTF8IsDecidedAtTheEndOfTheHeaderSection(t *testing.T) {
	tests := []struct {
		name, octets, want string
		utf8               bool
	}{
		{"nothing above 127, not offered there", "Subject: x\r\n\r\n\xc3\xa9\r\n", "250", false},
		{"above 127, not offered there", "Subject: \xc3\xa9\r\n\r\n", "550 5.6.7", false},
		{"above 127, offered there", "Subject: \xc3\xa9\r\n\r\n", "250", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &hop{utf8: tt.utf8}
			w := serve(t, book{"info": to("far.example")}, h, nil)
			w.say("MAIL FROM:<a@b.example> SMTPUTF8", "250")
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			w.say(tt.octets+".", tt.want)
		})
	}
}

func TestOutOfBudgetIsForNow(t *testing.T) {
	var used atomic.Int64
	w := serve(t, book{"info": to("far.example")}, &hop{}, func(c *Config, _ *wire.Config) {
		c.Message.HoldBudget, c.Message.InUse = 1000, used.Load
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	used.Store(1000)
	w.say("DATA", "452 4.3.1 ")
	w.say("MAIL FROM:<a@b.example>", "452 4.3.1 ")
	used.Store(999)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
}

func TestARefusedMessageThatStillComesInCountsForTheBudget(t *testing.T) {
	var w *fixture
	w = serve(t, book{"info": to("far.example")}, &hop{}, func(c *Config, _ *wire.Config) {
		c.Message.HoldBudget, c.Message.InUse = 1, func() int64 { return int64(w.slabs.Lent()) }
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	if _, err := io.WriteString(w.conn, "a bare\nLF\r\n"+strings.Repeat("more\r\n", 20000)); err != nil {
		t.Fatal(err)
	}
	for refused := false; !refused; { // the session has given its verdict, and the rest is still to come
		<-time.After(time.Millisecond)
		w.mu.Lock()
		for _, e := range w.events {
			refused = refused || e.Kind == mail.Refused
		}
		w.mu.Unlock()
	}
	dripping, in := w.conn, w.in
	w.connect(dripping.RemoteAddr().String())
	w.say("MAIL FROM:<a@b.example>", "452 4.3.1 ")
	second, secondIn := w.conn, w.in
	w.conn, w.in = dripping, in
	w.say(".", "550 5.6.11")
	w.conn, w.in = second, secondIn
	w.say("MAIL FROM:<a@b.example>", "250")
}

func TestADrainWhoseTimeIsUpLetsAReleasedDotBeAnswered(t *testing.T) {
	h := &hop{reached: make(chan struct{}), release: make(chan struct{})}
	w := serve(t, book{"info": to("far.example")}, h, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	if _, err := io.WriteString(w.conn, text+".\r\n"); err != nil {
		t.Fatal(err)
	}
	<-h.reached
	over, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan struct{})
	go func() { // ends with Shutdown, which waits for the dot
		defer close(ended)
		_ = w.srv.Shutdown(over)
	}()
	<-time.After(50 * time.Millisecond) // in which a connection that is owed nothing is cut
	close(h.release)
	w.want("250 2.0.0 Ok: queued as 4711 id=")
	<-ended
}

func TestTrustIsLoweredNeverRaised(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	at := netip.MustParseAddrPort("10.1.2.3:25")
	s, err := New(Config{
		Router: book{}, Relay: &hop{}, Message: message.Config{Hostname: "h", LoopTagKeys: [][]byte{make([]byte, 16)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		client wire.Client
		want   bool
	}{
		{"in the network", wire.Client{Addr: at}, true},
		{"in the network, mapped", wire.Client{Addr: netip.MustParseAddrPort("[::ffff:10.1.2.3]:25")}, true},
		{"elsewhere", wire.Client{Addr: netip.MustParseAddrPort("192.0.2.1:25")}, false},
		{"said by XCLIENT", wire.Client{Addr: at, Lowered: true}, false},
		{"unknown behind a proxy", wire.Client{Addr: at, Unknown: true}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.NewSession(&tt.client, trusted).(*session).trusted; got != tt.want {
				t.Errorf("trusted = %v", got)
			}
		})
	}
}
