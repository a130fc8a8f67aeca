package peers_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestPostfixLog_Readers: of a run of a thousand messages, unmodified pflogsumm, fail2ban and
// prometheus-postfix-exporter count in the log of a node what the clients themselves counted, by way of stderr and by
// way of a real rsyslog.
func TestPostfixLog_Readers(t *testing.T) {
	t.Run("stderr", func(t *testing.T) {
		c := runForLog(t, "stderr", func(n *world.Relay) string { return n.Log.String() })
		c.compare(t)
	})
	t.Run("rsyslog", func(t *testing.T) {
		socket, _, file := extern.StartRsyslog(t)
		c := runForLog(t, "unix:"+socket, func(*world.Relay) string {
			text, _ := os.ReadFile(file) // which is not there before the first line
			return string(text)
		})
		c.compare(t)
	})
}

// Counted is what the clients of a run counted, and the log that tells of it.
type counted struct {
	file string

	mu         sync.Mutex
	accepted   int            // messages
	octets     int            // of them
	delivered  int            // recipients
	deliveredB int            // octets of messages, for each recipient
	deferred   int            // recipients
	discarded  int            // recipients
	senders    map[string]int // messages accepted by reverse-path
	reasons    map[string]int // recipients refused for good, by what pflogsumm is to call that
	codes      map[int]int    // the same at RCPT, by code
	atDot      int            // the same at the end of a message
	against    map[string]int // by client, what fail2ban is to count
}

// wanted are the recipients of the run. What becomes of each is known by its local part.
var wanted = []string{
	"a@far.example", "b@far.example", "c@far.example", "d@far.example", "e@far.example", "f@far.example",
	"g@far.example", "h@far.example", "a@far.example b@far.example", "a@far.example 550@far.example",
	"trap@here.example",
	"450@far.example", "put-off@far.example", "550@far.example", "552@far.example", "spam@far.example",
	"x@elsewhere.example", "unknown@here.example", "a@far.example", "b@far.example",
}

