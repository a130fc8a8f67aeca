// Command hook is an example of a hook (docs/hooks.md): it verifies each question, refuses senders whose SPF fails, and
// forwards the others by a table.
//
// MILLRACE_SECRET=whsec_... hook 127.0.0.1:8787 RECIPIENT=ADDRESS ...
//
// A reverse proxy in front of it speaks TLS, unless the node lists its address. It needs the standard library alone.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: MILLRACE_SECRET=whsec_... hook ADDRESS:PORT RECIPIENT=ADDRESS ...")
	}
	d, err := newDecider(os.Getenv("MILLRACE_SECRET"), os.Args[2:])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(os.Args[1], d))
}

const (
	maxBody = 64 << 10
	// skew is how far a timestamp may be off: a question that was listened to cannot be asked again later.
	skew = 5 * time.Minute
)

// A decider answers where mail goes.
type decider struct {
	secret []byte
	table  map[string]string // by recipient in lower case
}

// A question is the part of a question that this hook wants.
type question struct {
	Data struct {
		Recipient, Sender, SPF string
	}
}

// An answer is what the node is told.
type answer struct {
	Action   string   `json:"action"`
	To       []string `json:"to,omitempty"`
	Code     int      `json:"code,omitempty"`
	Enhanced string   `json:"enhanced,omitempty"`
	Text     string   `json:"text,omitempty"`
}

// newDecider returns a hook that knows a secret and has a table of RECIPIENT=ADDRESS.
func newDecider(secret string, table []string) (*decider, error) {
	encoded, found := strings.CutPrefix(strings.TrimSpace(secret), "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !found || err != nil || len(key) == 0 {
		return nil, errors.New("MILLRACE_SECRET is not whsec_ and base64")
	}
	d := &decider{secret: key, table: make(map[string]string)}
	for _, entry := range table {
		recipient, address, found := strings.Cut(entry, "=")
		if !found {
			return nil, errors.New(entry + " is not RECIPIENT=ADDRESS")
		}
		d.table[strings.ToLower(recipient)] = address
	}
	return d, nil
}

// ServeHTTP answers one question.
func (d *decider) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, maxBody))
	switch {
	case err != nil:
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	case !d.verify(request.Header, body, time.Now()):
		http.Error(w, "not signed by whom I know", http.StatusUnauthorized)
		return
	}
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		http.Error(w, "no question", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(d.decide(q)); err != nil {
		log.Print(err)
	}
}

// decide is what this hook is for.
func (d *decider) decide(q question) answer {
	switch to := d.table[strings.ToLower(q.Data.Recipient)]; {
	case q.Data.SPF == "fail":
		return answer{Action: "reject", Code: 550, Enhanced: "5.7.23", Text: "SPF fails for this sender"}
	case to != "":
		return answer{Action: "forward", To: []string{to}}
	}
	return answer{Action: "reject", Code: 550, Enhanced: "5.1.1", Text: "No such address"}
}

// verify reports whether one of the signatures is made with the secret, now.
func (d *decider) verify(h http.Header, body []byte, now time.Time) bool {
	id, at := h.Get("webhook-id"), h.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > skew {
		return false
	}
	mac := hmac.New(sha256.New, d.secret)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	want := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for _, signature := range strings.Fields(h.Get("webhook-signature")) {
		if hmac.Equal([]byte(signature), want) {
			return true
		}
	}
	return false
}
