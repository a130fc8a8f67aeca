package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

// MostAddrs bounds the addresses that are connected to for one recipient. What failed is marked, so that the next
// attempt begins with others.
const MostAddrs = 8

const (
	// mostOfMany bounds the wait for addresses that do not accept a connection while there are others to try. Without
	// others, Config.Client does.
	mostOfMany = 10 * time.Second
	// leastShare is what each address gets that is left to be tried, if there is so much time.
	leastShare = 5 * time.Second
	// fairShare is how long an address must have had for its silence to be held against it.
	fairShare = time.Second
)

// A walk is one Dial: what it has met, tried and left for later.
type walk struct {
	*Dialer
	target *Target
	met    int         // addresses
	tried  int         // of those, connected to, with Target.Tried
	behind int         // hosts whose addresses are not known yet
	marked []candidate // to be tried last
	ended  []candidate // that ended the connection at EHLO
	failed Failures
}

// farFuture sorts behind every failure.
var farFuture = time.Unix(1<<40, 0)

// A candidate is an address to be tried.
type candidate struct {
	feedback.Spot
	failedAt time.Time // of one that is marked
	first    bool      // of its host, had nothing been learnt
}

// unmarked returns the addresses of a host without those that are marked, which are kept for later. The one that worked
// last comes first.
func (w *walk) unmarked(host string, addrs []netip.Addr) []candidate {
	latest := w.cfg.Marks.Latest(host)
	refused, refuses := w.cfg.Marks.RefusesIPv6(w.target.Site, w.target.Of)
	var out []candidate
	for i, a := range addrs {
		c := candidate{Spot: feedback.Spot{Host: host, Addr: a, Port: w.target.Port}, first: i == 0}
		at, marked := w.cfg.Marks.FailedAt(c.Spot, w.target.Of)
		if slices.Contains(w.target.Avoid, c.Spot) {
			at, marked = farFuture, true
		}
		if refuses && a.Is6() {
			marked = true
			if refused.After(at) {
				at = refused
			}
		}
		switch {
		case marked:
			c.failedAt = at
			w.marked = append(w.marked, c)
		case a.IsValid() && a == latest:
			out = slices.Insert(out, 0, c)
		default:
			out = append(out, c)
		}
	}
	return out
}

// takeMarked returns the addresses that were left for later: the one that failed longest ago comes first.
func (w *walk) takeMarked() []candidate {
	out := w.marked
	w.marked = nil
	slices.SortStableFunc(out, func(a, b candidate) int { return a.failedAt.Compare(b.failedAt) })
	return out
}

// left is how many addresses and hosts there are to be tried behind these.
func (w *walk) left(list []candidate) int {
	return min(len(list)+len(w.marked)+w.behind, MostAddrs-w.tried)
}

// try tries candidates until one takes us. The Conn has no Client if none does.
func (w *walk) try(ctx context.Context, list []candidate) Conn {
	for len(list) > 0 && w.tried < MostAddrs {
		c, socket, rest := w.connect(ctx, list)
		list = rest
		part := share(ctx, 1+w.left(list))
		for t := w.begin(c, socket); t.socket != nil; {
			opened, err := smtpclient.Open(part, w.cfg.Client, t.target, t.socket)
			if err == nil {
				return t.took(opened)
			}
			t.next(part, err)
		}
		if mail.IsOver(ctx) {
			break
		}
	}
	return Conn{}
}

// connect connects to the first candidate that accepts a connection. socket is nil if none of those does that were
// tried. rest are the candidates of which that is not known.
func (w *walk) connect(ctx context.Context, list []candidate) (c candidate, socket net.Conn, rest []candidate) {
	racing := list[:min(len(list), maxAddrs, MostAddrs-w.tried)]
	rest = slices.Clone(list[len(racing):])
	begun := time.Now()
	left := w.left(list) - len(racing)
	if w.target.Elsewhere {
		left++
	}
	if left > 0 {
		ctx = share(ctx, 1+left)
		ctx = sooner(ctx, begun.Add(mostOfMany))
	}
	var started atomic.Int32
	won, socket, errs := race(ctx, len(racing), func(ctx context.Context, i int) (net.Conn, error) {
		started.Add(1)
		demand := w.target.Demands.Of(racing[i].Host)
		return w.cfg.Connect(ctx, w.clientTarget(w.target, racing[i].Spot, full, &demand))
	})
	w.tried += int(started.Load())
	for i, err := range errs {
		switch {
		case err != nil:
			w.fail(ctx, racing[i], err, time.Since(begun))
		case i != won:
			rest = append(rest, racing[i])
		}
	}
	if won >= 0 {
		c = racing[won]
	}
	return c, socket, rest
}

