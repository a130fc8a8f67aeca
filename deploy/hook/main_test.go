package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestDecider: a question that a node signs is answered by the table, and no other one.
func TestDecider(t *testing.T) {
	d, err := newDecider(secret+"\n", []string{"orders@example.com=alice@mailbox.example"})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(h http.Header, at time.Time, body string) {
		seconds := strconv.FormatInt(at.Unix(), 10)
		mac := hmac.New(sha256.New, d.secret)
		mac.Write([]byte("hook_1." + seconds + "." + body))
		h.Set("webhook-id", "hook_1")
		h.Set("webhook-timestamp", seconds)
		h.Set("webhook-signature", "v1,AAAA v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	ask := func(at time.Time, body string, spoil func(http.Header)) (int, string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		sign(r.Header, at, body)
		spoil(r.Header)
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		return w.Code, string(bytes.TrimSpace(w.Body.Bytes()))
	}
	question := func(recipient, spf string) string {
		return `{"type": "recipient.asked", "data": {"recipient": "` + recipient + `", "spf": "` + spf + `"}}`
	}
	as := func(http.Header) {}
	for _, tt := range []struct {
		name, body string
		at         time.Time
		spoil      func(http.Header)
		code       int
		want       string
	}{
		{"known", question("Orders@example.com", "pass"), time.Now(), as, 200,
			`{"action":"forward","to":["alice@mailbox.example"]}`},
		{"SPF fails", question("orders@example.com", "fail"), time.Now(), as, 200, `"enhanced":"5.7.23"`},
		{"unknown", question("x@example.com", "none"), time.Now(), as, 200, `"enhanced":"5.1.1"`},
		{"another body", question("orders@example.com", ""), time.Now(), func(h http.Header) {
			sign(h, time.Now(), "{}")
		}, 401, "not signed"},
		{"no signature", question("orders@example.com", ""), time.Now(), func(h http.Header) { clear(h) }, 401,
			"not signed"},
		{"another time", question("orders@example.com", ""), time.Now(), func(h http.Header) {
			h.Set("webhook-timestamp", strconv.FormatInt(time.Now().Unix()+60, 10))
		}, 401, "not signed"},
		{"too old", question("orders@example.com", ""), time.Now().Add(-2 * skew), as, 401, "not signed"},
		{"no question", "x", time.Now(), as, 400, "no question"},
		{"too large", strings.Repeat("x", maxBody+1), time.Now(), as, 413, "too large"},
	} {
		code, body := ask(tt.at, tt.body, tt.spoil)
		if code != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s: got %d %s", tt.name, code, body)
		}
	}
	for _, wrong := range [][]string{{""}, {"whsec_"}, {"whsec_!"}, {secret, "a"}} {
		if _, err := newDecider(wrong[0], wrong[1:]); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}
