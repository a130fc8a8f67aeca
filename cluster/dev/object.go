package dev

import (
	"encoding/json"
	"time"

	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// A transaction is how a transaction ended, for a program. Its fields are named as those of the log.
type transaction struct {
	Time    string `json:"time,omitempty"`
	Msg     string `json:"msg,omitempty"`
	Trace   string `json:"trace,omitempty"`
	Client  string `json:"client,omitempty"`
	Helo    string `json:"helo,omitempty"`
	TLS     string `json:"tls,omitempty"`
	Reverse string `json:"reverse"`
	Forward string `json:"forward"`
	Rule    string `json:"rule,omitempty"`
	NextHop string `json:"next_hop,omitempty"`
	Host    string `json:"host,omitempty"`
	Mode    string `json:"mode,omitempty"`
	Octets  int64  `json:"octets,omitempty"`
	Verb    string `json:"verb,omitempty"`
	Reply   string `json:"reply,omitempty"`
	InDoubt bool   `json:"in_doubt,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Cause   string `json:"cause,omitempty"`

	MS map[string]float64 `json:"ms,omitempty"`
}

func transactionOf(e *mail.Event) *transaction {
	t := &transaction{
		Time: e.Time.Format(time.RFC3339Nano), Msg: e.Kind.String(), Trace: e.Trace.String(),
		Client: e.Client.String(), Helo: e.Helo, TLS: e.TLS, Reverse: e.Reverse.String(), Forward: e.Forward.String(),
		Host: e.Host, Mode: e.Mode.String(), Octets: e.Octets, Verb: e.Verb, InDoubt: e.InDoubt, Reason: e.Reason,
		Cause: node.InnermostCause(e), MS: make(map[string]float64),
	}
	if e.Rule != (mail.Rule{}) {
		t.Rule = e.Rule.String()
	}
	if e.NextHop != (mail.NextHop{}) {
		t.NextHop = e.NextHop.String()
	}
	if e.Reply.Code != 0 {
		reply := e.Reply
		reply.ID = mail.TraceID{}
		t.Reply = reply.String()
	}
	for s, d := range e.Took {
		if d > 0 {
			t.MS[mail.Stage(s).String()] = float64(d) / float64(time.Millisecond)
		}
	}
	return t
}

// walkObject is a message of the tour, for a program.
type walkObject struct {
	Tour     int      `json:"tour"`
	Forward  string   `json:"forward"`
	Tells    string   `json:"tells"`
	Dialogue []string `json:"dialogue"` // C the client, S the node
	Heard    []string `json:"heard"`    // by the destination
	Wrong    string   `json:"wrong,omitempty"`

	Ended *transaction `json:"ended,omitempty"` // absent if no event was seen
}

func objectOf(w *walk) walkObject {
	o := walkObject{Tour: w.number, Forward: w.stop.forward(), Tells: w.stop.tells, Heard: w.heard}
	for _, l := range w.spoken {
		o.Dialogue = append(o.Dialogue, l.side+" "+l.text)
	}
	if w.wrong != nil {
		o.Wrong = w.wrong.Error()
	}
	if w.ended {
		o.Ended = transactionOf(&w.event)
	}
	return o
}

// object prints one object on one line.
func (c *console) object(o any) {
	text, err := json.Marshal(o)
	if err != nil { // of no type that is passed here
		return
	}
	c.print(printable.Text(string(text)) + "\n")
}
