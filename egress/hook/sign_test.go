package hook

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSign: the signature is that of the example in the specification of Standard Webhooks.
func TestSign(t *testing.T) {
	secrets, err := ParseSecrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	Sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), secrets)
	for name, want := range map[string]string{
		"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
		"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	Sign(h, "a", time.Unix(1, 0), nil, append(secrets, Secret("another")))
	if got := strings.Fields(h.Get("webhook-signature")); len(got) != 2 || got[0] == got[1] {
		t.Errorf("with two secrets: %q", got)
	}
}

func TestParseSecrets(t *testing.T) {
	const one = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	for text, want := range map[string]string{
		one:                                      one,
		"# ours\n\n " + one + "\r\n":             one,
		one + "\n" + one + "\nnonsense":          one + " " + one,
		"":                                       ":1: holds no secret",
		"# none\n":                               ":1: holds no secret",
		"\nMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw":     ":2: a secret begins with whsec_",
		"whsec_MfKQ9r8G-YqrTwjUPD8ILPZIo2LaLaSw": ":1: base64 stands behind whsec_",
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS=": ":1: the secret has 23 octets: want 24 to 64",
		"whsec_" + strings.Repeat("AAAA", 22) + "\n": ":1: the secret has 66 octets: want 24 to 64",
	} {
		secrets, err := ParseSecrets(text)
		var got []string
		for _, s := range secrets {
			got = append(got, s.String())
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
