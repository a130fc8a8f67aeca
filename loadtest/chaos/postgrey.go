package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// postgreyAddr is where postgrey answers, and postgreyDelay how long it puts off.
const (
	postgreyAddr  = fleet.Hub + ":10023"
	postgreyDelay = 5 * time.Second
)

// askPostgrey asks as Postfix does, in its policy protocol, and returns the action.
func askPostgrey(client, reverse, forward string) (string, error) {
	const patience = 30 * time.Second
	conn, err := net.DialTimeout("tcp", postgreyAddr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(conn, "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"+
		"client_address=%s\nclient_name=unknown\nreverse_client_name=unknown\nhelo_name=relay.example\n"+
		"sender=%s\nrecipient=%s\n\n", client, reverse, forward)
	if err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	action, _ := strings.CutPrefix(strings.TrimSpace(line), "action=")
	return action, nil
}

// greylistsBy has the destination put off whom postgrey puts off.
func greylistsBy(client func(smtptest.Step) string) func(smtptest.Step) (smtptest.Answer, bool) {
	return func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb != "RCPT" {
			return smtptest.Answer{}, false
		}
		action, err := askPostgrey(client(s), s.Message.Reverse, s.Forward)
		if err != nil {
			return smtptest.Answer{Reply: "451 4.3.5 Server configuration problem"}, true
		}
		if text, puts := strings.CutPrefix(action, "DEFER_IF_PERMIT "); puts {
			text = fmt.Sprintf("450 4.2.0 <%s>: Recipient address rejected: %s", s.Forward, text)
			return smtptest.Answer{Reply: text}, true
		}
		return smtptest.Answer{}, false
	}
}

// runPostgrey starts Debian's postgrey, which knows no sender and no network.
func runPostgrey(t *trial, s *fleet.Stage) error {
	perl, err := extern.Look("perl")
	if err != nil {
		return err
	}
	program, err := extern.Look("postgrey")
	if err != nil {
		return err
	}
	dir := filepath.Join(s.Dir, "postgrey")
	none := filepath.Join(dir, "none")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		return err
	}
	cmd := program.Command(context.Background())
	args := []string{"-T"} // as its first line has it, which is why PERL5LIB does not count
	for _, v := range cmd.Env {
		if folders, ok := strings.CutPrefix(v, "PERL5LIB="); ok {
			for _, f := range filepath.SplitList(folders) {
				args = append(args, "-I"+f)
			}
		}
	}
	args = append(args, program.Path(), "--inet="+postgreyAddr, fmt.Sprintf("--delay=%.0f", postgreyDelay.Seconds()),
		"--auto-whitelist-clients=0", "--dbdir="+dir, "--user=root", "--group=root", "--whitelist-clients="+none,
		"--whitelist-recipients="+none)
	run := perl.Command(context.Background(), args...)
	run.Env = cmd.Env
	p, err := fleet.Launch(run, dir+".log")
	if err != nil {
		return err
	}
	s.AtEnd(p.End)
	if err := fleet.AwaitPort(t.ctx, p, postgreyAddr); err != nil {
		said, _ := os.ReadFile(dir + ".log") // the error stands without it
		return fmt.Errorf("%w: %.1000s", err, said)
	}
	return nil
}

// postgrey is a destination with Debian's postgrey. All messages are put off once, the owner of the Site is killed
// meanwhile, and each is taken at its first attempt that comes when the delay is over.
var postgrey = scenario{
	name: "postgrey", about: "a real postgrey with --delay=5; the owner is killed before the delay is over",
	prepare: runPostgrey,
	play: func(t *trial) error {
		owner, others, err := t.warm()
		if err != nil {
			return err
		}
		t.Plain.Set(smtptest.Behaviour{
			Keep: keep, On: greylistsBy(func(s smtptest.Step) string { return host(s.Message.Client) }),
		})
		mark := t.answers.mark()
		const messages = 60
		stop := t.begin(&fleet.Load{
			Clients: messages, Messages: messages, Backoff: postgreyDelay + time.Second, Timeout: 70 * time.Second,
			Addrs: fleet.AnyOf(others), // what a client has of a node that is killed is no attempt at postgrey
		})
		if err := fleet.Await(t.ctx, 20*time.Second, "all are put off", func() bool {
			return t.answers.putOff(mark) >= messages
		}); err != nil {
			return err
		}
		if err := t.killed(owner, others); err != nil {
			return err
		}
		if err := t.awaitAnswers(mark, messages); err != nil {
			return err
		}
		sent := stop()
		first := 0
		for _, m := range sent {
			if m.Accepted && m.Deferred == 1 {
				first++
			}
		}
		t.tell("%d of %d at the first retry after the delay%s", first, len(sent), t.answers.textsSince(mark))
		if first < messages {
			t.harmed("%d of %d at the first retry after the delay, want all", first, messages)
		}
		return nil
	},
}

// host is an address without its port.
func host(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}
