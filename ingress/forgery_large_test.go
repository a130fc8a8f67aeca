package ingress

import (
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// A large forgery takes no memory and is not delivered.
func TestBody_LargeForgery(t *testing.T) {
	const size = 25 << 20
	wire := []byte(stuff(lines(64 << 10)))
	tests := []struct {
		name    string
		sign    bool // we sign, so that the body may be foretold
		domain  string
		replies []string
		datas   int64
		mode    mail.Mode
	}{
		{
			"with a foreign signature it is refused before it is sent", true, "evil.example", []string{"550 5.7.26"}, 0,
			mail.ModeStream,
		},
		{
			"with a replayed signature the end of data is withheld in stream", false, "bank.example",
			[]string{"550 5.7.26"}, 1, mail.ModeStream,
		},
		{
			"with a replayed signature the end of data is withheld in predict", true, "bank.example",
			[]string{"550 5.7.26"}, 1, mail.ModePredict,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &ingresstest.Sink{}
			c := serveAuth(t, info, d, tt.sign, nil)
			key := publishKey(t, c.zone, tt.domain, "s", dkim.Ed25519SHA256)
			header, _, _ := strings.Cut(signed(t, key, from("bank.example", ""), "the true body\r\n"), "\r\n\r\n")
			// what is made once is made
			c.send("a@b.example", signed(t, c.sender, from("b.example", ""), lines(300<<10)), "250", "info@example.com")
			d.Datas.Store(0)
			d.Commits.Store(0)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for _, want := range tt.replies {
				c.open("a@evil.example", "info@example.com")
				c.say("DATA", "354")
				if _, err := io.WriteString(c.conn, header+"\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				for sent := 0; sent < size; sent += len(wire) {
					if _, err := c.conn.Write(wire); err != nil {
						t.Fatal(err)
					}
				}
				c.say(".", want)
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
				t.Errorf("%d octets were allocated", grown)
			}
			if d.Commits.Load() != 0 || d.Datas.Load() != tt.datas {
				t.Errorf("%d times DATA, %d commits", d.Datas.Load(), d.Commits.Load())
			}
			// without the dots that were added
			if e := c.last(mail.Refused); e.Mode != tt.mode || tt.datas > 0 && e.Octets < size*9/10 {
				t.Errorf("mode %v, %d octets", e.Mode, e.Octets)
			}
		})
	}
}
