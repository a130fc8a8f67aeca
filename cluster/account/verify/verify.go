// Package verify asks the owner of a destination whether it is his.
//
// It owns the links that are sent, the text of the letters, what the owner of a host publishes, and how often one may
// be asked for. It refuses to know how a letter is carried, how a name is looked up, and where a destination is kept.
//
// Invariants: what is not public is proved by no publication; a link is good for one day and for one use, and another
// one ends it; what is kept of it is a digest; nothing is queued: a letter that is put off has failed, and is asked for
// again.
package verify

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/gcra"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

const (
	// linkTime is how long a link is good.
	linkTime = 24 * time.Hour
	// again is how long a letter may be under way before another one to the same destination may be asked for.
	again = time.Minute
	// maxLetters bounds the letters that are under way.
	maxLetters = 16
	// letterTime bounds one letter, from its first command to the reply to it.
	letterTime = 5 * time.Minute
	// maxAskers bounds the tokens whose letters are counted.
	maxAskers = 4096
)

// letters is how many letters one token may have sent, so that it is no means to fill the mailboxes of others.
var letters = gcra.Limit{Burst: 20, Pace: 3 * time.Minute}

// ErrNoLink means that a token is that of no link, or that its link was used or is over.
var ErrNoLink = errors.New("no such link, or it was used, or it is over")

// A Config has what a Verifier needs.
type Config struct {
	Account *account.Account // required
	// URL is what the links begin with; "" means that no page takes them, so that no letter can be sent.
	URL string
	// From is the address that letters come from; its domain is this relay's name.
	From mail.Path
	// Send carries a message, and returns the reply that settled it. An error means that there was none.
	Send    func(ctx context.Context, from, to mail.Path, message []byte) (code int, reply string, err error)
	Lookups                  // all of them, or none: then no publication proves anything
	Log     *slog.Logger     // required
	Now     func() time.Time // nil: time.Now
}

// A Verifier sends letters and takes the links that were followed. It is safe for concurrent use. Close ends it.
type Verifier struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	sending sync.WaitGroup
	places  chan struct{} // holds a value for each letter that is under way

	mu   sync.Mutex // held for the moment of a count
	used *lru.Cache[string, gcra.Account]
}

// New returns a Verifier.
func New(cfg Config) *Verifier {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	v := &Verifier{cfg: cfg, places: make(chan struct{}, maxLetters), used: lru.New[string, gcra.Account](maxAskers)}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	if cfg.Text != nil {
		v.sending.Go(v.watch) // ends with Close
	}
	return v
}

// Close ends the letters that are under way, and awaits that.
func (v *Verifier) Close() {
	v.cancel()
	v.sending.Wait()
}

// refused returns an error for the one who asked.
func refused(message string) error {
	return &account.Error{Kind: account.Refused, Code: account.CodeRefused, Message: message}
}

// Ask sends a letter with a link to a destination that is an address and is not verified. What is the host of another
// is looked for: its owner publishes a token, which the error says. It does not wait for what becomes of either, which
// the destination shows. The error is an *account.Error.
func (v *Verifier) Ask(ctx context.Context, p account.Principal, d account.Destination) error {
	to, err := mail.ParsePath(d.Address, true)
	switch {
	case d.Verified != nil:
		return refused("the destination is verified")
	case (err != nil || to.Domain == "") && v.cfg.Text != nil:
		if proof, ok := d.Proof(); ok {
			return v.askProof(ctx, p, d, proof)
		}
		return refused("one who runs this relay has to say that it is verified")
	case err != nil || to.Domain == "":
		return refused("no letter can be sent there: one who runs this relay has to say that it is verified")
	case v.cfg.URL == "":
		return refused("no letter is sent, because the configuration has no public.url: one who runs this relay has " +
			"to say that the destination is verified")
	case !v.take(p, p.ID, letters):
		return refused("this token has had enough letters sent for now")
	}
	select {
	case v.places <- struct{}{}:
	default:
		return refused("enough letters are under way, try again")
	}
	secret, err := v.open(ctx, p, d.ID)
	if err != nil {
		<-v.places
		return err
	}
	v.sending.Go(func() { // ends with letterTime, and with Close
		defer func() { <-v.places }()
		v.send(p, d, to, secret)
	})
	return nil
}

