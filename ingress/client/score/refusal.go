package score

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// Refusal returns the refusal of a client with this verdict, without the id, or nil if it is accepted: 554 5.7.1, or
// 450 4.7.1 if it is deferred, with the heaviest reason. Its Reason is that signal's name. Its Cause has all reasons,
// for the administrator.
func (k *Score) Refusal(v mail.Verdict) *mail.Refusal {
	code, verb, again := 554, " refused", ""
	switch v.Action {
	case mail.VerdictAccept:
		return nil
	case mail.VerdictDefer:
		code, verb, again = 450, " deferred", ", try again later"
	}
	client := "client"
	if k.inquiry.addr.IsValid() {
		client = k.inquiry.addr.String()
	}
	text, reason := client+verb, "score"
	if len(v.Reasons) > 0 {
		heaviest := v.Reasons[0]
		reason = heaviest.Name
		if reason == catalogue[sigDNSBL].name {
			text = client + " " + heaviest.Text
		} else {
			text += ": " + heaviest.Text
		}
	}
	return mail.Refuse(code, 7, 1, text+again, reason, errors.New("score "+number(v.Score)+": "+Signals(v)))
}

// Unsure returns the refusal of a client that this verdict accepts although lists that could change it were not heard,
// or nil: 450 4.7.1. These lists were not asked for want of our room, or answer others and did not answer about this
// client in time. It is for clients that are neither allowed nor known good, so that a client which has our room taken
// is not accepted for it. Neither a list that answers about none, nor the store, nor what the client says can cause it.
func (k *Score) Unsure(v mail.Verdict) *mail.Refusal {
	q := &k.inquiry
	if v.Action != mail.VerdictAccept || k.Allowed()&ForScore != 0 || k.KnownGood() {
		return nil
	}
	most := v.Score
	var zones []string
	q.mu.Lock()
	for d := q.doubts; d != nil; d = d.other {
		if gap := &d.gap; gap.Most > 0 && !slices.Contains(zones, gap.Zone) {
			most += gap.Most
			zones = append(zones, gap.Zone)
		}
	}
	q.mu.Unlock()
	slices.Sort(zones) // as they came in any order
	if len(zones) == 0 || q.s.action(round(most)) == mail.VerdictAccept {
		return nil
	}
	client := "client"
	if q.addr.IsValid() {
		client = q.addr.String()
	}
	text := client + " deferred: a DNS list could not be asked about it now, try again later"
	return mail.Refuse(450, 7, 1, text, "list not heard",
		errors.New("no answer of "+strings.Join(zones, ", ")+", which could add "+number(most-v.Score)))
}

// Signals returns the reasons of a verdict on one line, "name weight, ..." with the heaviest first.
func Signals(v mail.Verdict) string {
	var b []byte
	for i, r := range v.Reasons {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, r.Name...)
		b = append(b, ' ')
		b = strconv.AppendFloat(b, round(r.Weight), 'f', -1, 64)
	}
	return string(b)
}

// round removes what the addition of decimal fractions leaves below a thousandth.
func round(f float64) float64 { return math.Round(f*1000) / 1000 }

// number returns a score or weight in decimals.
func number(f float64) string { return strconv.FormatFloat(round(f), 'f', -1, 64) }
