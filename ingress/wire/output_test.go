package wire

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A slowSession takes its time at RCPT, as one whose next hop does.
type slowSession struct {
	Session
	slow chan time.Duration // per RCPT; when it is closed, at once
}

func (s *slowSession) Rcpt(ctx context.Context, p mail.Path) error {
	<-time.After(<-s.slow)
	return s.Session.Rcpt(ctx, p)
}

// TestOutput_BeforeWait shows that no reply waits long behind a slow command, and that of a message not at all.
func TestOutput_BeforeWait(t *testing.T) {
	slow := make(chan time.Duration)
	r := start(t, func(cfg *Config) {
		inner := cfg.NewSession
		cfg.NewSession = func(ctx context.Context, c *Client) Session { return &slowSession{inner(ctx, c), slow} }
	})
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n")
	slow <- maxAge + maxAge/4
	p.want("250 ")
	p.want("250 2.1.0")
	p.want("250 2.1.5") // while the second RCPT still waits
	slow <- 0
	p.want("250 2.1.5")
	p.want("354")
	p.say("hi\r\n.\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n")
	p.want("250 2.0.0 took 4") // while the RCPT behind it still waits
	close(slow)
	p.want("250 2.1.0")
	p.want("250 2.1.5")
}
