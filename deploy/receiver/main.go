// Command receiver is an example of a receiver of events (docs/events.md): it verifies each post and logs one line of
// it.
//
// MILLRACE_SECRET=whsec_... receiver 127.0.0.1:8080
//
// A reverse proxy in front of it speaks TLS. It needs the standard library alone.
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
	"sync"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: MILLRACE_SECRET=whsec_... receiver ADDRESS:PORT")
	}
	r, err := newReceiver(os.Getenv("MILLRACE_SECRET"))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(os.Args[1], r))
}

const (
	maxBody = 64 << 10
	// skew is how far a timestamp may be off: a post that was listened to cannot be sent again later.
	skew = 5 * time.Minute
	// maxSeen bounds the ids that are remembered. A receiver with a database keeps them there.
	maxSeen = 100_000
)

// A receiver takes events.
type receiver struct {
	secret []byte
	log    func(event) // what it does with an event

	mu   sync.Mutex
	seen map[string]bool
}

// An event is the part of an event that this receiver wants.
type event struct {
	Type      string
	Timestamp time.Time
	Data      struct {
		ID        string
		Recipient string
		Sender    string
		Reply     struct {
			Code int
			Text string
		}
	}
}

// newReceiver returns a receiver that knows a secret.
func newReceiver(secret string) (*receiver, error) {
	encoded, found := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !found || err != nil || len(key) == 0 {
		return nil, errors.New("MILLRACE_SECRET is not whsec_ and base64")
	}
	return &receiver{secret: key, seen: make(map[string]bool), log: func(e event) {
		log.Printf("%s %s from <%s> to <%s>: %d %q", e.Timestamp.Format(time.RFC3339), e.Type, e.Data.Sender,
			e.Data.Recipient, e.Data.Reply.Code, e.Data.Reply.Text)
	}}, nil
}

// ServeHTTP takes one post. It answers before the sender loses patience, because it has little to do.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, maxBody))
	switch {
	case err != nil:
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	case !r.verify(request.Header, body, time.Now()):
		http.Error(w, "not signed by whom I know", http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		http.Error(w, "no event", http.StatusBadRequest)
		return
	}
	if r.first(request.Header.Get("webhook-id")) {
		r.log(e)
	}
	w.WriteHeader(http.StatusNoContent)
}

// verify reports whether one of the signatures is made with the secret, now.
func (r *receiver) verify(h http.Header, body []byte, now time.Time) bool {
	id, at := h.Get("webhook-id"), h.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > skew {
		return false
	}
	mac := hmac.New(sha256.New, r.secret)
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

// first reports whether an event comes for the first time, as far as that is known.
func (r *receiver) first(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return false
	}
	if len(r.seen) == maxSeen {
		clear(r.seen)
	}
	r.seen[id] = true
	return true
}
