package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/store"
)

var errNoRulesYet = errors.New("this node has no rules yet")

// Change has the file of the API's rules changed, on all nodes: edit gets its newest text and returns the one that
// takes its place. The Router has to accept it beside the other files. edit is called again if another node changed the
// rules meanwhile. After an error nothing changed, except that after store.ErrUnanswered the change may be in force.
// The error is that of edit, of the Router, of the store, or ErrClosed.
func (r *Routes) Change(ctx context.Context, edit func(old string) (string, error)) error {
	return r.ask(ctx, func(ctx context.Context) error { return r.keeper.change(ctx, edit) })
}

// change does the work of Change, in run.
func (k *keeper) change(ctx context.Context, edit func(string) (string, error)) error {
	if k.noRedis {
		return store.ErrNoRedis
	}
	for range mergeTries {
		if done, err := k.changeOnce(ctx, edit); done || err != nil {
			return err
		}
	}
	return errBusy
}

// changeOnce changes and publishes the API's rules once. done is false if another node published meanwhile.
func (k *keeper) changeOnce(ctx context.Context, edit func(string) (string, error)) (done bool, err error) {
	head, err := k.store.RulesVersion(ctx)
	if err != nil {
		return false, err
	}
	if k.current.isOlder(head) {
		if err := k.adopt(ctx, head); err != nil {
			return false, err
		}
	}
	if k.current.digest == "" {
		return false, errNoRulesYet
	}
	own, api := collect(k.cfg.Router.Files()).split()
	text, err := edit(api)
	if err != nil || text == api {
		return true, err
	}
	version := max(k.current.version, head.Number) + 1
	next := own.with(text)
	use, err := k.cfg.Router.Prepare(version, next.all())
	if err != nil {
		return false, err
	}
	if done, err = k.publishPrepared(ctx, head, version, next, use); done {
		k.cfg.Log.Info("the rules of the API changed, on all nodes", "version", version)
	}
	return done, err
}

// settle returns files with those of the API's rules that the Router accepts beside them, and logs which it does not.
func (c *Config) settle(version uint64, own set, api string) (set, error) {
	if api == "" {
		return own, nil
	}
	text, left, err := account.Settle(api, func(text string) error {
		_, err := c.Router.Prepare(version, own.with(text).all())
		return err
	}, c.Faults)
	if err != nil {
		return nil, fmt.Errorf("with the rules of the API: %w", err)
	}
	for _, r := range left {
		c.Log.Warn("a rule of the API is not in force: the rules files win", "pattern", r.Pattern, "rule", r.ID,
			"cause", r.Off)
	}
	return own.with(text), nil
}
