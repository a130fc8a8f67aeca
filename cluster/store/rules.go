package store

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// The rules that all nodes run, and what an API keeps beside them, are in Redis each as a head and its parts, all in
// one slot. The head is a short text: number, digest and sizes of the rules in force, and the name of the hash that
// holds their parts. Parts are written under a name of their own before a compare-and-set changes the head to that
// name. The parts of the previous head are kept for some time. So the rules in force and the previous ones are whole at
// any time.

// The errors of rules in Redis.
var (
	// ErrNoRedis says that no Redis is configured, so that no rules are shared.
	ErrNoRedis = errors.New("store: without redis no rules are shared")
	// ErrUnanswered says that Redis did not answer in time, or is skipped because it did not answer before.
	ErrUnanswered = errors.New("store: redis does not answer")
	// ErrCorrupt says that the rules in Redis were not written by a store, or are incomplete.
	ErrCorrupt = errors.New("store: redis holds rules that cannot be read")
	// ErrNewer says that a later version of this program wrote the rules in Redis. They are not to be replaced.
	ErrNewer = errors.New("store: redis holds rules of a later format")
	// ErrTooLong says that rules are too long to be shared.
	ErrTooLong = errors.New("store: rules of more than 1 GiB, or of more than 256 MiB compressed, are not shared")
)

// Bounds of rules in Redis. Sizes are in octets.
const (
	rulesFormat  = "1"
	maxNumber    = 1 << 53
	maxText      = 1 << 30
	maxPacked    = 256 << 20
	partOctets   = 64 << 10 // of a round trip; fits Config.Timeout at 100 Mbit/s and does not delay other queries
	maxPart      = 1 << 20  // of a part that is read
	maxParts     = maxPacked / partOctets
	maxRatio     = 1100 // DEFLATE expands an octet to at most 1032
	nonceDigits  = 16
	digestDigits = 2 * sha256.Size
)

const (
	// unheadedKept is how long parts are kept that no head names yet, or no head names any more.
	unheadedKept = 10 * time.Minute
	// partTries is how often one round trip of a long transfer is tried, and partPause is the time between two tries.
	partTries = 6
	partPause = 250 * time.Millisecond
)

// The groups of the rules and of what an API keeps beside them, and the kinds of their keys.
const (
	groupRules   = "rules"
	groupAccount = "account"
	kindHead     = "h"
	kindParts    = "p"
)

// A shelf is where a text that nodes share stands in Redis.
type shelf struct {
	group string
	head  atomic.Value // string: its head, as it was last read
}

// A RulesHead says which rules Redis holds. Its zero value stands for a Redis without rules.
type RulesHead struct {
	Number uint64 // of the version, from 1; 0 without rules
	Digest string // SHA-256 of the text, in hexadecimal
	Octets int    // of the text
	Whole  bool   // all parts are in Redis

	raw    string // the text in Redis
	nonce  string // names the parts
	parts  int    // the number of parts
	packed int    // octets of all parts
}

// String returns the head as it is written to Redis.
func (h RulesHead) String() string {
	if h.Number == 0 {
		return h.raw
	}
	return fmt.Sprintf("%s %d %s %s %d %d %d", rulesFormat, h.Number, h.Digest, h.nonce, h.parts, h.packed, h.Octets)
}

