package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/egress/probe"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

type checkVerbs struct {
	Files      checkVerb           `cmd:"" default:"withargs" help:"@check_files"`
	Target     checkTargetVerb     `cmd:"" help:"@check_target"`
	Egress     checkEgressVerb     `cmd:"" help:"@check_egress"`
	Ingress    checkIngressVerb    `cmd:"" help:"@check_ingress"`
	Relay      checkRelayVerb      `cmd:"" help:"@check_relay"`
	Mynetworks checkMynetworksVerb `cmd:"" help:"@check_mynetworks"`
}

// checkupFlags are those of what looks at the network around nodes.
type checkupFlags struct {
	configFlag
	Wait int `placeholder:"SECONDS" default:"20" help:"@check_wait"`
	jsonFlag
}

type checkTargetVerb struct {
	NextHop string `arg:"" placeholder:"NEXTHOP" help:"@check_target_hop"`
	To      string `placeholder:"PATH" help:"@check_target_to"`
	From    string `placeholder:"PATH" help:"The sender of that; the null sender when left out."`
	Here    bool   `help:"@check_here"`
	checkupFlags
}

func (v *checkTargetVerb) run(s streams) int {
	return v.ask(s, node.CheckTarget, node.CheckQuestion{NextHop: v.NextHop, To: v.To, From: v.From, Here: v.Here})
}

type checkEgressVerb struct {
	At     []string `placeholder:"HOST" help:"@check_egress_at"`
	Beside []string `placeholder:"NEXTHOP" help:"@check_egress_beside"`
	Here   bool     `help:"@check_here"`
	checkupFlags
}

func (v *checkEgressVerb) run(s streams) int {
	return v.ask(s, node.CheckEgress, node.CheckQuestion{Hosts: v.At, Beside: v.Beside, Here: v.Here})
}

type checkIngressVerb struct{ checkupFlags }

func (v *checkIngressVerb) run(s streams) int {
	return v.ask(s, node.CheckIngress, node.CheckQuestion{})
}

// checkTimeout bounds the answer of a node to a question about the network.
const checkTimeout = 4 * time.Minute

// ask asks the running node, and with it the others of its cluster, or answers from here, and prints the answer.
func (v *checkupFlags) ask(s streams, what string, q node.CheckQuestion) int {
	q.Seconds = v.Wait
	answer, err := v.answer(what, q)
	if err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, answer)
	} else {
		printChecked(s.out, answer)
	}
	if !answer.OK {
		return exitError
	}
	return exitOK
}

// answer returns the answer to a question.
func (v *checkupFlags) answer(what string, q node.CheckQuestion) (*node.CheckAnswer, error) {
	cfg, err := config.Load(v.Config)
	if err != nil {
		return nil, err
	}
	if q.Here {
		return node.CheckHere(context.Background(), cfg, what, q)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	body, err = tellNode(context.Background(), cfg, nodeRequest{
		method: http.MethodPost, path: "/api/v1/check/" + what, body: body, most: checkTimeout,
	})
	if err != nil {
		var refused refusedByNode
		if what != node.CheckIngress && !errors.As(err, &refused) {
			err = fmt.Errorf("%w (--here looks from this process, without a running node)", err)
		}
		return nil, err
	}
	var answer node.CheckAnswer
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Admin.Addr, err)
	}
	return &answer, nil
}

// printChecked prints what nodes found, for people.
func printChecked(w io.Writer, answer *node.CheckAnswer) {
	for i := range answer.Nodes {
		n := &answer.Nodes[i]
		said := "ok"
		if !n.OK {
			said = "NOT OK"
		}
		fmt.Fprintf(w, "%s: %s\n", cmp.Or(printable.Text(n.Node), "here"), said)
		for _, line := range n.Says {
			fmt.Fprintf(w, "  %s\n", printable.Text(line))
		}
		for j := range n.Hosts {
			printHost(w, &n.Hosts[j])
		}
	}
}