// take counts what a token has done, by a key. Tokens for all domains have no limit.
func (v *Verifier) take(p account.Principal, key string, most gcra.Limit) bool {
	if p.Unlimited() {
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	used, _ := v.used.Get(key)
	ok := used.Take(v.cfg.Now(), most)
	v.used.Put(key, used, 1)
	return ok
}

// open makes a link for a destination in place of the one before, and returns its secret.
func (v *Verifier) open(ctx context.Context, p account.Principal, id string) (secret string, err error) {
	var b [32]byte
	rand.Read(b[:]) // never fails
	secret = base64.RawURLEncoding.EncodeToString(b[:])
	_, err = v.cfg.Account.ChangeDestination(ctx, p, id, func(d *account.Destination) error {
		now := v.cfg.Now()
		if d.Asked != nil && d.Failed == "" && now.Sub(*d.Asked) < again {
			return refused("a letter was sent a moment ago")
		}
		end := now.Add(linkTime)
		d.Link, d.Expires, d.Asked, d.Failed = digest(secret), &end, &now, ""
		return nil
	})
	return secret, err
}

// digest returns what is kept of a secret.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// send sends the letter, and notes what went wrong with it. The link of a letter that was not taken is good for
// nothing.
func (v *Verifier) send(p account.Principal, d account.Destination, to mail.Path, secret string) {
	ctx, cancel := context.WithTimeout(v.ctx, letterTime)
	defer cancel()
	link := v.cfg.URL + "/verify?token=" + url.QueryEscape(secret)
	letter := compose(v.cfg.From, to, p, link, v.cfg.Now())
	code, reply, err := v.cfg.Send(ctx, v.cfg.From, to, letter)
	failed := ""
	switch {
	case err != nil:
		failed = "no reply: " + err.Error()
	case code/100 != 2:
		failed = printable.Text(reply)
	}
	if failed == "" {
		v.cfg.Log.Info("a destination was asked whether it is its owner's", "destination", d.Address, "id", d.ID)
		return
	}
	v.cfg.Log.Warn("the letter to a destination was not taken", "destination", d.Address, "id", d.ID, "reply", failed)
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), again)
	defer cancel()
	node := account.Node("verification")
	_, err = v.cfg.Account.ChangeDestination(ctx, node, d.ID, func(now *account.Destination) error {
		if now.Link != digest(secret) { // another one was asked for meanwhile, or it was followed after all
			return errOver
		}
		now.Link, now.Expires, now.Failed = "", nil, failed
		return nil
	})
	if err != nil && !errors.Is(err, errOver) {
		v.cfg.Log.Warn("what became of a letter cannot be kept", "destination", d.Address, "cause", err)
	}
}

// errOver means that a letter is of a link that is open no more.
var errOver = errors.New("another link is open")

// Follow takes the token of a link that was followed: its destination is verified. The error is ErrNoLink, or that of
// keeping it.
func (v *Verifier) Follow(ctx context.Context, token string) error {
	node := account.Node("verification")
	all, err := v.cfg.Account.Destinations(node)
	if err != nil {
		return err
	}
	want := digest(token)
	for i := range all {
		if !isSame(all[i].Link, want) {
			continue
		}
		_, err := v.cfg.Account.ChangeDestination(ctx, node, all[i].ID, func(d *account.Destination) error {
			now := v.cfg.Now()
			if !isSame(d.Link, want) || d.Expires == nil || !now.Before(*d.Expires) {
				return ErrNoLink
			}
			d.Link, d.Expires, d.Failed = "", nil, ""
			d.Verified, d.How = &now, "link"
			return nil
		})
		return err
	}
	return ErrNoLink
}

// isSame compares what is kept of a link, in a time that tells nothing.
func isSame(kept, want string) bool {
	return subtle.ConstantTimeCompare([]byte(kept), []byte(want)) == 1
}
