package v4

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
)

// sendPath is where messages are sent.
var sendPath = "/accounts/" + theAccount.ID + "/email/sending/send_raw"

// TestAPI_SendRaw: what became of a message is listed by recipient, nothing is queued, what was put off is named, and
// a request none of whose recipients is settled has failed and is not repeated by clients.
func TestAPI_SendRaw(t *testing.T) {
	w := newWorld(t, t.TempDir())
	const body = `{"from":"a@example.com","recipients":["b@x.example","B@x.example","c@x.example"],` +
		`"mime_message":"From: a@example.com\r\n\r\nHello\r\n"}`
	w.result = Sent{
		Delivered: []string{"b@x.example"}, MessageID: "m@example.com",
		PutOff: []Answered{{Recipient: "c@x.example", Reply: "451 4.2.0 Later"}},
	}
	status, text := w.do("POST", sendPath, body)
	var got struct {
		Success  bool
		Result   map[string]json.RawMessage
		Messages []message
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != http.StatusOK || !got.Success {
		t.Fatalf("%d %s, %v", status, text, err)
	}
	for name, want := range map[string]string{
		"delivered": `["b@x.example"]`, "permanent_bounces": "[]", "queued": "[]", "suppressed_recipients": "[]",
		"message_id": `"m@example.com"`, "put_off": `[{"recipient":"c@x.example","reply":"451 4.2.0 Later"}]`,
		"replies": "[]",
	} {
		if string(got.Result[name]) != want {
			t.Errorf("%s is %s, want %s", name, got.Result[name], want)
		}
	}
	if len(got.Messages) != 1 || got.Messages[0].Message != "c@x.example: 451 4.2.0 Later" {
		t.Errorf("the messages are %+v", got.Messages)
	}
	if sent := w.sent[0]; len(sent.Recipients) != 2 || !strings.HasSuffix(sent.Message, "\r\n\r\nHello\r\n") {
		t.Errorf("sent %q", sent)
	}

	w.result = Sent{PutOff: []Answered{{Recipient: "c@x.example", Reply: "no answer", InDoubt: true}}}
	r := w.request(token, "POST", sendPath, body)
	text = r.Body.String()
	if r.Code != http.StatusServiceUnavailable || r.Header().Get("X-Should-Retry") != "false" ||
		!strings.Contains(text, "c@x.example: no answer (it may have been delivered)") {
		t.Errorf("%d %v %s", r.Code, r.Header(), text)
	}
}

// TestAPI_SendRawRefused: what is no message to somewhere is refused before anything is sent.
func TestAPI_SendRawRefused(t *testing.T) {
	w := newWorld(t, t.TempDir())
	many := strings.Repeat(`"a@x.example",`, maxRecipients) + `"b@x.example"`
	for _, body := range []string{
		"", "[]", `{"recipients":["b@x.example"],"mime_message":"x"}`, `{"from":"a@example.com","mime_message":"x"}`,
		`{"from":"a@example.com","recipients":[],"mime_message":"x"}`,
		`{"from":"a@example.com","recipients":"b@x.example","mime_message":"x"}`,
		`{"from":"a@example.com","recipients":["b@x.example"]}`,
		fmt.Sprintf(`{"from":"a@example.com","recipients":[%s],"mime_message":"x"}`, many),
	} {
		if status, text := w.do("POST", sendPath, body); status != http.StatusBadRequest {
			t.Errorf("%.100s: %d %s", body, status, text)
		}
	}
	large := fmt.Sprintf(`{"from":"a@example.com","recipients":["b@x.example"],"mime_message":%q}`,
		strings.Repeat("x", 1<<20+1))
	for _, body := range []string{large, strings.Repeat(" ", 4<<20) + "{}"} {
		if status, text := w.do("POST", sendPath, body); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%d octets: %d %s", len(body), status, text)
		}
	}
	_, reads, err := w.account.AddToken(t.Context(), account.TokenFile(), account.Token{
		Name: "r", Role: account.ReadOnly, Domains: []string{"example.com"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := w.as(reads, "POST", sendPath, "{}"); status != http.StatusForbidden {
		t.Errorf("who reads: %d", status)
	}
	if len(w.sent) != 0 {
		t.Errorf("sent %v", w.sent)
	}
}

// TestAPI_SendRawAtOnce: as many messages are sent at a time as there is memory for, and the next is told to wait.
func TestAPI_SendRawAtOnce(t *testing.T) {
	s := &sends{places: make(chan struct{}, 1)}
	s.places <- struct{}{}
	r, err := http.NewRequestWithContext(t.Context(), "POST", sendPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetPathValue("account", theAccount.ID)
	_, err = s.sendRaw(&call{Request: r, who: account.TokenFile()})
	if wrong := errorOf(err); wrong.Status != http.StatusServiceUnavailable {
		t.Errorf("%v", err)
	}
}