// printHost prints the steps of a session with one address.
func printHost(w io.Writer, h *node.HostChecked) {
	name := printable.Text(h.Host)
	if h.Address != "" {
		name += " [" + printable.Text(h.Address) + "]"
	}
	if h.Source != "" {
		name += " from " + printable.Text(h.Source)
	}
	fmt.Fprintf(w, "\n  %s\n", name)
	for _, step := range h.Steps {
		mark := " "
		if !step.OK {
			mark = "!"
		}
		text := printable.Text(step.Reply)
		if step.Says != "" && text != "" {
			text += " -- "
		}
		fmt.Fprintf(w, "  %s %6d ms  %-12s %s\n", mark, step.Milliseconds, printable.Text(step.Name),
			text+printable.Text(step.Says))
	}
}

type checkRelayVerb struct {
	Host   string `arg:"" placeholder:"HOST" help:"The host, with a port if that is not 25."`
	Domain string `placeholder:"DOMAIN" help:"@check_relay_domain"`
	To     string `placeholder:"PATH" default:"relay-probe@example.com" help:"@check_relay_to"`
	Helo   string `placeholder:"NAME" help:"@check_relay_helo"`
	All    bool   `help:"@check_relay_all"`
	Wait   int    `placeholder:"SECONDS" default:"30" help:"How long each answer may take."`
	jsonFlag
}

func (v *checkRelayVerb) run(s streams) int {
	stranger, err := v.stranger()
	if err != nil {
		return fail(s, err)
	}
	report, err := probe.Relay(context.Background(), stranger)
	if err != nil {
		return fail(s, fmt.Errorf("%s: %s", v.Host, printable.Text(probe.Words(err))))
	}
	if v.JSON {
		printJSON(s.out, report)
	} else {
		v.print(s.out, report)
	}
	if report.Conclusion != probe.Closed {
		return exitError
	}
	return exitOK
}

// stranger returns whom the tricks are tried on. The error is about the command line.
func (v *checkRelayVerb) stranger() (probe.Stranger, error) {
	host, port, err := net.SplitHostPort(v.Host)
	if err != nil {
		host, port = strings.Trim(v.Host, "[]"), "25"
	}
	out := probe.Stranger{Addr: net.JoinHostPort(host, port), Helo: v.Helo, Wait: time.Duration(v.Wait) * time.Second}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return out, usageError{fmt.Errorf("HOST: %q is no port", port)}
	}
	if v.Domain != "" {
		if out.Domain = *inALabels(&v.Domain); !mail.IsDomain(out.Domain) {
			return out, usageError{fmt.Errorf("--domain: %q is no domain name", v.Domain)}
		}
	}
	to, err := readPath("--to", &v.To)
	switch {
	case err != nil:
		return out, usageError{err}
	case to.Domain == "" || strings.HasPrefix(to.Domain, "[") || to.Local[0] == '"' || !to.IsASCII():
		return out, usageError{fmt.Errorf("--to: %q: want a plain address, such as you@example.org", v.To)}
	}
	out.To = to.String()
	if out.Helo == "" {
		if out.Helo, err = os.Hostname(); err != nil || !mail.IsDomain(out.Helo) {
			out.Helo = "localhost.localdomain"
		}
	}
	if !mail.IsDomain(out.Helo) {
		return out, usageError{fmt.Errorf("--helo: %q is no domain name", v.Helo)}
	}
	return out, nil
}

// print prints what the tricks came to, for people.
func (v *checkRelayVerb) print(w io.Writer, r *probe.Report) {
	fmt.Fprintf(w, "%s calls itself %s; tricks are tried at %s\n", printable.Text(r.Addr), printable.Text(r.Host),
		printable.Text(r.Domain))
	fmt.Fprintf(w, "RCPT for its postmaster: %s\nRCPT for any name: %s\n", printable.Text(r.Postmaster),
		printable.Text(r.AnyName))
	for _, t := range r.Tried {
		if v.All || t.Answer != probe.Refused {
			fmt.Fprintf(w, "%-9s  %s: %s: %s\n", t.Answer, t.Trick, printable.Text(t.Said), printable.Text(t.Reply))
		}
	}
	fmt.Fprintf(w, "%s: %s\n", strings.ToUpper(r.Conclusion), strings.Join(r.Says, "\n  "))
}
