package dev

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// A walk is what the console shows of one message of the tour.
type walk struct {
	number int
	stop   stop
	spoken []line
	heard  []string // by the destination
	event  mail.Event
	ended  bool // there is an event
	wrong  error
}

// A console prints for people, one block at a time, or for a program, one object a line.
type console struct {
	out   io.Writer
	color bool
	json  bool       // for a program
	mu    sync.Mutex // held while one block is written, never by a goroutine that serves mail
}

// The colours of a terminal.
const (
	plain = "\x1b[0m"
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[31m"
	green = "\x1b[32m"
)

func (c *console) paint(color, s string) string {
	if !c.color {
		return s
	}
	return color + s + plain
}

func (c *console) print(block string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = io.WriteString(c.out, block) // fails only when the reader has gone
}

func (c *console) welcome(addr string) {
	if c.json {
		return
	}
	c.print(fmt.Sprintf(`%s
One process: a node on %s, a name server, and destinations of every mood on loopback.
Nothing is written to disk. In each walk: C is the client, S the node, D what the destination heard.

`, c.paint(bold, "millrace dev"), addr))
}

// walk prints one message of the tour.
func (c *console) walk(w walk) {
	if c.json {
		c.object(objectOf(&w))
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", c.paint(bold, fmt.Sprintf("%2d  %s", w.number, w.stop.forward())),
		c.paint(dim, "  "+w.stop.tells))
	for i := 0; i < len(w.spoken); i++ {
		l := w.spoken[i]
		text := l.text
		if l.side == "S" && len(text) > 3 && text[3] == '-' {
			// Of a reply of several lines, show the first and how many follow.
			more := 0
			for i+1 < len(w.spoken) && w.spoken[i+1].side == "S" && len(w.spoken[i].text) > 3 &&
				w.spoken[i].text[3] == '-' {
				i++
				more++
			}
			text = fmt.Sprintf("%s (and %d lines)", text, more)
		}
		fmt.Fprintf(&b, "    %s  %s\n", c.paint(dim, l.side), text)
	}
	for _, h := range w.heard {
		fmt.Fprintf(&b, "    %s  %s\n", c.paint(dim, "D"), h)
	}
	if w.ended {
		c.event(&b, &w.event)
	}
	if w.wrong != nil {
		fmt.Fprintf(&b, "    %s\n\n", c.paint(red, "NOT AS EXPECTED: "+w.wrong.Error()))
	} else {
		fmt.Fprintf(&b, "    %s\n\n", c.paint(green, w.event.Kind.String()+", as expected"))
	}
	c.print(b.String())
}

// event prints the node's own event of a transaction: the rule, the next hop, its reply and the time of each stage.
func (c *console) event(b *strings.Builder, e *mail.Event) {
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(b, "    %s %s\n", c.paint(dim, fmt.Sprintf("%-9s", name)), printable.Text(text))
		}
	}
	row("rule", e.Rule.String())
	if e.NextHop != (mail.NextHop{}) {
		nextHop := e.NextHop.String()
		if e.Host != "" {
			nextHop += ", host " + e.Host
		}
		row("next hop", nextHop+how(e))
	} else {
		row("host", e.Host)
	}
	if e.Reply.Code != 0 {
		at := ""
		if e.Verb != "" {
			at = " to " + e.Verb
		}
		reply := e.Reply
		reply.ID = mail.TraceID{}
		row("reply", reply.String()+at)
	}
	row("because", node.InnermostCause(e))
	row("octets", octets(e))
	row("ms", stages(e))
	row("trace", e.Trace.String())
}

func how(e *mail.Event) string {
	if e.Host == "" || e.Mode == mail.ModeNone {
		return ""
	}
	text := ", in clear"
	if e.HostTLS != "" {
		text = ", " + e.HostTLS
	}
	if e.Reused {
		return text + ", warm session"
	}
	return text + ", new session"
}

func octets(e *mail.Event) string {
	if e.Octets == 0 {
		return ""
	}
	text := fmt.Sprint(e.Octets)
	switch e.Mode {
	case mail.ModeHold:
		text += ", held until judged"
	case mail.ModeStream:
		text += ", streamed"
	}
	if e.InDoubt {
		text += ", in doubt"
	}
	return text
}

func stages(e *mail.Event) string {
	var parts []string
	for s, d := range e.Took {
		if d > 0 {
			parts = append(parts, fmt.Sprintf("%s %.2f", mail.Stage(s), float64(d)/float64(time.Millisecond)))
		}
	}
	return strings.Join(parts, "  ")
}

func (c *console) summary(all, wrong int) {
	if c.json {
		c.object(map[string]int{"messages": all, "failed": wrong})
		return
	}
	text := c.paint(green, fmt.Sprintf("%d messages, every outcome as expected.", all))
	if wrong > 0 {
		text = c.paint(red, fmt.Sprintf("%d of %d messages did not end as expected.", wrong, all))
	}
	c.print(text + "\n")
}

// others prints a transaction that is not of the tour.
func (c *console) others(e *mail.Event) {
	if c.json {
		c.object(transactionOf(e))
		return
	}
	var b strings.Builder
	from := "<" + e.Reverse.String() + ">"
	tls := ""
	if e.TLS != "" {
		tls = ", " + e.TLS
	}
	fmt.Fprintf(&b, "%s %s\n", c.paint(bold, e.Time.Format("15:04:05")),
		printable.Text(fmt.Sprintf("%s (%s%s)  %s -> <%s>", e.Client, e.Helo, tls, from, e.Forward)))
	c.event(&b, e)
	color := red
	if e.Reply.Class() == 2 {
		color = green
	}
	word := e.Kind.String()
	if e.Reason != "" {
		word += ": " + e.Reason
	}
	fmt.Fprintf(&b, "    %s\n\n", c.paint(color, printable.Text(word)))
	c.print(b.String())
}

// invite prints what can be tried now.
func (c *console) invite(addr, adminAddr, token string) {
	if c.json {
		c.object(map[string]string{"addr": addr, "admin": adminAddr, "token": token})
		return
	}
	var b strings.Builder
	host, port, _ := strings.Cut(addr, ":")
	fmt.Fprintf(&b, "\n%s Every message sent to %s is shown here until Ctrl-C. The rules:\n\n",
		c.paint(bold, "Now you."), addr)
	for _, r := range strings.Split(strings.TrimSpace(rules), "\n") {
		fmt.Fprintf(&b, "    %s\n", r)
	}
	fmt.Fprintf(&b, `
Send with any client:

    swaks --server %s --from you@sender.example --to accept@%s
    curl --url smtp://%s --mail-from you@sender.example --mail-rcpt refuse@%s -T - <<< 'Subject: hello'
    nc -C %s %s

Each message, and why it was refused, in a browser:

    http://%s/login#%s

Metrics and health: curl http://%s/metrics and /readyz

`, addr, hosted, addr, hosted, host, port, adminAddr, token, adminAddr)
	c.print(b.String())
}
