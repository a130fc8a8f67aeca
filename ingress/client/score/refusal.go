package score

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Refusal gives what a client with this verdict is told, without the id, or nil if it is accepted: 554 5.7.1, or 450
// 4.7.1 where it is deferred, with the heaviest reason. Its Reason is that signal's name, its Cause tells the operator
// all of them.
func (k *Score) Refusal(v mail.Verdict) *mail.Refusal {
	code, verb, again := 554, " refused", ""
	switch v.Action {
	case mail.VerdictAccept:
		return nil
	case mail.VerdictDefer:
		code, verb, again = 450, " deferred", ", try again later"
	}
	who := "client"
	if k.addr.IsValid() {
		who = k.addr.String()
	}
	text, reason := who+verb, "score"
	if len(v.Reasons) > 0 {
		heaviest := v.Reasons[0]
		reason = heaviest.Name
		if reason == catalogue[sigDNSBL].name {
			text = who + " " + heaviest.Text
		} else {
			text += ": " + heaviest.Text
		}
	}
	text += again
	if url := k.s.cfg.URL; url != "" {
		text += "; see " + url
	}
	return mail.Refuse(code, 7, 1, text, reason, errors.New("score "+number(v.Score)+": "+Signals(v)))
}

// Tarpit gives how long the refusal of a client with this verdict is to be held back. It is 0 for who is accepted, for
// a connection that was held back for a minute in all, and while as many others are as Config.Tarpits says.
func (k *Score) Tarpit(v mail.Verdict) time.Duration {
	s := k.s
	d := min(s.cfg.Tarpit, mostTarred-k.tarred)
	if v.Action == mail.VerdictAccept || d <= 0 {
		return 0
	}
	if !k.slot {
		if s.tarred.Add(1) > int64(s.cfg.Tarpits) {
			s.tarred.Add(-1)
			return 0
		}
		k.slot = true
	}
	k.tarred += d
	return d
}

// Signals gives the reasons of a verdict on one line, "name weight, ..." with the heaviest first.
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

// round takes off what adding up decimal fractions leaves.
func round(f float64) float64 { return math.Round(f*1000) / 1000 }

// number writes a score or weight.
func number(f float64) string { return strconv.FormatFloat(round(f), 'f', -1, 64) }
