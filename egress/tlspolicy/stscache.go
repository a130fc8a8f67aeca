package tlspolicy

import (
	"context"
	"crypto/tls"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

const (
	// mostPolicy is the largest policy that is read, in octets.
	mostPolicy = 64 << 10
	// fetchTime bounds a fetch, for which the first message to a domain waits.
	fetchTime = 10 * time.Second
	// lookTime bounds a look-up with all that it takes.
	lookTime = 20 * time.Second
	// fetchAgain is how long a fetch that failed is not repeated (RFC 8461 section 3.3).
	fetchAgain = 5 * time.Minute
	// leastLook is how long at least what is known of a domain is not looked up again.
	leastLook = time.Minute
	// refreshEvery is how old a policy becomes before it is fetched again ahead of its end, unless half of its life is
	// shorter.
	refreshEvery = 24 * time.Hour
	// mostRefreshes bounds the fetches ahead at a time. What finds no room comes with a later message.
	mostRefreshes = 4
	// stsDomains bounds the domains of which something is kept; a policy counts for each 256 octets of it.
	stsDomains = 1 << 16
)

// A stsEntry is what is known of a domain. It is not changed.
type stsEntry struct {
	policy  *stsPolicy // nil: none
	id      string     // of its record
	text    string
	fetched time.Time
	look    time.Time // until when nothing is looked up

	failed   time.Time // of the last fetch, zero if it worked
	failedID string    // of the record that it was for
	result   mail.TLSResult
}

// ends returns when the policy is no longer believed.
func (e *stsEntry) ends() time.Time { return e.fetched.Add(max(e.policy.age, leastLook)) }

// octets returns about how much memory the policy takes: its text, of which its patterns are parts.
func (e *stsEntry) octets() int {
	if e.policy == nil {
		return 0
	}
	return len(e.text) + patternSize*len(e.policy.patterns)
}

// patternSize is how much a pattern takes besides the text.
const patternSize = 16

// A stsCache keeps the policies of MTA-STS of domains. It is safe for concurrent use.
type stsCache struct {
	cfg     *Config
	entries *lru.Cache[string, *stsEntry]

	mu      sync.Mutex // over flights and closed
	flights map[string]*stsFlight
	closed  bool

	ctx    context.Context // ends look-ups and fetches ahead
	cancel context.CancelFunc
	flying sync.WaitGroup
	room   chan struct{}
}

func (c *stsCache) init(cfg *Config) {
	c.cfg, c.entries, c.flights = cfg, lru.New[string, *stsEntry](stsDomains), make(map[string]*stsFlight)
	c.room = make(chan struct{}, mostRefreshes)
	c.ctx, c.cancel = context.WithCancel(context.Background())
}

// close ends what is under way and awaits it.
func (c *stsCache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.flying.Wait()
}

// of returns what is known of a domain, which is looked up once for all that ask at a time. It is never nil. A look-up
// goes on where one that waits for it leaves: what a client ends early must not be what others are told.
func (c *stsCache) of(ctx context.Context, domain string) *stsEntry {
	e, ok := c.entries.Get(domain)
	if ok && c.isFresh(e) {
		return e
	}
	if at, ok := ctx.Deadline(); ok { // which ctx may only name, see mail.Until
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, at)
		defer cancel()
	}
	flight := c.fly(ctx, domain)
	if flight == nil {
		return new(stsEntry)
	}
	select {
	case <-flight.done:
		return flight.found
	case <-ctx.Done():
	}
	if ok && e.policy != nil && c.cfg.Now().Before(e.ends()) {
		return e
	}
	return new(stsEntry)
}

// isFresh reports whether nothing has to be looked up.
func (c *stsCache) isFresh(e *stsEntry) bool {
	now := c.cfg.Now()
	return now.Before(e.look) && (e.policy == nil || now.Before(e.ends()))
}

// A stsFlight is a look-up under way.
type stsFlight struct {
	done  chan struct{}
	found *stsEntry // once done is closed
}

// fly returns the look-up of a domain, which it begins unless one is under way; nil once the cache is closed.
func (c *stsCache) fly(ctx context.Context, domain string) *stsFlight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[domain]; f != nil || c.closed {
		return f
	}
	f := &stsFlight{done: make(chan struct{})}
	c.flights[domain] = f
	c.flying.Go(func() { // ends with lookTime
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		before, _ := c.entries.Get(domain)
		f.found = before
		if before == nil || !c.isFresh(before) { // another one may have just ended
			f.found = c.look(ctx, domain, before)
		}
		c.mu.Lock()
		delete(c.flights, domain)
		c.mu.Unlock()
		close(f.done)
	})
	return f
}

