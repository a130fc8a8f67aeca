package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// The exit codes of explain.
const (
	exitDefer     = 1
	exitReject    = 2
	exitNoVerdict = 3
)

type explainVerb struct {
	configFlag
	IP      string  `name:"ip" required:"" placeholder:"ADDRESS" help:"The client's address."`
	Helo    *string `placeholder:"NAME" help:"What the client says in EHLO."`
	From    *string `placeholder:"PATH" help:"The reverse-path; '<>' is the null sender."`
	To      *string `placeholder:"PATH" help:"The forward-path."`
	Connect bool    `help:"@explain_connect"`
	Hooks   bool    `help:"@explain_hooks"`
	Message string  `placeholder:"FILE" help:"@explain_message"`
	Filters bool    `help:"@explain_filters"`
	User    string  `placeholder:"NAME" help:"@explain_user"`
	At      string  `placeholder:"TIME" help:"@explain_at"`
	On      string  `placeholder:"ADDRESS" help:"The address of the listener that is asked; the first when left out."`
	Here    bool    `help:"@explain_here"`
	jsonFlag
}

func (v *explainVerb) run(s streams) int {
	q, err := v.question(s.in)
	if err != nil {
		fmt.Fprintln(s.err, "millrace:", err)
		return exitNoVerdict
	}
	cfg, err := config.Load(v.Config)
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitNoVerdict
	}
	answer, err := v.answer(context.Background(), cfg, q)
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitNoVerdict
	}
	if v.JSON {
		printJSON(s.out, answer)
	} else {
		printAnswer(s.out, answer)
	}
	switch answer.Verdict {
	case node.Defer:
		return exitDefer
	case node.Reject:
		return exitReject
	}
	return exitOK
}

// answer asks the node that runs with cfg, and where it cannot be asked, what a node would do that starts now.
func (v *explainVerb) answer(ctx context.Context, cfg *config.Config, q node.Question) (*node.Answer, error) {
	why := "--here"
	if !v.Here {
		answer, err := askToExplain(ctx, cfg, q)
		var refused *refusedQuestion
		switch {
		case err == nil:
			return answer, nil
		case errors.As(err, &refused):
			return nil, err
		}
		why = err.Error()
	}
	answer, err := node.Explain(ctx, cfg, q)
	if err == nil {
		answer.Asked.Why = why
	}
	return answer, err
}

// A refusedQuestion is what a node says of a question that no configuration answers.
type refusedQuestion struct{ reason string }

// Error returns what the node said.
func (e *refusedQuestion) Error() string { return e.reason }

// askToExplain asks the node that runs with cfg.
func askToExplain(ctx context.Context, cfg *config.Config, q node.Question) (*node.Answer, error) {
	switch {
	case cfg.Admin == nil:
		return nil, errors.New("the configuration has no admin section")
	case cfg.Admin.TokenFile == "":
		return nil, errors.New("the configuration has no admin.token_file")
	}
	question, err := json.Marshal(node.Ask{Question: q, Configuration: cfg.Digest()})
	if err != nil {
		return nil, err
	}
	body, err := tellNode(ctx, cfg, nodeRequest{
		method: http.MethodPost, path: "/api/v1/explain", body: question,
		most: cfg.ExplainBudget(q.Connect) + statusTimeout,
	})
	var failed *statusError
	switch {
	case errors.As(err, &failed) && failed.status == http.StatusUnprocessableEntity:
		return nil, &refusedQuestion{failed.reason}
	case errors.As(err, &failed) && failed.status == http.StatusNotFound:
		return nil, fmt.Errorf("the node at %s is of an older version", cfg.Admin.Addr)
	case errors.As(err, &failed):
		return nil, fmt.Errorf("the node at %s: %s", cfg.Admin.Addr, failed.reason)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no node answers at %s", cfg.Admin.Addr)
	case err != nil:
		return nil, errors.New(config.FileReason(err))
	}
	var answer node.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("what answers at %s is no node", cfg.Admin.Addr)
	}
	if q.At != nil && answer.Asked.At == nil {
		return nil, fmt.Errorf("the node at %s is of an older version, which knows no --at", cfg.Admin.Addr)
	}
	answer.Asked.Node += " at " + cfg.Admin.Addr
	return &answer, nil
}

