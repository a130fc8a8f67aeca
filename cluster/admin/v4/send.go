package v4

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// An Outgoing is a message that is to be sent, and its envelope.
type Outgoing struct {
	From       string   `json:"from"`
	Recipients []string `json:"recipients"`
	Message    string   `json:"mime_message"`
}

// A Sent says what became of a message for each recipient, by the answer of the destination.
type Sent struct {
	Delivered  []string `json:"delivered"`
	Bounces    []string `json:"permanent_bounces"`
	Queued     []string `json:"queued"` // always empty: nothing is queued
	Suppressed []string `json:"suppressed_recipients"`
	MessageID  string   `json:"message_id"`
	// PutOff are those that have to be sent again, and Replies those of permanent_bounces. Other clients pass them
	// over.
	PutOff  []Answered `json:"put_off"`
	Replies []Answered `json:"replies"`
}

// An Answered is a recipient that was not delivered to, and why.
type Answered struct {
	Recipient string `json:"recipient"`
	Reply     string `json:"reply"`
	InDoubt   bool   `json:"in_doubt,omitempty"` // the destination may have the message all the same
}

// A Sender sends messages.
type Sender struct {
	// Send sends a message and awaits the answers. The error is an *account.Error, and then nothing was sent.
	Send func(ctx context.Context, p account.Principal, m Outgoing) (Sent, error)
	Most int64 // octets of a message
}

const (
	// maxRecipients bounds those of one request.
	maxRecipients = 50
	// maxSends bounds the requests that send at a time, each of which holds a message.
	maxSends = 4
	// bodyTime is how long a message may take to come, and sendTime how long its destinations may take to answer.
	bodyTime, sendTime = time.Minute, 4 * time.Minute
)

// sends answers for mail that a token sends.
type sends struct {
	Sender
	places chan struct{} // holds a value for each request that sends
}

func (a *API) handleSends() {
	s := &sends{a.cfg.Sender, make(chan struct{}, maxSends)}
	a.handle("/accounts/{account}/email/sending/send_raw", map[string]handler{http.MethodPost: s.sendRaw})
}

// sendRaw sends a message to its recipients, in the time of the request. What some destinations put off is named, and
// has to be sent again; if that is all of them the request has failed.
func (s *sends) sendRaw(c *call) (answer, error) {
	if err := checkAccount(c); err != nil {
		return answer{}, err
	}
	if err := c.who.May(account.Owner); err != nil {
		return answer{}, err
	}
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		return answer{}, &account.Error{
			Kind: account.Busy, Code: account.CodeBusy, Message: "enough messages are sent at this moment, try again",
		}
	}
	_ = c.control.SetReadDeadline(time.Now().Add(bodyTime)) // the server's connections have deadlines
	_ = c.control.SetWriteDeadline(time.Now().Add(bodyTime + sendTime + bodyTime))
	m, err := s.read(c)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), sendTime)
	defer cancel()
	out, err := s.Send(ctx, c.who, m)
	if err != nil {
		return answer{}, err
	}
	return s.answer(&out)
}

// read reads what is to be sent, to each recipient once.
func (s *sends) read(c *call) (m Outgoing, err error) {
	if err := c.bodyOf(&m, 2*s.Most+maxBody); err != nil { // in JSON each line has two octets more, at the least
		return m, err
	}
	switch {
	case m.From == "":
		return m, invalid("/from", "an address is required")
	case len(m.Recipients) == 0:
		return m, invalid("/recipients", "an address is required")
	case len(m.Recipients) > maxRecipients:
		return m, invalid("/recipients", "are more than 50")
	case m.Message == "":
		return m, invalid("/mime_message", "a message is required")
	case int64(len(m.Message)) > s.Most:
		return m, &Error{
			Status: http.StatusRequestEntityTooLarge, Code: codeBody, Message: "the message is too large",
			Pointer: "/mime_message",
		}
	}
	m.Recipients = distinct(m.Recipients)
	return m, nil
}

// distinct returns each address once.
func distinct(list []string) (out []string) {
	for _, s := range list {
		if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, s) }) {
			out = append(out, s)
		}
	}
	return out
}

// answer returns what became of a message. Its lists are never null.
func (s *sends) answer(out *Sent) (answer, error) {
	var lines []message
	for _, p := range out.PutOff {
		text := p.Recipient + ": " + p.Reply
		if p.InDoubt {
			text += " (it may have been delivered)"
		}
		lines = append(lines, message{Code: codePutOff, Message: text})
	}
	if len(out.Delivered)+len(out.Bounces)+len(out.Suppressed) == 0 {
		wrong := &Error{Status: http.StatusServiceUnavailable, Code: codePutOff, Final: true}
		for i := range lines {
			wrong.Message += lines[i].Message + "\n"
		}
		wrong.Message = strings.TrimSpace(wrong.Message)
		return answer{}, wrong
	}
	for _, list := range []*[]string{&out.Delivered, &out.Bounces, &out.Queued, &out.Suppressed} {
		*list = append([]string{}, *list...)
	}
	out.PutOff, out.Replies = append([]Answered{}, out.PutOff...), append([]Answered{}, out.Replies...)
	return answer{result: out, messages: lines}, nil
}
