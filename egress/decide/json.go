package decide

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// maxTargets bounds the addresses of an answer.
	maxTargets = 20
	// maxText bounds the text of a reply in octets.
	maxText = 200
)

// A posted is a question as it is posted.
type posted struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"`
	Data      data   `json:"data"`
}

type data struct {
	ID        string   `json:"id"`
	Node      string   `json:"node"`
	Recipient string   `json:"recipient"`
	Sender    string   `json:"sender"`
	Rule      string   `json:"rule"`
	Client    string   `json:"client,omitempty"`
	Helo      string   `json:"helo,omitempty"`
	TLS       string   `json:"tls,omitempty"`
	LoggedIn  bool     `json:"authenticated,omitempty"`
	Size      int64    `json:"size,omitempty"`
	SPF       string   `json:"spf,omitempty"`
	Score     *float64 `json:"score,omitempty"`
	Signals   string   `json:"signals,omitempty"`
}

// question returns a question as it is posted.
func question(q *mail.HookQuestion, node string) ([]byte, error) {
	p := posted{Type: "recipient.asked", Timestamp: q.At.UTC().Format(time.RFC3339Nano), Data: data{
		ID: q.Trace.String(), Node: node, Recipient: q.Recipient.String(), Sender: q.Sender.String(),
		Rule: q.Rule.Pattern, Helo: q.Helo, TLS: q.TLS, LoggedIn: q.LoggedIn, Size: q.Size, SPF: q.SPF,
		Signals: q.Signals,
	}}
	if q.Client.IsValid() {
		p.Data.Client = q.Client.String()
	}
	if q.Signals != "" {
		p.Data.Score = &q.Score
	}
	return json.Marshal(p)
}

// An answered is an answer as it comes.
type answered struct {
	Action   string   `json:"action"`
	To       []string `json:"to"`
	Code     int      `json:"code"`
	Enhanced string   `json:"enhanced"`
	Text     string   `json:"text"`
}

// parse reads an answer. An error says that it is none.
func parse(body []byte) (a mail.HookAnswer, err error) {
	var said answered
	if err := json.Unmarshal(body, &said); err != nil {
		return a, errors.New("it is no object of JSON with the fields of an answer")
	}
	a.Heard = true
	switch said.Action {
	case "forward":
		a.Forward, err = targets(said.To)
	case "reject":
		a.Reply, err = reply(said, 5, "Address refused")
	case "tempfail":
		a.Reply, err = reply(said, 4, "Address refused for now, try again later")
	case "drop":
		a.Drop = true
	default:
		err = errors.New("its action is none of forward, reject, tempfail and drop")
	}
	if err != nil {
		return mail.HookAnswer{}, err
	}
	return a, nil
}

// targets reads addresses. A host to connect to is none of them: where mail for an address goes, the DNS says.
func targets(list []string) (paths []mail.Path, err error) {
	if len(list) == 0 || len(list) > maxTargets {
		return nil, fmt.Errorf("%d addresses: want 1 to %d", len(list), maxTargets)
	}
	for _, text := range list {
		p, err := mail.ParsePath(text, true)
		if err != nil || p.Domain == "" || p.Domain[0] == '[' || !strings.Contains(p.Domain, ".") {
			return nil, errors.New("a target is no address with a domain")
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// reply reads a reply of a class. Its text is one line of printable ASCII.
func reply(said answered, class int, text string) (r mail.Reply, err error) {
	code := map[int]int{5: 550, 4: 450}[class]
	if said.Code != 0 {
		code = said.Code
	}
	if code/100 != class || code == 421 {
		return r, errors.New("its code is none for its action")
	}
	r = mail.NewReply(code, 7, 1, text)
	if said.Enhanced != "" {
		c, enhanced, ok := mail.ParseEnhanced(said.Enhanced)
		if !ok || c != class {
			return r, errors.New("its enhanced code is none for its action")
		}
		r.Enhanced = enhanced
	}
	if said.Text != "" {
		r.Text = said.Text
	}
	if len(r.Text) > maxText || strings.ContainsFunc(r.Text, func(c rune) bool { return c < ' ' || c > '~' }) {
		return r, fmt.Errorf("its text is not one line of at most %d characters of ASCII", maxText)
	}
	return r, nil
}
