package hook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The scheme of signatures is that of Standard Webhooks, version v1 (standardwebhooks.com), which libraries in many
// languages verify.
const (
	secretPrefix = "whsec_"
	minSecret    = 24 // octets
	maxSecret    = 64
)

// A Secret keys the signatures that one receiver verifies.
type Secret []byte

// ParseSecrets reads a file of secrets, one a line as "whsec_" and base64, the current one first. Lines that begin with
// "#" do not count, nor does what stands behind the second secret. The error is *mail.LineErrors without the name of
// the file, which repeat nothing of a line.
func ParseSecrets(text string) ([]Secret, error) {
	var secrets []Secret
	var wrong mail.LineErrors
	n, told := 0, 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseSecret(line)
		if err != nil {
			wrong.Add(n, 1, err.Error())
		} else {
			secrets = append(secrets, s)
		}
		if told++; told == 2 {
			break
		}
	}
	if told == 0 {
		wrong.Add(1, 1, "holds no secret")
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return secrets, nil
}

func parseSecret(line string) (Secret, error) {
	encoded, found := strings.CutPrefix(line, secretPrefix)
	if !found {
		return nil, errors.New("a secret begins with " + secretPrefix)
	}
	s, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("base64 stands behind " + secretPrefix)
	}
	if len(s) < minSecret || len(s) > maxSecret {
		return nil, fmt.Errorf("the secret has %d octets: want %d to %d", len(s), minSecret, maxSecret)
	}
	return s, nil
}

// String returns the secret as a file of them holds it.
func (s Secret) String() string { return secretPrefix + base64.StdEncoding.EncodeToString(s) }

// Sign sets the fields that let a receiver verify who posts a body, and that it is no repetition of an older one: id
// names what is posted and stays the same when that is posted again, at is the time of this attempt. A receiver that
// knows one of the secrets takes it.
func Sign(h http.Header, id string, at time.Time, body []byte, secrets []Secret) {
	seconds := strconv.FormatInt(at.Unix(), 10)
	var signatures []string
	for _, s := range secrets {
		mac := hmac.New(sha256.New, s)
		mac.Write([]byte(id + "." + seconds + "."))
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", seconds)
	h.Set("webhook-signature", strings.Join(signatures, " "))
}
