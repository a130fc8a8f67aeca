package submission

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// Suppressed is the text of the refusal of a recipient that there was not of late.
const Suppressed = "There was no such mailbox when you wrote to it last; later it is tried again"

// The defaults of a Config.
const (
	DefaultMessages   = 100 // in an hour
	DefaultRecipients = 500 // in an hour
	DefaultSuppress   = 24 * time.Hour
)

const (
	// failedOfClient and failedOfNetwork are how often the logins of an address and of its network may fail in an hour.
	failedOfClient, failedOfNetwork = 10, 40
	// maxWaiting is how many clients wait for their password to be worked at. With the default cost the last of them
	// waits for a few seconds.
	maxWaiting = 64
	// maxWait bounds that wait.
	maxWait = 30 * time.Second
	// goodFor is how long the clients of a network of which a user logged in find room to wait in any case, and
	// maxGood how many such networks there are.
	goodFor = 30 * 24 * time.Hour
	maxGood = 4096
)

// A Config says what users may do. It is copied by New.
type Config struct {
	Store      world.Store   // counts failed logins and what users send; required
	Users      *Users        // required
	Key        []byte        // of the MACs by which Store knows users and their recipients; at least 16 octets
	Messages   rate.Limit    // of a user; the zero Limit is the default
	Recipients rate.Limit    // of a user, those that were refused included; the zero Limit is the default
	Suppress   time.Duration // for which a recipient is not tried that there is not; 0: the default
	Logins     func(Result)  // is told of each login; must not block; nil disables it
	// Token returns the domains that the holder of a token may send as, by its id, none if there is no such token; and
	// whether a secret is that of the token. Its id is the name, and its secret the password. nil: no tokens log in.
	Token func(id, secret string) (domains []string, right bool)
	Now   func() time.Time
}

// A Result is what a login came to.
type Result uint8

// The results of a login.
const (
	LoginDone   Result = iota
	LoginFailed        // the user or the password is wrong
	LoginLate          // too many of its client have failed
	LoginBusy          // too many clients log in at a time
)

var results = [...]string{"done", "failed", "limited", "busy"}

// String returns the name of a result.
func (r Result) String() string { return results[r] }

// Validate returns a *mail.FieldError for the first field that cannot be kept, or nil.
func (c *Config) Validate() error {
	if len(c.Key) < rate.MinKey {
		return &mail.FieldError{Field: "key", Reason: "needs at least 16 octets"}
	}
	if why := c.Messages.Fault(); why != "" {
		return &mail.FieldError{Field: "messages", Reason: why}
	}
	if why := c.Recipients.Fault(); why != "" {
		return &mail.FieldError{Field: "recipients", Reason: why}
	}
	return nil
}

// Accounts are the users of a listener at work. Their methods are safe for concurrent use.
type Accounts struct {
	cfg     Config
	users   atomic.Pointer[Users]
	workers chan struct{}                       // holds a token for each password that is worked at
	waiting atomic.Int32                        // clients that want one
	good    *lru.Cache[netip.Prefix, time.Time] // networks of which a user logged in, and until when that counts
}

