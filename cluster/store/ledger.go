package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A ledgerCell holds the entries of one message.
type ledgerCell struct{ fields []ledgerField }

type ledgerField struct {
	name  string
	entry mail.LedgerEntry
}

// find returns where a field is, -1 if the cell has none.
func (c *ledgerCell) find(field string) int {
	for i := range c.fields {
		if c.fields[i].name == field {
			return i
		}
	}
	return -1
}

// get returns the entry of a field.
func (c *ledgerCell) get(field string) mail.LedgerEntry {
	if i := c.find(field); i >= 0 {
		return c.fields[i].entry
	}
	return mail.LedgerEntry{}
}

// put sets the entry of a field. The zero entry removes it.
func (c *ledgerCell) put(field string, e mail.LedgerEntry) {
	switch i := c.find(field); {
	case i >= 0 && e == mail.LedgerEntry{}:
		last := len(c.fields) - 1
		c.fields[i] = c.fields[last]
		c.fields = c.fields[:last]
	case i >= 0:
		c.fields[i].entry = e
	case e != mail.LedgerEntry{}:
		c.fields = append(c.fields, ledgerField{strings.Clone(field), e})
	}
}

// Ledger carries out an event on the entries of an attempt's recipients, all in one step, and returns for each of them
// the entry that decided, with times by v.Now, which is the present time of the caller. keys are those of one message,
// under the current key and perhaps the previous one, under which entries are only looked for and removed. It costs one
// round trip at most.
//
// degraded says that Redis failed, so that only this node knows what happened, and that what other nodes wrote may be
// missing. What this node wrote while Redis failed is found by it as well.
func (s *Store) Ledger(ctx context.Context, keys []mail.LedgerKeys, v mail.LedgerEvent) (found []mail.LedgerEntry,
	degraded bool) {
	if s.redis == nil {
		return s.ledgerHere(keys, v), false
	}
	all := make([][]mail.LedgerEntry, 0, len(keys)+1)
	if !s.askLedger(ctx, keys, v, &all) {
		s.fallbacks.Add(1)
		return s.ledgerHere(keys, v), true
	}
	here := v
	if v.Kind == mail.LedgerClaimed {
		here.Kind = mail.LedgerLooked
	}
	if v.Kind != mail.LedgerTook { // Redis has it, and another node may remove it there
		if own := s.local.ledger(keys[0], here, s.cfg.Transact); own != nil {
			all = append(all, own)
		}
	}
	if len(all) == 1 {
		return all[0], false
	}
	found, free := s.combine(all, v)
	if v.Kind == mail.LedgerClaimed && !slices.Equal(found, all[0]) && slices.Contains(free, false) {
		release := v // taken there, and not free elsewhere
		release.Kind = mail.LedgerRefused
		s.askLedger(ctx, []mail.LedgerKeys{only(keys[0], free, false)}, release, &all)
	}
	return found, false
}

// Ledgers is Ledger for events on several messages, each in a step of its own and all in one round trip. None of the
// events claims, and no entries are returned.
func (s *Store) Ledgers(ctx context.Context, calls []mail.LedgerCall) (degraded bool) {
	if s.redis != nil {
		var all []call
		for i := range calls {
			c := &calls[i]
			all = s.redis.appendLedger(ctx, all, c.Keys, c.Event)
		}
		if degraded = !s.redis.run(ctx, all, nil); degraded {
			s.fallbacks.Add(1)
		}
	}
	for i := range calls {
		s.ledgerHere(calls[i].Keys, calls[i].Event)
	}
	return degraded
}

