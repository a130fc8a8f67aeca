package dns

import (
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// A TSIG is a key that signs messages between us and a Primary (RFC 8945).
type TSIG struct{ name, algorithm, secret string }

// tsigFudge is how far the clocks of the two may differ (RFC 8945 section 10).
const tsigFudge = 5 * time.Minute

// keyFile is a key as tsig-keygen and rndc-confgen write it.
var keyFile = regexp.MustCompile(`(?s)^\s*key\s+"?([^"\s{]+)"?\s*\{\s*(.*?)\}\s*;?\s*$`)

// keyTerm is one term of such a key.
var keyTerm = regexp.MustCompile(`(?s)^\s*(algorithm|secret)\s+"?([^"\s]+)"?\s*$`)

// ParseTSIG parses the file of a key: what tsig-keygen writes, or the line algorithm:name:secret of nsupdate -y. Lines
// that begin with # or // do not count. An error does not repeat the secret.
func ParseTSIG(text []byte) (*TSIG, error) {
	var lines []string
	for line := range strings.Lines(string(text)) {
		if l := strings.TrimSpace(line); !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "//") {
			lines = append(lines, l)
		}
	}
	plain := strings.TrimSpace(strings.Join(lines, "\n"))
	if m := keyFile.FindStringSubmatch(plain); m != nil {
		terms := make(map[string]string)
		for term := range strings.SplitSeq(m[2], ";") {
			if t := keyTerm.FindStringSubmatch(term); t != nil {
				terms[t[1]] = t[2]
			} else if strings.TrimSpace(term) != "" {
				return nil, errors.New("a key has an algorithm and a secret, and nothing else")
			}
		}
		return newTSIG(terms["algorithm"], m[1], terms["secret"])
	}
	parts := strings.Split(plain, ":")
	if len(parts) != 3 {
		return nil, errors.New(`is neither a key of tsig-keygen nor a line "hmac-sha256:name:secret"`)
	}
	return newTSIG(parts[0], parts[1], parts[2])
}

// newTSIG returns a key of its three parts.
func newTSIG(algorithm, name, secret string) (*TSIG, error) {
	algorithm = strings.ToLower(strings.TrimSuffix(algorithm, "."))
	name, ok := canonical(name)
	raw, err := base64.StdEncoding.DecodeString(secret)
	switch {
	case !ok || name == ".":
		return nil, errors.New("the name of the key is no domain name")
	case err != nil || len(raw) == 0:
		return nil, errors.New("the secret of the key is not base64")
	}
	switch a := algorithm + "."; a {
	case wire.HmacSHA1, wire.HmacSHA224, wire.HmacSHA256, wire.HmacSHA384, wire.HmacSHA512:
		return &TSIG{name: wire.Fqdn(name), algorithm: a, secret: secret}, nil
	}
	return nil, errors.New("the algorithm of the key is none of hmac-sha1, -sha224, -sha256, -sha384, -sha512")
}