// parseHead reads a head. With ErrCorrupt the head still has the text in Redis, so that it can be replaced.
func parseHead(raw string) (RulesHead, error) {
	wrong := RulesHead{raw: raw}
	if raw == "" {
		return wrong, nil
	}
	f := strings.Split(raw, " ")
	if format, err := strconv.ParseUint(f[0], 10, 16); err == nil && len(f) > 1 && format > 1 {
		return wrong, ErrNewer
	}
	if len(f) != 7 {
		return wrong, ErrCorrupt
	}
	h := RulesHead{Digest: f[2], raw: raw, nonce: f[3]}
	var octets uint64
	var errs [4]error
	h.Number, errs[0] = strconv.ParseUint(f[1], 10, 64)
	h.parts, errs[1] = strconv.Atoi(f[4])
	h.packed, errs[2] = strconv.Atoi(f[5])
	octets, errs[3] = strconv.ParseUint(f[6], 10, 64)
	h.Octets = int(min(octets, maxText+1))
	switch {
	case errors.Join(errs[:]...) != nil, h.String() != raw:
	case h.Number == 0 || h.Number > maxNumber || !isHex(h.Digest, digestDigits) || !isHex(h.nonce, nonceDigits):
	case h.parts < 1 || h.parts > maxParts || h.packed < 1 || h.packed > maxPacked:
	case h.Octets < 0 || h.Octets > maxText || h.Octets > h.packed*maxRatio:
	default:
		return h, nil
	}
	return wrong, ErrCorrupt
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// RulesVersion returns which rules Redis holds, in one round trip unless they have changed. With ErrCorrupt the head
// can be replaced by PublishRules. Other errors are ErrNoRedis, ErrUnanswered and ErrNewer.
func (s *Store) RulesVersion(ctx context.Context) (RulesHead, error) {
	if s.redis == nil {
		return RulesHead{}, ErrNoRedis
	}
	return s.redis.version(ctx, &s.redis.rules)
}

// AccountVersion is RulesVersion for what an API keeps beside the rules.
func (s *Store) AccountVersion(ctx context.Context) (RulesHead, error) {
	if s == nil || s.redis == nil {
		return RulesHead{}, ErrNoRedis
	}
	return s.redis.version(ctx, &s.redis.account)
}

func (s *shared) version(ctx context.Context, on *shelf) (RulesHead, error) {
	last, _ := on.head.Load().(string)
	for range 4 { // the rules seldom change, and not in each round trip
		seen, _ := parseHead(last) // a head that cannot be read has no parts
		c := []call{eval(ctx, s.scripts.rules, []string{s.headKey(on), s.partsKey(on, seen.nonce)}, []any{last})}
		if !s.run(ctx, c, nil) {
			return RulesHead{}, ErrUnanswered
		}
		a, err := array(c[0].cmd.Val(), 2)
		if err != nil {
			return RulesHead{}, ErrUnanswered
		}
		raw, isText := a[0].(string)
		parts, isNumber := a[1].(int64)
		if !isText || !isNumber {
			return RulesHead{}, ErrUnanswered
		}
		if parts >= 0 {
			on.head.Store(raw)
			h, err := parseHead(raw)
			h.Whole = h.Number > 0 && int64(h.parts) == parts
			return h, err
		}
		last = raw
	}
	return RulesHead{}, ErrUnanswered
}

// LoadRules returns the text of a head, octet for octet the one of PublishRules. It takes a round trip for each 64 KiB
// of the compressed text, and tries a failed one again. The errors are ErrNoRedis, ErrUnanswered and ErrCorrupt. With
// ErrCorrupt it removes the parts, so that a node that has the rules sees that it has to write them again.
func (s *Store) LoadRules(ctx context.Context, h RulesHead) ([]byte, error) {
	if s.redis == nil {
		return nil, ErrNoRedis
	}
	return s.redis.loadText(ctx, &s.redis.rules, h)
}

// LoadAccount is LoadRules for what an API keeps beside the rules.
func (s *Store) LoadAccount(ctx context.Context, h RulesHead) ([]byte, error) {
	if s == nil || s.redis == nil {
		return nil, ErrNoRedis
	}
	return s.redis.loadText(ctx, &s.redis.account, h)
}

func (s *shared) loadText(ctx context.Context, on *shelf, h RulesHead) ([]byte, error) {
	if h.Number == 0 {
		return nil, ErrCorrupt
	}
	text, err := s.load(ctx, on, h)
	if errors.Is(err, ErrCorrupt) {
		s.run(ctx, []call{command(ctx, "DEL", s.partsKey(on, h.nonce))}, nil) // if it fails, the next LoadRules does it
	}
	return text, err
}

// load reads all parts of a head and returns their text.
func (s *shared) load(ctx context.Context, on *shelf, h RulesHead) ([]byte, error) {
	var packed []byte
	for i := range h.parts {
		var part string
		found := false
		if err := s.retry(ctx, func() call { return command(ctx, "HMGET", s.partsKey(on, h.nonce), i) }, func(c call) {
			if a, err := array(c.cmd.Val(), 1); err == nil {
				part, found = a[0].(string)
			}
		}); err != nil {
			return nil, err
		}
		if !found || len(part) > maxPart || len(packed)+len(part) > h.packed {
			return nil, ErrCorrupt
		}
		packed = append(packed, part...)
	}
	return unpack(packed, h)
}

// PublishRules puts text in force as version number in place of over. If Redis does not hold over any more, it changes
// nothing and ok is false. It takes a round trip for each 64 KiB of the compressed text. After ErrUnanswered the rules
// may or may not be in force; RulesVersion returns which. Other errors are ErrNoRedis, ErrTooLong, and that of a number
// that is not between 1 and 2^53.
func (s *Store) PublishRules(ctx context.Context, over RulesHead, number uint64,
	text []byte) (h RulesHead, ok bool, err error) {
	if s.redis == nil {
		return RulesHead{}, false, ErrNoRedis
	}
	return s.redis.publishText(ctx, &s.redis.rules, over, number, text)
}

// PublishAccount is PublishRules for what an API keeps beside the rules.
func (s *Store) PublishAccount(ctx context.Context, over RulesHead, number uint64,
	text []byte) (h RulesHead, ok bool, err error) {
	if s == nil || s.redis == nil {
		return RulesHead{}, false, ErrNoRedis
	}
	return s.redis.publishText(ctx, &s.redis.account, over, number, text)
}

func (s *shared) publishText(ctx context.Context, on *shelf, over RulesHead, number uint64,
	text []byte) (h RulesHead, ok bool, err error) {
	if number == 0 || number > maxNumber {
		return RulesHead{}, false,
			fmt.Errorf("store: version %d of rules is not between 1 and %d", number, uint64(maxNumber))
	}
	packed, err := pack(text)
	if err != nil {
		return RulesHead{}, false, err
	}
	var nonce [nonceDigits / 2]byte
	rand.Read(nonce[:]) // never fails
	sum := sha256.Sum256(text)
	h = RulesHead{Number: number, Digest: hex.EncodeToString(sum[:]), Octets: len(text), Whole: true,
		nonce: hex.EncodeToString(nonce[:]), parts: (len(packed) + partOctets - 1) / partOctets, packed: len(packed)}
	h.raw = h.String()
	kept := unheadedKept.Milliseconds()
	for i := range h.parts {
		part := packed[i*partOctets : min(len(packed), (i+1)*partOctets)]
		if err := s.retry(ctx, func() call {
			return eval(ctx, s.scripts.part, []string{s.partsKey(on, h.nonce)}, []any{i, part, kept})
		}, func(call) {}); err != nil {
			return RulesHead{}, false, err
		}
	}
	keys := []string{s.headKey(on), s.partsKey(on, h.nonce), s.partsKey(on, over.nonce)}
	c := []call{eval(ctx, s.scripts.publish, keys, []any{over.raw, h.raw, h.parts, kept})}
	if !s.run(ctx, c, nil) {
		return RulesHead{}, false, ErrUnanswered
	}
	a, err := array(c[0].cmd.Val(), 2)
	if err != nil {
		return RulesHead{}, false, ErrUnanswered
	}
	if a[0] != int64(1) {
		return RulesHead{}, false, nil
	}
	on.head.Store(h.raw)
	return h, true, nil
}

// retry does one round trip of a long transfer. It tries a failed one again, so that the rest of the transfer is not in
// vain. The errors are ErrUnanswered and ErrCorrupt.
func (s *shared) retry(ctx context.Context, next func() call, answered func(call)) error {
	for try := range partTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ErrUnanswered
			case <-time.After(partPause):
			}
		}
		c := []call{next()}
		if s.run(ctx, c, nil) {
			answered(c[0])
			return nil
		}
		if redis.HasErrorPrefix(c[0].cmd.Err(), "WRONGTYPE") {
			return ErrCorrupt
		}
	}
	return ErrUnanswered
}

func (s *shared) headKey(on *shelf) string { return s.key(on.group, kindHead) }

func (s *shared) partsKey(on *shelf, nonce string) string { return s.key(on.group, kindParts, nonce) }

// pack compresses text, fast rather than well: rules shrink to about a fifth, and a million lines take less than a
// second. The error is ErrTooLong.
func pack(text []byte) ([]byte, error) {
	if len(text) > maxText {
		return nil, ErrTooLong
	}
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if b.Len() > maxPacked {
		return nil, ErrTooLong
	}
	return b.Bytes(), nil
}

// unpack reverses pack. The error is ErrCorrupt if the text is not that of the head.
func unpack(packed []byte, h RulesHead) ([]byte, error) {
	if len(packed) != h.packed {
		return nil, ErrCorrupt
	}
	text := make([]byte, h.Octets+1) // one octet more, to see the end
	n, err := io.ReadFull(flate.NewReader(bytes.NewReader(packed)), text)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) || n != h.Octets {
		return nil, ErrCorrupt
	}
	text = text[:n]
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != h.Digest {
		return nil, ErrCorrupt
	}
	return text, nil
}
