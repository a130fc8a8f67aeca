package probe

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// A Stranger says whom the tricks are tried on, and with what.
type Stranger struct {
	Addr   string // the host's address and port
	Host   string // its name; "" for that in its greeting
	Domain string // one that it takes mail for; "" for the name in its greeting
	To     string // a mailbox that is not the host's
	Helo   string
	Wait   time.Duration // for each answer; 0 for 30 s
}

// The ways in which a host answers a trick.
const (
	Refused   = "refused"   // with a 5yz
	PutOff    = "put off"   // with a 4yz, which says nothing
	Taken     = "taken"     // RCPT was answered 2yz
	MayBeName = "ambiguous" // so was RCPT, and it is for any other name at that domain
	NoDomain  = "no domain" // refused because the domain of the recipient takes no mail, which says nothing
	Unsaid    = "not said"  // the connection did not last
)

// A Tried is a trick that was tried.
type Tried struct {
	Trick  string `json:"trick"`
	Said   string `json:"said"` // the command that counts
	Reply  string `json:"reply"`
	Answer string `json:"answer"` // Refused, PutOff, Taken, MayBeName or Unsaid
}

// The conclusions of a Report.
const (
	Closed  = "closed"
	Open    = "open"
	Unclear = "unclear"
)

// A Report is what tricks at a host came to.
type Report struct {
	Addr       string   `json:"address"`
	Host       string   `json:"host"`   // the name in its greeting
	Domain     string   `json:"domain"` // that its own addresses were tried at
	Conclusion string   `json:"conclusion"`
	Says       []string `json:"says"` // why, in words
	// Postmaster is the answer to RCPT for the postmaster of the domain, which shows whether mail is taken at all, and
	// AnyName that for a name that cannot be there.
	Postmaster string  `json:"postmaster"`
	AnyName    string  `json:"any_name"`
	Tried      []Tried `json:"tried"`
}

const (
	// perSession is how many tricks share a session: a host that counts mistakes is not to end it.
	perSession = 4
	// defaultWait is Stranger.Wait where that is 0.
	defaultWait = 30 * time.Second
	// mostHeard bounds what is read of one session, in octets.
	mostHeard = 1 << 20
	// noName is a local part that cannot be there.
	noName = "no-such-name-0b8f2d61"
)

// A hunt is one Relay under way.
type hunt struct {
	Stranger
	scene  *scene
	report *Report
	open   *line // nil: none
	said   int   // tricks in it
}

// Relay tries all tricks on a host and reports what it answered. The error says that nothing could be tried.
func Relay(ctx context.Context, s Stranger) (*Report, error) {
	s.Wait = cmp.Or(s.Wait, defaultWait)
	h := &hunt{Stranger: s}
	if err := h.begin(ctx); err != nil {
		return nil, err
	}
	for _, t := range Tricks() {
		if ctx.Err() != nil {
			break
		}
		h.report.Tried = append(h.report.Tried, h.hold(ctx, t))
	}
	h.part()
	h.report.conclude()
	return h.report, nil
}

// begin learns what the host is called, and what it answers to what is no trick.
func (h *hunt) begin(ctx context.Context) error {
	l, err := h.dial(ctx, true)
	if err != nil {
		return err
	}
	defer l.quit()
	greeted, _, _ := strings.Cut(strings.TrimSpace(l.greeting), " ")
	r := &Report{Addr: h.Addr, Host: shown(cmp.Or(h.Host, greeted)), Tried: []Tried{}}
	r.Domain = cmp.Or(h.Domain, r.Host)
	ip, _, _ := net.SplitHostPort(l.conn.RemoteAddr().String())
	if strings.Contains(ip, ":") {
		ip = "IPv6:" + ip
	}
	h.report = r
	h.scene = &scene{to: h.To, ours: r.Domain, host: r.Host, ip: ip, own: "postmaster@" + r.Domain}
	r.Postmaster = h.plain(l, h.scene.own)
	r.AnyName = h.plain(l, noName+"@"+r.Domain)
	return nil
}

// plain returns the reply to a recipient of an ordinary transaction.
func (h *hunt) plain(l *line, to string) string {
	tried, err := l.try(h.scene, Trick{To: "<" + to + ">"})
	if err != nil && tried.Reply == "" {
		return shown(Words(err))
	}
	return tried.Reply
}

