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
	"time"

	"github.com/redis/go-redis/v9"
)

// The rules that all nodes run lie in Redis as a head and its parts, all in one slot. The head is one short text:
// number, digest and sizes of the rules in force, and the name of the hash that holds their parts. Parts are written
// under a name of their own before the head is moved to them by compare-and-set, and those that the head left are kept
// for a while: at each moment the rules in force and the ones before them are whole.

// What is wrong with rules in Redis.
var (
	// ErrAlone says that there is no Redis, so that no rules are shared.
	ErrAlone = errors.New("store: without redis no rules are shared")
	// ErrUnanswered says that Redis did not answer in time, or is skipped because it did not before.
	ErrUnanswered = errors.New("store: redis does not answer")
	// ErrCorrupt says that what lies there was not written by a store, or not all of it is left.
	ErrCorrupt = errors.New("store: redis holds rules that cannot be read")
	// ErrNewer says that a later version of this program wrote what lies there. It is to be left alone.
	ErrNewer = errors.New("store: redis holds rules of a later format")
	// ErrTooLong says that rules are too long to be shared.
	ErrTooLong = errors.New("store: rules of more than 1 GiB, or of more than 256 MiB compressed, are not shared")
)

// Bounds of what lies in Redis.
const (
	rulesFormat  = "1"
	mostNumber   = 1 << 53
	mostText     = 1 << 30
	mostPacked   = 256 << 20
	partOctets   = 64 << 10 // of one round trip, within Config.Timeout at 100 Mbit/s and without making others wait
	mostPart     = 1 << 20  // of one that is read
	mostParts    = mostPacked / partOctets
	mostRatio    = 1100 // DEFLATE makes at most 1032 octets of one
	nonceDigits  = 16
	digestDigits = 2 * sha256.Size
)

const (
	// keptUnheaded is how long parts are kept that no head names yet, or no longer.
	keptUnheaded = 10 * time.Minute
	// partTries bounds how often one round trip of a long transfer is tried, and partPause is the time between two.
	partTries = 6
	partPause = 250 * time.Millisecond
)

// The group and the kinds of the keys of rules.
const (
	groupRules = "rules"
	kindHead   = "h"
	kindParts  = "p"
)

// A RulesHead says which rules Redis holds. Its zero value is a Redis that holds none.
type RulesHead struct {
	Number uint64 // from 1; 0: none
	Digest string // SHA-256 of the text, in hexadecimal
	Octets int    // of the text
	Whole  bool   // all its parts are there

	raw    string // as it lies there
	nonce  string // names the parts
	parts  int
	packed int // octets of all parts
}

// String gives the head as it lies in Redis.
func (h RulesHead) String() string {
	if h.Number == 0 {
		return h.raw
	}
	return fmt.Sprintf("%s %d %s %s %d %d %d", rulesFormat, h.Number, h.Digest, h.nonce, h.parts, h.packed, h.Octets)
}

// parseHead reads a head. With ErrCorrupt the head still tells what lies there, so that it can be replaced.
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
	h.Octets = int(min(octets, mostText+1))
	switch {
	case errors.Join(errs[:]...) != nil, h.String() != raw:
	case h.Number == 0 || h.Number > mostNumber || !isHex(h.Digest, digestDigits) || !isHex(h.nonce, nonceDigits):
	case h.parts < 1 || h.parts > mostParts || h.packed < 1 || h.packed > mostPacked:
	case h.Octets < 0 || h.Octets > mostText || h.Octets > h.packed*mostRatio:
	default:
		return h, nil
	}
	return wrong, ErrCorrupt
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// RulesVersion tells which rules Redis holds, in one round trip as long as they do not change. With ErrCorrupt the head
// is fit to be replaced by PublishRules. Other errors are ErrAlone, ErrUnanswered and ErrNewer.
func (s *Store) RulesVersion(ctx context.Context) (RulesHead, error) {
	r := s.redis
	if r == nil {
		return RulesHead{}, ErrAlone
	}
	known, _ := r.head.Load().(string)
	for range 4 { // it is rare that the rules change, and never that they do so at each look
		seen, _ := parseHead(known) // one that cannot be read has no parts
		c := []call{eval(ctx, r.scripts.rules, []string{r.headKey(), r.partsKey(seen.nonce)}, []any{known})}
		if !r.run(ctx, c, nil) {
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
			r.head.Store(raw)
			h, err := parseHead(raw)
			h.Whole = h.Number > 0 && int64(h.parts) == parts
			return h, err
		}
		known = raw
	}
	return RulesHead{}, ErrUnanswered
}

