package egress

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

func TestWhatIsKeptOfAnUnknownRecipientIsOneShortLine(t *testing.T) {
	long := strings.Repeat("z", 1900)
	w, _ := one(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{"RCPT": {
		Reply: "550-5.1.1 " + long + "\n550-5.1.1 " + long + "\n550 5.1.1 end",
	}}}, nil)
	for again := range 2 {
		tx := begin(t, w, to("one.test"))
		r := want(t, tx.Rcpt(t.Context(), path("b@one.test")), "550 5.1.1 zzz")
		if r.Host != "mx1.one.test" || r.Reason != "upstream" {
			t.Errorf("got %+v", r)
		}
		if again == 1 &&
			(len(r.Reply.Text) != mail.MaxReplyLine || strings.Contains(r.Reply.Text, "\n") || r.Cause != nil) {
			t.Errorf("got %d octets with the cause %v", len(r.Reply.Text), r.Cause)
		}
		tx.Abort()
	}
}

func TestUnknownRecipientsTakeNoMoreMemoryThanTheyMay(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{}, nil)
	l := w.relay.local
	used := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	fill := func(from, n int) {
		for i := range n {
			text := strings.Repeat("z", 16<<10)
			r := mail.Refuse(550, 1, 1, text, "upstream", fmt.Errorf("RCPT: 550 5.1.1 %s", text))
			line := fmt.Sprintf("RCPT TO:<%d%s@one.test>%s", from+i, strings.Repeat("x", 200),
				strings.Repeat(" ", 2000))
			at := strings.IndexByte(line, '@')
			l.setUnknown("mx1.one.test",
				mail.Path{Local: line[len("RCPT TO:<"):at], Domain: line[at+1 : at+1+len("one.test")]}, r)
		}
	}
	before := used()
	fill(0, 1000)
	each := (used() - before) / 1000
	t.Logf("%d octets each", each)
	if each > 1500 {
		t.Errorf("%d octets each", each)
	}
	fill(1000, 40_000)
	t.Logf("%d octets for %d", used()-before, l.unknown.Len())
	if got := used() - before; got > 2*unknownCache {
		t.Errorf("%d octets for %d", got, l.unknown.Len())
	}
}
