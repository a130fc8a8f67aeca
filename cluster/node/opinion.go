package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/ingress/world"
)

// The bounds of a message that go-msgauth is asked about. It takes quadratic time for a field of many lines and for a
// body that ends in many empty ones.
const (
	maxOpinionHeader = 64 << 10
	maxOpinionLines  = 1000
	maxOpinionEmpty  = 1000
	maxOpinions      = 5
)

// secondOpinion asks go-msgauth about the DKIM signatures of a message, and returns where it says otherwise than ours,
// which are as an event has them. It is nil where both agree.
func secondOpinion(ctx context.Context, dns world.Resolver, message []byte, ours string) (lines []string) {
	if !bytes.Contains(bytes.ToLower(message), []byte("dkim-signature")) {
		return nil
	}
	header, _, _ := bytes.Cut(message, []byte("\r\n\r\n"))
	switch {
	case len(header) > maxOpinionHeader || bytes.Count(header, []byte("\n")) > maxOpinionLines:
		return []string{"go-msgauth was not asked: the header section is too long for it"}
	case bytes.Contains(message, bytes.Repeat([]byte("\r\n"), maxOpinionEmpty)):
		return []string{"go-msgauth was not asked: the message has too many empty lines for it"}
	}
	verified, err := msgauth.VerifyWithOptions(bytes.NewReader(message), &msgauth.VerifyOptions{
		LookupTXT:        func(name string) ([]string, error) { return dns.LookupTXT(ctx, name) },
		MaxVerifications: maxOpinions,
	})
	if err != nil && !errors.Is(err, msgauth.ErrTooManySignatures) {
		return []string{"go-msgauth cannot read the message: " + err.Error()}
	}
	theirs := make(map[string]opinion)
	for _, v := range verified {
		d := strings.ToLower(v.Domain)
		theirs[d] = opinion{pass: theirs[d].pass || v.Err == nil, why: v.Err}
	}
	mine := passing(ours)
	for _, d := range slices.Sorted(maps.Keys(mine)) {
		other, seen := theirs[d]
		switch {
		case !seen || other.pass == mine[d]:
		case mine[d]:
			lines = append(lines, fmt.Sprintf("DKIM of %s: we say pass, go-msgauth says: %v", d, other.why))
		default:
			lines = append(lines, fmt.Sprintf("DKIM of %s: go-msgauth says pass, and we do not", d))
		}
	}
	return lines
}

// An opinion is whether a signature of a domain passes, and why one does not.
type opinion struct {
	pass bool
	why  error
}

// passing reads the signers of an event: whether a signature passes, by domain.
func passing(signers string) map[string]bool {
	out := make(map[string]bool)
	for one := range strings.SplitSeq(signers, ", ") {
		domain, result, ok := strings.Cut(strings.TrimPrefix(one, "d="), " ")
		if ok {
			out[strings.ToLower(domain)] = out[strings.ToLower(domain)] || result == "pass"
		}
	}
	return out
}