// New returns Accounts, or the error of Config.Validate.
func New(cfg Config) (*Accounts, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Messages == (rate.Limit{}) {
		cfg.Messages = rate.Limit{Count: DefaultMessages, Per: time.Hour}
	}
	if cfg.Recipients == (rate.Limit{}) {
		cfg.Recipients = rate.Limit{Count: DefaultRecipients, Per: time.Hour}
	}
	if cfg.Suppress == 0 {
		cfg.Suppress = DefaultSuppress
	}
	if cfg.Logins == nil {
		cfg.Logins = func(Result) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &Accounts{
		cfg: cfg, workers: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		good: lru.New[netip.Prefix, time.Time](maxGood),
	}
	a.users.Store(cfg.Users)
	return a, nil
}

// Use replaces the users. A user that is no more sends nothing from the next MAIL on.
func (a *Accounts) Use(u *Users) { a.users.Store(u) }

// User returns the user of a name that has logged in, nil if there is none any more.
func (a *Accounts) User(name string) *User {
	if user, _ := a.users.Load().find(name); user != nil || a.cfg.Token == nil {
		return user
	}
	domains, _ := a.cfg.Token(name, "")
	return holder(name, domains)
}

// holder returns the user that the holder of a token is, nil without a domain.
func holder(id string, domains []string) *User {
	user := &User{Name: id, id: "token " + id, senders: make(map[string]bool)}
	for _, domain := range domains {
		user.addSender("@" + domain)
	}
	if len(user.senders) == 0 {
		return nil
	}
	return user
}

// Login takes a user with the password. The error is a *mail.Refusal, which reads alike for a user that there is not
// and a password that is wrong: 535 5.7.8, or 454 4.7.0 where nothing was compared.
func (a *Accounts) Login(ctx context.Context, client netip.Addr, name, password string) error {
	result, err := a.login(ctx, client, name, password)
	a.cfg.Logins(result)
	return err
}

func (a *Accounts) login(ctx context.Context, client netip.Addr, name, password string) (Result, error) {
	if a.hasFailed(ctx, client) {
		return LoginLate, tooManyFailed()
	}
	if a.cfg.Token != nil { // whose secret is no word that a hash has to make dear
		if domains, right := a.cfg.Token(name, password); right && holder(name, domains) != nil {
			a.good.Put(network.Of(client), a.cfg.Now().Add(goodFor), 1)
			return LoginDone, nil
		}
	}
	waited, ok := a.enter(ctx, a.isGood(client))
	if !ok {
		return LoginBusy, mail.Refuse(454, 7, 0, "Too many logins at a time, try again later", "logins busy", nil)
	}
	defer func() { <-a.workers }()
	if waited && a.hasFailed(ctx, client) {
		return LoginLate, tooManyFailed()
	}
	user, hash := a.users.Load().find(name)
	if !hash.isOf(password) || user == nil {
		_, _ = a.cfg.Store.Rates(context.WithoutCancel(ctx), failures(client, false)) // what is not counted is logged
		return LoginFailed, mail.Refuse(535, 7, 8, "Authentication failed", "login failed", nil)
	}
	a.good.Put(network.Of(client), a.cfg.Now().Add(goodFor), 1)
	return LoginDone, nil
}

func tooManyFailed() error {
	return mail.Refuse(454, 7, 0, "Too many failed logins, try again later", "failed logins", nil)
}

// enter waits until a password can be worked at. It reports whether it had to wait, and whether it has the token, which
// the caller takes back out of workers. Clients beyond maxWaiting do not wait, but for those of good networks.
func (a *Accounts) enter(ctx context.Context, good bool) (waited, ok bool) {
	select {
	case a.workers <- struct{}{}:
		return false, true
	default:
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > maxWaiting && !good {
		return true, false
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	select {
	case a.workers <- struct{}{}:
		return true, true
	case <-ctx.Done():
		return true, false
	}
}

// isGood reports whether a user has logged in of late from the network of a client.
func (a *Accounts) isGood(client netip.Addr) bool {
	until, ok := a.good.Get(network.Of(client))
	return ok && a.cfg.Now().Before(until)
}

// hasFailed reports whether too many logins of a client or its network have failed.
func (a *Accounts) hasFailed(ctx context.Context, client netip.Addr) bool {
	answers, err := a.cfg.Store.Rates(ctx, failures(client, true))
	if err != nil {
		return false
	}
	for _, r := range answers {
		if !r.Allowed {
			return true
		}
	}
	return false
}

// failures returns the counts of failed logins of a client and of its widest network.
func failures(client netip.Addr, peek bool) []mail.Rate {
	networks := network.Nested(client)
	if len(networks) == 0 {
		return nil
	}
	count := func(of netip.Prefix, most, unit int) mail.Rate {
		return mail.Rate{
			Client: of, Name: "failed logins", Unit: unit, Count: most, Per: time.Hour, Peek: peek, Happened: true,
		}
	}
	return []mail.Rate{count(networks[0], failedOfClient, 1), count(networks[len(networks)-1], failedOfNetwork, 2)}
}

// Recipient draws the rates of a user for a recipient, and for the message if it is the first one, and returns the
// refusal of one that is too much or that there was not of late. That a store cannot count is no fault of the user.
func (a *Accounts) Recipient(ctx context.Context, u *User, forward mail.Path, first bool) error {
	marked, _ := a.cfg.Store.Marked(ctx, a.mark(u, forward))
	if len(marked) > 0 && marked[0] {
		return mail.Refuse(550, 1, 1, Suppressed, "suppressed", nil)
	}
	group := a.mac("user", u.id)
	draw := func(name string, l rate.Limit, unit int) mail.Rate {
		return mail.Rate{Group: group, Name: name, Unit: unit, Count: l.Count, Per: l.Per}
	}
	rates := []mail.Rate{draw("recipients", a.cfg.Recipients, 1)}
	if first {
		rates = append(rates, draw("messages", a.cfg.Messages, 1))
	}
	answers, err := a.cfg.Store.Rates(ctx, rates)
	if err != nil {
		return nil
	}
	for i, r := range answers {
		if !r.Allowed {
			return mail.Refuse(450, 7, 1, "You have sent too many "+rates[i].Name+", "+rate.AgainIn(r.RetryAfter),
				"rate of the user", nil)
		}
	}
	return nil
}

// Refused notes what a destination replied to a recipient of a user: one that there is not is not tried again for a
// while.
func (a *Accounts) Refused(ctx context.Context, u *User, forward mail.Path, r mail.Reply) {
	if r.Class() == 5 && r.Enhanced == (mail.EnhancedCode{Subject: 1, Detail: 1}) {
		a.cfg.Store.Mark(context.WithoutCancel(ctx), a.mark(u, forward), a.cfg.Suppress)
	}
}

// mark returns the key of the mark that there is no such recipient for a user.
func (a *Accounts) mark(u *User, forward mail.Path) string {
	return a.mac("suppressed", u.id, strings.ToLower(forward.String()))
}

// mac returns the MAC of texts without NUL, in hexadecimal digits: the store is to hold no address.
func (a *Accounts) mac(parts ...string) string {
	m := hmac.New(sha256.New, a.cfg.Key)
	m.Write([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(m.Sum(nil)[:16])
}
