package verify

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/gcra"
	"github.com/millrace/millrace/router/leaf/network"
)

const (
	// proofTime is how long what was found counts, if it is not found again, and proofRenewed how much of that may be
	// over before it is written down that it was found again.
	proofTime    = 30 * 24 * time.Hour
	proofRenewed = 7 * 24 * time.Hour
	// proofRound is the time between two looks at what was found, and firstRound that before the first one.
	proofRound, firstRound = 24 * time.Hour, time.Hour
	// lookTime bounds one look.
	lookTime = 30 * time.Second
	// maxFile bounds the file of tokens in octets.
	maxFile = 4 << 10
)

// looks is how often the proofs of one token's destinations are looked for.
var looks = gcra.Limit{Burst: 20, Pace: 30 * time.Second}

// Lookups are what a Verifier asks of the world about the host of a destination.
type Lookups struct {
	// Text returns the TXT records of a name, none without an error if there are none.
	Text func(ctx context.Context, name string) ([]string, error)
	// Addrs returns all addresses of a host.
	Addrs func(ctx context.Context, host string) ([]netip.Addr, error)
	// Fetch returns the status and the body of a file. It follows no redirect and connects to public addresses alone.
	Fetch func(ctx context.Context, url string, most int) (status int, body []byte, err error)
	// Own reports whether an address is this machine's.
	Own func(netip.Addr) bool
	// Spread is how long other nodes may take until they know what is written down.
	Spread time.Duration
}

// The reasons why a proof is not found. None says what a look-up or a host answered.
const (
	notPublic  = "the host has no addresses, or others than public ones: one who runs this relay may verify it"
	notFound   = "neither the TXT record nor the file has the token"
	notToldNow = "neither the TXT record nor the file has the token, and one of them could not be asked for now"
)

// askProof notes that the owner of a host is asked, and from the second time on looks for what he has published. The
// error, which is always one, says what is to be published.
func (v *Verifier) askProof(
	ctx context.Context, p account.Principal, d account.Destination, proof account.Proof,
) error {
	told := refused("publish the TXT record " + proof.TXT + " or the file " + proof.URL + " with " + proof.Token +
		", and ask again; or one who runs this relay says that it is verified")
	if d.Asked == nil {
		_, err := v.cfg.Account.ChangeDestination(ctx, p, d.ID, func(d *account.Destination) error {
			now := v.cfg.Now()
			d.Asked = &now
			return nil
		})
		if err != nil {
			return err
		}
		return told
	}
	if !v.take(p, "proof "+p.ID, looks) {
		return refused("this token has had enough looked for now")
	}
	select {
	case v.places <- struct{}{}:
	default:
		return refused("enough destinations are looked at, try again")
	}
	v.sending.Go(func() { // ends with lookTime and Spread, and with Close
		defer func() { <-v.places }()
		v.prove(d)
	})
	return told
}

// prove looks for what the owner of a destination has published, and verifies it if it is there: first it is written
// down how, so that all nodes know that the host is another's, and then that it may be used.
func (v *Verifier) prove(d account.Destination) {
	ctx, cancel := context.WithTimeout(v.ctx, lookTime)
	defer cancel()
	how, why, _ := v.look(ctx, &d)
	if !v.note(&d, func(d *account.Destination, now time.Time) bool {
		if d.Verified != nil || how == "" && d.Failed == why {
			return false
		}
		d.Asked, d.Failed = &now, why
		if how != "" {
			d.How = how
		}
		return true
	}) || how == "" {
		return
	}
	spread := time.NewTimer(v.cfg.Spread)
	defer spread.Stop()
	select {
	case <-v.ctx.Done():
		return
	case <-spread.C:
	}
	v.note(&d, func(d *account.Destination, now time.Time) bool {
		if d.Verified != nil || d.How != how {
			return false
		}
		end := now.Add(proofTime)
		d.Verified, d.Expires = &now, &end
		return true
	})
	v.cfg.Log.Info("the owner of a destination has proved it", "destination", d.Address, "id", d.ID, "how", how)
}

