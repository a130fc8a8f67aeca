package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestReceiver_Verify: the example of the specification of Standard Webhooks is taken at its time, and nothing that
// differs from it.
func TestReceiver_Verify(t *testing.T) {
	r, err := newReceiver("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1614265330, 0)
	for _, tt := range []struct {
		name, id, signature, body string
		now                       time.Time
		want                      bool
	}{
		{"as it is", "msg_p5jXN8AQM9LWM0D4loKWxJek", "", "", at, true},
		{"beside another one", "msg_p5jXN8AQM9LWM0D4loKWxJek",
			"v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "",
			at, true},
		{"another id", "msg_other", "", "", at, false},
		{"another body", "msg_p5jXN8AQM9LWM0D4loKWxJek", "", "{}", at, false},
		{"another signature", "msg_p5jXN8AQM9LWM0D4loKWxJek", "v1,AAAA", "", at, false},
		{"no signature", "msg_p5jXN8AQM9LWM0D4loKWxJek", " ", "", at, false},
		{"too late", "msg_p5jXN8AQM9LWM0D4loKWxJek", "", "", at.Add(skew + time.Second), false},
		{"too early", "msg_p5jXN8AQM9LWM0D4loKWxJek", "", "", at.Add(-skew - time.Second), false},
	} {
		h := http.Header{}
		h.Set("webhook-id", tt.id)
		h.Set("webhook-timestamp", "1614265330")
		h.Set("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
		if tt.signature != "" {
			h.Set("webhook-signature", tt.signature)
		}
		body := `{"test": 2432232314}`
		if tt.body != "" {
			body = tt.body
		}
		if got := r.verify(h, []byte(body), tt.now); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

func TestReceiver_Refuses(t *testing.T) {
	for _, secret := range []string{"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!"} {
		if _, err := newReceiver(secret); err == nil {
			t.Errorf("%q is a secret", secret)
		}
	}
	r, err := newReceiver("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	for want, body := range map[int]string{401: "{}", 413: strings.Repeat("x", maxBody+1)} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		if w.Code != want {
			t.Errorf("got %d, want %d", w.Code, want)
		}
	}
}