func (v *explainVerb) question(in io.Reader) (node.Question, error) {
	q := node.Question{Helo: inALabels(v.Helo), On: v.On, User: v.User, Connect: v.Connect, Hooks: v.Hooks}
	var err error
	if q.IP, err = netip.ParseAddr(v.IP); err != nil {
		return q, fmt.Errorf("--ip: %q is not an address", v.IP)
	}
	if q.From, err = readPath("--from", v.From); err != nil {
		return q, err
	}
	if q.To, err = readPath("--to", v.To); err != nil {
		return q, err
	}
	if q.To != nil && q.To.IsNull() {
		return q, fmt.Errorf("--to: <> is no recipient")
	}
	if v.At != "" {
		at, ok := rules.Time(v.At)
		if !ok {
			return q, fmt.Errorf("--at: %q is no time: it is written as after= and until= are, "+
				"2026-12-24T18:00:00Z, or with +09:00 in place of Z for a time in Japan", v.At)
		}
		q.At = &at
	}
	if v.Message == "" {
		if v.Filters {
			return q, fmt.Errorf("--filters needs --message: what is shown to the filters")
		}
		return q, nil
	}
	q.Filters = v.Filters
	if q.Helo == nil || q.From == nil || q.To == nil {
		return q, fmt.Errorf("--message needs --helo, --from and --to: it is judged as a client brings it")
	}
	q.Message, err = readMessage(v.Message, in)
	return q, err
}

