package model

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/router/mail"
)

// patient is a time in which Redis answers on any machine.
const patient = 10 * time.Second

// hour and day are times, in milliseconds, that do not pass in a test.
const (
	hour = 3600 * 1000
	day  = 24 * hour
)

// newStore returns a store with the ledger, with the Redis at addr unless that is "".
func newStore(t testing.TB, addr string) *store.Store {
	t.Helper()
	cfg := store.Config{Timeout: patient, Transact: once.Transact}
	if addr != "" {
		cfg.URL = "redis://" + addr
	}
	s, err := store.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// timeless returns an entry without times, which differ by what passes between two stores.
func timeless(e mail.LedgerEntry, now int64) string {
	if e.Phase == mail.LedgerAbsent {
		return "absent"
	}
	return fmt.Sprintf("phase %d doubtful %v proved %v holder %d live %v long %v reply %d %v", e.Phase, e.Doubtful,
		e.Proved, e.Holder[15], e.Until > now, e.Expires > now+day, e.Code, e.Enhanced)
}

// TestStore_DecidesAsTheModel has random attempts come to a store in Redis, to the one in this process, and to the
// function that the model searches.
func TestStore_DecidesAsTheModel(t *testing.T) {
	shared, here := newStore(t, extern.StartRedis(t)), newStore(t, "")
	message := 0
	rapid.Check(t, func(r *rapid.T) {
		message++
		pure := make(map[string]mail.LedgerEntry)
		for range rapid.IntRange(1, 12).Draw(r, "events") {
			keys := mail.LedgerKeys{Message: fmt.Sprintf("%032x", message)}
			for k := range rapid.IntRange(1, 3).Draw(r, "recipients") {
				var fields []string
				for _, identity := range rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 1, 3,
					func(i int) int { return i }).Draw(r, "identities") {
					fields = append(fields, fmt.Sprintf("%016x%016x", k, identity))
				}
				keys.Recipients = append(keys.Recipients, fields)
			}
			v := mail.LedgerEvent{
				Kind:   mail.LedgerEventKind(rapid.IntRange(0, int(mail.LedgerFades)).Draw(r, "kind")),
				Holder: holder(uint8(rapid.IntRange(1, 3).Draw(r, "holder"))),
				Now:    time.Now().UnixMilli(),
				Lease:  rapid.SampledFrom([]int64{0, hour}).Draw(r, "lease"),
				Keep:   rapid.SampledFrom([]int64{hour, 5 * day}).Draw(r, "keep"),
				Proved: rapid.Bool().Draw(r, "proved"),
				Whole:  rapid.Bool().Draw(r, "whole"),
				Reply:  mail.NewReply(250, 1, 5, "OK"),
			}
			var all [][]mail.LedgerEntry
			for _, fields := range keys.Recipients {
				var entries []mail.LedgerEntry
				for _, f := range fields {
					entries = append(entries, pure[f])
				}
				all = append(all, entries)
			}
			want := once.Transact(all, v)
			for k, fields := range keys.Recipients {
				for i, f := range fields {
					pure[f] = all[k][i]
				}
			}
			for name, s := range map[string]*store.Store{"in Redis": shared, "in this process": here} {
				got, degraded := s.Ledger(t.Context(), []mail.LedgerKeys{keys}, v)
				if degraded {
					r.Fatal(name, "is degraded")
				}
				for i := range want {
					if g, w := timeless(got[i], v.Now), timeless(want[i], v.Now); g != w {
						r.Fatalf("%s, kind %d, recipient %d: %s, want %s", name, v.Kind, i, g, w)
					}
				}
			}
		}
	})
}

