package dev

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
)

// hosted is the domain that the node of this world hosts. Its addresses have a rule each.
const hosted = "dev.example"

// A mood is a destination with a behaviour. Its mail host is mx.NAME.example.
type mood struct {
	name      string
	behaviour smtptest.Behaviour
}

// slowness is how long the slow destination takes for each of its two slow answers.
const slowness = 700 * time.Millisecond

// breakAfter is after how many octets of the message the destination cut closes the connection.
const breakAfter = 200_000

// moods returns the destinations. t is the TLS configuration of the one that offers TLS.
func moods(t *tls.Config) []mood {
	at := func(verb string, a smtptest.Answer) map[string]smtptest.Answer {
		return map[string]smtptest.Answer{verb: a}
	}
	return []mood{
		{"accept", smtptest.Behaviour{TLS: t}},
		{"refuse", smtptest.Behaviour{Answers: at("RCPT", smtptest.Answer{Reply: "550 5.1.1 No such mailbox here"})}},
		{
			"refuse-data",
			smtptest.Behaviour{Answers: at(smtptest.Dot,
				smtptest.Answer{Reply: "554 5.7.1 The content looks like spam"})},
		},
		{
			"defer",
			smtptest.Behaviour{Answers: at("RCPT",
				smtptest.Answer{Reply: "451 4.2.1 Mailbox is busy, try again later"})},
		},
		{"greylist", smtptest.Behaviour{Answers: at("RCPT", smtptest.Answer{Greylist: true})}},
		{
			"slow",
			smtptest.Behaviour{Answers: map[string]smtptest.Answer{
				"RCPT": {After: slowness}, smtptest.Dot: {After: slowness},
			}},
		},
		{"cut", smtptest.Behaviour{Body: &smtptest.Fault{After: breakAfter, Answer: smtptest.Answer{Close: true}}}},
		{"lost", smtptest.Behaviour{Answers: at(smtptest.Dot, smtptest.Answer{Close: true})}},
	}
}

// rules is the rules file of this world. The tour and the list at the end follow it.
const rules = `domain dev.example                      subaddress=+
accept@dev.example       inbox@accept.example
refuse@dev.example       nobody@refuse.example
refuse-data@dev.example  inbox@refuse-data.example
defer@dev.example        inbox@defer.example
greylist@dev.example     inbox@greylist.example
slow@dev.example         inbox@slow.example
cut@dev.example          inbox@cut.example
lost@dev.example         inbox@lost.example
down@dev.example         inbox@down.example
nomail@dev.example       inbox@nomail.example
drop@dev.example         drop
reject@dev.example       reject 550 5.1.1 Moved, write to accept@dev.example
tempfail@dev.example     tempfail 451 4.2.1 Back tomorrow
/list-(.+)/@dev.example  $1@accept.example
`

// rulesName is the name of the rules in complaints and logs. They are in no file.
const rulesName = "dev-routes"

// A world is the part of the Internet that the node can see.
type world struct {
	dns          *dnstest.Server
	destinations map[string]*smtptest.Server
	port         int // of every destination
}

// newWorld starts the name server and the destinations.
func newWorld() (*world, error) {
	w := &world{destinations: make(map[string]*smtptest.Server)}
	all := moods(smtptest.NewCA().Server("mx.accept.example"))
	err := w.listen(all)
	if err != nil {
		w.close()
		return nil, err
	}
	w.dns, err = dnstest.Listen("127.0.0.1:0", zone(all))
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// listen starts every destination on an address of its own and all of them on the same port, because MX records have no
// port. A port that is free on the first address may be in use on another, so a few ports are tried.
func (w *world) listen(all []mood) error {
	var err error
	for range 8 {
		if err = w.listenAt(all); err == nil {
			return nil
		}
		w.closeDestinations()
	}
	return err
}

func (w *world) listenAt(all []mood) error {
	w.port = 0
	for i, m := range all {
		m.behaviour.Hostname = "mx." + m.name + ".example"
		s, err := smtptest.Listen(net.JoinHostPort(address(i), fmt.Sprint(w.port)), m.behaviour)
		if err != nil {
			return fmt.Errorf("destination %s: %w", m.name, err)
		}
		w.destinations[m.name] = s
		a, err := net.ResolveTCPAddr("tcp", s.Addr())
		if err != nil {
			return err
		}
		w.port = a.Port
	}
	return nil
}

// address returns the address of the i-th destination. Linux has all of 127.0.0.0/8 on loopback.
func address(i int) string { return fmt.Sprintf("127.0.0.%d", i+2) }

// zone returns the DNS of this world, as a master file.
func zone(all []mood) string {
	var b strings.Builder
	host := func(name, addr string) {
		fmt.Fprintf(&b, "%s.example. 60 IN MX 10 mx.%s.example.\nmx.%s.example. 60 IN A %s\n", name, name, name, addr)
	}
	for i, m := range all {
		host(m.name, address(i))
	}
	host("down", address(len(all))) // an address without a listener
	b.WriteString("nomail.example. 60 IN MX 0 .\n")
	return b.String()
}

// heard returns the command lines of a destination after the first n, and how many there are now.
func (w *world) heard(name string, n int) ([]string, int) {
	d, ok := w.destinations[name]
	if !ok {
		return nil, 0
	}
	all := d.Commands()
	lines := make([]string, 0, len(all)-n)
	for _, l := range all[n:] {
		_, command, _ := strings.Cut(l, " ") // the number of its session stands before it
		lines = append(lines, command)
	}
	return lines, len(all)
}

// holds requires that the last message of a destination is that of a letter, octet for octet, below our trace field.
func (w *world) holds(name, octets string) error {
	d, ok := w.destinations[name]
	if !ok {
		return fmt.Errorf("no destination %s", name)
	}
	messages := d.Messages()
	if len(messages) == 0 {
		return errors.New("the destination holds no message")
	}
	got := string(messages[len(messages)-1].Octets)
	if !strings.HasPrefix(got, "Received: ") || !strings.HasSuffix(got, "\r\n"+octets) {
		return errors.New("the destination holds other octets than were sent")
	}
	return nil
}

// taken returns the number of messages that the destinations hold.
func (w *world) taken() int {
	n := 0
	for _, d := range w.destinations {
		n += len(d.Messages())
	}
	return n
}

func (w *world) closeDestinations() {
	for name, d := range w.destinations {
		d.Close()
		delete(w.destinations, name)
	}
}

func (w *world) close() {
	w.closeDestinations()
	if w.dns != nil {
		w.dns.Close()
	}
}
