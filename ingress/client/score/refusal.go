package score

import (
	"errors"
	"math"
	"strconv"

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
	text += again
	if url := k.inquiry.s.cfg.URL; url != "" {
		text += "; see " + url
	}
	return mail.Refuse(code, 7, 1, text, reason, errors.New("score "+number(v.Score)+": "+Signals(v)))
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