// TestStore_ShowsNoAddress reads all that Redis holds of a message.
func TestStore_ShowsNoAddress(t *testing.T) {
	addr := extern.StartRedis(t)
	s := newStore(t, addr)
	reverse, _ := mail.ParsePath("sender@secret-origin.example", false)
	forward, _ := mail.ParsePath("reader@secret-goal.example", false)
	d := once.NewKeys([][]byte{[]byte("a key of sixteen octets")}).Begin(reverse)
	defer d.Close()
	d.Write(mail.Octets{Form: mail.Plain, Segments: [][]byte{[]byte(
		"Message-ID: <1@secret-origin.example>\r\nDate: today\r\nSubject: secret-subject\r\n\r\nsecret-body\r\n")}})
	a := d.Attempt(mail.TraceID{7}, &once.Sender{
		SPF: "secret-origin.example", Name: "secret-host.example", Client: netip.MustParseAddr("203.0.113.99"),
	}, []once.Recipient{{Forward: forward, Target: "mx secret-goal.example"}})
	for _, kind := range []mail.LedgerEventKind{mail.LedgerClaimed, mail.LedgerTook} {
		s.Ledger(t.Context(), a.Keys, mail.LedgerEvent{
			Kind: kind, Holder: a.ID, Now: time.Now().UnixMilli(), Lease: hour, Keep: day, Proved: a.Proved,
			Reply: mail.NewReply(250, 0, 0, "secret-text"),
		})
	}
	held := keyspace(t, addr)
	t.Log(held)
	if n := strings.Count(held, a.Keys[0].Message); n != 1 {
		t.Errorf("the message stands there %d times, want 1", n)
	}
	for _, word := range []string{"secret", "sender", "reader", "example", "203.0.113", "today"} {
		if strings.Contains(held, word) {
			t.Errorf("Redis holds %q", word)
		}
	}
}

// keyspace returns all that the Redis at addr holds.
func keyspace(t *testing.T, addr string) string {
	t.Helper()
	say := func(words ...string) string {
		reply, err := fleet.RedisSays(addr, words...)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	keys := say("KEYS", "*")
	var all []string
	for key := range strings.Lines(keys) {
		key = strings.TrimSpace(key)
		all = append(all, key, say("HGETALL", key))
	}
	return strings.Join(all, "\n")
}

// recipientOf returns the keys of a message with one recipient.
func recipientOf(message string) mail.LedgerKeys {
	return mail.LedgerKeys{Message: message, Recipients: [][]string{{"f"}}}
}

// happens has a store carry out an event of an attempt and returns the phase that it found.
func happens(t *testing.T, s *store.Store, kind mail.LedgerEventKind, id uint8,
	keys ...mail.LedgerKeys) (phase mail.LedgerPhase, degraded bool) {
	t.Helper()
	found, degraded := s.Ledger(t.Context(), keys, mail.LedgerEvent{
		Kind: kind, Holder: holder(id), Now: time.Now().UnixMilli(), Lease: hour, Keep: day,
		Reply: mail.NewReply(250, 0, 0, ""),
	})
	return found[0].Phase, degraded
}

func TestStore_KnowsMessagesUnderThePreviousKey(t *testing.T) {
	old, present := recipientOf("old"), recipientOf("new")
	for name, addr := range map[string]string{"in Redis": extern.StartRedis(t), "in this process": ""} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, addr)
			happens(t, s, mail.LedgerClaimed, 1, old)
			happens(t, s, mail.LedgerTook, 1, old)
			if phase, _ := happens(t, s, mail.LedgerClaimed, 2, present, old); phase != mail.LedgerDone {
				t.Errorf("after the key was changed: phase %d", phase)
			}
			if phase, _ := happens(t, s, mail.LedgerLooked, 3, present); phase != mail.LedgerAbsent {
				t.Errorf("an intent was left under the present key: phase %d", phase)
			}
			happens(t, s, mail.LedgerRead, 1, present, old)
			if phase, _ := happens(t, s, mail.LedgerClaimed, 4, present, old); phase != mail.LedgerAbsent {
				t.Errorf("after the answer was read: phase %d", phase)
			}
		})
	}
}

