package feedback

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestObserver_UnknownMemory: unknown recipients take no more memory than they may.
func TestObserver_UnknownMemory(t *testing.T) {
	o := New(nil, time.Now)
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
			o.SetUnknown(&Sender{Site: "mx1.one.test"},
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
	t.Logf("%d octets for %d", used()-before, o.unknown.Len())
	if got := used() - before; got > 2*unknownCache {
		t.Errorf("%d octets for %d", got, o.unknown.Len())
	}
}