// combine returns of each recipient the entry that says most, out of several answers, and of a claim whether it takes
// the recipient by that.
func (s *Store) combine(all [][]mail.LedgerEntry, v mail.LedgerEvent) (found []mail.LedgerEntry, free []bool) {
	recipients := make([][]mail.LedgerEntry, len(all[0]))
	for i := range recipients {
		for _, answer := range all {
			recipients[i] = append(recipients[i], answer[i])
		}
	}
	if v.Kind != mail.LedgerClaimed {
		v.Kind = mail.LedgerLooked
	}
	v.Proved = false // answers stand there and no fields
	found = s.cfg.Transact(recipients, v)
	free = make([]bool, len(recipients))
	for i, r := range recipients {
		free[i] = r[0].Phase == mail.LedgerIntent && r[0].Holder == v.Holder
	}
	return found, free
}

// only returns the keys of those recipients for which list holds is.
func only(keys mail.LedgerKeys, list []bool, is bool) mail.LedgerKeys {
	all := keys.Recipients
	keys.Recipients = nil
	for i, v := range list {
		if v == is {
			keys.Recipients = append(keys.Recipients, all[i])
		}
	}
	return keys
}

// ledgerHere is Ledger in this process.
func (s *Store) ledgerHere(keys []mail.LedgerKeys, v mail.LedgerEvent) []mail.LedgerEntry {
	var all [][]mail.LedgerEntry
	for i := range keys[1:] {
		old := v
		if v.Kind != mail.LedgerRead && v.Kind != mail.LedgerFades {
			old.Kind = mail.LedgerLooked
		}
		if answer := s.local.ledger(keys[i+1], old, s.cfg.Transact); answer != nil {
			all = append(all, answer)
		}
	}
	if v.Kind == mail.LedgerClaimed && len(all) > 0 { // the same message under the previous key
		looked := v
		looked.Kind = mail.LedgerLooked
		if own := s.local.ledger(keys[0], looked, s.cfg.Transact); own != nil {
			all = append(all, own)
		}
		found, free := s.combine(all, v)
		if slices.Contains(free, true) {
			s.local.ledger(only(keys[0], free, true), v, s.cfg.Transact)
		}
		return found
	}
	found := s.local.ledger(keys[0], v, s.cfg.Transact)
	if found == nil {
		found = make([]mail.LedgerEntry, len(keys[0].Recipients))
	}
	return found
}

// ledger is Store.Ledger for one key. It is nil, and nothing was done, if there are no entries and the event writes
// none.
func (l *local) ledger(keys mail.LedgerKeys, v mail.LedgerEvent,
	transact func([][]mail.LedgerEntry, mail.LedgerEvent) []mail.LedgerEntry) []mail.LedgerEntry {
	if v.Kind != mail.LedgerClaimed && v.Kind != mail.LedgerTook && len(l.ledgers.get(keys.Message).fields) == 0 {
		return nil
	}
	cell, part := l.ledgers.hold(keys.Message)
	defer part.mu.Unlock()
	n := 0
	for _, fields := range keys.Recipients {
		n += len(fields)
	}
	all := make([]mail.LedgerEntry, 0, n)
	recipients := make([][]mail.LedgerEntry, len(keys.Recipients))
	for i, fields := range keys.Recipients {
		at := len(all)
		for _, f := range fields {
			all = append(all, cell.get(f))
		}
		recipients[i] = all[at:]
	}
	found := transact(recipients, v)
	for i, fields := range keys.Recipients {
		for j, f := range fields {
			cell.put(f, recipients[i][j])
		}
	}
	if len(cell.fields) == 0 {
		part.drop(keys.Message)
	}
	return found
}

// askLedger is Ledger in Redis: it sets the first element of all to what is found under the current key, and appends
// what is found under the others. It reports whether Redis answered.
func (s *Store) askLedger(ctx context.Context, keys []mail.LedgerKeys, v mail.LedgerEvent,
	all *[][]mail.LedgerEntry) bool {
	calls := s.redis.appendLedger(ctx, make([]call, 0, len(keys)+1), keys, v)
	answers := make([][]mail.LedgerEntry, len(calls))
	waits := false
	if v.Kind == mail.LedgerClaimed || v.Kind == mail.LedgerTook || v.Kind == mail.LedgerLost {
		var last call
		if last, waits = s.redis.replicas(ctx); waits {
			calls = append(calls, last)
		}
	}
	ok := s.redis.run(ctx, calls, func(calls []call) (err error) {
		for i := range answers {
			if answers[i], err = decodeLedger(calls[i].cmd.Val(), len(keys[i].Recipients), v.Now); err != nil {
				return err
			}
		}
		return nil
	})
	if waits {
		s.redis.replicated(calls[len(answers)].cmd)
	}
	if !ok {
		return false
	}
	*all = append((*all)[:0], answers...)
	return true
}