// TestStore_RemovesManyInOneRoundTrip: what happened to many messages is one round trip, and each is its own step.
func TestStore_RemovesManyInOneRoundTrip(t *testing.T) {
	s := newStore(t, extern.StartRedis(t))
	const messages = 100
	var calls []mail.LedgerCall
	for i := range messages {
		keys := recipientOf(fmt.Sprint(i))
		happens(t, s, mail.LedgerTook, 1, keys)
		calls = append(calls, mail.LedgerCall{Keys: []mail.LedgerKeys{keys}, Event: mail.LedgerEvent{
			Kind: mail.LedgerRead, Holder: holder(uint8(1 + i%2)), Now: time.Now().UnixMilli(),
		}})
	}
	before := s.Stats().Trips
	if s.Ledgers(t.Context(), calls) {
		t.Fatal("it is degraded")
	}
	if n := s.Stats().Trips - before; n != 1 {
		t.Errorf("%d round trips", n)
	}
	for i := range messages {
		want := mail.LedgerAbsent
		if i%2 == 1 {
			want = mail.LedgerDone // another attempt's
		}
		if phase, _ := happens(t, s, mail.LedgerLooked, 9, recipientOf(fmt.Sprint(i))); phase != want {
			t.Errorf("message %d: phase %d, want %d", i, phase, want)
		}
	}
}

func TestStore_RemembersWhatRedisDidNotHear(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	ports, err := extern.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
	s := newStore(t, addr)
	keys := recipientOf("m")
	if _, degraded := happens(t, s, mail.LedgerClaimed, 1, keys); !degraded {
		t.Fatal("without Redis a claim is not degraded")
	}
	happens(t, s, mail.LedgerTook, 1, keys)
	redis, err := fleet.StartRedis(ctx, addr, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer redis.End()
	for degraded := true; degraded; { // until the breaker lets it be asked
		_, degraded = happens(t, s, mail.LedgerLooked, 2, recipientOf("another"))
	}
	if phase, _ := happens(t, s, mail.LedgerClaimed, 3, keys); phase != mail.LedgerDone {
		t.Errorf("this node has forgotten what it wrote itself: phase %d", phase)
	}
	if phase, _ := happens(t, newStore(t, addr), mail.LedgerClaimed, 4, keys); phase != mail.LedgerAbsent {
		t.Errorf("an intent was left in Redis: phase %d", phase)
	}
}

// TestStore_TakesLittlePerMessage bounds what Redis keeps of a message to one recipient from a sender with three
// identities.
func TestStore_TakesLittlePerMessage(t *testing.T) {
	addr := extern.StartRedis(t)
	s := newStore(t, addr)
	used := func() int {
		info, err := fleet.RedisSays(addr, "INFO", "memory")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(info, "used_memory:")
		n, err := strconv.Atoi(strings.TrimSpace(rest[:strings.IndexByte(rest, '\n')]))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const messages = 5000
	before := 0
	for i := range 2 * messages {
		if i == messages {
			before = used()
		}
		name := fmt.Sprintf("%031x", i)
		happens(t, s, mail.LedgerTook, 1, mail.LedgerKeys{
			Message: name + "m", Recipients: [][]string{{name + "a", name + "b", name + "c"}},
		})
	}
	each := (used() - before) / messages
	t.Logf("%d octets per message", each)
	if each > 1024 {
		t.Errorf("%d octets per message, want 1024 at most", each)
	}
}

// TestStore_KeepsAClaimThatIsInDoubt: what this node alone knows, or what stands under the previous key, says that the
// message may be delivered. The attempt is under way all the same, and others see that.
func TestStore_KeepsAClaimThatIsInDoubt(t *testing.T) {
	old, present := recipientOf("old"), recipientOf("new")
	for name, addr := range map[string]string{"in Redis": extern.StartRedis(t), "in this process": ""} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, addr)
			happens(t, s, mail.LedgerClaimed, 1, old)
			happens(t, s, mail.LedgerLost, 1, old)
			if phase, _ := happens(t, s, mail.LedgerClaimed, 2, present, old); phase != mail.LedgerDoubt {
				t.Fatalf("the second attempt finds phase %d", phase)
			}
			if phase, _ := happens(t, s, mail.LedgerClaimed, 3, present, old); phase != mail.LedgerIntent {
				t.Errorf("while the second attempt is under way, another one finds phase %d", phase)
			}
			happens(t, s, mail.LedgerLost, 2, present, old)
			if phase, _ := happens(t, s, mail.LedgerLooked, 4, present); phase != mail.LedgerDoubt {
				t.Errorf("it had no answer either, and under the present key stands phase %d", phase)
			}
		})
	}
}
