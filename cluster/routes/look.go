package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/cluster/store"
)

// The origins of rules.
const (
	FromRedis = "redis"
	FromState = "state folder"
	FromFiles = "files"
)

// A Found says which rules Look put in force.
type Found struct {
	Version uint64 // 0 for files that Redis does not hold yet
	Digest  string
	Origin  string // FromRedis, FromState or FromFiles; "" if there are no rules that can be run
	Trouble string // why they may not be those of other nodes; may be empty
}

// Look puts those rules in force in c.Router that a node would run which started now, chosen as Start does. Unlike
// Start it publishes and keeps nothing, here or in Redis, and nothing runs when it returns. All that it may change is
// what store.LoadRules does with parts that cannot be read. The error is that of Config.Validate, or without Redis that
// of reading the files.
func Look(ctx context.Context, c Config) (Found, error) {
	if err := c.Validate(); err != nil {
		return Found{}, fmt.Errorf("routes: %w", err)
	}
	k := newKeeper(c.withDefaults())
	k.folder.readOnly = true
	ctx, cancel := context.WithTimeout(ctx, k.cfg.tune.wait)
	defer cancel()
	head, err := k.store.askVersion(ctx)
	if k.noRedis = errors.Is(err, store.ErrNoRedis); k.noRedis {
		err := k.reloadFiles(ctx)
		return k.found(store.RulesHead{}, nil), err
	}
	k.chooseFirst(ctx, k.startFiles(ctx), head, err)
	return k.found(head, err), nil
}

// found returns what chooseFirst has chosen. head and err are the result of askVersion.
func (k *keeper) found(head store.RulesHead, err error) Found {
	f := Found{Version: k.current.version, Digest: k.current.digest}
	switch {
	case f.Digest == "":
	case err == nil && head.Number == f.Version && head.Digest == f.Digest:
		f.Origin = FromRedis
	case f.Version > 0 && !k.noRedis:
		f.Origin = FromState
	default:
		f.Origin = FromFiles
	}
	switch {
	case err != nil:
		f.Trouble = err.Error()
	case head.Number > 0 && k.current.isOlder(head) && k.trouble.cause != nil:
		f.Trouble = k.trouble.cause.Error()
	case f.Digest == "":
		f.Trouble = errNothing.Error()
	}
	return f
}
