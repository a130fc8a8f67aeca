package clients_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/mail"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A mailbox is a destination on the Internet of a test, mailbox.example, and a node's configuration that leads there.
func mailbox(t *testing.T, b smtptest.Behaviour) (*smtptest.Server, world.World) {
	t.Helper()
	destination := smtptest.Start(t, b)
	_, port, _ := strings.Cut(destination.Addr(), ":")
	key, err := dkim.GenerateKey(dkim.RSASHA256, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text, err := dkim.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dkim.pem")
	world.Save(t, file, string(text))
	return destination, world.World{
		DNS: dnstest.Start(t,
			"mailbox.example. 60 IN MX 10 mx.mailbox.example.\nmx.mailbox.example. 60 IN A 127.0.0.1\n"),
		Config: "egress: {port: " + port + ", allow_private: true}\n" +
			"dkim: {relay: [{domain: relay.example, selector: s, key_file: " + file + "}], unpublished: sign}\n" +
			"public: {addr: \"127.0.0.1:0\", url: \"https://relay.example\", tls: none}\n",
	}
}

// An address is a destination as the API shows it.
type address struct {
	ID       string
	Verified *string
	Failed   string `json:"verification_failed"`
}

// link is the link in a letter.
var link = regexp.MustCompile(`https://relay\.example(/verify\?token=[0-9A-Za-z_-]+)`)

// linkIn returns the path of the link in a letter.
func linkIn(t *testing.T, letter smtptest.Message) string {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(letter.Octets))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, m.Body))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Header.Get("Dkim-Signature"); !strings.Contains(got, "d=relay.example") {
		t.Errorf("signed %q", got)
	}
	found := link.FindSubmatch(text)
	if found == nil {
		t.Fatalf("no link in %s", text)
	}
	return string(found[1])
}

// TestVerification: a destination is asked by a signed letter, and its rule takes mail from the moment in which the
// reader of the letter confirms it. Nothing else confirms it.
func TestVerification(t *testing.T) {
	t.Parallel()
	box, w := mailbox(t, smtptest.Behaviour{})
	relay, base := start(t, w, 0)
	var accounts, zones []struct{ ID string }
	call(t, "GET", base+"/accounts", "", &accounts)
	call(t, "GET", base+"/zones", "", &zones)
	addresses := base + "/accounts/" + accounts[0].ID + "/email/routing/addresses"
	var a address
	call(t, "POST", addresses, `{"email":"box@mailbox.example"}`, &a)
	call(t, "POST", base+"/zones/"+zones[0].ID+"/email/routing/rules", `{"matchers":[{"type":"literal","field":"to",`+
		`"value":"a@example.com"}],"actions":[{"type":"forward","value":["box@mailbox.example"]}]}`, nil)
	letter := world.Messages(t, box, 1)[0]
	if letter.Reverse != "postmaster@relay.example" || letter.Forwards[0] != "box@mailbox.example" {
		t.Errorf("the letter is from %s to %s", letter.Reverse, letter.Forwards)
	}
	path := linkIn(t, letter)
	send := func() int {
		t.Helper()
		s := world.Dial(t, source.Config{Addr: relay.Addr})
		r, err := s.Send(source.Message{Reverse: "x@client.example", Forward: []string{"a@example.com"},
			Octets: []byte("From: x@client.example\r\n\r\ntext\r\n")})
		if err != nil {
			t.Fatal(err)
		}
		return r.End.Class()
	}
	verified := func() bool {
		t.Helper()
		call(t, "GET", addresses+"/"+a.ID, "", &a)
		return a.Verified != nil
	}
	public := "http://" + relay.Node.PublicAddr()
	if got := status(t, "GET", public+path, ""); got != 200 || verified() || send() == 2 {
		t.Errorf("the page of the link: %d, and it confirms something", got)
	}
	_, token, _ := strings.Cut(path, "token=")
	if got := status(t, "POST", public+"/verify", "token=x"+token); got != 404 || verified() {
		t.Errorf("another token: %d", got)
	}
	if got := status(t, "POST", public+"/verify", "token="+token); got != 200 || !verified() {
		t.Errorf("the button: %d", got)
	}
	if class := send(); class != 2 {
		t.Errorf("mail gets a %dyz", class)
	}
	if got := status(t, "POST", public+"/verify", "token="+token); got != 404 {
		t.Errorf("the button again: %d", got)
	}
}

// status posts a form, or asks for a page, as a browser does, and returns the status of the answer.
func status(t *testing.T, method, url, form string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestVerification_PutOff: a letter that is put off is shown with its reply, is sent no second time by itself, and is
// asked for again.
func TestVerification_PutOff(t *testing.T) {
	t.Parallel()
	box, w := mailbox(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()})
	_, base := start(t, w, 0)
	var accounts []struct{ ID string }
	call(t, "GET", base+"/accounts", "", &accounts)
	addresses := base + "/accounts/" + accounts[0].ID + "/email/routing/addresses"
	var a address
	call(t, "POST", addresses, `{"email":"greylist@mailbox.example"}`, &a)
	world.Await(t, "the letter has failed", func() bool {
		call(t, "GET", addresses+"/"+a.ID, "", &a)
		return a.Failed != ""
	})
	if !strings.HasPrefix(a.Failed, "451 4.7.1") || box.Counts().Commands["RCPT"] != 1 {
		t.Errorf("got %+v", a)
	}
	call(t, "POST", addresses, `{"email":"greylist@mailbox.example"}`, &a)
	linkIn(t, world.Messages(t, box, 1)[0])
	var now address
	call(t, "GET", addresses+"/"+a.ID, "", &now)
	if now.Failed != "" || now.Verified != nil {
		t.Errorf("got %+v", now)
	}
}
