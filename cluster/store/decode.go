package store

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// Answers of Redis are not trusted: another program, or another version of this one, may have written the values.

// maxCodes bounds the codes of one list for one address. RFC 5782 has no limit; lists use a few.
const maxCodes = 32

// array returns v as an array of n elements.
func array(v any, n int) ([]any, error) {
	a, ok := v.([]any)
	if !ok || len(a) != n {
		return nil, fmt.Errorf("store: redis answered %T, want an array of %d", v, n)
	}
	return a, nil
}

// decodeRates reads the microseconds until each rate is allowed.
func decodeRates(v any, results []mail.RateResult) error {
	a, err := array(v, len(results))
	if err != nil {
		return err
	}
	for i, v := range a {
		wait, ok := v.(int64)
		if !ok {
			return fmt.Errorf("store: redis answered %T for a rate", v)
		}
		results[i] = rateResult(wait)
	}
	return nil
}

// decodeLists reads the answers of lists.lua into the elements of answers that index names.
func decodeLists(v any, answers []mail.ListAnswer, index []int) error {
	a, err := array(v, len(index))
	if err != nil {
		return err
	}
	for i, v := range a {
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("store: redis answered %T for a list", v)
		}
		if answers[index[i]], err = parseList(text); err != nil {
			return err
		}
	}
	return nil
}

var errList = errors.New("store: redis holds a list answer that cannot be read")

// parseList reads "known", the milliseconds left and the codes; "yours"; "pending"; or "unknown".
func parseList(text string) (mail.ListAnswer, error) {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "unknown":
		return mail.ListAnswer{State: mail.ListUnknown}, nil
	case "yours":
		return mail.ListAnswer{State: mail.ListAskedOfYou}, nil
	case "pending":
		return mail.ListAnswer{State: mail.ListPending}, nil
	case "known":
	default:
		return mail.ListAnswer{}, errList
	}
	left, rest, _ := strings.Cut(rest, " ")
	ms, err := strconv.ParseInt(left, 10, 64)
	if err != nil || ms < 0 || ms > int64(maxPer/time.Millisecond) {
		return mail.ListAnswer{}, errList
	}
	answer := mail.ListAnswer{State: mail.ListKnown, TTL: time.Duration(ms) * time.Millisecond}
	for rest != "" {
		var code string
		code, rest, _ = strings.Cut(rest, " ")
		addr, err := netip.ParseAddr(code)
		if err != nil || !addr.Is4() || len(answer.Codes) == maxCodes {
			return mail.ListAnswer{}, errList
		}
		answer.Codes = append(answer.Codes, addr)
	}
	return answer, nil
}

// encodeCodes returns codes as parseList reads them, each with a blank before it. It omits IPv6 addresses.
func encodeCodes(codes []netip.Addr) string {
	var b []byte
	n := 0
	for _, c := range codes {
		if c = c.Unmap(); c.Is4() && n < maxCodes {
			b = c.AppendTo(append(b, ' '))
			n++
		}
	}
	return string(b)
}

// decodeKarma reads score and votes.
func decodeKarma(v any) (mail.Karma, error) {
	text, _ := v.(string)
	first, second, _ := strings.Cut(text, " ")
	score, err := strconv.ParseFloat(first, 64)
	votes, err2 := strconv.ParseFloat(second, 64)
	if errors.Join(err, err2) != nil || !finite(score) || !finite(votes) || votes < 0 {
		return mail.Karma{}, fmt.Errorf("store: redis holds karma %q", text)
	}
	return mail.Karma{Score: score, Votes: votes}, nil
}

// decodeSenders reads domains, each with its karma.
func decodeSenders(v any) (mail.Senders, error) {
	all, ok := v.([]any)
	if !ok || len(all)%2 != 0 || len(all) > 2*maxSenders {
		return nil, fmt.Errorf("store: redis answered %v for the karma of a network", v)
	}
	var senders mail.Senders
	for i := 0; i < len(all); i += 2 {
		text, ok := all[i].(string)
		if !ok || len(text) > domain.MaxName {
			return nil, fmt.Errorf("store: redis holds karma of %v", all[i])
		}
		k, err := decodeKarma(all[i+1])
		if err != nil {
			return nil, err
		}
		senders = append(senders, mail.SenderKarma{Sender: text, Karma: k})
	}
	return senders, nil
}

// decodeDomains reads the domains for which a network is known good.
func decodeDomains(v any) ([]string, error) {
	all, ok := v.([]any)
	if !ok || len(all) > maxGoodDomains {
		return nil, fmt.Errorf("store: redis answered %v for what is known good", v)
	}
	var domains []string
	for _, d := range all {
		text, ok := d.(string)
		if !ok || len(text) > domain.MaxName {
			return nil, fmt.Errorf("store: redis holds %v as known good", d)
		}
		domains = append(domains, text)
	}
	return domains, nil
}

// finite reports whether f is a number and not infinite.
func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// decodeGrey reads the milliseconds until each triplet passes. Zero and less mean that it passes now.
func decodeGrey(v any, n int) ([]mail.GreylistAnswer, error) {
	a, err := array(v, n)
	if err != nil {
		return nil, err
	}
	greyed := make([]mail.GreylistAnswer, n)
	for i, v := range a {
		wait, ok := v.(int64)
		if !ok || wait > int64(maxPer/time.Millisecond) {
			return nil, fmt.Errorf("store: redis answered %v for a triplet", v)
		}
		greyed[i] = mail.GreylistAnswer{Passed: wait <= 0, Wait: time.Duration(max(0, wait)) * time.Millisecond}
	}
	return greyed, nil
}

// decodeClient reads the answer of client.lua.
func decodeClient(v any, facts *mail.Facts, index []int) error {
	a, err := array(v, 5)
	if err != nil {
		return err
	}
	if err := decodeRates(a[0], facts.Rates); err != nil {
		return err
	}
	if err := decodeLists(a[1], facts.Lists, index); err != nil {
		return err
	}
	if facts.Address, err = decodeKarma(a[2]); err != nil {
		return err
	}
	if facts.Network, err = decodeSenders(a[3]); err != nil {
		return err
	}
	facts.KnownGood, err = decodeDomains(a[4])
	return err
}
