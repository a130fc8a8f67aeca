package main

import (
	"context"
	"fmt"
	"io"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// stay starts a cluster behind a load balancer, says where everything is, and waits for ctx. With once it sends a
// message through each node and through the load balancer and ends.
func (l *lab) stay(ctx context.Context, out io.Writer, once bool) error {
	t := &trial{lab: l}
	if err := t.start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "A cluster of three nodes, formed in %s. Everything is on loopback and gone when this ends.\n\n",
		fleet.MS(t.formed))
	fmt.Fprintf(out, "load balancer  smtp %s (HAProxy, PROXY v2)\n", t.ring.Balancer)
	for _, m := range t.ring.Nodes {
		fmt.Fprintf(out, "node %s         smtp %s  admin http://%s  config %s\n", m.Name, m.SMTP, m.HTTP,
			m.Configuration())
	}
	fmt.Fprintf(out, "redis          %s\nname server    %s", l.redis, l.dns.Addr())
	fmt.Fprintf(out, `
destinations   any@plain.test      takes everything; unknown@, refused@, deferred@ and lost@plain.test do not
               any@d0.many.test    to d%d, on one MX set: one Site, one owner
               any@d0.tls.test     to d%d, with STARTTLS, an MX host each
               any@d0.grey.test    to d%d, greylisted for %s, an MX host each

Try:
    swaks --server %s --from you@client.example --to any@plain.test
    %s cluster status -c %s
    kill -STOP, -CONT, -TERM or -KILL: node a is process %d, b %d, c %d

`, manyDomains-1, tlsSites-1, greySites-1, greyDelay, t.ring.Balancer, l.binary, t.ring.Nodes[0].Configuration(),
		t.ring.Nodes[0].Process.Cmd.Process.Pid, t.ring.Nodes[1].Process.Cmd.Process.Pid,
		t.ring.Nodes[2].Process.Cmd.Process.Pid)
	if !once {
		<-ctx.Done()
		return nil
	}
	for _, m := range append(t.ring.Nodes, &fleet.Member{Name: "any", SMTP: t.ring.Balancer}) {
		if err := sendOnce(ctx, m.SMTP); err != nil {
			return fmt.Errorf("through %s: %w", m.Name, err)
		}
	}
	if n := len(l.plain.Messages()); n != 4 {
		return fmt.Errorf("%d messages were delivered, want 4", n)
	}
	fmt.Fprintln(out, "A message went through each node and through the load balancer.")
	return nil
}

func sendOnce(ctx context.Context, addr string) error {
	s, err := source.Dial(ctx, source.Config{Addr: addr})
	if err != nil {
		return err
	}
	r, err := s.Send(source.Message{
		Reverse: "a@client.example", Forward: []string{"any@plain.test"}, Octets: []byte("Subject: once\r\n\r\nhi\r\n"),
	})
	if err != nil {
		s.Abort(false)
		return err
	}
	if r.End.Class() != 2 {
		s.Abort(false)
		return fmt.Errorf("%s", r.End)
	}
	return s.Quit()
}