// readMessage reads a message from a file, or from in for "-". Where no line of it ends in CRLF the ends are those of a
// file, and become CRLF; else it is taken as it is, because a client may be refused for it.
func readMessage(file string, in io.Reader) (text []byte, err error) {
	if file == "-" {
		text, err = io.ReadAll(in)
	} else {
		text, err = os.ReadFile(file)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("--message: %s", config.FileReason(err))
	case len(text) == 0:
		return nil, fmt.Errorf("--message: %s is empty", file)
	case !bytes.Contains(text, []byte("\r\n")):
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	return text, nil
}

// readPath reads a path with or without its angle brackets.
func readPath(flag string, s *string) (*mail.Path, error) {
	if s == nil {
		return nil, nil
	}
	text := *s
	if strings.HasPrefix(text, "<") && strings.HasSuffix(text, ">") {
		text = text[1 : len(text)-1]
	} else if text == "" {
		return nil, fmt.Errorf("%s: is empty; the null sender is written '<>'", flag)
	}
	p, err := mail.ParsePath(text, true)
	if err != nil {
		if text != "" {
			if why := rules.AddressMistake(text); why != "" {
				return nil, fmt.Errorf("%s: %s", flag, why)
			}
		}
		return nil, fmt.Errorf("%s: %q: %w", flag, *s, err)
	}
	if ascii.Is(p.Local) { // what a mailer does that wants to be understood by all
		p.Domain = *inALabels(&p.Domain)
	}
	return &p, nil
}

// inALabels returns a name with its U-labels as A-labels, and what is no domain name as it is.
func inALabels(name *string) *string {
	if name == nil || ascii.Is(*name) {
		return name
	}
	canonical, ok := rules.ALabels(*name)
	if !ok {
		return name
	}
	return &canonical
}

// printAnswer prints the answer for people: one thing a line, its name in front.
func printAnswer(w io.Writer, a *node.Answer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	trust := "not trusted"
	if a.Trusted {
		trust = "trusted: may relay anywhere"
	}
	if a.Asked.Node != "" {
		row("asked", "the running node %s", a.Asked.Node)
	} else {
		row("asked", "this configuration, as a node would that starts now: %s", a.Asked.Why)
	}
	if a.Asked.At != nil {
		row("at", "%s: rules begin and end by this time, all else is of now", a.Asked.At.Format(time.RFC3339))
	}
	row("client", "%s at %s, %s", a.Client, a.On, trust)
	for _, given := range [][2]string{{"helo", a.Helo}, {"from", a.From}, {"to", a.To}} {
		if given[1] != "" {
			row(given[0], "%s", given[1])
		}
	}
	for _, skipped := range a.Skipped {
		row("skipped", "%s", skipped)
	}
	if s := a.Score; s != nil {
		for _, sig := range s.Signals {
			row("signal", "%-16s %-8s %5.1f  %s", sig.Name, sig.State, sig.Weight, sig.Text)
		}
		row("score", "%.1f (defer from %g, reject from %g): %s", s.Total, s.Defer, s.Reject, s.Verdict)
		if s.Grey {
			row("note", "this score is greylisted: mail is put off the first time")
		}
	}
	if r := a.Rules; r != nil && a.To != "" {
		row("rules", "%s", rulesLine(*r))
		if r.Trouble != "" {
			row("note", "other nodes may have other rules: %s", r.Trouble)
		}
	}
	for _, step := range a.Steps {
		row("step", "%s", step)
	}
	if a.Rule != "" {
		row("rule", "%s", a.Rule)
	}
	for _, way := range a.Ways {
		from, place := "", ""
		if way.Try > 0 {
			place = fmt.Sprintf("try %d: ", way.Try)
		}
		if way.Reverse != "" {
			from = ", from " + way.Reverse
		}
		if way.Client != "" {
			from += ", told of the client by " + way.Client
		}
		row("next hop", "%s%s for %s%s", place, way.NextHop, strings.Join(way.Forward, " "), from)
		for _, h := range way.Hosts {
			row("host", "%s", hostLine(h))
		}
		for i := range way.Contacts {
			printContact(row, &way.Contacts[i])
		}
	}
	if m := a.Message; m != nil {
		printJudged(row, m)
	}
	for _, note := range a.Notes {
		row("note", "%s", note)
	}
	row("verdict", "%s", a.Verdict)
	if a.Reply != "" {
		row("reply", "%s", a.Reply)
	}
	if a.Cause != "" {
		row("cause", "%s", a.Cause)
	}
}

// printJudged prints what would become of a message.
func printJudged(row func(name, format string, args ...any), m *node.Judged) {
	row("message", "%d octets, %s", m.Octets, cmp.Or(m.Mode, "refused before it is sent"))
	row("auth", "%s", cmp.Or(m.Auth, "not judged: no policy of the recipient asks for it, or the client is trusted"))
	for _, line := range []struct{ name, text string }{
		{"dkim", m.DKIM}, {"policy", m.Policy}, {"override", strings.Join(m.Overrides, ", ")}, {"seal", m.Seal},
		{"signed", m.Signed}, {"unsigned", m.Unsigned},
	} {
		if line.text != "" {
			row(line.name, "%s", line.text)
		}
	}
	for _, line := range m.Filters {
		row("filter", "%s", line)
	}
	for _, field := range m.Fields {
		row("field", "%s", field)
	}
	for _, other := range m.Opinion {
		row("opinion", "%s", other)
	}
}

// printContact prints how far a session with a next hop came.
func printContact(row func(name, format string, args ...any), c *node.Contact) {
	for _, t := range c.Tried {
		row("tried", "%s %s: %s (%d ms)", t.Host, t.Addr, t.Cause, t.Milliseconds)
	}
	if c.Host != "" {
		tls := "in clear"
		switch {
		case c.TLS != "" && c.Verified:
			tls = fmt.Sprintf("%s, %s, %s, certificate valid for it", c.TLS, c.Cipher, c.KeyExchange)
		case c.TLS != "":
			tls = fmt.Sprintf("%s, %s, %s, certificate not verified", c.TLS, c.Cipher, c.KeyExchange)
		}
		row("reached", "%s %s from %s, %s", c.Host, c.Addr, c.Source, tls)
	}
	for _, said := range c.Said {
		row("said", "%s at %s: %s", said.Host, said.Verb, said.Reply)
	}
}

func hostLine(h node.Host) string {
	text := h.Name
	if h.Pref != nil {
		text = fmt.Sprintf("%d %s", *h.Pref, h.Name)
	}
	if h.Error != "" {
		return text + ": " + h.Error
	}
	return text + " [" + strings.Join(h.Addrs, " ") + "]"
}