// fail notes that an address could not be used, after so long, and marks it where that was its own fault.
func (w *walk) fail(ctx context.Context, c candidate, err error, took time.Duration) {
	w.note(c.Spot, err, took)
	var slow interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil, isOurs(err), w.isOfDemand(c.Host, err):
	case errors.As(err, &slow) && slow.Timeout() && took < fairShare:
	default:
		w.cfg.Marks.Failed(c.Spot, feedback.Opening, feedback.Of{})
	}
}

// isOfDemand reports whether an address was left for what this message, or the domain that it is for, demands of its
// TLS. Mail of others may go there, and a stranger may have a domain whose policy no host of others meets.
func (w *walk) isOfDemand(host string, err error) bool {
	demand := w.target.Demands.Of(host)
	var one *smtpclient.DialError
	if !demand.RequireTLS && demand.Level <= w.target.Demands.Least || !errors.As(err, &one) {
		return false
	}
	switch one.Stage {
	case smtpclient.StageStartTLS, smtpclient.StageTLS, smtpclient.StageRequire:
		return true
	}
	return false
}

// note notes why a host or an address could not be used, after so long.
func (w *walk) note(s feedback.Spot, err error, took time.Duration) {
	w.failed = append(w.failed, err)
	if w.target.Leg == nil && w.cfg.Report == nil {
		return
	}
	report := w.reportOn(s.Host, err)
	if leg := w.target.Leg; leg != nil {
		leg.Try(mail.Try{Host: s.Host, Addr: s.AddrPort(), Cause: causeOf(err), Took: took, Report: report})
	}
	if report.Result != mail.TLSWorked {
		w.tell(s, report)
	}
}

// tell tells Config.Report of a session with a host, or of one that did not come about.
func (w *walk) tell(s feedback.Spot, report mail.TLSReport) {
	t := w.target
	if w.cfg.Report == nil || t.Transport != mail.MX || t.Demands.Waived || t.TLS == smtpclient.None {
		return
	}
	w.cfg.Report(mail.TLSSession{
		Domain: t.Of.Recipient, Host: s.Host, Addr: s.Addr, Source: w.source(t.Site, s.Addr),
		Terms: t.Demands.Policy.Terms(), TLSReport: report,
	})
}

// reportOn returns what a report is to say of an error of a host: what went wrong with its TLS, or with its policy.
func (w *walk) reportOn(host string, err error) mail.TLSReport {
	demand := w.target.Demands.Of(host)
	if demand.Err != nil {
		return demand.Report
	}
	one, ok := errors.AsType[*smtpclient.DialError](err)
	if !ok {
		return mail.TLSReport{}
	}
	out := mail.TLSReport{Policy: demand.Report.Policy}
	switch one.Stage {
	case smtpclient.StageStartTLS:
		out.Result = mail.TLSNotOffered
	case smtpclient.StageTLS:
		out.Result = tlspolicy.ResultOf(err)
	default:
		return mail.TLSReport{}
	}
	return out
}

// causeOf returns the text of an error of one host, without the host.
func causeOf(err error) string {
	one, ok := errors.AsType[*smtpclient.DialError](err)
	if !ok {
		return err.Error()
	}
	cause := one.Err
	if r, ok := cause.(*mail.Refusal); ok && r.Cause != nil { // not errors.As: the outermost one
		cause = r.Cause
	}
	return string(one.Stage) + ": " + cause.Error()
}

// share returns ctx with the deadline of the next of so many tries: it gets half of the time, the last one all of it,
// and each that follows leastShare or, where time is short, its part.
func share(ctx context.Context, left int) context.Context {
	at, ok := ctx.Deadline()
	if !ok || left <= 1 {
		return ctx
	}
	rest := time.Until(at)
	most := min(rest/2, rest-leastShare*time.Duration(left-1))
	return mail.Until(ctx, time.Now().Add(max(most, rest/time.Duration(left))))
}

// sooner returns ctx with a deadline, unless it has a sooner one.
func sooner(ctx context.Context, at time.Time) context.Context {
	if d, ok := ctx.Deadline(); ok && !at.Before(d) {
		return ctx
	}
	return mail.Until(ctx, at)
}
