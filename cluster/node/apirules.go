package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/atomicfile"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// apiRules are the rules that the API made, as the start found them in the state folder.
type apiRules struct {
	text string         // with redis: of a node that did not share its rules then
	left []account.Rule // those that the rules files do not allow
}

// addAPIRules puts the rules of the API in force beside the files. With sharedRules it only reads them, for a node that
// may be the first to share its rules.
func (f *files) addAPIRules(sharedRules bool) error {
	if f.cfg.State == "" {
		return nil
	}
	file := filepath.Join(string(f.cfg.State), account.RulesName)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := account.ParseRules(string(text)); err != nil {
		return fmt.Errorf("%s: %w: mail to the addresses in it would be refused for good. Restore it, or remove it "+
			"to begin without", file, err)
	}
	if f.api.text = string(text); sharedRules || f.cfg.SharesRules() {
		return nil
	}
	var use func()
	_, f.api.left, err = account.Settle(f.api.text, func(text string) (err error) {
		use, err = f.rules.Prepare(0, withAPIRules(f.rules.Files(), text))
		return err
	}, faultsOfRules)
	if err != nil {
		return err
	}
	use()
	return nil
}

// withAPIRules returns rules files with another text of the API's, which is the last one.
func withAPIRules(files iter.Seq2[string, string], text string) iter.Seq2[string, string] {
	return func(yield func(name, text string) bool) {
		for name, text := range files {
			if name != account.RulesName && !yield(name, text) {
				return
			}
		}
		if text != "" {
			yield(account.RulesName, text)
		}
	}
}

// apiText returns the text of the API's rules in force, "" for none.
func (r *ruleSet) apiText() string {
	for name, text := range r.router.Files() {
		if name == account.RulesName {
			return text
		}
	}
	return ""
}

// faultsOfRules returns the lines of the API's rules that an error of the router is about.
func faultsOfRules(err error) (lines []account.Fault) {
	var wrong *rules.Errors
	if !errors.As(err, &wrong) {
		return nil
	}
	for _, e := range wrong.List {
		if e.File == account.RulesName {
			lines = append(lines, account.Fault{Line: e.Line, Reason: e.Reason})
		}
	}
	return lines
}

// isOfRules reports whether an error says that the router does not take rules.
func isOfRules(err error) bool {
	var wrong *rules.Errors
	var field *mail.FieldError
	return errors.As(err, &wrong) || errors.As(err, &field)
}

// turn awaits the turn of a change of the rules of this node alone.
func (r *ruleSet) turn(ctx context.Context) (end func(), err error) {
	select {
	case r.changing <- struct{}{}:
		return func() { <-r.changing }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// change has the file of the API's rules changed, see account.Rules.
func (r *ruleSet) change(ctx context.Context, edit func(string) (string, error)) error {
	if r.shared != nil {
		return r.shared.Change(ctx, edit)
	}
	end, err := r.turn(ctx)
	if err != nil {
		return err
	}
	defer end()
	old := r.apiText()
	text, err := edit(old)
	if err != nil || text == old {
		return err
	}
	use, err := r.router.Prepare(0, withAPIRules(r.router.Files(), text))
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(r.state, account.RulesName), []byte(text)); err != nil {
		return err
	}
	use()
	return nil
}

// try returns the error of the router for another text of the API's rules.
func (r *ruleSet) try(text string) error {
	_, err := r.router.Prepare(0, withAPIRules(r.router.Files(), text))
	return err
}

// reloadFiles reads the rules files anew, beside the API's rules, of which those are left out that the files do not
// allow any more.
func (r *ruleSet) reloadFiles(ctx context.Context) error {
	end, err := r.turn(ctx)
	if err != nil {
		return err
	}
	defer end()
	old := r.apiText()
	if old == "" {
		return r.router.Reload(ctx)
	}
	files, err := r.router.Read(ctx)
	if err != nil {
		return err
	}
	var use func()
	text, left, err := account.Settle(old, func(text string) (err error) {
		use, err = r.router.Prepare(0, withAPIRules(files, text))
		return err
	}, faultsOfRules)
	if err != nil {
		return err
	}
	if text != old {
		if err := atomicfile.Write(filepath.Join(r.state, account.RulesName), []byte(text)); err != nil {
			return err
		}
	}
	use()
	warnLeft(r.log, left)
	return nil
}

// warnLeft logs which rules of the API the files do not allow.
func warnLeft(log *slog.Logger, left []account.Rule) {
	for _, r := range left {
		log.Warn("a rule of the API is not in force: the rules files win", "pattern", r.Pattern, "rule", r.ID,
			"cause", r.Off)
	}
}

// sender returns the domains that a token may send as, and whether a secret is its; see submission.Config.Token.
func (r *ruleSet) sender(id, secret string) ([]string, bool) {
	if r == nil || r.account == nil {
		return nil, false
	}
	return r.account.Sender(id, secret)
}

// verified reports whether rules of one of the domains may forward to an address, because its reader said so.
func (r *ruleSet) verified(domains []string, address string) bool {
	return r != nil && r.account != nil && r.account.Verified(domains, address)
}

// startAccount makes what the API makes and keeps, and begins to follow it on other nodes. Without the section admin
// there is no API.
func (n *Node) startAccount() error {
	c := n.cfg
	if c.Admin == nil {
		return nil
	}
	a, err := account.New(account.Config{
		State: string(c.State), Store: n.parts.store, Token: n.parts.files.token, ALabels: rules.ALabels,
		Log: n.log.Logger, Emit: n.events.Emit,
		Rules: account.Rules{
			Text: n.rules.apiText, Change: n.rules.change, Try: n.rules.try, Files: n.rules.router.Files,
			Faults: func(err error) ([]account.Fault, bool) {
				return faultsOfRules(err), isOfRules(err)
			},
		},
	})
	if err != nil {
		return c.WithLine("", "state", err)
	}
	a.Start(context.Background())
	n.rules.account = a
	n.rules.proved.Store(a)
	n.cleanups.add("account", func(context.Context) error { a.Close(); return nil })
	return nil
}