// hold tries one trick. A session that ends meanwhile may have ended for what was said before, so that it is tried once
// more on another one.
func (h *hunt) hold(ctx context.Context, t Trick) Tried {
	alone := t.Silly || len(t.Before) > 0
	if alone || h.said >= perSession {
		h.part()
	}
	out := Tried{Trick: t.Name, Answer: Unsaid}
	for range 2 {
		if h.open == nil {
			l, err := h.dial(ctx, !t.Silly)
			if err != nil {
				out.Reply = shown(Words(err))
				return out
			}
			h.open, h.said = l, 0
		}
		var err error
		if out, err = h.open.try(h.scene, t); err == nil {
			break
		}
		h.open.conn.Close()
		h.open = nil
	}
	h.said++
	if alone {
		h.part()
	}
	if out.Answer == Taken && t.Own && strings.HasPrefix(h.report.AnyName, "2") {
		out.Answer = MayBeName
	}
	return out
}

// part ends the session that is open.
func (h *hunt) part() {
	if h.open != nil {
		h.open.quit()
		h.open = nil
	}
}

// conclude says what the answers come to.
func (r *Report) conclude() {
	count := make(map[string]int)
	for _, t := range r.Tried {
		count[t.Answer]++
	}
	say := func(form string, a ...any) { r.Says = append(r.Says, fmt.Sprintf(form, a...)) }
	r.Conclusion = Closed
	if !strings.HasPrefix(r.Postmaster, "2") {
		r.Conclusion = Unclear
		say("the host does not take mail for postmaster@%s from here, so its refusals say nothing of the tricks: name "+
			"a domain that it takes mail for with --domain, ask from another address, or later", r.Domain)
	}
	if n := count[NoDomain]; n > 0 {
		r.Conclusion = Unclear
		say("%d tricks were refused because the recipient's domain takes no mail, and not because the host does not "+
			"relay: name a mailbox of yours elsewhere with --to", n)
	}
	if n := count[PutOff] + count[Unsaid]; n > 0 {
		r.Conclusion = Unclear
		say("%d tricks were put off or not answered, which says nothing: ask again later", n)
	}
	if n := count[MayBeName]; n > 0 {
		r.Conclusion = Unclear
		say("%d tricks at %s were taken, and so is any name there: the host has a catch-all, or looks names up "+
			"later. Whether it reads a route in them only mail can show", n, r.Domain)
	}
	if n := count[Taken]; n > 0 {
		r.Conclusion = Open
		say("%d tricks were taken at RCPT: as far as that the host relays for strangers. It may still refuse at the "+
			"end of the message, or send a bounce later, which would reach whom a forger names; no message was sent "+
			"to find out", n)
	}
	if r.Conclusion == Closed {
		say("all %d tricks were refused", len(r.Tried))
	}
}

// A line is a session in which tricks are said.
type line struct {
	conn     net.Conn
	text     *textproto.Reader
	wait     time.Duration
	greeting string
}

// dial opens a session, as far as EHLO unless greet is false, with STARTTLS where that is offered.
func (s *Stranger) dial(ctx context.Context, greet bool) (*line, error) {
	l, offered, err := s.greet(ctx, greet)
	if err != nil || !offered {
		return l, err
	}
	if code, _, err := l.say("STARTTLS"); err == nil && code == 220 {
		// Nothing that is said is a secret, and no certificate says whether a host relays.
		secure := tls.Client(l.conn, &tls.Config{InsecureSkipVerify: true})
		if err = secure.HandshakeContext(ctx); err == nil {
			l.use(secure)
			_, _, err = l.say("EHLO " + s.Helo)
		}
		if err == nil {
			return l, nil
		}
	}
	l.conn.Close()
	l, _, err = s.greet(ctx, greet) // in clear then
	return l, err
}