// appendLedger appends the calls for an event on the entries of one message.
func (s *shared) appendLedger(ctx context.Context, calls []call, keys []mail.LedgerKeys, v mail.LedgerEvent) []call {
	for i := range keys {
		k, kind := &keys[i], v.Kind
		if i > 0 && kind != mail.LedgerRead && kind != mail.LedgerFades {
			if kind != mail.LedgerClaimed {
				break
			}
			kind = mail.LedgerLooked
		}
		calls = append(calls, eval(ctx, s.scripts.ledger, []string{s.key(group(k.Message), kindLedger)},
			ledgerArgs(k, kind, v)))
	}
	return calls
}

// ledgerArgs returns the arguments of ledger.lua.
func ledgerArgs(k *mail.LedgerKeys, kind mail.LedgerEventKind, v mail.LedgerEvent) []any {
	n := 9
	for _, fields := range k.Recipients {
		n += 1 + len(fields)
	}
	args := make([]any, 0, n)
	args = append(args, int(kind), hex.EncodeToString(v.Holder[:]), v.Lease, v.Keep, digit(v.Proved), digit(v.Whole),
		v.Reply.Code, int(v.Reply.Enhanced.Subject), int(v.Reply.Enhanced.Detail))
	for _, fields := range k.Recipients {
		args = append(args, len(fields))
		for _, f := range fields {
			args = append(args, f)
		}
	}
	return args
}

func digit(v bool) int {
	if v {
		return 1
	}
	return 0
}

// decodeLedger reads the answer of ledger.lua about n recipients. Times are those of Redis, and become such by now.
func decodeLedger(v any, n int, now int64) ([]mail.LedgerEntry, error) {
	a, err := array(v, n+1)
	if err != nil {
		return nil, err
	}
	clock, ok := a[0].(int64)
	if !ok {
		return nil, fmt.Errorf("store: redis answered %T for the time", a[0])
	}
	out := make([]mail.LedgerEntry, n)
	for i := range out {
		text, ok := a[i+1].(string)
		if !ok {
			return nil, fmt.Errorf("store: redis answered %T for an entry of the ledger", a[i+1])
		}
		if text == "" {
			continue
		}
		if out[i], err = parseEntry(text); err != nil {
			return nil, err
		}
		if out[i].Until > 0 {
			out[i].Until += now - clock
		}
		out[i].Expires += now - clock
	}
	return out, nil
}

// parseEntry reads an entry as ledger.lua writes it.
func parseEntry(text string) (e mail.LedgerEntry, err error) {
	f := strings.Fields(text)
	if len(f) != 9 {
		return e, fmt.Errorf("store: redis holds an entry of %d fields", len(f))
	}
	number := func(i, bits int) uint64 {
		n, failed := strconv.ParseUint(f[i], 10, bits)
		if failed != nil {
			err = failed
		}
		return n
	}
	e.Phase = mail.LedgerPhase(number(0, 2))
	e.Doubtful, e.Proved = f[1] == "1", f[2] == "1"
	if holder, failed := hex.DecodeString(f[3]); failed == nil && len(holder) == len(e.Holder) {
		e.Holder = mail.TraceID(holder)
	}
	e.Until, e.Expires = int64(number(4, 62)), int64(number(5, 62))
	e.Code = uint16(number(6, 10))
	e.Enhanced = mail.EnhancedCode{Subject: uint16(number(7, 16)), Detail: uint16(number(8, 16))}
	return e, err
}