// look looks up the record of a domain, and fetches its policy where that is new. before is what is known, nil for
// nothing.
func (c *stsCache) look(ctx context.Context, domain string, before *stsEntry) *stsEntry {
	now := c.cfg.Now()
	e := stsEntry{}
	if before != nil {
		e = *before
	} else if kept := c.load(ctx, domain); kept != nil {
		e = *kept
	}
	if e.policy != nil && !now.Before(e.ends()) {
		e.policy, e.id, e.text = nil, "", ""
	}
	asking := mail.AskForHost(ctx)
	records, meta, err := c.cfg.Resolver.LookupTXT(&asking, "_mta-sts."+domain)
	e.look = meta.Expires
	if soonest := now.Add(leastLook); e.look.Before(soonest) {
		e.look = soonest
	}
	// Without a record, or where it cannot be looked up, a policy that is kept stands until its end (RFC 8461 section
	// 3.1).
	id, ok := parseRecord(records)
	switch {
	case dns.Temporary(err): // which is not kept: it may be for want of questions of one client
		return &e
	case !ok:
		e.result = mail.TLSWorked
	case e.policy == nil || e.id != id:
		if e.failedID == id && now.Before(e.failed.Add(fetchAgain)) {
			break
		}
		if !e.fetch(ctx, c, domain, id) {
			return &e
		}
	case now.After(e.fetched.Add(min(refreshEvery, e.policy.age/2))):
		c.refresh(domain, id)
	}
	c.keep(domain, &e)
	return &e
}

// keep keeps what is known of a domain.
func (c *stsCache) keep(domain string, e *stsEntry) { c.entries.Put(domain, e, 1+e.octets()/256) }

// fetch fetches the policy of a domain whose record has an id. Where that fails, what was known stands. It reports
// whether what came of it is to be kept: want of questions of one client is not.
func (e *stsEntry) fetch(ctx context.Context, c *stsCache, domain, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	text, result, err := c.get(ctx, domain)
	if errors.Is(err, dns.ErrEnough) || errors.Is(err, dns.ErrBusy) {
		return false
	}
	var policy stsPolicy
	if result == mail.TLSWorked {
		if policy, err = parsePolicy(text); err != nil {
			result = mail.TLSPolicyInvalid
		}
	}
	now := c.cfg.Now()
	if result != mail.TLSWorked {
		e.failed, e.failedID, e.result = now, id, result
		return true
	}
	*e = stsEntry{policy: &policy, id: id, text: text, fetched: now, look: e.look}
	c.save(ctx, domain, e)
	return true
}

// refresh fetches a policy ahead of its end, in a goroutine that close awaits.
func (c *stsCache) refresh(domain, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	select {
	case c.room <- struct{}{}:
	default:
		return
	}
	c.flying.Go(func() { // ends with fetchTime
		defer func() { <-c.room }()
		e, ok := c.entries.Get(domain)
		if !ok || e.policy == nil || e.id != id || c.cfg.Now().Before(e.failed.Add(fetchAgain)) {
			return
		}
		fresh := *e
		if fresh.fetch(c.ctx, c, domain, id) {
			c.keep(domain, &fresh)
		}
	})
}

// get fetches the text of a domain's policy (RFC 8461 section 3.3): from the well-known place alone, without a
// redirect. The error is that of the fetch.
func (c *stsCache) get(ctx context.Context, domain string) (text string, result mail.TLSResult, err error) {
	answer, err := c.cfg.Fetch(ctx, hook.Request{
		Method: http.MethodGet, URL: "https://mta-sts." + domain + "/.well-known/mta-sts.txt", Limit: mostPolicy,
	})
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return "", mail.TLSWebPKIInvalid, err
	case err != nil || answer.Status != http.StatusOK:
		return "", mail.TLSNoPolicy, err
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return "", mail.TLSPolicyInvalid, nil
	}
	return string(answer.Body), mail.TLSWorked, nil
}

// save puts a policy into the store, for as long as it is believed: the time of its fetch, its id and its text.
func (c *stsCache) save(ctx context.Context, domain string, e *stsEntry) {
	if c.cfg.Save != nil {
		c.cfg.Save(ctx, domain, strconv.FormatInt(e.fetched.Unix(), 10)+" "+e.id+"\n"+e.text, e.ends().Sub(e.fetched))
	}
}

// load returns the policy that the store has of a domain, nil for none. One that cannot be read is none.
func (c *stsCache) load(ctx context.Context, domain string) *stsEntry {
	if c.cfg.Load == nil {
		return nil
	}
	saved, ok := c.cfg.Load(ctx, domain)
	if !ok {
		return nil
	}
	head, text, _ := strings.Cut(saved, "\n")
	at, id, _ := strings.Cut(head, " ")
	seconds, err := strconv.ParseInt(at, 10, 64)
	policy, wrong := parsePolicy(text)
	if err != nil || wrong != nil || !isID(id) {
		return nil
	}
	return &stsEntry{policy: &policy, id: id, text: text, fetched: time.Unix(seconds, 0)}
}
