package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/cluster/admin/v4"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// A rawAnswer is the answer to a message that was sent by the API.
type rawAnswer struct {
	status  int
	text    string
	Success bool
	Errors  []struct{ Message string }
	Result  struct {
		Delivered  []string
		Bounces    []string `json:"permanent_bounces"`
		Queued     []string
		Suppressed []string                            `json:"suppressed_recipients"`
		MessageID  string                              `json:"message_id"`
		PutOff     []struct{ Recipient, Reply string } `json:"put_off"`
		Replies    []struct{ Recipient, Reply string }
	}
}

// sendRaw sends a message by the API of a node.
func (b *bench) sendRaw(t *testing.T, token, from, message string, to ...string) (out rawAnswer) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"from": from, "recipients": to, "mime_message": message})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string, body []byte) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), method,
			"http://"+b.AdminAddr().String()+"/client/v4"+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var accounts struct{ Result []struct{ ID string } }
	listed := ask("GET", "/accounts", nil)
	defer listed.Body.Close()
	if err := json.NewDecoder(listed.Body).Decode(&accounts); err != nil || len(accounts.Result) != 1 {
		t.Fatal(err, accounts)
	}
	answer := ask("POST", "/accounts/"+accounts.Result[0].ID+"/email/sending/send_raw", body)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	out.status, out.text = answer.StatusCode, string(text)
	return out
}

// token makes a token for domains and returns its id and its secret.
func (b *bench) token(t *testing.T, role account.Role, domains ...string) (id, secret string) {
	t.Helper()
	made, secret, err := b.Node.rules.account.AddToken(t.Context(), account.TokenFile(), account.Token{
		Name: "a program", Role: role, Domains: domains,
	})
	if err != nil {
		t.Fatal(err)
	}
	return made.ID, secret
}

// startSending starts a node that signs for example.com, whose rules take mail for example.com and other.example, and
// whose mail to dest.example has a destination of several moods.
func startSending(t *testing.T) (b *bench) {
	t.Helper()
	dir := t.TempDir()
	signing, err := dkim.GenerateKey(dkim.Ed25519SHA256, 0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := dkim.MarshalKey(signing)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	record, err := dkim.KeyRecord(signing.Public())
	if err != nil {
		t.Fatal(err)
	}
	zone := dnstest.Start(t, "s._domainkey.example.com. 60 IN TXT "+dkim.ZoneText(record)+"\n")
	b = startNodeIn(t, zone, fmt.Sprintf("state: %q\nactivity: {}\nlimits: {message_size: 1MiB}\n"+
		"dkim: {relay: [{domain: example.com, selector: s, key_file: %q}]}\n", t.TempDir(),
		filepath.Join(dir, "key.pem")), nil)
	b.dest.Set(smtptest.Behaviour{
		Recipients: map[string]smtptest.Answer{
			"full": {Reply: "452 4.2.2 Mailbox full"}, "gone": {Reply: "550 5.1.1 No such mailbox"},
		},
		Dots: map[string]smtptest.Answer{"spam": {Reply: "554 5.7.1 I do not like it"}},
	})
	b.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%[1]s\n@other.example smtp://%[1]s\n"+
		"relay @dest.example smtp://%[1]s\n", b.dest.Addr()))
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

const rawMessage = "From: Shop <info@example.com>\nTo: b@dest.example\nSubject: " + canary + "\n\n.Hello\n"

// TestSending: each recipient has the answer of its destination, nothing is queued, and the message is signed, logged
// and counted as one that its sender submitted.
func TestSending(t *testing.T) {
	b := startSending(t)
	id, secret := b.token(t, account.Owner, "example.com")
	got := b.sendRaw(t, secret, "bounces@example.com", rawMessage, "one@dest.example", "full@dest.example",
		"gone@dest.example", "spam@dest.example", "two@dest.example")
	if got.status != http.StatusOK || !got.Success || len(got.Result.Queued) != 0 || len(got.Result.Suppressed) != 0 ||
		!slices.Equal(got.Result.Delivered, []string{"one@dest.example", "two@dest.example"}) ||
		!slices.Equal(got.Result.Bounces, []string{"gone@dest.example", "spam@dest.example"}) ||
		len(got.Result.PutOff) != 1 || got.Result.PutOff[0].Recipient != "full@dest.example" ||
		!strings.HasPrefix(got.Result.PutOff[0].Reply, "452 4.2.2 Mailbox full") || len(got.Result.Replies) != 2 ||
		!strings.HasPrefix(got.Result.Replies[1].Reply, "554 5.7.1 I do not like it") {
		t.Errorf("got %s", got.text)
	}
	messages := b.dest.Messages()
	for _, m := range messages {
		text := string(m.Octets)
		if !strings.Contains(text, "\r\nDKIM-Signature: ") && !strings.HasPrefix(text, "DKIM-Signature: ") {
			t.Errorf("a message is not signed: %s", text)
		}
		if !strings.Contains(text, "Message-ID: <"+got.Result.MessageID+">\r\n") || got.Result.MessageID == "" ||
			!strings.HasSuffix(text, "\r\n\r\n.Hello\r\n") || strings.Count(text, "\nDate: ") != 1 {
			t.Errorf("not %s: %s", got.Result.MessageID, text)
		}
	}
	if len(messages) != 2 {
		t.Errorf("%d messages", len(messages))
	}
	again := b.sendRaw(t, secret, "bounces@example.com", rawMessage, "gone@dest.example")
	if again.status != http.StatusOK || !slices.Equal(again.Result.Suppressed, []string{"gone@dest.example"}) {
		t.Errorf("a mailbox that there was not: %s", again.text)
	}
	rows := activityOf(t, b)
	delivered := 0
	for _, r := range rows {
		if r.User != id {
			t.Errorf("a row without its user: %+v", r)
		}
		if r.Status == activity.Delivered {
			delivered++
		}
	}
	if delivered != 2 || len(rows) != 6 {
		t.Errorf("%d rows, %d delivered", len(rows), delivered)
	}
	if b.log.Has(canary) || b.log.Has(secret) {
		t.Error("the log has the subject or the secret")
	}
}