// note changes a destination, in the name of the node. change reports whether there is something to change, and so does
// note.
func (v *Verifier) note(d *account.Destination, change func(d *account.Destination, now time.Time) bool) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.ctx), again)
	defer cancel()
	_, err := v.cfg.Account.ChangeDestination(ctx, account.Node("verification"), d.ID,
		func(d *account.Destination) error {
			if !change(d, v.cfg.Now()) {
				return errOver
			}
			return nil
		})
	if err != nil && !errors.Is(err, errOver) {
		v.cfg.Log.Warn("what became of a proof cannot be kept", "destination", d.Address, "cause", err)
	}
	return err == nil
}

// look looks for a proof. how is "" if there is none, and sure reports that it would have been seen.
func (v *Verifier) look(ctx context.Context, d *account.Destination) (how, why string, sure bool) {
	proof, ok := d.Proof()
	if !ok {
		return "", notPublic, true
	}
	addrs, err := v.cfg.Addrs(ctx, proof.Host)
	if err != nil || len(addrs) == 0 || slices.ContainsFunc(addrs, v.isInternal) {
		return "", notPublic, err == nil
	}
	texts, failed := v.cfg.Text(ctx, proof.TXT)
	if slices.ContainsFunc(texts, func(s string) bool { return strings.TrimSpace(s) == proof.Token }) {
		return account.ByTXT, "", true
	}
	status, body, err := v.cfg.Fetch(ctx, proof.URL, maxFile)
	if err == nil && status == 200 && hasLine(body, proof.Token) {
		return account.ByFile, "", true
	}
	if failed != nil || d.How == account.ByFile && (err != nil || status >= 500) {
		return "", notToldNow, false
	}
	return "", notFound, true
}

// isInternal reports whether an address is one that no owner proves.
func (v *Verifier) isInternal(a netip.Addr) bool {
	kind, never := network.Special(a)
	return kind != "" || never || v.cfg.Own(a.Unmap())
}

// hasLine reports whether a token is a line of a text.
func hasLine(text []byte, token string) bool {
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == token {
			return true
		}
	}
	return false
}

// watch looks at what was found again, once a day.
func (v *Verifier) watch() {
	timer := time.NewTimer(firstRound + rand.N(firstRound)) // not all nodes at a time
	defer timer.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-timer.C:
		}
		all, _ := v.cfg.Account.Destinations(account.Node("verification")) // who may see all
		for i := range all {
			d := &all[i]
			if d.Verified != nil && (d.How == account.ByTXT || d.How == account.ByFile) && v.ctx.Err() == nil {
				v.lookAgain(d)
			}
		}
		timer.Reset(proofRound)
	}
}

// lookAgain looks at what was found before. If it is not there for proofTime the destination is verified no more.
func (v *Verifier) lookAgain(d *account.Destination) {
	ctx, cancel := context.WithTimeout(v.ctx, lookTime)
	defer cancel()
	how, why, sure := v.look(ctx, d)
	if v.ctx.Err() != nil {
		return
	}
	if how == "" {
		v.cfg.Log.Warn("the proof of a destination is not found", "destination", d.Address, "id", d.ID, "cause", why)
	}
	v.note(d, func(d *account.Destination, now time.Time) bool {
		left := proofTime
		if d.Expires != nil {
			left = d.Expires.Sub(now)
		}
		switch {
		case d.Verified == nil || d.How == account.ByAdmin:
			return false
		case how != "" && d.Failed == "" && d.How == how && left > proofTime-proofRenewed:
			return false // it is known
		case how != "":
			end := now.Add(proofTime)
			d.How, d.Failed, d.Expires = how, "", &end
		case sure && left <= 0:
			d.Verified, d.Failed = nil, why
			v.cfg.Log.Warn("a destination is verified no more", "destination", d.Address, "id", d.ID, "cause", why)
		case d.Failed == why:
			return false
		default:
			d.Failed = why
		}
		return true
	})
}
