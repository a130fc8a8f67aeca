package node

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/ingress/world"
)

// users are those of each file that a listener names.
type users map[config.File]*submission.Users

// readUsers reads the files of users. The error is Problems, all of them; a file that cannot be read is left out.
func readUsers(c *config.Config) (users, error) {
	all := make(users)
	var wrong config.Problems
	for i := range c.Listen {
		l := &c.Listen[i]
		if !l.Submission || l.UsersFile == "" || all[l.UsersFile] != nil {
			continue
		}
		data, err := os.ReadFile(string(l.UsersFile))
		if err == nil {
			all[l.UsersFile], err = submission.ParseUsers(string(l.UsersFile), string(data))
		}
		if err != nil {
			delete(all, l.UsersFile)
			wrong = wrong.Join(c.WithLine("", fmt.Sprintf("listen[%d].users_file", i), err))
		}
	}
	if len(wrong) > 0 {
		return all, wrong
	}
	return all, nil
}

// userWarnings returns the domains of users that the rules do not host: nothing is sent as an address of theirs.
func (f *files) userWarnings() (warnings []config.Problem) {
	for i := range f.cfg.Listen {
		of := f.users[f.cfg.Listen[i].UsersFile]
		if of == nil || f.rules.Len() == 0 {
			continue
		}
		for _, domain := range of.Domains() {
			if !f.rules.Hosted(domain) {
				warnings = append(warnings, f.cfg.Problem(fmt.Sprintf("listen[%d].users_file", i),
					"has addresses in "+domain+", which the rules do not host: nothing is sent as these"))
			}
		}
	}
	return warnings
}

// makeAccounts makes what the users of each file may do.
func (p *parts) makeAccounts(h hooks) (err error) {
	p.accounts, p.sender = make(map[config.File]*submission.Accounts), h.sender
	for file := range p.files.users {
		if p.accounts[file], err = p.accountsOf(file, p.store, h.login); err != nil {
			return err
		}
	}
	return nil
}

// accountsOf makes what the users of a file may do. What they did is counted in a store.
func (p *parts) accountsOf(file config.File, store world.Store,
	logins func(submission.Result)) (*submission.Accounts, error) {
	keys, err := p.files.secret.derive(labelSubmission)
	if err != nil {
		return nil, err
	}
	of := p.files.users[file]
	if of == nil { // tokens alone
		of = &submission.Users{}
	}
	cfg := submission.Config{
		Store: store, Users: of, Key: keys[0], Logins: logins, Token: p.sender, Now: time.Now,
	}
	if s := p.cfg.Submission; s != nil {
		cfg.Messages = rate.Limit{Count: s.Messages.Count, Per: s.Messages.Per}
		cfg.Recipients = rate.Limit{Count: s.Recipients.Count, Per: s.Recipients.Per}
		cfg.Suppress = time.Duration(s.Suppress)
	}
	a, err := submission.New(cfg)
	return a, p.cfg.WithLine("submission.", "submission", err)
}

// useUsers replaces the users of all files that are in use.
func (p *parts) useUsers(all users) {
	for file, of := range all {
		if a := p.accounts[file]; a != nil {
			a.Use(of)
		}
	}
}

// serveUsers makes a listener one of users: they log in, and send in their own names.
func serveUsers(n *Node, l *config.Listener, cfg *wire.Config) {
	accounts := n.parts.accounts[l.UsersFile]
	cfg.Login = func(ctx context.Context, c *wire.Client, user, password string) error {
		return accounts.Login(ctx, c.Addr.Addr(), user, password)
	}
	cfg.NewSession = func(_ context.Context, client *wire.Client) wire.Session {
		return n.server.NewSubmission(client, accounts)
	}
}