// TestSending_InTheirNames: a token sends as its own domains, in the envelope and in From, and only where the rules
// take mail for the address; nothing that is refused for that reaches a destination.
func TestSending_InTheirNames(t *testing.T) {
	b := startSending(t)
	_, secret := b.token(t, account.Owner, "example.com", "nowhere.example")
	_, reads := b.token(t, account.ReadOnly, "example.com")
	_, all := b.token(t, account.Operator)
	from := func(fields string) string { return fields + "\n\nHello\n" }
	for _, tt := range []struct {
		token, from, message string
		status               int
	}{
		{secret, "info@other.example", from("From: info@example.com"), 403},
		{secret, "info@example.com", from("From: info@other.example"), 403},
		{secret, "info@example.com", from("From: info@example.com\nSender: x@other.example"), 403},
		{secret, "info@example.com", from("From: info@example.com\nFrom: info@other.example"), 403},
		{secret, "info@example.com", from("From: \"ceo@other.example\" <info@example.com>"), 403},
		{secret, "info@example.com", from("Subject: no one"), 403},
		{secret, "info@example.com", from("From: info@example.com\nno field"), 403},
		{secret, "info@nowhere.example", from("From: info@example.com"), 403},
		{secret, "", from("From: info@example.com"), 400},
		{secret, "<>", from("From: info@example.com"), 400},
		{secret, "info@example.com>\r\nRCPT TO:<x@dest.example", from("From: info@example.com"), 400},
		{reads, "info@example.com", from("From: info@example.com"), 403},
		{all, "info@example.com", from("From: info@example.com"), 403},
	} {
		got := b.sendRaw(t, tt.token, tt.from, tt.message, "one@dest.example")
		if got.status != tt.status || got.Success || len(got.Errors) != 1 {
			t.Errorf("%q %q: %d %s, want %d", tt.from, tt.message, got.status, got.text, tt.status)
		}
	}
	for _, to := range []string{"one@dest.example\r\nDATA", "nothing", "@dest.example", "Name <one@dest.example>"} {
		if got := b.sendRaw(t, secret, "info@example.com", rawMessage, to); got.status != http.StatusBadRequest {
			t.Errorf("%q: %s", to, got.text)
		}
	}
	large := rawMessage + strings.Repeat("x\n", 1<<19)
	if got := b.sendRaw(t, secret, "info@example.com", large, "a@dest.example"); got.status !=
		http.StatusRequestEntityTooLarge {
		t.Errorf("a large one: %d", got.status)
	}
	bare := "From: info@example.com\r\n\r\nbare\nline\r\n"
	if got := b.sendRaw(t, secret, "info@example.com", bare, "one@dest.example"); len(got.Result.Delivered) != 0 {
		t.Errorf("a bare LF: %s", got.text)
	}
	if n := len(b.dest.Messages()); n != 0 {
		t.Errorf("%d messages came to the destination", n)
	}
}

// TestSending_Limits: what a token sends by the API counts as what it submits.
func TestSending_Limits(t *testing.T) {
	b := startNode(t, fmt.Sprintf("state: %q\nsubmission: {messages: 2/1h}\n", t.TempDir()), nil)
	b.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%[1]s\nrelay @dest.example smtp://%[1]s\n",
		b.dest.Addr()))
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, secret := b.token(t, account.Owner, "example.com")
	got := b.sendRaw(t, secret, "info@example.com", rawMessage, "a@dest.example", "b@dest.example", "c@dest.example")
	if len(got.Result.Delivered) != 2 || len(got.Result.PutOff) != 1 ||
		!strings.HasPrefix(got.Result.PutOff[0].Reply, "450 4.7.1 You have sent too many messages") {
		t.Errorf("got %s", got.text)
	}
	if got = b.sendRaw(t, secret, "info@example.com", rawMessage, "d@dest.example"); got.Success ||
		got.status != http.StatusServiceUnavailable {
		t.Errorf("afterwards: %s", got.text)
	}
	if n := len(b.dest.Messages()); n != 2 {
		t.Errorf("%d messages", n)
	}
}

// TestSending_InDoubt: a destination that is silent at the end of a message leaves it in doubt for the one who asked,
// whose request ends; the node awaits the answer all the same.
func TestSending_InDoubt(t *testing.T) {
	b := startSending(t)
	id, _ := b.token(t, account.Owner, "example.com")
	asked, release := make(chan struct{}), make(chan struct{})
	b.dest.Set(smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == smtptest.Dot {
			close(asked)
			<-release
		}
		return smtptest.Answer{}, false
	}})
	s, err := newSending(b.Node)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // ends with the destination's part
		<-asked
		cancel()
	}()
	owner := account.Principal{ID: id, Role: account.Owner, Domains: []string{"example.com"}}
	got, err := s.send(ctx, owner, v4.Outgoing{
		From: "info@example.com", Recipients: []string{"slow@dest.example"}, Message: rawMessage,
	})
	if err != nil || len(got.Delivered) != 0 || len(got.PutOff) != 1 || !got.PutOff[0].InDoubt {
		t.Errorf("got %+v, %v", got, err)
	}
	close(release)
	s.ending.Wait()
	if n := len(b.dest.Messages()); n != 1 {
		t.Errorf("the destination has %d messages", n)
	}
}
