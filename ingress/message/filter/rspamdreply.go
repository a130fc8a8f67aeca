package filter

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// A rspamdReply is what rspamd says of a message, as far as it matters here.
type rspamdReply struct {
	Action  *string  `json:"action"`
	Score   *float64 `json:"score"`
	Symbols map[string]struct {
		Score float64 `json:"score"`
	} `json:"symbols"`
	Messages  json.RawMessage            `json:"messages"` // an object by name, or a list where there are none
	Subject   json.RawMessage            `json:"subject"`
	Signature json.RawMessage            `json:"dkim-signature"` // one or a list
	Milter    map[string]json.RawMessage `json:"milter"`
}

// errNoJSON stands for what is no answer: it may hold parts of the message.
var errNoJSON = errors.New("rspamd's answer is not the JSON that it speaks")

var errNoAction = errors.New("rspamd names no action that there is")

// parseRspamd reads the answer of /checkv2 about the message of e.
func parseRspamd(body []byte, e *Envelope) (a Answer, err error) {
	var r rspamdReply
	if err := json.Unmarshal(body, &r); err != nil {
		return Answer{}, errNoJSON
	}
	if r.Action == nil {
		return Answer{}, errNoAction
	}
	if r.Score != nil {
		a.Score, a.Scored = *r.Score, true
	}
	symbols := make([]symbol, 0, len(r.Symbols))
	for name, s := range r.Symbols {
		symbols = append(symbols, symbol{name, s.Score})
	}
	a.Symbols = namesOf(symbols)
	text := r.message()
	out := fields{answer: &a, envelope: e}
	switch *r.Action {
	case "no action", "greylist": // a message that is put off for greylisting has the action soft reject
	case "add header":
		out.add("X-Spam", "Yes")
	case "rewrite subject":
		a.refuse("field subject")
		out.add("X-Spam", "Yes")
	case "quarantine":
		a.Quarantine = "rspamd"
		if text != "" {
			a.Quarantine = text
		}
	case "discard":
		a.Action = Discard
	case "soft reject":
		a.Action = Tempfail
		if text != "" {
			a.Reply = replyOf(text, mail.NewReply(451, 7, 1, ""))
		}
	case "reject":
		a.Action = Reject
		if text != "" {
			a.Reply = replyOf(text, mail.NewReply(550, 7, 1, ""))
		}
	default:
		return Answer{}, errNoAction
	}
	for _, value := range textsOf(r.Signature) {
		out.add("DKIM-Signature", value)
	}
	out.addMilter(r.Milter)
	return a, nil
}

// message returns what rspamd wants the client told, "" for nothing.
func (r *rspamdReply) message() string {
	var named map[string]json.RawMessage
	if json.Unmarshal(r.Messages, &named) != nil {
		return ""
	}
	texts := textsOf(named["smtp_message"])
	if len(texts) == 0 {
		return ""
	}
	return texts[0]
}

// milterChanges are the requests of rspamd to change a message that a milter could make, and what they are called here.
var milterChanges = map[string]string{
	"remove_headers": "field removed", "change_from": "reverse-path", "add_rcpt": "recipient added",
	"del_rcpt": "recipient removed", "body": "body",
}

// addMilter adds the fields that rspamd wants a milter to add, and notes its other requests.
func (f *fields) addMilter(milter map[string]json.RawMessage) {
	for _, request := range slices.Sorted(maps.Keys(milter)) {
		switch {
		case request == "add_headers":
			var wanted map[string]json.RawMessage
			_ = json.Unmarshal(milter[request], &wanted)
			for _, name := range slices.Sorted(maps.Keys(wanted)) {
				for _, value := range textsOf(wanted[name]) {
					f.add(name, value)
				}
			}
		case milterChanges[request] != "":
			f.answer.refuse(milterChanges[request])
		case request == "reject" && len(textsOf(milter[request])) > 0:
			if why := textsOf(milter[request])[0]; why == "quarantine" {
				f.answer.Quarantine = "rspamd"
			} else if why == "discard" {
				f.answer.Action = max(f.answer.Action, Discard)
			}
		}
	}
}

// textsOf returns the texts of a value that rspamd writes as a text, as an object whose value is one, or as a list of
// such.
func textsOf(raw json.RawMessage) (texts []string) {
	if len(raw) == 0 {
		return nil
	}
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) == nil {
			texts = append(texts, s)
		}
	case '{':
		var o struct {
			Value string `json:"value"`
		}
		if json.Unmarshal(raw, &o) == nil {
			texts = append(texts, o.Value)
		}
	case '[':
		var list []json.RawMessage
		_ = json.Unmarshal(raw, &list)
		for _, one := range list {
			if len(one) > 0 && one[0] != '[' { // no list within a list
				texts = append(texts, textsOf(one)...)
			}
		}
	}
	return texts
}