// greet opens a session in clear and reports whether STARTTLS is offered.
func (s *Stranger) greet(ctx context.Context, greet bool) (l *line, offered bool, err error) {
	d := net.Dialer{Timeout: s.Wait}
	conn, err := d.DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return nil, false, err
	}
	l = &line{wait: s.Wait}
	l.use(conn)
	code, text, err := l.hear()
	if err == nil && code != 220 {
		err = fmt.Errorf("the host does not take us: %d %s", code, shown(text))
	}
	if err == nil && greet {
		l.greeting = text
		code, text, err = l.say("EHLO " + s.Helo)
		if err == nil && code != 250 {
			code, text, err = l.say("HELO " + s.Helo)
		}
		if err == nil && code != 250 {
			err = fmt.Errorf("the host does not take our name: %d %s", code, shown(text))
		}
	}
	if err != nil {
		conn.Close()
		return nil, false, err
	}
	for word := range strings.Lines(text) {
		offered = offered || strings.EqualFold(strings.TrimSpace(word), "STARTTLS")
	}
	return l, offered && greet, nil
}

// use has a session go on over a connection.
func (l *line) use(conn net.Conn) {
	l.conn = conn
	l.text = textproto.NewReader(bufio.NewReader(io.LimitReader(conn, mostHeard)))
}

// say says a command and returns the reply.
func (l *line) say(command string) (code int, text string, err error) {
	if err := l.conn.SetDeadline(time.Now().Add(l.wait)); err != nil {
		return 0, "", err
	}
	if _, err := io.WriteString(l.conn, command+"\r\n"); err != nil {
		return 0, "", err
	}
	return l.hear()
}

// hear returns a reply.
func (l *line) hear() (code int, text string, err error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(l.wait)); err != nil {
		return 0, "", err
	}
	return l.text.ReadResponse(0)
}

// quit ends a session.
func (l *line) quit() {
	_, _, _ = l.say("QUIT")
	l.conn.Close()
}

// errEnds is that of a host that ends the session with its reply.
var errEnds = errors.New("the host ended the session")

// try says a trick and takes it back. An error means that the session is over.
func (l *line) try(set *scene, t Trick) (Tried, error) {
	out := Tried{Trick: t.Name, Answer: Unsaid}
	for _, command := range t.Before {
		if _, _, err := l.say(set.fill(command)); err != nil {
			return out, err
		}
	}
	commands := []string{"MAIL FROM:" + set.fill(cmp.Or(t.From, "<relay-probe@{domain}>"))}
	for _, first := range t.First {
		commands = append(commands, "RCPT TO:"+set.fill(first))
	}
	commands = append(commands, "RCPT TO:"+set.fill(cmp.Or(t.To, "<{to}>")))
	if t.Chunk {
		commands = append(commands, "BDAT 0")
	}
	code, err := l.sayAll(commands, t.Chunk, &out)
	switch {
	case err != nil:
		return out, err
	case code >= 500 && refusesDomain(code, out.Reply):
		out.Answer = NoDomain
	case code >= 500:
		out.Answer = Refused
	case code >= 400:
		out.Answer = PutOff
	case code >= 200 && code < 300:
		out.Answer = Taken
	}
	if _, _, err := l.say("RSET"); err != nil { // what was answered counts all the same
		l.conn.Close()
	}
	return out, nil
}

// refusesDomain reports whether a reply says that a domain does not exist or takes no mail.
func refusesDomain(code int, reply string) bool {
	_, text, _ := strings.Cut(reply, " ")
	enhanced, _, _ := strings.Cut(text, " ")
	return code == 556 || enhanced == "5.1.2" || enhanced == "5.1.10" || enhanced == "5.4.4"
}

// sayAll says the commands of a transaction up to the one that counts, which it notes in out with its reply, and
// returns the code of that: the last command, or a MAIL that is refused. With chunk the last one is a chunk, which is
// not said where the recipient in front of it was taken.
func (l *line) sayAll(commands []string, chunk bool, out *Tried) (code int, err error) {
	for i, command := range commands {
		var text string
		code, text, err = l.say(command)
		out.Said, out.Reply = shown(command), ""
		if err != nil {
			out.Reply = shown(Words(err))
			return 0, err
		}
		out.Reply = shown(fmt.Sprintf("%d %s", code, strings.ReplaceAll(text, "\n", " / ")))
		switch {
		case code == 421:
			out.Answer = PutOff
			return code, errEnds
		case i == 0 && code >= 400, chunk && i == len(commands)-2 && code < 300:
			return code, nil
		}
	}
	return code, nil
}