// LoadRules gives the text that a head stands for, which is what PublishRules was given, octet for octet. It takes a
// round trip for each 64 KiB of the compressed text, and tries again where one fails. The errors are ErrAlone,
// ErrUnanswered and ErrCorrupt: parts that are not what their head says are removed, so that those who have the rules
// see that they are to be written again.
func (s *Store) LoadRules(ctx context.Context, h RulesHead) ([]byte, error) {
	r := s.redis
	if r == nil {
		return nil, ErrAlone
	}
	if h.Number == 0 {
		return nil, ErrCorrupt
	}
	text, err := r.load(ctx, h)
	if errors.Is(err, ErrCorrupt) {
		r.run(ctx, []call{command(ctx, "DEL", r.partsKey(h.nonce))}, nil) // if it fails, the next who loads does it
	}
	return text, err
}

// load gets all parts of a head.
func (s *shared) load(ctx context.Context, h RulesHead) ([]byte, error) {
	var packed []byte
	for i := range h.parts {
		var part string
		found := false
		if err := s.patient(ctx, func() call { return command(ctx, "HMGET", s.partsKey(h.nonce), i) }, func(c call) {
			if a, err := array(c.cmd.Val(), 1); err == nil {
				part, found = a[0].(string)
			}
		}); err != nil {
			return nil, err
		}
		if !found || len(part) > mostPart || len(packed)+len(part) > h.packed {
			return nil, ErrCorrupt
		}
		packed = append(packed, part...)
	}
	return unpack(packed, h)
}

// PublishRules puts text in force as version number in the place of over, unless Redis holds something else by now:
// then it changes nothing and ok is false. It takes a round trip for each 64 KiB of the compressed text. After
// ErrUnanswered it is unknown whether the rules are in force; RulesVersion tells. Other errors are ErrAlone,
// ErrTooLong, and that of a number that is not between 1 and 2^53.
func (s *Store) PublishRules(ctx context.Context, over RulesHead, number uint64,
	text []byte) (h RulesHead, ok bool, err error) {
	r := s.redis
	if r == nil {
		return RulesHead{}, false, ErrAlone
	}
	if number == 0 || number > mostNumber {
		return RulesHead{}, false,
			fmt.Errorf("store: version %d of rules is not between 1 and %d", number, uint64(mostNumber))
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
	kept := keptUnheaded.Milliseconds()
	for i := range h.parts {
		part := packed[i*partOctets : min(len(packed), (i+1)*partOctets)]
		if err := r.patient(ctx, func() call {
			return eval(ctx, r.scripts.part, []string{r.partsKey(h.nonce)}, []any{i, part, kept})
		}, func(call) {}); err != nil {
			return RulesHead{}, false, err
		}
	}
	c := []call{eval(ctx, r.scripts.publish, []string{r.headKey(), r.partsKey(h.nonce), r.partsKey(over.nonce)},
		[]any{over.raw, h.raw, h.parts, kept})}
	if !r.run(ctx, c, nil) {
		return RulesHead{}, false, ErrUnanswered
	}
	a, err := array(c[0].cmd.Val(), 2)
	if err != nil {
		return RulesHead{}, false, ErrUnanswered
	}
	if a[0] != int64(1) {
		return RulesHead{}, false, nil
	}
	r.head.Store(h.raw)
	return h, true, nil
}

// patient does one round trip of many. One that fails is tried again a few times, for the work behind it would be lost.
func (s *shared) patient(ctx context.Context, next func() call, answered func(call)) error {
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

func (s *shared) headKey() string { return s.key(groupRules, kindHead) }

func (s *shared) partsKey(nonce string) string { return s.key(groupRules, kindParts, nonce) }

// pack compresses fast: rules shrink to a fifth or so, and a million lines take less than a second.
func pack(text []byte) ([]byte, error) {
	if len(text) > mostText {
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
	if b.Len() > mostPacked {
		return nil, ErrTooLong
	}
	return b.Bytes(), nil
}

// unpack undoes pack, and holds what comes of it to the head.
func unpack(packed []byte, h RulesHead) ([]byte, error) {
	if len(packed) != h.packed {
		return nil, ErrCorrupt
	}
	text := make([]byte, h.Octets+1) // the one octet more is the end
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