// runForLog sends the messages to a node and returns what was counted, and the log when it is whole.
func runForLog(t *testing.T, output string, log func(*world.Relay) string) *counted {
	const networks, each = 25, 40
	c := &counted{
		senders: make(map[string]int), reasons: make(map[string]int), codes: make(map[int]int),
		against: make(map[string]int),
	}
	d := smtptest.Start(t, smtptest.Behaviour{
		Recipients: map[string]smtptest.Answer{
			"450": {Reply: "450 4.2.1 Full for now"}, "550": {Reply: "550 5.1.1 No such mailbox"},
			"552": {Reply: "552 5.2.2 Full"},
		},
		Dots: map[string]smtptest.Answer{"put-off": {Reply: "451 4.3.0 Not now"}, "spam": {Reply: "554 5.7.1 Spam"}},
	})
	n := world.Start(t, world.World{
		Log: fmt.Sprintf("info, format: postfix, output: %q", output), Config: "rates: none",
		Routes: "@far.example smtp://" + d.Addr() + "\ndomain here.example\ntrap@here.example drop\n",
	})
	var wg sync.WaitGroup
	for network := range networks {
		wg.Go(func() {
			client := netip.AddrFrom4([4]byte{127, 0, byte(network + 1), 1})
			s, err := source.Dial(t.Context(), source.Config{Addr: n.Addr, Local: client, Timeout: world.Patience})
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				if err := c.send(s, client.String(), network*each+i); err != nil {
					t.Error(err)
					return
				}
			}
			if err := s.Quit(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	world.Await(t, "the whole log was read", func() bool {
		text := log(n)
		return strings.Count(text, ": removed\n") >= c.accepted &&
			strings.Count(text, "status=deferred") >= c.deferred &&
			strings.Count(text, "reject: ") >= sumOf(c.reasons)
	})
	n.Stop(t)
	c.file = filepath.Join(t.TempDir(), "mail.log")
	world.Save(t, c.file, log(n))
	return c
}

// send sends one message and counts what became of it.
func (c *counted) send(s *source.Session, client string, i int) error {
	m := source.Message{
		Reverse: fmt.Sprintf("u%d@s%d.example", i%50, i%7), Forward: strings.Fields(wanted[i%len(wanted)]),
		Octets: []byte(fmt.Sprintf("Message-ID: <%d@client.example>\r\nSubject: %d\r\n\r\n", i, i) +
			strings.Repeat("x", i%300) + "\r\n"),
	}
	r, err := s.Send(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.count(client, m, r)
	c.mu.Unlock()
	if r.End.Class() != 2 {
		return s.Reset()
	}
	return nil
}

func (c *counted) count(client string, m source.Message, r source.Result) {
	if r.End.Code == 250 {
		c.accepted++
		c.octets += len(m.Octets)
		c.senders[m.Reverse]++
	}
	for i, to := range m.Forward {
		local, _, _ := strings.Cut(to, "@")
		switch code := r.Rcpt[i].Code; {
		case code/100 == 4 || code == 250 && r.End.Class() == 4:
			c.deferred++
		case code/100 == 5:
			c.codes[code]++
			switch {
			case strings.HasSuffix(to, "@elsewhere.example"):
				c.reasons["Relay access denied"]++
				c.against[client]++
			case local == "unknown":
				c.reasons["Recipient address rejected: User unknown in relay recipient table"]++
				c.against[client]++
			case local == "550":
				c.reasons["Recipient address rejected: undeliverable address"]++
				c.against[client]++
			default:
				c.reasons["Recipient address rejected: upstream"]++
			}
		case r.End.Class() == 5:
			c.atDot++
			c.reasons["END-OF-MESSAGE"]++
		case local == "trap":
			c.discarded++
		default:
			c.delivered++
			c.deliveredB += len(m.Octets)
		}
	}
}

// compare wants each program to count what the clients counted.
func (c *counted) compare(t *testing.T) {
	if c.accepted == 0 || c.deferred == 0 || c.discarded == 0 || c.atDot == 0 || len(c.reasons) != 5 {
		t.Fatalf("the run was not what it was to be: %+v", c)
	}
	summary := extern.Pflogsumm(t, c.file)
	for name, want := range map[string]int{
		"received": c.accepted, "delivered": c.delivered, "deferred": c.deferred, "bounced": 0,
		"rejected": sumOf(c.reasons), "discarded": c.discarded, "bytes received": c.octets,
		"bytes delivered": c.deliveredB, "senders": len(c.senders),
	} {
		if got := number(summary, `(?m)^ +(\d+)  +`+name+`( |$)`); got != want {
			t.Errorf("pflogsumm: %d %s, want %d", got, name, want)
		}
	}
	_, rejects, _ := strings.Cut(summary, "message reject detail")
	for reason, want := range c.reasons {
		if got := number(rejects, `(?m)^ *`+regexp.QuoteMeta(reason)+` \(total: (\d+)\)$`); got != want {
			t.Errorf("pflogsumm: %d rejected for %q, want %d", got, reason, want)
		}
	}
	_, senders, _ := strings.Cut(summary, "Senders by message count")
	for sender, want := range c.senders {
		if got := number(senders, `(?m)^ *(\d+)  +`+regexp.QuoteMeta(sender)+`$`); got != want {
			t.Errorf("pflogsumm: %d messages of %s, want %d", got, sender, want)
		}
	}

	against := make(map[string]int)
	for _, client := range extern.Fail2ban(t, c.file, "more") {
		against[client]++
	}
	if !maps.Equal(against, c.against) {
		t.Errorf("fail2ban: counts %v, want %v", against, c.against)
	}
	if clients := extern.Fail2ban(t, c.file, "errors"); len(clients) > 0 {
		t.Errorf("fail2ban: too many errors of %v", clients)
	}
	c.compareExporter(t)
	if t.Failed() {
		t.Logf("%s", summary)
	}
}

func (c *counted) compareExporter(t *testing.T) {
	log, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mail.log")
	world.Save(t, file, "")
	addr := extern.StartPostfixExporter(t, file)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(log); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{
		`postfix_smtpd_messages_processed_total{sasl_method=""}`: c.accepted,
		`postfix_cleanup_messages_processed_total`:               c.accepted,
		`postfix_cleanup_messages_rejected_total`:                c.atDot,
		`postfix_qmgr_messages_inserted_size_bytes_count`:        c.accepted,
		`postfix_qmgr_messages_inserted_size_bytes_sum`:          c.octets,
		`postfix_qmgr_messages_removed_total`:                    c.accepted,
		`postfix_smtp_delivery_delay_seconds_count{stage=""}`:    4 * (c.delivered + c.deferred), // it names no stage
		`postfix_smtp_status_deferred`:                           c.deferred,
	}
	for code, n := range c.codes {
		want[fmt.Sprintf(`postfix_smtpd_messages_rejected_total{code="%d"}`, code)] = n
	}
	var page string
	world.Await(t, "the exporter has read the whole log", func() bool {
		page = metricsAt(t, addr)
		return number(page, `(?m)^`+regexp.QuoteMeta(`postfix_qmgr_messages_removed_total`)+` (\d+)$`) == c.accepted
	})
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got := number(page, `(?m)^`+regexp.QuoteMeta(name)+` (\S+)$`); got != want[name] {
			t.Errorf("exporter: %s is %d, want %d", name, got, want[name])
		}
	}
	if t.Failed() {
		t.Logf("%s", page)
	}
}

func metricsAt(t *testing.T, addr string) string {
	r, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// number returns the number that a pattern finds in a text, -1 if it finds none.
func number(text, pattern string) int {
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		return -1
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return -1
	}
	return int(n)
}

func sumOf(counts map[string]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
