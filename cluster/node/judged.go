package node

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// A Judged is what would become of a whole message.
type Judged struct {
	Octets    int64    `json:"octets"`              // that were read of it
	Mode      string   `json:"mode,omitempty"`      // hold, predict or stream; "" if it was refused before
	Auth      string   `json:"auth,omitempty"`      // results, such as "spf=pass dkim=pass dmarc=pass arc=none"
	DKIM      string   `json:"dkim,omitempty"`      // the domain of each signature and its result
	Policy    string   `json:"policy,omitempty"`    // of the author's domain: none, quarantine, reject
	Overrides []string `json:"overrides,omitempty"` // what overrode a refusal for DMARC
	Seal      string   `json:"seal,omitempty"`      // which signatures the next hop is to get, and why
	Signed    string   `json:"signed,omitempty"`    // what we would sign with
	Unsigned  string   `json:"unsigned,omitempty"`  // why we would not sign
	Fields    []string `json:"fields,omitempty"`    // ours above the message, unfolded, from the top
	Opinion   []string `json:"second_opinion,omitempty"`
	Filters   []string `json:"filters,omitempty"` // what each content filter that was asked said
}

// judge returns what became of the message.
func (e *explanation) judge(ctx context.Context) *Judged {
	last, _ := e.last()
	j := &Judged{
		Octets: last.Octets, Mode: last.Mode.String(), Auth: last.Auth.String(),
		Signed: last.Signed, Unsigned: last.Unsigned,
		Fields: fieldsAbove(e.octets, e.q.Message),
	}
	if len(last.Legs) > 0 {
		j.Seal = last.Legs[0].Sealed.Wanted
	}
	for i := range last.Filtered {
		j.Filters = append(j.Filters, filteredLine(&last.Filtered[i]))
	}
	for i := range e.events {
		if o, ok := strings.CutPrefix(e.events[i].Reason, overridden); ok {
			j.Overrides = append(j.Overrides, o)
		}
	}
	switch {
	case j.Signed != "" || j.Unsigned != "":
	case last.Kind != mail.Relayed:
	case e.looked.Unsealed != "":
		j.Unsigned = e.looked.Unsealed
	case last.Mode == mail.ModeStream:
		j.Unsigned = "it streams: our fields leave before its body is known"
	case e.cfg.Signs():
		j.Unsigned = "there is no key for it, or its record is not in the DNS"
	default:
		j.Unsigned = "there is no key for it"
	}
	if last.Auth.String() != "" {
		j.DKIM, j.Policy = signers(last.Auth), last.Auth.Policy
		j.Opinion = secondOpinion(ctx, e.resolver.Plain(), e.q.Message, j.DKIM)
	}
	return j
}

// filteredLine returns what a content filter said, in one line.
func filteredLine(f *mail.Filtered) string {
	line := f.Name + " says " + f.Result
	if f.Scored {
		line += fmt.Sprintf(", score %.1f", f.Score)
	}
	if f.Symbols != "" {
		line += ": " + f.Symbols
	}
	if len(f.Changes) > 0 {
		line += "; not done: " + strings.Join(f.Changes, ", ")
	}
	if f.Cause != nil {
		line += " (" + f.Cause.Error() + ")"
	}
	return printable.Text(line)
}

// signers returns the domains of DKIM signatures as "d=name result, ...".
func signers(a *mail.Auth) string {
	list := make([]string, len(a.Signers))
	for i, s := range a.Signers {
		list[i] = "d=" + s.Domain + " " + s.Result
	}
	return strings.Join(list, ", ")
}

// overridden begins the reason of an event that tells what overrode a refusal.
const overridden = "authentication overridden: "

// fieldsAbove returns the fields that stand above a message in what a next hop gets of it. Fields of the message that
// were removed are not there any more, so the first one that is begins it.
func fieldsAbove(sent, message []byte) (fields []string) {
	first := len(sent)
	for field := range headerFields(stuffed(message)) {
		if at := bytes.Index(sent[:first], field); at == 0 || at > 0 && sent[at-1] == '\n' {
			first = at
		}
	}
	for field := range headerFields(sent[:first]) {
		fields = append(fields, unfolded(field))
	}
	return fields
}

// headerFields yields the fields of a header section, each with all of its lines.
func headerFields(section []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(section) > 0 && !bytes.HasPrefix(section, []byte("\r\n")) {
			end := 0
			for {
				n := bytes.Index(section[end:], []byte("\r\n"))
				if n < 0 {
					end = len(section)
					break
				}
				end += n + 2
				if end == len(section) || section[end] != ' ' && section[end] != '\t' {
					break
				}
			}
			if !yield(section[:end]) {
				return
			}
			section = section[end:]
		}
	}
}

// unfolded returns a field in one line (RFC 5322 section 2.2.3).
func unfolded(field []byte) string {
	return strings.Join(strings.Fields(string(field)), " ")
}
